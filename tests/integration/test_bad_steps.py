"""A task whose loss or gradient is not finite is left out of the step and takes no other task down."""

import pytest
import torch
from transformers import TrainerCallback

from hf_mtl import MultiTaskModel
from hf_mtl.gradients.combine import combine_gradients
from hf_mtl.training.checkpoints import checkpoint_error


class PoisonedModel(MultiTaskModel):
    """A model whose loss for pairs is spoilt: its value, or only its gradient."""

    poison = "none"

    def forward(self, *args, task, **inputs):
        out = super().forward(*args, task=task, **inputs)
        if task == "pairs" and self.training and out.loss is not None:
            if self.poison == "loss":
                out.loss = out.loss * float("nan")
            if self.poison == "gradient":
                out.loss = out.loss + (out.loss - out.loss.detach()).clamp(min=0).sqrt()  # 0, with an infinite slope
        return out


def flat(parameters):
    return torch.cat([p.detach().flatten() for p in parameters])


@pytest.fixture
def poisoned(make_model, make_trainer):
    def make(poison, **arguments):
        model = make_model()
        model.__class__ = PoisonedModel
        model.poison = poison
        return make_trainer(model, **arguments)

    return make


def one_step(trainer):
    trainer.current_gradient_accumulation_steps = 1
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.step.begin(trainer.state.global_step)
    trainer.training_step(trainer.model, batch)
    return batch


@pytest.mark.parametrize("poison", ["loss", "gradient"])
@pytest.mark.parametrize("method", ["pcgrad", "sum", "pcgrad_reference"])
def test_the_other_task_steps_as_if_alone(poisoned, poison, method, caplog):
    trainer = poisoned(poison, gradient_method=method)
    batch = one_step(trainer)
    model = trainer.model
    wanted = torch.autograd.grad(model(task="reviews", **batch["reviews"]).loss, model.shared_parameters())
    found = flat([p.grad for p in model.shared_parameters()])
    torch.testing.assert_close(found, flat(wanted), rtol=1e-5, atol=1e-7)
    assert all(p.grad is None for p in model.heads["pairs"].parameters())
    assert all(p.grad is not None for p in model.heads["reviews"].parameters())
    assert trainer.step.statistics.bad_steps == {"reviews": 0, "pairs": 1}
    assert "step 0: loss or gradient of pairs is not finite" in caplog.text


def test_a_step_with_no_task_left_moves_nothing(poisoned, rows):
    trainer = poisoned("loss", weight_decay=0.5)
    trainer.current_gradient_accumulation_steps = 1
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.step.begin(trainer.state.global_step)
    trainer.training_step(trainer.model, {"pairs": batch["pairs"]})  # and reviews, without rows, has no gradient
    assert trainer.step.statistics.bad_steps["pairs"] == 1
    assert all(p.grad is None or not p.grad.any() for p in trainer.model.parameters())


def test_training_goes_on_and_stops_with_a_checkpoint_and_the_tasks_name(poisoned, tmp_path):
    trainer = poisoned("loss", max_steps=9, max_bad_steps=3, save_only_model=True)
    start = flat(trainer.model.heads["reviews"].parameters())
    with pytest.raises(FloatingPointError, match=r"task 'pairs': .* 3 steps in a row; stopped at step 3"):
        trainer.train()
    assert checkpoint_error(tmp_path / "out" / "checkpoint-3") is None
    assert not torch.equal(flat(trainer.model.heads["reviews"].parameters()), start)
    assert torch.isfinite(flat(trainer.model.parameters())).all()


def test_a_task_that_recovers_is_counted_from_zero(poisoned):
    class Heal(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            model.poison = "loss" if state.global_step % 2 else "none"

    trainer = poisoned("none", max_steps=8, max_bad_steps=2)
    trainer.add_callback(Heal())
    trainer.train()
    assert trainer.state.global_step == 8


def test_an_overflow_under_a_scaler_reaches_it_and_skips_the_step(poisoned):
    trainer = poisoned("gradient")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer.accelerator.scaler = scaler
    one_step(trainer)
    optimizer = torch.optim.SGD(trainer.model.parameters(), lr=1.0)
    start = flat(trainer.model.parameters())
    assert not torch.isfinite(flat([p.grad for p in trainer.model.shared_parameters()])).all()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(flat(trainer.model.parameters()), start)
    assert scaler.get_scale() == 512.0
    assert trainer.step.statistics.bad_steps["pairs"] == 0


def test_the_loss_scale_never_reaches_the_method(make_trainer, monkeypatch):
    seen = []
    for scale in (None, 4096.0):
        trainer = make_trainer(gradient_method="sum")
        if scale:
            trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)

        def spy(gradients, *how):
            seen.append(gradients.gramian())
            combine_gradients(gradients, *how)

        monkeypatch.setattr("hf_mtl.training.step.combine_gradients", spy)
        one_step(trainer)
    torch.testing.assert_close(*seen, rtol=1e-12, atol=0)  # powers of two: exact but for sums of products
