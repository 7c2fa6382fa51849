"""Gradient methods with memory, and every method through one training step."""

import io
import json
import math

import pytest
import torch
from torchjd import aggregation

from hf_mtl import InputError, make_weighting
from hf_mtl.gradients.combine import combine_gradients
from hf_mtl.gradients.method import WEIGHTINGS, make_gradient_method
from hf_mtl.gradients.solvers import projection_orders
from hf_mtl.gradients.task_gradients import TaskGradients
from hf_mtl.seeding import seeded_generator

STATEFUL = {"gradvac": {"beta": 0.3}, "nash_mtl": {"update_every": 3}}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradients_of_step(step: int, num_tasks: int = 4) -> torch.Tensor:
    """Gradients that agree more or less from step to step. *Shape:* (num_tasks, 30), fp64"""
    common, own = torch.randn(1, 30, generator=generator(7)), torch.randn(num_tasks, 30, generator=generator(step))
    return (own + math.sin(step) * common).double()


def weights_of_step(weighting, step: int, num_tasks: int = 4) -> torch.Tensor:
    gradients = gradients_of_step(step, num_tasks)
    return weighting(gradients @ gradients.T, generator(step))


def gradvac_by_the_paper(gradients, targets, beta, orders):
    """Algorithm 1 of Wang et al. 2021 on the gradients themselves; `targets` is updated. *Shape:* (P,)"""
    total = torch.zeros_like(gradients[0])
    for i, order in enumerate(orders.tolist()):
        changed = gradients[i].clone()
        for j in order:
            cosine = float(changed @ gradients[j] / changed.norm() / gradients[j].norm())
            target = float(targets[i, j])
            if cosine < target:
                sine, target_sine = math.sqrt(1 - cosine**2), math.sqrt(1 - target**2)
                factor = changed.norm() * (target * sine - cosine * target_sine) / (gradients[j].norm() * target_sine)
                changed += factor * gradients[j]
            targets[i, j] = (1 - beta) * target + beta * cosine
        total += changed
    return total


@pytest.mark.parametrize("num_tasks", [2, 3, 6])
@pytest.mark.parametrize("beta", [0.0, 0.01, 0.5])
def test_gradvac_is_the_papers_algorithm_over_many_steps(num_tasks, beta):
    weighting, targets = make_weighting("gradvac", beta=beta), torch.zeros(num_tasks, num_tasks)
    for step in range(20):
        gradients = gradients_of_step(step, num_tasks)
        wanted = gradvac_by_the_paper(gradients, targets, beta, projection_orders(num_tasks, generator(step)))
        # The targets of the loop are fp32: 6e-8 times a few.
        assert (weights_of_step(weighting, step, num_tasks) @ gradients - wanted).norm() <= 1e-5 * wanted.norm()
    torch.testing.assert_close(torch.from_numpy(weighting.targets).float(), targets, rtol=1e-5, atol=1e-6)


def test_gradvac_agrees_with_torchjd_in_the_same_order(monkeypatch):
    ours, theirs = make_weighting("gradvac", beta=0.5), aggregation.GradVacWeighting(beta=0.5)
    for step in range(10):
        gradients = gradients_of_step(step)
        orders = projection_orders(4, generator(step)).tolist()
        places = iter([[other - (other > task) for other in order] for task, order in enumerate(orders)])
        found = weights_of_step(ours, step)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randperm", lambda n, places=places: torch.tensor(next(places)))
            wanted = theirs(gradients @ gradients.T)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)  # its eps of 1e-8 is in every denominator


