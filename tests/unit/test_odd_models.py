"""Models that are damaged, wrapped or asked for in a way that cannot be right: a sentence says what to do."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from hf_mtl import InputError, MultiTaskConfig, MultiTaskModel, MultiTaskPipeline, load_model
from hf_mtl.cli import main
from hf_mtl.training import resuming
from hf_mtl.training.resuming import encoder_fingerprint


@pytest.fixture
def saved(make_model, tokenizer, tmp_path):
    folder = tmp_path / "saved"
    make_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def encoder(tokenizer, tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    folder = tmp_path / "encoder"
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes), add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("task", ["reviews", "pairs"])
def test_answers_that_are_no_numbers_are_an_error(make_model, tokenizer, value, task):
    model = make_model()
    with torch.no_grad():
        model.heads[task].bias[0] = value
    pipe = MultiTaskPipeline(model=model, tokenizer=tokenizer)
    with pytest.raises(InputError, match=f"task '{task}': the model's answers are not finite numbers"):
        pipe("good" if task == "reviews" else ("good", "bad"))


def test_predictions_that_are_no_numbers_end_with_an_error(saved, tmp_path, capsys):
    file = saved / "model.safetensors"
    weights = load_file(file)
    weights["encoder.embeddings.LayerNorm.weight"][:] = torch.nan
    save_file(weights, file, {"format": "pt"})
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n')
    files = ["--input", str(tmp_path / "a.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    assert main(["predict", "--model", str(saved), *files]) == 2
    assert "answers are not finite numbers" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_heads_are_task_heads_each_once(encoder, saved, specs, make_model):
    heads = [spec.head for spec in specs]
    for folder in (encoder, saved):
        for wrong in (specs, ["reviews"], "reviews", heads[0], 3, None):
            with pytest.raises(InputError, match=r"tasks (is|has) .*\[task.head for task in tasks\]"):
                load_model(folder, wrong)
        with pytest.raises(InputError, match="tasks has 'reviews' 2 times"):
            load_model(folder, [heads[0], heads[0]])
    with pytest.raises(InputError, match=r"\[task.head for task in tasks\]"):
        make_model().set_heads(specs)
    with pytest.raises(InputError, match=r"\[task.head for task in tasks\]"):
        MultiTaskConfig(BertConfig(), specs)


@pytest.mark.parametrize("option", ["dtype", "torch_dtype", "config", "use_safetensors"])
def test_options_that_are_not_for_the_caller_are_refused(encoder, specs, option):
    with pytest.raises(InputError, match=f"load_model takes no {option}: "):
        load_model(encoder, [spec.head for spec in specs], **{option: torch.bfloat16})


REVIEWS = {"name": "reviews", "kind": "classification", "labels": ["bad", "good"]}


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("tasks", None, "tasks is None, wanted a list"),
        ("tasks", REVIEWS, "tasks is {.*wanted a list"),
        ("tasks", 3, "tasks is 3, wanted a list"),
        ("tasks", ["reviews"], "tasks has 'reviews', wanted heads"),
        ("tasks", [{"kind": "classification"}], "wanted the key 'name'"),
        ("tasks", [{"name": "reviews"}], "wanted the key 'kind'"),
        ("tasks", [{**REVIEWS, "label": 1}], "unknown key of task 'reviews': 'label'"),
        ("tasks", [{**REVIEWS, "labels": "ab"}], "task 'reviews': labels is 'ab', wanted two or more"),
        ("tasks", [{**REVIEWS, "labels": [1, 2]}], r"task 'reviews': labels is \(1, 2\), wanted two or more"),
        ("tasks", [{**REVIEWS, "labels": 3}], "task 'reviews': labels is 3, wanted two or more"),
        ("tasks", [{**REVIEWS, "kind": ["regression"]}], "unknown kind for task 'reviews'"),
        ("tasks", [{"name": "a", "kind": "regression", "label_range": ["0", "1"]}], "label_range is .*wanted"),
        ("tasks", [{"name": "a", "kind": "regression", "label_range": 5}], "label_range is 5, wanted"),
        ("tasks", [REVIEWS, REVIEWS], "tasks has 'reviews' 2 times"),
        ("head_dropout", "x", "head_dropout is 'x', wanted a number"),
        ("head_dropout", None, "head_dropout is None, wanted a number"),
        ("max_seq_length", "64", "max_seq_length is '64', wanted a number"),
        ("pooling", ["mean"], "unknown pooling"),
        ("encoder_config", {"hidden_size": 32}, "encoder_config has model_type None, wanted a type"),
        ("encoder_config", {"model_type": "brt"}, "encoder_config has model_type 'brt', wanted a type"),
        ("encoder_config", "bert", "encoder_config is 'bert', wanted an encoder's"),
    ],
)
def test_a_damaged_configuration_names_the_key(saved, specs, key, value, named):
    file = saved / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(InputError, match=f"^model_name_or_path '{saved}' cannot be loaded: .*{named}"):
        load_model(saved, [spec.head for spec in specs])
    with pytest.raises(InputError, match=f"^model '{saved}' cannot be loaded: .*{named}"):
        MultiTaskModel.from_pretrained(saved)


@pytest.mark.parametrize(
    ("prefix", "way"), [("_orig_mod.", "compile in place"), ("module.", "save model.module"), ("bert.module.", "save")]
)
def test_weights_of_a_wrapped_encoder_say_what_to_save(encoder, specs, prefix, way):
    file = encoder / "model.safetensors"
    save_file({f"{prefix}{name}": value for name, value in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(InputError, match=f"have beside them {prefix}embeddings.* before them: {way}"):
        load_model(encoder, [spec.head for spec in specs])


@pytest.mark.parametrize("name", ["/some/nope", "./nope", "a/b/c"])
def test_a_folder_that_is_not_there_is_told_as_that(name):
    with pytest.raises(InputError, match=f"model '{name}' cannot be loaded: no such folder.*, and no Hub id"):
        MultiTaskModel.from_pretrained(name)


def test_a_checkpoints_weights_are_read_only_where_the_start_was_another(saved, tmp_path, monkeypatch):
    checkpoint = shutil.copytree(saved, tmp_path / "checkpoint-1")
    (checkpoint / "trainer_state.json").write_text('{"global_step": 1, "log_history": []}')
    model = MultiTaskModel.from_pretrained(saved)
    found = encoder_fingerprint(model)
    assert resuming._saved_fingerprint(checkpoint) == found
    for started_with in (found, "another"):  # the second time it began with the checkpoint
        resuming.write_settings(checkpoint, {}, started_with, [])
        with monkeypatch.context() as patch:
            if started_with == found:
                patch.setattr(resuming, "_saved_fingerprint", lambda folder: pytest.fail("the weights are read"))
            resuming.refuse_other_run(checkpoint, [], model.config, found, {"pooling": "mean"})
