"""Plain encoders of every family, bare or from a checkpoint with a head, are what AutoModel reads there."""

import copy
import itertools
import json

import pytest
import torch
from families import FAMILIES, REFUSED, SMALL, TYPES, small_config
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_PRETRAINING_MAPPING

from hf_mtl import InputError, MultiTaskModel, load_model
from hf_mtl.model.heads import HeadSpec
from hf_mtl.model.mpnet_attention import FusedMPNetEncoder
from hf_mtl.pretrained import check_encoder, load_config

HEAD = HeadSpec(name="sentiment", kind="classification", labels=("bad", "good"))
KINDS = ("bare", "masked_lm", "pretraining", "classification", "sharded")


def save(config, kind, folder):
    """A checkpoint of a kind, with seeded weights."""
    torch.manual_seed(1)
    config = copy.deepcopy(config)
    has_pretraining = type(config) in MODEL_FOR_PRETRAINING_MAPPING
    maker = {
        "bare": AutoModel,
        "masked_lm": AutoModelForMaskedLM,
        "pretraining": AutoModelForPreTraining if has_pretraining else AutoModelForMaskedLM,
        "classification": AutoModelForSequenceClassification,
        "sharded": AutoModelForMaskedLM,
    }[kind]
    maker.from_config(config).save_pretrained(folder, **({"max_shard_size": "20KB"} if kind == "sharded" else {}))
    assert (folder / "model.safetensors.index.json").exists() == (kind == "sharded")


def assert_weights_are_automodels(model, folder):
    wanted = AutoModel.from_pretrained(folder).state_dict()
    found = model.encoder.state_dict()
    assert found and found.keys() <= wanted.keys()
    for name, value in found.items():
        assert name.startswith("pooler.") or torch.equal(value, wanted[name]), name


def matrix():
    """Families x kinds; each family and each kind once in every run of the tests, all of it with -m slow."""
    for row, family in enumerate(FAMILIES):
        for column, kind in enumerate(KINDS):
            marks = [] if column == row % len(KINDS) else [pytest.mark.slow]
            yield pytest.param(family, kind, marks=marks, id=f"{family}-{kind}")


@pytest.mark.parametrize(("family", "kind"), list(matrix()))
def test_a_checkpoint_loads_trains_saves_and_comes_back_bit_equal(
    family, kind, tmp_path, make_trainer, specs, tokenizer
):
    config = small_config(family, vocab_size=len(tokenizer))
    save(config, kind, tmp_path / "encoder")
    model = load_model(tmp_path / "encoder", [spec.head for spec in specs])
    assert_weights_are_automodels(model, tmp_path / "encoder")
    before = copy.deepcopy(model.state_dict())
    trainer = make_trainer(model, max_steps=3)
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    again = MultiTaskModel.from_pretrained(tmp_path / "saved").state_dict()
    assert again.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, again[name]), name
    assert any(not torch.equal(value, before[name]) for name, value in again.items())
    load_model(tmp_path / "saved", [spec.head for spec in specs])


@pytest.mark.parametrize("model_type", [pytest.param(t, marks=[pytest.mark.slow]) for t in TYPES])
def test_every_type_that_is_not_refused_loads_from_a_checkpoint_with_a_head(model_type, tmp_path):
    config = small_config(model_type)
    save(config, "masked_lm", tmp_path)
    model = load_model(tmp_path, [HEAD])
    assert_weights_are_automodels(model, tmp_path)
    model.save_pretrained(tmp_path / "saved")
    again = MultiTaskModel.from_pretrained(tmp_path / "saved")
    ids = torch.arange(5, 14)[None]
    with torch.no_grad():
        outputs = [each.eval()(task="sentiment", input_ids=ids).logits for each in (model, again)]
    assert torch.equal(*outputs) and outputs[0].isfinite().all()


@pytest.mark.parametrize("model_type", sorted(REFUSED))
def test_types_that_cannot_be_right_are_refused_by_name(model_type):
    with pytest.raises(InputError, match=f"'here' holds a model of type '{model_type}', which"):
        check_encoder(AutoConfig.for_model(model_type), "here")


def test_a_causal_configuration_and_a_type_without_its_language_are_refused():
    with pytest.raises(InputError, match="is_decoder is true"):
        check_encoder(small_config("bert", is_decoder=True), "here")
    with pytest.raises(InputError, match=r"'here' needs a language: .*default_language.* en_XX"):
        check_encoder(small_config("xmod", default_language=None), "here")


def test_loading_names_the_fresh_heads_and_leaves_the_model_in_fp32_and_eval(tmp_path, caplog):
    BertForMaskedLM(BertConfig(**SMALL)).to(torch.bfloat16).save_pretrained(tmp_path)
    with caplog.at_level("INFO", logger="hf_mtl"):
        model = load_model(tmp_path, [HEAD])
    assert caplog.messages == [f"loaded {tmp_path}; fresh heads: sentiment"]
    assert {p.dtype for p in model.parameters()} == {torch.float32} and not model.training
    assert 0.005 < model.heads["sentiment"].weight.std() < 0.05
    model.save_pretrained(tmp_path / "saved")
    assert MultiTaskModel.from_pretrained(tmp_path / "saved").encoder.config.dtype == torch.float32