def test_gradvac_without_memory_is_pcgrad():
    weighting = make_weighting("gradvac", beta=0)
    for step in range(5):
        found, wanted = weights_of_step(weighting, step), weights_of_step(make_weighting("pcgrad"), step)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_gradvac_leaves_parallel_gradients_alone_however_long_they_were_parallel():
    weighting = make_weighting("gradvac", beta=0.5)
    parallel = torch.tensor([[1.0, 2.0, 3.0], [0.1, 0.2, 0.3]], dtype=torch.float64)
    for step in range(200):
        weights = weighting(parallel @ parallel.T, generator(step))
    torch.testing.assert_close(weights, torch.ones(2).double(), rtol=1e-9, atol=0)
    changed = parallel + torch.tensor([[1e-5, 0, 0], [0, 0, 0]])  # a cosine of 1 - 1e-11, below the rounding of fp32
    torch.testing.assert_close(weighting(changed @ changed.T, generator(0)), torch.ones(2).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("num_tasks", [1, 2, 7])
def test_nash_mtl_is_the_bargaining_solution(num_tasks):
    gradients = gradients_of_step(1, num_tasks)
    weights = weights_of_step(make_weighting("nash_mtl", max_norm=0), 1, num_tasks)
    # Cosines are shrunk by 1.2e-7.
    torch.testing.assert_close(gradients @ (weights @ gradients), 1 / weights, rtol=1e-5, atol=0)
    assert math.isclose((weights @ gradients).norm(), math.sqrt(num_tasks), rel_tol=1e-5)
    clipped = weights_of_step(make_weighting("nash_mtl", max_norm=0.5), 1, num_tasks)
    torch.testing.assert_close(clipped, weights * (0.5 / (weights @ gradients).norm()), rtol=1e-9, atol=0)


@pytest.mark.filterwarnings("ignore:You are solving a parameterized problem")  # cvxpy, on torchjd's formulation
def test_nash_mtl_agrees_with_torchjd():
    for package in ("cvxpy", "ecos"):
        pytest.importorskip(package)
    gradients = gradients_of_step(1)
    theirs = aggregation.NashMTL(n_tasks=4, max_norm=0, update_weights_every=1, optim_niter=20)(gradients)
    ours = weights_of_step(make_weighting("nash_mtl", max_norm=0), 1) @ gradients
    assert (ours - theirs).norm() <= 1e-4 * ours.norm()  # its rounds stop at a residual of 1e-3


def test_nash_mtl_keeps_its_weights_between_solves():
    weighting = make_weighting("nash_mtl", update_every=3, max_norm=0)
    weights = [weights_of_step(weighting, step) for step in range(7)]
    fresh = [weights_of_step(make_weighting("nash_mtl", max_norm=0), step) for step in range(7)]
    for step in range(7):
        assert torch.equal(weights[step], fresh[step - step % 3])


def test_nash_mtl_solves_anew_for_a_task_that_comes_back():
    weighting = make_weighting("nash_mtl", update_every=100, max_norm=0)
    gradients = gradients_of_step(0)
    gradients[2] = 0
    assert weighting(gradients @ gradients.T, generator(0))[2] == 0
    assert (weights_of_step(weighting, 1) > 0).all()


@pytest.mark.parametrize("name", STATEFUL)
@pytest.mark.parametrize("through", ["json", "torch"])
def test_a_resumed_method_goes_on_to_the_last_bit(name, through):
    straight = make_gradient_method(name, **STATEFUL[name])
    wanted = [weights_of_step(straight, step) for step in range(8)]
    first, second = (make_gradient_method(name, **STATEFUL[name]) for _ in range(2))
    for step in range(4):
        weights_of_step(first, step)
    if through == "json":
        state = json.loads(json.dumps(first.state_dict()))
    else:
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    second.load_state_dict(state)
    assert all(torch.equal(weights_of_step(second, step), wanted[step]) for step in range(4, 8))
    forgetful = make_gradient_method(name, **STATEFUL[name])
    assert not torch.equal(weights_of_step(forgetful, 4), wanted[4])  # the state does matter
    assert second.state_dict() == straight.state_dict()


@pytest.mark.parametrize("name", STATEFUL)
def test_a_step_that_says_nothing_leaves_no_trace(name):
    weighting = make_weighting(name)
    weighting.load_state_dict(weighting.state_dict())  # none yet
    weights_of_step(weighting, 0)
    before = weighting.state_dict()
    weighting(torch.full((4, 4), math.nan), generator(0))
    weighting(torch.zeros(4, 4), generator(0))
    assert weighting.state_dict() == before


@pytest.mark.parametrize("name", STATEFUL)
def test_another_number_of_tasks_is_refused(name):
    weighting = make_weighting(name)
    weights_of_step(weighting, 0)
    with pytest.raises(InputError, match=f"{name} remembers 4 tasks, found 3"):
        weights_of_step(weighting, 1, 3)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_only_methods_with_memory_have_a_state(name):
    method = make_weighting(name)
    assert bool(method.state_dict()) == (name in STATEFUL)
    method.load_state_dict(method.state_dict())


def rows_of(values: torch.Tensor) -> TaskGradients:
    """Gradients of tasks a, b, ... with these rows, each of one row of data."""
    shared, tasks = torch.nn.Parameter(torch.zeros(values.shape[1])), list("abcdef"[: len(values)])
    heads = {task: [torch.nn.Parameter(torch.zeros(1))] for task in tasks}
    gradients = TaskGradients(tasks, [shared], heads, dict.fromkeys(tasks, 1.0))
    gradients.clear()
    for task, row in zip(tasks, values, strict=True):
        with gradients.collecting(task, torch.tensor(1.0), 1):
            (shared * row).sum().backward()
        gradients.begin_sum(task)
    gradients.reduce()
    return gradients


def test_a_negative_inner_product_is_a_conflict():
    assert rows_of(torch.tensor([[1.0, 0.0], [-0.1, 1.0], [1.0, 1.0]])).conflict()
    assert not rows_of(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])).conflict()


