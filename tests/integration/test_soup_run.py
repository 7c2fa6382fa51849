"""A soup at the end of a run: that of a few lines, over a resume, beside the other levers; where there can be none."""

import json

import pytest
import torch
from filelock import FileLock, Timeout
from lever_runs import Terminate, assert_same, end_of
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_mtl import InputError, MultiTaskModel
from hf_mtl.training import run
from hf_mtl.training.checkpoints import LOCK_FILE, checkpoints_in

RUN = {
    "max_steps": 12,
    "learning_rate": 0.02,
    "seed": 4,  # scores go up and down, and means go in
    "save_strategy": "steps",
    "save_steps": 2,
    "save_total_limit": 1,
    "eval_strategy": "steps",
    "eval_steps": 1,
}
LEVERS = [{}, {"ema_decay": 0.5}, {"layer_lr_decay": 0.5, "head_lr_multiplier": 3.0, "seed": 42}]


def soup_by_hand(make_trainer, folder, number):
    """The greedy soup of the best checkpoints of a run that kept them all: names, weights, score."""

    def score_of(weights):
        model = MultiTaskModel.from_pretrained(folder / "checkpoint-2")
        model.load_state_dict(weights, strict=False)
        return make_trainer(model, output_dir=str(folder / "scored"), train_metric_rows=0).evaluate()["eval_average"]

    def mean(names):
        models = [load_file(folder / name / "model.safetensors") for name in names]
        return {key: torch.stack([m[key].double() for m in models]).mean(0).float() for key in models[0]}

    alone = {path.name: score_of(mean([path.name])) for path in checkpoints_in(folder)}
    ranked = sorted(alone, key=alone.get, reverse=True)[:number]
    chosen, score = ranked[:1], alone[ranked[0]]
    for name in ranked[1:]:
        if (together := score_of(mean([*chosen, name]))) >= score:
            chosen, score = [*chosen, name], together
    return ranked, chosen, mean(chosen), score


@pytest.mark.parametrize("levers", LEVERS, ids=["alone", "averages", "rates"])
def test_the_final_model_is_the_soup_of_a_few_lines(make_trainer, tmp_path, caplog, levers):
    kept = make_trainer(output_dir=str(tmp_path / "all"), **{**RUN, "save_total_limit": 0, **levers})
    kept.train()
    ranked, chosen, weights, score = soup_by_hand(make_trainer, tmp_path / "all", 4)
    with caplog.at_level("INFO", logger="hf_mtl"):
        trainer = make_trainer(soup=4, **{**RUN, **levers})
        trainer.train()
    assert {path.name for path in checkpoints_in(tmp_path / "out")} == {*ranked, "checkpoint-12"}
    found = trainer.model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    assert 1 < len(chosen) <= 4
    (line,) = [line for line in caplog.messages if line.startswith("soup: the final model")]
    assert line.endswith(f"eval_average {score:.4f}") and all(name in line for name in chosen)
    rows = [row for row in trainer.state.log_history if "eval_average" in row]
    assert [row["step"] for row in rows] == [*range(1, 13), 12]
    assert rows[-1]["eval_average"] == score and "train_average" in rows[-1]
    without = [row.get("loss") for row in kept.state.log_history if "loss" in row]
    assert [row.get("loss") for row in trainer.state.log_history if "loss" in row] == without


def test_the_last_scores_of_a_run_are_those_of_the_soup(make_trainer, tmp_path):
    trainer = make_trainer(soup=3, do_eval=True, **RUN)
    run.train(trainer)
    run.evaluate(trainer)
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    saved = MultiTaskModel.from_pretrained(tmp_path / "out")
    assert_same(dict(saved.named_parameters()), dict(trainer.model.named_parameters()))
    scores = make_trainer(saved, output_dir=str(tmp_path / "b")).evaluate()
    assert results["eval_average"] == scores["eval_average"]
    trainer.create_model_card()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "a greedy soup of the 3 best checkpoints on eval_average" in card
    assert f"{100 * scores['eval_reviews_accuracy']:.2f}" in card or str(scores["eval_reviews_accuracy"]) in card


@pytest.mark.parametrize("levers", LEVERS[:2], ids=["alone", "averages"])
def test_a_stopped_run_ends_with_the_same_soup(make_trainer, make_model, tmp_path, levers):
    settings = {**RUN, "soup": 3, **levers}
    whole = make_trainer(make_model(dropout=0.1), **{**settings, "output_dir": str(tmp_path / "whole")})
    whole.train()
    with pytest.raises(SystemExit):
        make_trainer(make_model(dropout=0.1), callbacks=[Terminate(7)], **settings).train()
    for _ in range(2):  # the second time from the last step
        again = make_trainer(make_model(dropout=0.1, seed=3), **settings)
        again.train(resume_from_checkpoint=True)
        assert_same(end_of(again), end_of(whole))


