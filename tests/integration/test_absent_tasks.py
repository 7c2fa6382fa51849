"""A task without a labelled word in a step counts as absent: the step is that of the other tasks, whatever the method.

The oracle is a backward per task and the method on these tasks alone.
"""

import math

import numpy as np
import pytest
import torch
from plain_steps import flat, relative_error
from token_rows import tagged_rows, task

from hf_mtl import MultiTaskTrainer, load_task_data
from hf_mtl.gradients.joint_loss import JointLoss
from hf_mtl.gradients.method import GRADIENT_METHODS, make_gradient_method
from hf_mtl.model.encoding import NO_LABEL
from hf_mtl.seeding import seeded_generator


@pytest.fixture
def trainer_and_batch(specs, rows, make_model, make_arguments, tokenizer):
    """A trainer on tags, reviews and pairs, and a batch without a tag; keywords go to the arguments."""

    def make(**arguments):
        tasks = [task(), *specs]
        data = load_task_data(
            tasks[:1], tokenizer, max_length=24, rows={"ner": {"train": tagged_rows(60)}}, splits=["train"]
        )
        trainer = MultiTaskTrainer(
            make_model(tasks),
            make_arguments(per_device_train_batch_size=12, **arguments),
            tasks,
            {**data["train"], **rows["train"]},
            processing_class=tokenizer,
        )
        trainer.create_optimizer_and_scheduler(4)
        trainer.current_gradient_accumulation_steps = 1
        batch = next(iter(trainer.get_train_dataloader()))
        batch["ner"]["labels"].fill_(NO_LABEL)
        return trainer, batch

    return make


def run(trainer, batch):
    """One step without the optimizer; the gradients by name."""
    trainer.step.begin(0)
    trainer.training_step(trainer.model, batch)
    return {name: None if p.grad is None else p.grad.clone() for name, p in trainer.model.named_parameters()}


def plain(model, batch, tasks):
    """Losses, gradients over the encoder and gradients of the heads. *Shapes:* (K,), (K, P), K times (H,)"""
    shared = list(model.encoder.parameters())
    losses, over_encoder, of_heads = [], [], []
    for name in tasks:
        loss = model(task=name, **batch[name]).loss
        own = list(model.heads[name].parameters())
        found = torch.autograd.grad(loss, [*shared, *own], allow_unused=True)
        found = [torch.zeros_like(p) if g is None else g for g, p in zip(found, [*shared, *own], strict=True)]
        losses.append(loss.detach().double())
        over_encoder.append(flat(found[: len(shared)]))
        of_heads.append(flat(found[len(shared) :]))
    return torch.stack(losses), torch.stack(over_encoder), of_heads


@pytest.mark.parametrize("kernels", ["auto", "off"])
@pytest.mark.parametrize("name", sorted(GRADIENT_METHODS))
def test_the_step_is_that_of_the_other_tasks(trainer_and_batch, specs, name, kernels):
    trainer, batch = trainer_and_batch(gradient_method=name, cpu_kernels=kernels)
    found = run(trainer, batch)
    losses, rows, heads = plain(trainer.model, batch, [spec.name for spec in specs])
    method, generator = make_gradient_method(name), seeded_generator(trainer.args.seed, 0)
    if method.needs == "rows":
        wanted, weights = method(rows, generator), torch.ones(2)
    else:
        gramian = rows.double() @ rows.double().T
        weights = method(gramian if method.needs == "gramian" else losses, generator)
        wanted = weights.to(rows) @ rows
        weights = torch.ones(2) if method.needs == "gramian" else weights
    encoder = flat([g for parameter, g in found.items() if parameter.startswith("encoder.")])
    assert relative_error(encoder, wanted) < 1e-4  # fp32's rounding, through a solver
    for spec, gradient, weight in zip(specs, heads, weights.tolist(), strict=True):
        own = flat([g for parameter, g in found.items() if parameter.startswith(f"heads.{spec.name}.")])
        assert relative_error(own, weight * gradient) < 1e-4
    assert all(g is None for parameter, g in found.items() if parameter.startswith("heads.ner."))