@pytest.mark.parametrize("name", STATEFUL)
def test_a_task_left_out_of_a_step_counts_as_zero_and_keeps_its_place(name):
    values = gradients_of_step(0).float()
    missing, bad = values.clone(), values.clone()
    missing[1], bad[1] = 0, math.inf
    results = []
    for rows in (missing, bad):
        method = make_gradient_method(name)
        gradients = rows_of(rows)
        gradients.leave_out_bad_tasks(keep_overflow=False)
        combine_gradients(gradients, method, 0, 0)
        results.append((gradients.shared[0].grad.clone(), method.state_dict()))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-6, atol=1e-7)
    assert results[0][1] == results[1][1]


@pytest.mark.parametrize("name", [*WEIGHTINGS, "pcgrad_reference"])
def test_a_training_step_is_the_weighted_sum_of_the_gradients(make_trainer, name):
    trainer = make_trainer(gradient_method=name)
    trainer.current_gradient_accumulation_steps = 1  # set by train()
    shared, batch = trainer.model.shared_parameters(), next(iter(trainer.get_train_dataloader()))
    losses = [trainer.model.train()(task=task, **inputs).loss for task, inputs in batch.items()]
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(loss, shared)]).double() for loss in losses]
    gradients = torch.stack(rows)
    method = "pcgrad" if name == "pcgrad_reference" else name
    weights = make_weighting(method)(gradients @ gradients.T, seeded_generator(trainer.args.seed, 0))
    trainer.step.begin(trainer.state.global_step)
    trainer.training_step(trainer.model, batch)
    found = torch.cat([p.grad.flatten() for p in shared]).double()
    assert found.isfinite().all() and found.norm() > 0
    assert (found - weights @ gradients).norm() <= 1e-5 * found.norm()  # fp32, times the condition of two gradients


@pytest.mark.parametrize("name", ["gradvac", "nash_mtl", "cagrad", "upgrad"])
def test_a_method_trains_with_the_encoder_frozen_first(make_trainer, name):
    trainer = make_trainer(gradient_method=name, unfreeze_schedule="0:0,1:1", num_train_epochs=2, max_steps=-1)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    assert math.isfinite(trainer.train().training_loss)
    assert any(not torch.equal(old, new) for old, new in zip(before, trainer.model.parameters(), strict=True))