def test_the_folder_stays_locked_until_the_soup_is_made(make_trainer, tmp_path, monkeypatch):
    lock, free = tmp_path / "out" / LOCK_FILE, []
    trainer = make_trainer(soup=2, **{**RUN, "max_steps": 4})
    evaluate = trainer.evaluate

    def spying(*args, **kwargs):
        free.append(is_free(lock))
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(trainer, "evaluate", spying)
    trainer.train()
    assert len(free) == 4 + 1 + 1 and not any(free)  # at every step, with the second checkpoint, with the soup
    assert is_free(lock)


def is_free(lock):
    """Whether another process could have a lock."""
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False


def test_a_soup_that_is_asked_for_at_a_resume_is_made_of_what_lies_there(make_trainer, tmp_path, caplog):
    make_trainer(**{**RUN, "max_steps": 6, "save_total_limit": 2}).train()
    there = {path.name for path in checkpoints_in(tmp_path / "out")}
    again = make_trainer(soup=4, **{**RUN, "max_steps": 8})
    with caplog.at_level("INFO", logger="hf_mtl"):
        again.train(resume_from_checkpoint=True)
    assert "changed from step 6 on: " in caplog.text and "soup was 0 and is 4" in caplog.text
    assert {path.name for path in checkpoints_in(tmp_path / "out")} == {*there, "checkpoint-8"}
    assert len(there) == 2
    assert "soup: the final model is the mean of " in caplog.text


class Counts(TrainerCallback):
    """Counts what it hears of evaluations."""

    def __init__(self):
        self.heard = []

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.heard.append(("evaluate", metrics["eval_average"]))

    def on_prediction_step(self, args, state, control, **kwargs):
        self.heard.append(("prediction step",))

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "eval_average" in logs:
            self.heard.append(("log", logs["eval_average"]))


def test_trackers_hear_of_the_soup_alone(make_trainer):
    callback = Counts()
    trainer = make_trainer(callbacks=[callback], soup=4, early_stopping_patience=20, **RUN)
    trainer.train()
    logged = [row["eval_average"] for row in trainer.state.log_history if "eval_average" in row]
    assert [value for kind, *value in callback.heard if kind == "log"] == [[score] for score in logged]
    assert len(logged) == RUN["max_steps"] + 1
    assert trainer.args.train_metric_rows == 16


def test_without_a_scored_checkpoint_the_model_stays_which_is_said(make_trainer, caplog):
    trainer = make_trainer(soup=2, **{**RUN, "max_steps": 4}, eval_delay=5)
    trainer.train()
    assert "no checkpoint in" in caplog.text and "has an eval_average; the model stays as it is" in caplog.text
    plain = make_trainer(**{**RUN, "max_steps": 4, "eval_strategy": "no"})
    plain.train()
    assert_same(trainer.model.state_dict(), plain.model.state_dict())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"load_best_model_at_end": True}, "soup is 3 and load_best_model_at_end is on"),
        ({"save_strategy": "no"}, "soup is 3, which is made of checkpoints, and save_strategy is 'no'"),
        ({"eval_strategy": "no"}, "soup: wants evaluations in the course of the training"),
        ({"eval_strategy": "epoch"}, "wants an evaluation at every save, found eval_strategy 'epoch' and save"),
        ({"eval_steps": 4}, "found eval_strategy 'steps' and save_strategy 'steps', eval_steps 4 and save_steps 2"),
        ({"eval_steps": 0.1}, "eval_steps 0.1 and save_steps 2"),
        ({"eval_steps": 0.1, "save_steps": 0.25}, "eval_steps 0.1 and save_steps 0.25"),
    ],
)
def test_a_soup_of_nothing_is_refused(make_arguments, settings, reason):
    with pytest.raises(InputError, match=reason):
        make_arguments(soup=3, **{**RUN, **settings})


@pytest.mark.parametrize(
    "settings",
    [
        {"eval_strategy": "epoch", "save_strategy": "epoch"},
        {"save_strategy": "best"},
        {"eval_steps": 0.1, "save_steps": 0.3},
        {"eval_strategy": "no", "do_train": False},
    ],
)
def test_a_soup_of_scored_checkpoints_is_taken(make_arguments, settings):
    assert make_arguments(soup=3, **{**RUN, **settings}).soup == 3


def test_engines_that_shard_are_refused(make_trainer, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match=r"soup is 3: under DeepSpeed and FSDP"):
        make_trainer(soup=3, gradient_method="fixed", **RUN)
