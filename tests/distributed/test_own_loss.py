"""A subclass's `compute_loss` on two processes."""

from worker_runs import SETTINGS, relative_error, train, train_here


def test_two_processes_take_the_step_of_one(tmp_path):
    settings = {**SETTINGS, "max_steps": 2, "unfreeze_schedule": "none"}
    two = train(tmp_path, "two", 2, own_loss=True, **settings)
    # Twice the loss is twice the gradient.
    one = train_here(tmp_path, "one", loss_weights='{"pairs": 2}', gradient_accumulation_steps=2, **settings)
    assert relative_error(two["update"], one["update"]) <= 1e-5  # of the sums' order
