"""Teachers beside the other levers: each keeps what it means, and a stopped run ends as a whole one."""

import pytest
import torch
from lever_runs import Terminate, WeightTape, assert_same, end_of
from teachers import save_teacher

from hf_mtl.training.weight_average import decay_at

RUN = {
    "max_steps": 8,
    "learning_rate": 0.01,
    "save_strategy": "steps",
    "save_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "train_metric_rows": 0,
}
RATES = {"layer_lr_decay": 0.5, "head_lr_multiplier": 3.0}
LEVERS = {
    "rates": RATES,
    "averages": {"ema_decay": 0.5},
    "soup": {"soup": 2},
    "all": {**RATES, "ema_decay": 0.5, "soup": 2},
}


@pytest.fixture
def taught(make_model, make_trainer, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    teacher = save_teacher(make_model(seed=3), tokenizer, tmp_path / "teacher")

    def make(model=None, callbacks=(), **arguments):
        teachers = {"reviews": teacher, "pairs": teacher}
        return make_trainer(model, callbacks, **{**RUN, "teachers": teachers, **arguments})

    return make


@pytest.mark.parametrize("levers", LEVERS.values(), ids=LEVERS)
def test_a_stopped_run_with_teachers_ends_as_a_whole_one(taught, make_model, tmp_path, levers):
    whole = taught(make_model(dropout=0.1), output_dir=str(tmp_path / "whole"), **levers)
    whole.train()
    with pytest.raises(SystemExit):
        taught(make_model(dropout=0.1), [Terminate(5)], **levers).train()
    again = taught(make_model(dropout=0.1, seed=3), **levers)
    again.train(resume_from_checkpoint=True)
    assert_same(end_of(again), end_of(whole))


def test_an_average_is_of_the_weights_that_teachers_alone_give(taught, tmp_path):
    alone, beside = WeightTape(), WeightTape()
    taught(callbacks=[alone], output_dir=str(tmp_path / "alone")).train()
    trainer = taught(callbacks=[beside], ema_decay=0.5)
    average = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    assert_same(beside.weights, alone.weights)
    for update, weights in enumerate(alone.weights, start=1):
        for name, raw in weights.items():
            average[name].lerp_(raw, 1 - decay_at(update, 0.5))
    found = dict(trainer.model.named_parameters())
    assert all(torch.equal(found[name], wanted) for name, wanted in average.items())


def test_rates_and_teachers_each_change_the_weights(taught, tmp_path):
    ends = [{}, RATES, {"teachers": None}, {**RATES, "teachers": None}]
    weights = []
    for number, arguments in enumerate(ends):
        trainer = taught(output_dir=str(tmp_path / str(number)), **{**arguments, "max_steps": 3})
        trainer.train()
        weights.append(torch.cat([parameter.detach().ravel() for parameter in trainer.model.parameters()]))
    for number, one in enumerate(weights):
        assert not any(torch.equal(one, other) for other in weights[:number])
