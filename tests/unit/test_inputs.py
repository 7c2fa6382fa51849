"""How long an input may be is what the encoder's own positions allow; a tokenizer that cannot pad is told."""

import json
from types import SimpleNamespace

import pytest
import torch
from families import FAMILIES, TYPES, small_config
from transformers import AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from hf_mtl import InputError, MultiTaskConfig, MultiTaskModel, MultiTaskTrainer
from hf_mtl.cli import main as cli
from hf_mtl.model.heads import HeadSpec
from hf_mtl.model.input_length import check_tokenizer, encoder_max_length, num_tokens, saved_max_length
from hf_mtl.model.pipeline import MultiTaskPipeline
from hf_mtl.pretrained import load_tokenizer
from hf_mtl.training.run import main as train

HEAD = HeadSpec(name="sentiment", kind="classification", labels=("bad", "good"))
# Positions are relative or rotary: nothing fails beyond the limit, which is the longest input in pretraining.
WITHOUT_TABLE = {"esmc", "eurobert", "gte", "jina_embeddings_v3", "modernbert", "nomic_bert", "ultrabert"}
ANY_LENGTH = 10**30


def cut(length):
    return SimpleNamespace(model_max_length=length)


def run(model, tokens):
    with torch.no_grad():
        return model(task="sentiment", input_ids=torch.full((2, tokens), 7)).logits


@pytest.mark.parametrize("model_type", [*FAMILIES, *(pytest.param(t, marks=pytest.mark.slow) for t in TYPES)])
def test_the_limit_is_the_longest_input_that_the_encoder_takes(model_type):
    config = small_config(model_type)
    limit = encoder_max_length(cut(ANY_LENGTH), config)
    model = MultiTaskModel(MultiTaskConfig(config, [HEAD])).eval()
    table = getattr(getattr(model.encoder, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    assert limit == config.max_position_embeddings - (0 if padding is None else padding + 1)
    assert run(model, limit).isfinite().all()
    if model_type in WITHOUT_TABLE:
        assert run(model, limit + 1).isfinite().all()
    else:
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            run(model, limit + 1)


@pytest.mark.parametrize(
    ("model_type", "tokenizer", "limit"),
    [("roberta", 66, 64), ("roberta", 65, 64), ("roberta", 64, 64), ("roberta", 20, 20), ("roberta", ANY_LENGTH, 64),
     ("bert", 66, 66), ("bert", 70, 66), ("bert", 65, 65), ("bert", ANY_LENGTH, 66)],
)  # fmt: skip
def test_the_tokenizers_maximum_counts_where_it_is_less(model_type, tokenizer, limit):
    assert encoder_max_length(cut(tokenizer), small_config(model_type)) == limit


def test_a_padding_index_elsewhere_moves_the_first_position():
    config = small_config("roberta", pad_token_id=5)
    assert encoder_max_length(cut(ANY_LENGTH), config) == 60
    assert run(MultiTaskModel(MultiTaskConfig(config, [HEAD])).eval(), 60).isfinite().all()


def test_telling_the_limit_draws_no_random_numbers_and_leaves_the_configuration():
    config = small_config("xlm-roberta", hidden_dropout_prob=0.25)
    before, state = config.to_json_string(), torch.random.get_rng_state()
    encoder_max_length(cut(ANY_LENGTH), config)
    assert config.to_json_string() == before and torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(("saved", "limit"), [(None, 64), (10, 10), (64, 64), (66, 64)])
def test_what_a_saved_model_was_trained_with_is_an_upper_bound(saved, limit):
    config = MultiTaskConfig(small_config("roberta"), [HEAD], max_seq_length=saved)
    assert saved_max_length(config, cut(66)) == limit


@pytest.mark.parametrize("length", [0, -1, "64", 6.5])
def test_a_length_that_is_none_is_refused(length):
    with pytest.raises(InputError, match=r"max_seq_length is .*, wanted a number of tokens"):
        MultiTaskConfig(small_config("bert"), [HEAD], max_seq_length=length)


def without_pad(tokenizer, folder):
    """The demo's tokenizer, saved so that nothing says what pads."""
    tokenizer.save_pretrained(folder)
    for name in ("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json"):
        file = folder / name
        if not file.exists():
            continue
        values = json.loads(file.read_text())
        values.pop("pad_token", None), values.pop("padding", None)
        file.write_text(json.dumps(values))
    values = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**values, "tokenizer_class": "PreTrainedTokenizerFast"}))
    assert PreTrainedTokenizerFast.from_pretrained(folder).pad_token is None
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def encoder(tmp_path, tokenizer):
    """A small encoder's folder with a tokenizer that names no pad token."""

    def make(pad_token_id):
        small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = BertConfig(vocab_size=len(tokenizer), pad_token_id=pad_token_id, **small)
        BertModel(config).save_pretrained(tmp_path / "encoder")
        without_pad(tokenizer, tmp_path / "encoder")
        return tmp_path / "encoder"

    return make


def test_a_tokenizer_pads_with_the_token_that_its_encoder_names(encoder, tokenizer, caplog):
    folder = encoder(tokenizer.pad_token_id)
    with caplog.at_level("INFO", logger="hf_mtl"):
        found = load_tokenizer(folder)
    assert found.pad_token == tokenizer.pad_token and found.pad_token_id == tokenizer.pad_token_id
    assert "names no pad_token; it pads with" in caplog.text
    text = ["the film is good", "dull"]
    assert found(text, padding=True)["input_ids"] == tokenizer(text, padding=True)["input_ids"]


@pytest.mark.parametrize("pad_token_id", [None, 20])  # 20 is a piece of text
def test_a_tokenizer_that_cannot_pad_is_told_what_to_add(encoder, pad_token_id, tmp_path, capsys):
    folder = encoder(pad_token_id)
    message = 'has no pad_token.* add "pad_token" to its tokenizer_config.json'
    with pytest.raises(InputError, match=f"the tokenizer '{folder}' {message}"):
        load_tokenizer(folder)
    arguments = ["--task_set", "demo", "--model_name_or_path", str(folder), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(InputError, match=message):
        train([*arguments, "--do_train", "--use_cpu"])
    assert not (tmp_path / "out").exists()
    assert cli(["tasks", "demo", "--model", str(folder)]) == 2
    assert "has no pad_token" in capsys.readouterr().err


def test_a_tokenizer_alone_that_cannot_pad_is_told_so(tokenizer, tmp_path):
    without_pad(tokenizer, tmp_path)
    with pytest.raises(InputError, match="has no pad_token"):
        load_tokenizer(tmp_path)


def test_from_python_it_is_told_before_anything_is_padded(make_model, make_arguments, specs, rows, tokenizer, tmp_path):
    raw = without_pad(tokenizer, tmp_path)
    with pytest.raises(InputError, match="has no pad_token"):
        MultiTaskTrainer(make_model(), make_arguments(), specs, rows["train"], processing_class=raw)
    with pytest.raises(InputError, match="has no pad_token"):
        MultiTaskPipeline(model=make_model(), tokenizer=raw, task="multi-task-classification")


def test_a_tokenizer_with_tokens_that_the_encoder_does_not_know_is_refused(make_model, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    larger = AutoTokenizer.from_pretrained(tmp_path)
    larger.add_tokens(["zzz"])
    assert num_tokens(larger) == len(tokenizer) + 1
    check_tokenizer(tokenizer, make_model().config.encoder_config)
    with pytest.raises(
        InputError, match=f"has {len(larger)} tokens and the encoder knows {len(tokenizer)}; wanted the"
    ):
        MultiTaskPipeline(model=make_model(), tokenizer=larger, task="multi-task-classification")
