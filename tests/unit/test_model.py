"""The model over every encoder family: pooling, gradients everywhere, and saving and loading without loss."""

import json

import pytest
import torch
from transformers import AutoModel, GPT2Config, GPT2Model, T5Config

from hf_mtl import InputError, MultiTaskConfig, MultiTaskModel, load_model
from hf_mtl.model.export_code import modeling_code
from hf_mtl.model.heads import HeadSpec
from hf_mtl.model.pooling import pool
from hf_mtl.pretrained import check_encoder

SENTIMENT = HeadSpec(name="sentiment", kind="classification", labels=("bad", "good"))
SIMILARITY = HeadSpec(name="similarity", kind="regression", label_range=(0.0, 5.0), num_texts=2)
TOPIC = HeadSpec(name="topic", kind="classification", labels=("a", "b", "c"))


def batch(rows=4, tokens=9, seed=0):
    """Random token ids of unequal length, padded with the mask alone."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 100, (rows, tokens), generator=generator)
    lengths = torch.tensor([tokens - i for i in range(rows)])
    return {"input_ids": ids, "attention_mask": (torch.arange(tokens) < lengths[:, None]).long()}


def logits(model, task="sentiment"):
    with torch.no_grad():
        return model.eval()(task=task, **batch()).logits


@pytest.fixture
def model(family_config):
    torch.manual_seed(0)
    return MultiTaskModel(MultiTaskConfig(family_config, [SENTIMENT, SIMILARITY]))


def test_every_parameter_gets_a_gradient(model):
    model.train()
    model(task="sentiment", labels=torch.tensor([0, 1, 1, 0]), **batch()).loss.backward()
    model(task="similarity", labels=torch.tensor([0.0, 1.0, 4.5, 5.0]), **batch()).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_a_saved_model_comes_back_bit_equal(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = MultiTaskModel.from_pretrained(tmp_path)
    for task in ("sentiment", "similarity"):
        assert torch.equal(logits(model, task), logits(again, task))
    assert again.config.heads == {"sentiment": SENTIMENT, "similarity": SIMILARITY}
    code = [f"{module}.py" for module in modeling_code()]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["config.json", "model.safetensors", *code])
    assert torch.equal(logits(AutoModel.from_pretrained(tmp_path)), logits(model))


def test_a_plain_encoder_folder_loads_with_fresh_heads(family_config, tmp_path, caplog):
    torch.manual_seed(1)
    encoder = AutoModel.from_config(family_config)
    encoder.save_pretrained(tmp_path)
    with caplog.at_level("INFO", logger="hf_mtl"):
        model = load_model(str(tmp_path), [SENTIMENT, TOPIC])
    assert "fresh heads: sentiment, topic" in caplog.text
    weights = encoder.state_dict()
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_padding_does_not_change_the_logits(model):
    rows = batch(rows=1, tokens=6)
    padded = {
        "input_ids": torch.cat([rows["input_ids"], torch.full((1, 5), model.config.pad_token_id)], dim=1),
        "attention_mask": torch.cat([rows["attention_mask"], torch.zeros(1, 5, dtype=torch.long)], dim=1),
    }
    with torch.no_grad():
        short, long = (model.eval()(task="sentiment", **x).logits for x in (rows, padded))
    # fp32 rounding of the same sums in kernels of another length
    torch.testing.assert_close(short, long, rtol=0, atol=2e-6)


def test_attention_is_the_best_that_the_encoder_supports(model):
    if model.encoder._supports_sdpa:
        assert model.encoder.config._attn_implementation == "sdpa"


def test_a_saved_model_takes_more_tasks_and_keeps_its_heads(make_model, specs, tmp_path, caplog):
    saved = make_model()
    saved.save_pretrained(tmp_path)
    with caplog.at_level("INFO", logger="hf_mtl"):
        model = load_model(str(tmp_path), [*(spec.head for spec in specs), TOPIC])
    assert "fresh heads: topic" in caplog.text and "saved weights: reviews, pairs" in caplog.text
    for name, value in saved.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert model.heads["topic"].weight.std() > 0.005


def test_a_saved_head_with_other_labels_is_refused(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="'reviews' is saved"):
        load_model(str(tmp_path), [HeadSpec(name="reviews", kind="classification", labels=("a", "b", "c"))])


def test_the_saved_configuration_names_no_folder_of_this_machine(make_model, tmp_path):
    make_model().encoder.save_pretrained(tmp_path / "encoder")
    load_model(str(tmp_path / "encoder"), [SENTIMENT]).save_pretrained(tmp_path / "model")
    assert str(tmp_path) not in (tmp_path / "model" / "config.json").read_text()
    rows = json.loads((tmp_path / "model" / "config.json").read_text())["tasks"]
    assert rows == [{"name": "sentiment", "kind": "classification", "labels": ["bad", "good"], "num_texts": 1}]


def test_a_half_precision_checkpoint_trains_in_fp32(make_model, tmp_path):
    make_model().to(torch.bfloat16).save_pretrained(tmp_path)
    assert load_model(str(tmp_path), []).dtype == torch.float32


@pytest.mark.parametrize("how", ["mean", "cls", "max"])
def test_pooling_is_that_of_each_row_without_its_padding(how):
    hidden = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    lengths = [5, 3, 1]
    mask = torch.tensor([[1] * n + [0] * (5 - n) for n in lengths])
    alone = {"mean": lambda x: x.mean(dim=0), "cls": lambda x: x[0], "max": lambda x: x.amax(dim=0)}[how]
    wanted = torch.stack([alone(row[:n]) for row, n in zip(hidden, lengths, strict=True)])
    torch.testing.assert_close(pool(hidden, mask, how), wanted)


def test_pooling_and_dropout_are_kept_from_a_saved_model_unless_given(make_model, tmp_path):
    make_model(pooling="max").save_pretrained(tmp_path)
    assert load_model(str(tmp_path), []).config.pooling == "max"
    assert load_model(str(tmp_path), [], pooling="cls").config.pooling == "cls"


@pytest.mark.parametrize("config", [GPT2Config(n_embd=16, n_layer=1, n_head=2), T5Config(d_model=16, num_layers=1)])
def test_what_is_no_encoder_is_refused(config):
    with pytest.raises(InputError, match=f"'here' holds a model of type '{config.model_type}'"):
        check_encoder(config, "here")


def test_a_decoder_folder_is_refused(tmp_path):
    GPT2Model(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no text encoder"):
        load_model(str(tmp_path), [SENTIMENT])


def test_regression_predictions_stay_in_the_labels_range(make_model, specs):
    values = make_model().decode("pairs", torch.tensor([[-9.0], [0.0], [9.0]]))
    torch.testing.assert_close(values, torch.tensor([0.0, 2.5, 5.0]))


def test_an_unknown_task_is_refused_by_name(make_model):
    with pytest.raises(InputError, match="unknown task 'sst2'; choose from: pairs, reviews"):
        make_model()(task="sst2", **batch())
