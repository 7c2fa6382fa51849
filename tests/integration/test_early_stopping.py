"""Early stopping: after so many evaluations without a new best one, however often the run was resumed between."""

import math

import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerCallback

from hf_mtl.training.argument_parser import parse_arguments

SETTINGS = {
    "eval_strategy": "steps",
    "eval_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": None,
    "max_steps": 8,
    "train_metric_rows": 0,
}


class ScoreOf(TrainerCallback):
    """Gives every evaluation the value of its step; further steps the last one."""

    def __init__(self, *values):
        self.values = values

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        metrics["eval_average"] = self.values[min(state.global_step, len(self.values)) - 1]


def untimed(row):
    return {k: v for k, v in row.items() if not k.endswith(("runtime", "_per_second")) and k != "train_loss"}


def same_end(one, other):
    """Whether two runs have the same weights, optimizer state and log."""
    pairs = [(t.model.state_dict(), t.optimizer.state_dict()["state"]) for t in (one, other)]
    (weights, state), (others_weights, others_state) = pairs
    return (
        all(torch.equal(value, others_weights[name]) for name, value in weights.items())
        and all(torch.equal(state[i][k], others_state[i][k]) for i in state for k in state[i])
        and [untimed(r) for r in one.state.log_history if "train_runtime" not in r]
        == [untimed(r) for r in other.state.log_history if "train_runtime" not in r]
    )


def test_the_flag_is_a_number_of_evaluations():
    assert parse_arguments(["--use_cpu"])[2].early_stopping_patience is None
    assert parse_arguments(["--use_cpu", "--early_stopping_patience", "3"])[2].early_stopping_patience == 3


@pytest.mark.parametrize(
    ("patience", "scores", "last", "best"),
    [
        (1, [0.1, 0.2, 0.2], 3, True),
        (2, [0.5, 0.4, 0.6, 0.5, 0.5], 5, False),
        (2, [math.nan, math.nan], 2, False),
        (2, [math.nan, 0.1, math.nan, math.nan], 4, True),
        (3, [0.1 * n for n in range(8)], 8, False),
    ],
)
def test_a_run_stops_after_so_many_evaluations_without_a_new_best(make_trainer, patience, scores, last, best):
    settings = {**SETTINGS, "load_best_model_at_end": best, "early_stopping_patience": patience}
    trainer = make_trainer(callbacks=[ScoreOf(*scores)], **settings)
    trainer.train()
    assert trainer.state.global_step == last


@pytest.mark.parametrize(("step", "own"), [(2, False), (5, False), (6, False), (3, True)])
def test_patience_is_kept_over_a_resume(make_trainer, make_model, tmp_path, step, own):
    scores = [0.3, 0.5, 0.4, 0.6, 0.6, 0.2, 0.9]
    settings = {**SETTINGS, **({} if own else {"early_stopping_patience": 2})}

    def trainer(seed):
        callbacks = [ScoreOf(*scores), *([EarlyStoppingCallback(2)] if own else [])]
        return make_trainer(make_model(dropout=0.1, seed=seed), callbacks=callbacks, **settings)

    whole = trainer(0)
    whole.train()
    assert whole.state.global_step == 6
    again = trainer(3)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{step}"))
    assert again.state.global_step == 6
    assert same_end(again, whole)


@pytest.mark.parametrize("which", [0, -1])
def test_epochs_count_as_steps_do(make_trainer, make_model, tmp_path, which):
    settings = {
        **SETTINGS,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "early_stopping_patience": 1,
        "max_steps": -1,
        "num_train_epochs": 4,
        "per_device_train_batch_size": 32,
    }
    whole = make_trainer(make_model(dropout=0.1), callbacks=[ScoreOf(0.5)], **settings)
    whole.train()
    assert whole.state.epoch == 2
    steps = sorted(int(path.name[11:]) for path in (tmp_path / "out").glob("checkpoint-*"))
    again = make_trainer(make_model(dropout=0.1, seed=3), callbacks=[ScoreOf(0.5)], **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{steps[which]}"))
    assert same_end(again, whole)


def test_more_patience_lets_a_stopped_run_go_on_and_it_can_be_added_later(make_trainer, tmp_path):
    make_trainer(callbacks=[ScoreOf(0.5)], **SETTINGS, early_stopping_patience=1).train()
    again = make_trainer(callbacks=[ScoreOf(0.5)], **SETTINGS, early_stopping_patience=3)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert again.state.global_step == 4

    make_trainer(callbacks=[ScoreOf(0.5)], **SETTINGS, output_dir=str(tmp_path / "without")).train()
    late = make_trainer(callbacks=[ScoreOf(0.5)], **SETTINGS, early_stopping_patience=2)
    late.train(resume_from_checkpoint=str(tmp_path / "without" / "checkpoint-3"))
    assert late.state.global_step == 5


@pytest.mark.parametrize(("patience", "last"), [(3, 4), (5, 6)])
def test_the_arguments_patience_holds_where_callbacks_are_restored(make_trainer, tmp_path, patience, last):
    make_trainer(callbacks=[ScoreOf(0.5)], **SETTINGS, early_stopping_patience=2).train()
    restored = {**SETTINGS, "restore_callback_states_from_checkpoint": True, "early_stopping_patience": patience}
    again = make_trainer(callbacks=[ScoreOf(0.5)], **restored)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert again.state.global_step == last


def test_a_second_training_counts_from_0(make_trainer):
    trainer = make_trainer(callbacks=[ScoreOf(0.5)], **{**SETTINGS, "save_strategy": "no"}, early_stopping_patience=2)
    for _ in range(2):
        trainer.train()
        assert trainer.state.global_step == 3
