"""Gradient weightings: PCGrad against its paper's loop, hard Gramians, refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mtl import WEIGHTINGS, InputError, make_weighting
from hf_mtl.gradients.methods.pcgrad import pcgrad_weights
from hf_mtl.gradients.methods.sum_and_mean import mean_weights, sum_weights
from hf_mtl.gradients.solvers import projection_orders


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pcgrad_by_the_paper(gradients: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
    """Algorithm 1 of Yu et al. 2020, on the gradients themselves. *Shapes:* (K, P), (K, K - 1) -> (P,)"""
    projected = gradients.clone()
    for i, order in enumerate(orders.tolist()):
        for j in order:
            inner = projected[i] @ gradients[j]
            if inner < 0:
                projected[i] -= inner / (gradients[j] @ gradients[j]) * gradients[j]
    return projected.sum(dim=0)


def random_gradients(seed: int, num_tasks: int, size: int) -> torch.Tensor:
    """Gradients with a common part of random sign, so that conflicts are many and of every strength."""
    source = generator(seed)
    common = torch.randn(size, generator=source, dtype=torch.float64)
    own = torch.randn(num_tasks, size, generator=source, dtype=torch.float64)
    return own + torch.randn(num_tasks, 1, generator=source, dtype=torch.float64) * common


@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 2**31), num_tasks=st.integers(1, 8), size=st.integers(10, 40))
def test_pcgrad_is_the_papers_algorithm(seed, num_tasks, size):
    gradients = random_gradients(seed, num_tasks, size)
    weights = pcgrad_weights(gradients @ gradients.T, generator(seed))
    wanted = pcgrad_by_the_paper(gradients, projection_orders(num_tasks, generator(seed)))
    # Both are fp64. A projection multiplies errors by up to 1/sin of an angle between gradients, at most 7 in a row;
    # 10 or more dimensions keep that product below 1e5, so 1e-16 grows to 1e-11 at worst.
    assert torch.linalg.vector_norm(weights @ gradients - wanted) <= 1e-9 * torch.linalg.vector_norm(gradients)


def test_the_random_gradients_do_conflict():
    conflicts = 0
    for seed in range(20):
        gradients = random_gradients(seed, 8, 20)
        weights = pcgrad_weights(gradients @ gradients.T, generator(seed))
        conflicts += not torch.allclose(weights, torch.ones(8, dtype=torch.float64))
    assert conflicts == 20


@pytest.mark.parametrize("num_tasks", range(1, 9))
def test_without_conflict_every_weight_is_1(num_tasks):
    gradients = torch.rand(num_tasks, 30, generator=generator(num_tasks), dtype=torch.float64)  # all inner products > 0
    assert torch.equal(pcgrad_weights(gradients @ gradients.T, generator(0)), torch.ones(num_tasks).double())


def test_zero_gradients_neither_move_nor_hurt_the_others():
    gradients = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    weights = pcgrad_weights(gradients @ gradients.T, generator(0))
    without = pcgrad_weights(gradients[[0, 2]] @ gradients[[0, 2]].T, generator(0))
    assert weights.isfinite().all()
    torch.testing.assert_close(weights[[0, 2]], without, rtol=1e-12, atol=0)  # two tasks have one order only
    assert torch.equal(pcgrad_weights(torch.zeros(4, 4), generator(0)), torch.ones(4, dtype=torch.float64))


def test_identical_gradients_add_up():
    assert torch.equal(pcgrad_weights(torch.full((3, 3), 2.0), generator(0)), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-10, 1e-3, 1.0, 1e15])
def test_opposite_gradients_cancel(scale):
    gradients = torch.tensor([[3.0, -4.0], [-3.0, 4.0]], dtype=torch.float64) * scale
    weights = pcgrad_weights(gradients @ gradients.T, generator(0))
    assert weights.isfinite().all()
    assert torch.linalg.vector_norm(weights @ gradients) <= 1e-12 * scale


@pytest.mark.parametrize("scale", [1e-10, 1e-5, 1e5, 1e15])
def test_weights_do_not_depend_on_gradient_scale(scale):
    gradients = random_gradients(3, 5, 20)
    gramian = gradients @ gradients.T
    # A common factor that is no power of two rounds every inner product, at 1e-16 each.
    wanted = pcgrad_weights(gramian, generator(0))
    torch.testing.assert_close(pcgrad_weights(gramian * scale**2, generator(0)), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scales", [(1e-10, 1e15), (1e15, 1e-10), (1e-10, 1e-10), (1e15, 1e15)])
def test_conflicting_gradients_of_very_different_scale_come_out_as_in_the_paper(scales):
    gradients = torch.tensor([[1.0, 0.2], [-1.0, 0.3]], dtype=torch.float64) * torch.tensor(scales)[:, None].double()
    weights = pcgrad_weights(gradients @ gradients.T, generator(0))
    wanted = pcgrad_by_the_paper(gradients, projection_orders(2, generator(0)))
    assert weights.isfinite().all()
    torch.testing.assert_close(weights @ gradients, wanted, rtol=1e-10, atol=1e-12 * max(scales))


def test_an_fp32_gramian_is_worked_on_in_fp64():
    gramian = torch.tensor([[1.0, -0.5], [-0.5, 1.0]])
    weights = pcgrad_weights(gramian, generator(0))
    assert weights.dtype == torch.float64
    assert torch.equal(weights, torch.tensor([1.5, 1.5], dtype=torch.float64))
    assert torch.equal(gramian, torch.tensor([[1.0, -0.5], [-0.5, 1.0]]))  # not written to


def test_weights_depend_on_the_generators_state_alone():
    gradients = random_gradients(1, 6, 12)
    gramian = gradients @ gradients.T
    torch.manual_seed(0)
    first = pcgrad_weights(gramian, generator(5))
    torch.manual_seed(1)
    assert torch.equal(first, pcgrad_weights(gramian, generator(5)))
    others = [pcgrad_weights(gramian, generator(seed)) for seed in range(6, 12)]
    assert any(not torch.allclose(first, other) for other in others)  # the order matters, and the seed sets it


@pytest.mark.parametrize("num_tasks", range(1, 9))
def test_every_order_holds_all_the_other_tasks(num_tasks):
    orders = projection_orders(num_tasks, generator(num_tasks))
    assert orders.shape == (num_tasks, num_tasks - 1)
    for task, order in enumerate(orders.tolist()):
        assert sorted(order) == [other for other in range(num_tasks) if other != task]


def test_sum_mean_and_the_two_reductions():
    gradients = random_gradients(2, 4, 10)
    gramian = gradients @ gradients.T
    assert sum_weights(gramian, generator(0)).tolist() == [1.0] * 4
    assert mean_weights(gramian, generator(0)).tolist() == [0.25] * 4
    halves = [make_weighting("pcgrad", reduction=r)(gramian, generator(0)) for r in ("sum", "mean")]
    assert torch.equal(halves[0], halves[1] * 4)
    assert torch.equal(halves[0], make_weighting("pcgrad")(gramian, generator(0)))


@pytest.mark.parametrize("name", sorted(WEIGHTINGS))
def test_every_weighting_gives_one_finite_fp64_weight_per_task(name):
    for num_tasks in (1, 2, 5):
        gradients = random_gradients(num_tasks, num_tasks, 8).float()
        weights = make_weighting(name)(gradients @ gradients.T, generator(0))
        assert weights.shape == (num_tasks,)
        assert weights.dtype == torch.float64
        assert weights.isfinite().all()


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("pcgard", {}, ["'pcgard'", "did you mean 'pcgrad'", "mean, mgda, nash_mtl, pcgrad, sum, upgrad"]),
        ("pcgrad", {"reduce": "sum"}, ["'reduce'", "did you mean 'reduction'"]),
        ("pcgrad", {"reduction": "max"}, ["reduction", "'max'", "mean, sum"]),
        ("pcgrad", {"gramian": 1}, ["'gramian'", "reduction"]),
        ("pcgrad", {"name": "x"}, ["'name'", "reduction"]),
        ("sum", {"reduction": "sum"}, ["'sum'", "no options", "'reduction'"]),
        ("mgda", {"c": 0.1}, ["'mgda'", "no options", "'c'"]),
        ("cagrad", {"C": 0.1}, ["'C'", "choose from: c"]),
        ("cagrad", {"c": -1}, ["cagrad c is -1", ">= 0"]),
        ("cagrad", {"c": "0.4"}, ["cagrad c is '0.4'", "a number"]),
        ("cagrad", {"c": float("nan")}, ["cagrad c is nan"]),
        ("aligned_mtl", {"scale": "max"}, ["aligned_mtl scale 'max'", "median, min, rmse"]),
        ("aligned_mtl", {"scale": ["min"]}, ["aligned_mtl scale ['min']", "median, min, rmse"]),
        ("fairgrad", {"alpha": 0}, ["fairgrad alpha is 0", "> 0"]),
        ("fairgrad", {"alpha": -2.0}, ["fairgrad alpha is -2.0"]),
        ("fairgrad", {"alpha": True}, ["fairgrad alpha is True"]),
        ("gradvac", {"bta": 0.1}, ["'bta'", "did you mean 'beta'", "beta, eps"]),
        ("gradvac", {"beta": 1.5}, ["gradvac beta is 1.5", "0 to 1"]),
        ("gradvac", {"eps": 0}, ["gradvac eps is 0", "> 0"]),
        ("nash_mtl", {"update_every": 0}, ["nash_mtl update_every is 0", ">= 1"]),
        ("nash_mtl", {"update_every": 1.5}, ["nash_mtl update_every is 1.5"]),
        ("nash_mtl", {"max_norm": -1}, ["nash_mtl max_norm is -1", ">= 0"]),
        ("nash_mtl", {"num_tasks": 2}, ["'num_tasks'", "max_norm, update_every"]),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(name, options, words):
    with pytest.raises(InputError) as refusal:
        make_weighting(name, **options)
    for word in words:
        assert word in str(refusal.value)
