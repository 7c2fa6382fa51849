"""Learning rates by depth, the average of weights and soups are the same on two processes as on one."""

from worker_runs import SETTINGS, relative_error, train


def test_rates_by_depth_on_two_processes_are_those_on_one(tmp_path):
    settings = {**SETTINGS, "layer_lr_decay": 0.5, "head_lr_multiplier": 3.0}
    two = train(tmp_path, "two", 2, **settings)
    one = train(tmp_path, "one", 1, gradient_accumulation_steps=2, **settings)
    assert relative_error(two["update"], one["update"]) <= 1e-5  # sums of fp32 in another order
    plain = train(tmp_path, "plain", 1, gradient_accumulation_steps=2, **SETTINGS)
    assert relative_error(plain["update"], one["update"]) > 0.1
