"""Learning rates by depth, the average of weights and soups are the same on two processes as on one."""

import json

import torch
from safetensors.torch import load_file
from worker_runs import SETTINGS, relative_error, train, train_here

from hf_mtl.training.soup import mean_weights


def test_rates_by_depth_on_two_processes_are_those_on_one(tmp_path):
    settings = {**SETTINGS, "layer_lr_decay": 0.5, "head_lr_multiplier": 3.0}
    two = train(tmp_path, "two", 2, **settings)
    one = train_here(tmp_path, "one", gradient_accumulation_steps=2, **settings)
    assert relative_error(two["update"], one["update"]) <= 1e-5  # sums of fp32 in another order
    plain = train_here(tmp_path, "plain", gradient_accumulation_steps=2, **SETTINGS)
    assert relative_error(plain["update"], one["update"]) > 0.1


def test_the_average_on_two_processes_is_that_on_one_and_goes_on_bit_equal(tmp_path):
    settings = {**SETTINGS, "ema_decay": 0.8, "save_strategy": "steps", "save_steps": 4, "save_total_limit": 0}
    two = train(tmp_path, "two", 2, **settings)
    one = train_here(tmp_path, "one", gradient_accumulation_steps=2, **settings)
    assert relative_error(two["update"], one["update"]) <= 1e-5  # sums of fp32 in another order
    plain = train_here(tmp_path, "plain", gradient_accumulation_steps=2, **SETTINGS)
    assert relative_error(plain["update"], one["update"]) > 0.01
    again = train(tmp_path, "again", 2, checkpoint=tmp_path / "two" / "checkpoint-4", **settings)
    saved = [load_file(tmp_path / name / "model.safetensors") for name in ("two", "again")]
    assert all(torch.equal(tensor, saved[1][name]) for name, tensor in saved[0].items())
    assert again["scores"] == two["scores"]


def test_the_soup_on_two_processes_is_the_mean_that_they_name(tmp_path):
    settings = {**SETTINGS, "soup": 3, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 0}
    settings |= {"eval_strategy": "steps", "eval_steps": 2, "train_metric_rows": 0}
    two = train(tmp_path, "two", 2, **settings)
    saved = load_file(tmp_path / "two" / "model.safetensors")
    history = json.loads((tmp_path / "two" / "checkpoint-10" / "trainer_state.json").read_text())["log_history"]
    scores = {row["step"]: row["eval_average"] for row in history if "eval_average" in row}
    best = sorted(scores, key=scores.get, reverse=True)[:3]
    mixes = [[best[0], *others] for others in ([], best[1:2], best[2:3], best[1:])]
    folders = [[tmp_path / "two" / f"checkpoint-{step}" for step in steps] for steps in mixes]
    means = [mean_weights(each) for each in folders]
    assert sum(all(torch.equal(tensor, mean[name]) for name, tensor in saved.items()) for mean in means) == 1
    # Half of them are from the second process.
    torch.testing.assert_close(two["predictions"], two["predictions_alone"], rtol=1e-5, atol=1e-6)
