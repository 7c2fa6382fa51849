"""Two specifications that mean the same are one head; a head that is to be another one says why it starts afresh."""

import dataclasses
import logging

import pytest
import torch

from hf_mtl import HeadSpec, InputError, MultiTaskModel, MultiTaskTrainer, TaskSpec, load_model

VALUE = {"label_range": (0.0, 5.0), "num_texts": 2}
SAME = {
    "loss of regression": ({"kind": "regression", **VALUE}, {"loss": "mse"}),
    "loss of similarity": ({"kind": "similarity", **VALUE}, {"loss": "mse"}),
    "pooling": ({"kind": "classification", "labels": ("no", "yes")}, {"pooling": "mean"}),
    "pooling of multi_label": ({"kind": "multi_label", "labels": ("no", "yes")}, {"pooling": "mean"}),
    "pair_encoding": ({"kind": "regression", **VALUE}, {"pair_encoding": "joint", "pooling": "mean"}),
}
OTHER = {
    "loss": ({"kind": "regression", **VALUE}, {"loss": "bce"}, "loss was 'mse' and is 'bce'"),
    "pooling": ({"kind": "similarity", **VALUE}, {"pooling": "max"}, "pooling was 'mean' and is 'max'"),
    "pair_encoding": (
        {"kind": "regression", **VALUE},
        {"pair_encoding": "separate"},
        "pair_encoding was 'joint' and is 'separate'",
    ),
    "labels": (
        {"kind": "classification", "labels": ("no", "yes")},
        {"labels": ("bad", "good")},
        "labels was ('no', 'yes') and is ('bad', 'good')",
    ),
}


def moved(model):
    """The model with every head moved away from where a fresh one is; its heads' weights."""
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.add_(1.5)
    return {name: tensor.clone() for name, tensor in model.heads.state_dict().items()}


@pytest.mark.parametrize("way_round", [1, -1])
@pytest.mark.parametrize(("spec", "spelling"), SAME.values(), ids=SAME)
def test_a_default_may_be_written_out(make_model, tmp_path, tokenizer, caplog, spec, spelling, way_round):
    one, two = [HeadSpec(name="t", **spec), HeadSpec(name="t", **spec, **spelling)][::way_round]
    assert one != two and not one.differences(two, "mean")
    model = make_model([TaskOf(one)])
    wanted = moved(model)
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    again = load_model(tmp_path / "saved", [two])
    model.set_heads([two])
    for each in (again, model):
        assert each.task_heads == {"t": two}
        for name, tensor in each.heads.state_dict().items():
            assert torch.equal(tensor, wanted[name])
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(("spec", "change", "message"), OTHER.values(), ids=OTHER)
def test_another_head_starts_afresh_and_says_why(make_model, tmp_path, tokenizer, caplog, spec, change, message):
    one, two = HeadSpec(name="t", **spec), HeadSpec(name="t", **{**spec, **change})
    model = make_model([TaskOf(one)])
    before = moved(model)
    model.save_pretrained(tmp_path / "saved")
    with pytest.raises(InputError, match=r"task 't' is saved in .* and is declared as"):
        load_model(tmp_path / "saved", [two])
    model.set_heads([two])
    assert caplog.messages == [f"task 't': its head starts afresh, without what it learned: {message}"]
    assert not any(
        tensor.shape == before[name].shape and torch.equal(tensor, before[name])
        for name, tensor in model.heads.state_dict().items()
    )


def test_what_the_default_is_goes_by_the_models_pooling(make_model, tmp_path):
    spec = {"name": "t", "kind": "classification", "labels": ("no", "yes")}
    model = make_model([TaskOf(HeadSpec(**spec))], pooling="cls")
    model.save_pretrained(tmp_path / "saved")
    assert load_model(tmp_path / "saved", [HeadSpec(**spec, pooling="cls")]).heads["t"].pooling == "cls"
    with pytest.raises(InputError, match="is declared as"):
        load_model(tmp_path / "saved", [HeadSpec(**spec, pooling="mean")])


def test_a_trainer_takes_a_saved_model_of_the_other_spelling(
    make_model, make_arguments, specs, rows, tokenizer, tmp_path
):
    make_model().save_pretrained(tmp_path / "saved")
    tasks = [dataclasses.replace(specs[0], pooling="mean"), dataclasses.replace(specs[1], loss="mse")]
    assert all(isinstance(spec, TaskSpec) for spec in tasks)
    model = MultiTaskModel.from_pretrained(tmp_path / "saved")
    trainer = MultiTaskTrainer(model, make_arguments(max_steps=1), tasks, rows["train"], processing_class=tokenizer)
    trainer.train()
    tasks[1] = dataclasses.replace(specs[1], loss="huber")
    with pytest.raises(InputError, match=r"task 'pairs': the model's head is .*, wanted .*loss='huber'"):
        MultiTaskTrainer(model, make_arguments(), tasks, rows["train"], processing_class=tokenizer)


@dataclasses.dataclass
class TaskOf:
    """What the fixture `make_model` reads of a task."""

    head: HeadSpec
