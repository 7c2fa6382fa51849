"""Methods that look at the losses alone: each against its paper's update written with autograd, and in training."""

import json

import numpy as np
import pytest
import torch

from hf_mtl import InputError
from hf_mtl.gradients.joint_loss import JointLoss
from hf_mtl.gradients.method import make_gradient_method
from hf_mtl.gradients.methods.famo import FAMO
from hf_mtl.gradients.methods.uncertainty import UncertaintyWeighting
from hf_mtl.gradients.methods.unit_weights import UnitWeights
from hf_mtl.gradients.task_gradients import only_finite

LEARNING = ["uncertainty", "famo"]
LOSS_METHODS = ["fixed", *LEARNING]


def weigh(method, losses, tasks=None):
    """Weights of some tasks, all unless given; the others' losses are not finite. *Shapes:* (K,) -> (tasks,)"""
    tasks = list(range(len(losses))) if tasks is None else tasks
    return method(only_finite(torch.as_tensor(losses), tasks), torch.Generator()).numpy()[tasks]


def learn(method, before, after, tasks=None):
    """A step in which some tasks took part, all unless given."""
    tasks = list(range(len(before))) if tasks is None else tasks
    after = None if after is None else torch.as_tensor(after)
    method.after_step(only_finite(torch.as_tensor(before), tasks), after)


def losses_of_step(step, num_tasks=3):
    """Losses before and after a step. *Shape:* (K,) each"""
    random = np.random.default_rng(step)
    before = np.exp(random.normal(size=num_tasks))
    return before, before * np.exp(random.normal(-0.1, 0.2, num_tasks))


def test_fixed_weights_are_ones():
    assert weigh(UnitWeights(), np.array([3.0, 1.0, 2.0]), [0, 2]).tolist() == [1, 1]


def test_uncertainty_follows_autograd_through_the_papers_loss():
    balancer = UncertaintyWeighting(lr=0.1)
    s = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([s], lr=0.1)
    for step in range(30):
        before, _ = losses_of_step(step)
        np.testing.assert_allclose(weigh(balancer, before, [0, 1, 2]), torch.exp(-s).detach().numpy(), rtol=1e-12)
        learn(balancer, before, None, [0, 1, 2])
        adam.zero_grad()
        (torch.exp(-s) * torch.from_numpy(before) + s / 2).sum().backward()
        adam.step()


def test_uncertainty_settles_where_the_weight_is_half_the_inverse_loss():
    balancer, losses = UncertaintyWeighting(lr=0.05), np.array([0.2, 1.0, 5.0])
    for _ in range(2000):
        learn(balancer, losses, None, [0, 1, 2])
    np.testing.assert_allclose(weigh(balancer, losses, [0, 1, 2]), 0.5 / losses, rtol=1e-3)


def test_famo_follows_autograd_through_the_papers_algorithm():
    balancer = FAMO(lr=0.1, gamma=0.01)
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([w], lr=0.1, weight_decay=0.01)
    for step in range(30):
        before, after = losses_of_step(step)
        z, losses = torch.softmax(w, 0), torch.tensor(before, requires_grad=True)
        normaliser = (z / (losses + 1e-8)).sum().detach()
        weights = torch.autograd.grad(((losses + 1e-8).log() * z.detach() / normaliser).sum(), losses)[0]
        np.testing.assert_allclose(weigh(balancer, before, [0, 1, 2]), weights.numpy(), rtol=1e-10)
        learn(balancer, before, after, [0, 1, 2])
        delta = torch.from_numpy(np.log(before + 1e-8) - np.log(after + 1e-8))
        w.grad = torch.autograd.grad(torch.softmax(w, 0), w, grad_outputs=delta)[0]
        adam.step()
    assert w.detach().abs().max() > 0.1


def test_famo_raises_the_weight_of_the_task_that_shrinks_least():
    balancer, before = FAMO(), np.array([1.0, 1.0])
    for _ in range(20):
        learn(balancer, before, np.array([0.5, 0.99]), [0, 1])
    slow, fast = weigh(balancer, before, [0, 1])[::-1]
    assert slow > fast and slow + fast == pytest.approx(1)


def test_famo_does_not_depend_on_the_scale_of_a_loss():
    plain, scaled, factor = FAMO(), FAMO(), np.array([1.0, 100.0, 0.01])
    for step in range(10):
        before, after = losses_of_step(step)
        learn(plain, before, after, [0, 1, 2])
        learn(scaled, before * factor, after * factor, [0, 1, 2])
    shares = [
        b * losses
        for b, losses in (
            (weigh(plain, before, [0, 1, 2]), before),
            (weigh(scaled, before * factor, [0, 1, 2]), before * factor),
        )
    ]
    np.testing.assert_allclose(shares[0] / shares[0].sum(), shares[1] / shares[1].sum(), rtol=1e-5)  # 1e-8 in the logs


def test_famo_learns_nothing_from_a_loss_that_is_not_finite_after_the_step():
    balancer, others = FAMO(), FAMO()
    for step in range(3):
        before, after = losses_of_step(step)
        learn(others, before, after, [0, 2])
        after[1] = np.inf
        learn(balancer, before, after, [0, 1, 2])
        learn(balancer, before, np.full(3, np.nan), [0, 1, 2])
    assert balancer.state_dict() == others.state_dict()


