"""A gradient method that gives what no step can be made of: the model keeps its weights, and the method is named."""

import pytest
import torch

from hf_mtl import GradientMethod, InputError, register_gradient_method
from hf_mtl.gradients.joint_loss import JointLoss
from hf_mtl.gradients.method import make_gradient_method

NAN, INF = float("nan"), float("inf")


pytestmark = pytest.mark.usefixtures("gradient_methods_of_this_test")


def register(method_needs, answer):
    """A method "mine" that gives `answer(what it gets)`."""

    @register_gradient_method("mine")
    class Mine(GradientMethod):
        needs = method_needs
        learned = 0

        def __call__(self, given, generator):
            return answer(given)

        def after_step(self, before, after):
            self.learned += 1


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    ("needs", "answer"),
    [
        ("gramian", lambda given: torch.tensor([1.0, NAN])),
        ("gramian", lambda given: torch.tensor([1.0, 1e39], dtype=torch.float64)),
        ("losses", lambda given: torch.tensor([INF, 1.0])),
        ("losses_after_step", lambda given: torch.tensor([NAN, NAN])),
        ("rows", lambda given: given.sum(dim=0).index_fill(0, torch.tensor([3]), NAN)),
    ],
)
def test_numbers_that_are_not_finite_move_nothing_and_stop_the_run(make_trainer, tmp_path, caplog, needs, answer):
    register(needs, answer)
    trainer = make_trainer(gradient_method="mine", max_steps=9, max_bad_steps=3, weight_decay=0.5)
    start = flat(trainer.model)
    with pytest.raises(FloatingPointError, match=r"gradient_method 'mine' gave .* not finite in 3 steps in a row"):
        trainer.train()
    assert torch.equal(flat(trainer.model), start)
    assert "step 0: gradient_method mine gave numbers that are not finite; nothing moves" in caplog.text
    assert (tmp_path / "out" / "checkpoint-3" / "model.safetensors").exists()
    assert trainer.step.method.learned == 0


def test_one_bad_step_is_gone_over(make_trainer):
    calls = []

    def once(given):
        calls.append(given)
        return torch.full((2,), NAN if len(calls) % 2 else 1.0)

    register("gramian", once)
    trainer = make_trainer(gradient_method="mine", max_steps=4, max_bad_steps=2)
    start = flat(trainer.model)
    trainer.train()
    assert torch.isfinite(flat(trainer.model)).all() and not torch.equal(flat(trainer.model), start)


@pytest.mark.parametrize(
    ("needs", "answer", "named"),
    [
        ("gramian", lambda given: torch.ones(3), r"a tensor of shape \(3,\), wanted a weight per task: .* \(2,\)"),
        ("gramian", lambda given: None, r"gave None, wanted a weight per task: a tensor of shape \(2,\)"),
        ("losses", lambda given: [1.0, 1.0], r"gave \[1.0, 1.0\], wanted a weight per task: a tensor of shape \(2,\)"),
        ("rows", lambda given: given, r"a tensor of shape \(2, \d+\), wanted the combined gradient: .* \(\d+,\)"),
    ],
)
def test_another_shape_or_type_is_refused(make_trainer, needs, answer, named):
    register(needs, answer)
    with pytest.raises(InputError, match=f"gradient_method 'mine' gave {named.removeprefix('gave ')}"):
        make_trainer(gradient_method="mine").train()


@pytest.mark.parametrize("needs", ["gramian", "rows"])
def test_under_a_scaler_the_step_is_skipped(make_trainer, needs):
    register(needs, lambda given: torch.full(given.shape[1:], NAN))
    trainer = make_trainer(gradient_method="mine")
    trainer.accelerator.scaler = scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer.current_gradient_accumulation_steps = 1
    trainer.step.begin(0)
    trainer.training_step(trainer.model, next(iter(trainer.get_train_dataloader())))
    optimizer, start = torch.optim.SGD(trainer.model.parameters(), lr=1.0, weight_decay=1.0), flat(trainer.model)
    scaler.step(optimizer)
    assert torch.equal(flat(trainer.model), start) and torch.isfinite(start).all()
    assert trainer.step.statistics.bad_method_steps == 1


def test_a_joint_loss_has_no_backward_then():
    register("losses", lambda given: torch.tensor([1.0, NAN]))
    joint = JointLoss(["a", "b"], {"a": 1.0, "b": 1.0}, make_gradient_method("mine"))
    units = torch.tensor([4, 4])
    losses = {"a": torch.tensor(1.0, requires_grad=True), "b": torch.tensor(2.0, requires_grad=True)}
    assert joint.collect(losses, units, units, torch.Generator()) is None and joint.method_failed
    joint.clear()
    assert not joint.method_failed
    with pytest.raises(InputError, match="gradient_method 'mine' gave 1, wanted a weight per task"):
        register("losses", lambda given: 1)
        joint.method = make_gradient_method("mine")
        joint.collect(losses, units, units, torch.Generator())