def test_a_step_of_absent_tasks_alone_moves_nothing(trainer_and_batch):
    trainer, batch = trainer_and_batch(gradient_method="famo")
    found = run(trainer, {"ner": batch["ner"]})
    assert all(gradient is None for gradient in found.values())
    trainer.step.method.after_step = lambda *losses: pytest.fail(f"learned from {losses}")
    trainer.step.end()
    assert trainer.step.statistics.most_bad_steps() == 0


def test_methods_do_not_learn_from_an_absent_task(trainer_and_batch):
    trainer, batch = trainer_and_batch(gradient_method="uncertainty")
    run(trainer, batch)
    trainer.step.end()
    moved = trainer.step.method.log_variances.values(3) != 0
    assert moved.tolist() == [False, True, True]


def test_the_log_has_the_mean_over_the_steps_with_the_task(trainer_and_batch):
    trainer, batch = trainer_and_batch()
    run(trainer, batch)
    line = trainer.step.statistics.line()
    assert "loss_ner" not in line and line["loss_reviews"] > 0
    tagged = [each for each, _ in zip(trainer.get_train_dataloader(), range(2), strict=False)]
    for each in (tagged[0], batch, tagged[1]):
        run(trainer, each)
    wanted = np.mean([float(trainer.model(task="ner", **each["ner"]).loss.detach()) for each in tagged])
    assert trainer.step.statistics.line()["loss_ner"] == pytest.approx(wanted, rel=1e-5)
    assert trainer.step.statistics.most_bad_steps() == 0


@pytest.mark.parametrize("name", ["famo", "uncertainty", "fixed"])
def test_one_loss_for_all_tasks_weighs_those_that_are_there(name):
    values = {"a": 0.0, "b": 2.0, "c": 0.5}
    losses = {task: torch.tensor(value, requires_grad=True) for task, value in values.items()}
    joint = JointLoss(list(values), dict.fromkeys(values, 1.0), make_gradient_method(name))
    units = torch.tensor([0, 4, 2])
    total = joint.collect(losses, units, units, torch.Generator())
    weights = make_gradient_method(name)(torch.tensor([2.0, 0.5], dtype=torch.float64), torch.Generator())
    total.backward()
    assert losses["a"].grad == 0  # in the graph, as engines want every parameter in every backward
    assert [float(losses[task].grad) for task in "bc"] == pytest.approx(weights.tolist())
    assert joint.bad_tasks() == [] and joint.finite_tasks == [1, 2]
    assert [math.isnan(loss) for loss in joint.finite_losses().tolist()] == [True, False, False]


def test_one_loss_for_all_tasks_of_which_none_is_there():
    losses = {task: torch.tensor(0.0, requires_grad=True) for task in "ab"}
    joint = JointLoss(list("ab"), dict.fromkeys("ab", 1.0), make_gradient_method("famo"))
    nothing = torch.tensor([0, 0])
    joint.collect(losses, nothing, nothing, torch.Generator()).backward()
    assert [float(loss.grad) for loss in losses.values()] == [0, 0]
    assert joint.bad_tasks() == joint.finite_tasks == [] and not joint.method_failed


def test_a_task_may_be_absent_from_one_micro_batch():
    values = {"a": 0.0, "b": 2.0}
    joint = JointLoss(list(values), dict.fromkeys(values, 1.0), make_gradient_method("famo"))
    step = torch.tensor([3, 8])
    for a, units in ((0.0, [0, 4]), (1.5, [3, 4])):
        losses = {"a": torch.tensor(a, requires_grad=True), "b": torch.tensor(2.0, requires_grad=True)}
        joint.collect(losses, torch.tensor(units), step, torch.Generator()).backward()
        assert losses["b"].grad > 0
    assert joint.finite_tasks == [0, 1] and joint.mean_losses().tolist() == [1.5, 2.0]