@pytest.mark.parametrize("name", LEARNING)
def test_a_task_left_out_keeps_what_was_learned_of_it(name):
    balancer = make_gradient_method(name)
    for step in range(3):
        learn(balancer, *losses_of_step(step))
    before = balancer.state_dict()
    bad, after = losses_of_step(3)
    bad[1] = np.nan
    weights = weigh(balancer, bad, [0, 2])
    learn(balancer, bad, after, [0, 2])
    assert np.isfinite(weights).all() and len(weights) == 2
    assert balancer.state_dict()["numbers"][1] == before["numbers"][1]
    assert balancer.state_dict()["moments"]["1"] == before["moments"]["1"]
    assert balancer.state_dict()["numbers"][0] != before["numbers"][0]


@pytest.mark.parametrize("name", LEARNING)
def test_the_state_survives_json_to_the_last_bit(name):
    straight, interrupted = make_gradient_method(name), make_gradient_method(name)
    for step in range(6):
        learn(straight, *losses_of_step(step))
        learn(interrupted, *losses_of_step(step))
        state = json.loads(json.dumps(interrupted.state_dict()))
        interrupted = make_gradient_method(name)
        interrupted.load_state_dict(state)
    assert interrupted.state_dict() == straight.state_dict()


@pytest.mark.parametrize("name", LEARNING)
def test_another_number_of_tasks_is_refused(name):
    balancer = make_gradient_method(name)
    learn(balancer, *losses_of_step(0))
    with pytest.raises(InputError, match=f"{name} remembers 3 tasks, found 2"):
        weigh(balancer, np.ones(2), [0, 1])


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("famo", {"lr": 0}, "famo lr is 0"),
        ("famo", {"gamma": -1}, "famo gamma is -1"),
        ("uncertainty", {"lr": "x"}, "uncertainty lr is 'x'"),
        ("uncertainty", {"gamma": 1}, "option of gradient_method 'uncertainty'"),
        ("fixed", {"lr": 1}, "gradient_method 'fixed' takes no options"),
    ],
)
def test_wrong_options_are_named(name, options, named):
    with pytest.raises(InputError, match=named):
        make_gradient_method(name, **options)


def gradients_of(model, total):
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, list(model.parameters()))])


@pytest.mark.parametrize("name", LOSS_METHODS)
def test_a_step_has_the_gradient_of_the_weighted_loss_heads_included(make_trainer, name):
    trainer = make_trainer(gradient_method=name)
    trainer.current_gradient_accumulation_steps = 1  # set by train()
    trainer.model_wrapped = trainer.model
    batches = iter(trainer.get_train_dataloader())
    for _ in range(2):  # the second step's weights were learned
        batch = next(batches)
        outputs = trainer.model.train()(batches=batch)
        losses = torch.stack(list(outputs.loss.values()))
        weights = weigh(trainer.step.method, losses.detach().double())
        wanted = gradients_of(trainer.model, (losses * torch.from_numpy(weights).float()).sum())
        trainer.step.begin(trainer.state.global_step)
        trainer.training_step(trainer.model, batch)
        found = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
        assert float((found - wanted).norm() / wanted.norm()) <= 1e-6
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                parameter -= 0.1 * parameter.grad
        trainer.step.end()
    if name == "famo":
        assert trainer.step.method.state_dict()["numbers"][0] != 0


def test_famo_sees_the_same_dropout_masks_again_and_disturbs_no_others(make_trainer, make_model):
    trainer = make_trainer(make_model(dropout=0.3), gradient_method="famo")
    trainer.current_gradient_accumulation_steps = 1
    trainer.model_wrapped = trainer.model
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.step.begin(trainer.state.global_step)
    trainer.training_step(trainer.model, batch)
    state = torch.get_rng_state()
    before, after = trainer.step.gradients.mean_losses(), trainer.step._losses_after_step()
    assert torch.equal(before, after)  # nothing has moved yet
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(trainer.model(batches=batch).loss["pairs"].double(), before[1])


@pytest.mark.parametrize("name", LEARNING)
def test_micro_batches_do_not_change_what_is_learned(make_trainer, name):
    states = []
    for micro_batches in (1, 2):
        trainer = make_trainer(
            gradient_method=name,
            per_device_train_batch_size=8 // micro_batches,
            gradient_accumulation_steps=micro_batches,
            train_sampling_strategy="random",
        )
        trainer.train()
        states.append(trainer.step.method.state_dict()["numbers"])
    assert states[0][0] != 0
    assert states[0] == pytest.approx(
        states[1], rel=1e-4
    )  # logarithms of fp32 losses, and Adam's root of small numbers


@pytest.mark.parametrize("name", LEARNING)
def test_a_resumed_run_ends_bit_equal(make_trainer, make_model, tmp_path, name):
    settings = {"gradient_method": name, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    straight = make_trainer(make_model(dropout=0.1), **settings)
    straight.train()
    again = make_trainer(make_model(dropout=0.1), **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert again.step.method.state_dict() == straight.step.method.state_dict()
    for found, wanted in zip(again.model.parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(found, wanted)


def test_a_joint_loss_leaves_out_a_task_that_is_not_finite():
    shared = torch.nn.Parameter(torch.ones(3))
    joint = JointLoss(["a", "b"], {"a": 1.0, "b": 2.0}, UnitWeights())
    losses = {"a": (shared * float("inf")).sum() * 0, "b": shared.sum()}
    total = joint.collect(losses, torch.tensor([4, 2]), torch.tensor([4, 4]), torch.Generator())
    total.backward()
    assert shared.grad.tolist() == [1.0, 1.0, 1.0]  # weight 2, and 2 of the step's 4 rows
    assert joint.bad_tasks() == ["a"] and joint.finite_tasks == [1]
    assert (
        joint.collect(
            {"a": losses["a"], "b": losses["a"]}, torch.tensor([4, 2]), torch.tensor([4, 4]), torch.Generator()
        )
        is None
    )
    joint.clear()
    assert joint.bad_tasks() == []