@pytest.mark.parametrize(("asked", "found"), [(None, "sdpa"), ("eager", "eager"), ("sdpa", "sdpa")])
def test_attention_is_the_best_there_is_or_what_is_asked_for(tmp_path, asked, found):
    save(small_config("bert"), "masked_lm", tmp_path)
    model = load_model(tmp_path, [HEAD], **({"attn_implementation": asked} if asked else {}))
    assert model.encoder.config._attn_implementation == model.config._attn_implementation == found
    assert model.encoder.config is model.config.encoder_config


def test_mpnet_from_a_checkpoint_with_a_head_has_the_fused_attention(tmp_path):
    save(small_config("mpnet"), "masked_lm", tmp_path)
    assert type(load_model(tmp_path, [HEAD]).encoder.encoder) is FusedMPNetEncoder


def test_an_encoder_written_by_save_encoder_loads(make_model, tokenizer, tmp_path):
    saved = make_model()
    saved.save_encoder(tmp_path, tokenizer)
    assert (tmp_path / "modules.json").exists()
    model = load_model(tmp_path, [HEAD])
    assert all(torch.equal(v, saved.encoder.state_dict()[n]) for n, v in model.encoder.state_dict().items())
    model.save_encoder(tmp_path / "again")  # with the tokenizer from where the encoder was
    assert (tmp_path / "again" / "tokenizer.json").exists()


def rewrite(folder, change):
    """Put what `change` makes of a folder's tensors in their place."""
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})


def edit_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


NOT_ITS_OWN = {
    "a tensor less": (lambda t: dict(itertools.islice(t.items(), 1, None)), {}, "the weights lack"),
    "more layers than configured": (
        dict,
        {"num_hidden_layers": 2},
        r"beside them \S*encoder\.layer\.2\.\S+, .*more",
    ),
    "fewer layers than configured": (dict, {"num_hidden_layers": 4}, r"lack encoder\.layer\.3\.\S+, .*more"),
    "another size": (dict, {"vocab_size": 77}, r"word_embeddings\.weight \(120, 32\) instead of \(77, 32\)"),
    "names from peft": (
        lambda t: {"base_model.model." + name: value for name, value in t.items()},
        {},
        "LoRA adapter .*merge_and_unload",
    ),
    "an adapter in place": (
        lambda t: {name.replace("query.weight", "query.base_layer.weight"): value for name, value in t.items()},
        {},
        r"lack .*query\.weight.*have beside them .*base_layer.*merge_and_unload",
    ),
    "a compiled model": (lambda t: {"_orig_mod." + name: value for name, value in t.items()}, {}, "the weights lack"),
    "another family's names": (
        lambda t: {f"roberta.{name}": x for name, x in t.items()},
        {},
        "the weights lack",
    ),
}


@pytest.mark.parametrize(("change", "config", "message"), NOT_ITS_OWN.values(), ids=NOT_ITS_OWN)
@pytest.mark.parametrize("kind", ["bare", "masked_lm"])
def test_weights_that_are_not_the_configured_encoders_are_refused(tmp_path, kind, change, config, message):
    save(small_config("bert"), kind, tmp_path)
    rewrite(tmp_path, change)
    edit_config(tmp_path, **config)
    with pytest.raises(InputError, match=rf"model_name_or_path '{tmp_path}': config.json and the weights.*{message}"):
        load_model(tmp_path, [HEAD])


def test_a_checkpoint_of_pickled_weights_is_refused_with_a_recipe_that_works(tmp_path, capsys):
    config = small_config("bert")
    (tmp_path / "old").mkdir()
    config.save_pretrained(tmp_path / "old")
    torch.manual_seed(1)
    torch.save(BertForMaskedLM(config).state_dict(), tmp_path / "old" / "pytorch_model.bin")
    with pytest.raises(
        InputError, match=r"weights in pytorch_model\.bin, a pickle.*wanted model\.safetensors"
    ) as error:
        load_model(tmp_path / "old", [HEAD])
    recipe = str(error.value).split("If you trust it: ")[1].split(", and the tokenizer")[0]
    eval(recipe.replace("NEW_FOLDER", str(tmp_path / "new")), {"AutoModel": AutoModel})
    assert_weights_are_automodels(load_model(tmp_path / "new", [HEAD]), tmp_path / "new")


def test_safetensors_go_before_pickled_weights_beside_them(tmp_path):
    save(small_config("bert"), "masked_lm", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert_weights_are_automodels(load_model(tmp_path, [HEAD]), tmp_path)


@pytest.mark.parametrize("trust", [True, False])
def test_an_encoder_that_needs_code_of_its_own_is_refused_and_its_code_does_not_run(tmp_path, trust):
    save(small_config("bert"), "bare", tmp_path)
    names = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    edit_config(tmp_path, model_type="jina-own", auto_map=names)
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(InputError, match="type 'jina-own' that needs code of its own, which is not supported"):
        load_model(tmp_path, [HEAD], trust_remote_code=trust)
    edit_config(tmp_path, model_type="bert")  # a type that transformers has needs none of it
    assert isinstance(load_model(tmp_path, [HEAD], trust_remote_code=trust).encoder, BertModel)
    assert not (tmp_path / "ran").exists()


def test_a_saved_model_in_several_files_loads(make_model, tmp_path):
    saved = make_model()
    saved.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    model = load_model(tmp_path, saved.task_heads.values())
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in model.state_dict().items())
    assert load_config(tmp_path).heads == saved.config.heads
