"""Gradient methods that solve a small problem: what defines each answer, on hard gradients; torchjd where it is exact.

A Gramian in fp64 knows squared lengths to 1e-16 of the summands, so lengths to 1e-8 where summands cancel; times K up
to 16 that is the 1e-6 of most bounds here, always relative to the gradients that enter.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchjd import aggregation
from torchjd.linalg import QuadprogProjector

from hf_mtl import WEIGHTINGS, make_weighting
from hf_mtl.gradients.methods.fairgrad import positive_definite
from hf_mtl.gradients.solvers import ROUNDING, norms_and_cosines

KINDS = ("random", "common part", "zero row", "identical", "opposite", "nearly dependent", "own scales", "flat")


def hard_gradients(kind: str, num_tasks: int, seed: int) -> torch.Tensor:
    """Rows that are hard to combine. *Shape:* (num_tasks, 2 or 50)"""
    source = np.random.default_rng(seed)
    rows = source.standard_normal((num_tasks, 2 if kind == "flat" else 50))
    if kind == "common part":
        rows += source.standard_normal((num_tasks, 1)) * source.standard_normal(50)
    elif kind == "zero row":
        rows[source.integers(num_tasks)] = 0
    elif kind == "identical":
        rows[:] = rows[0]
    elif kind == "opposite":
        rows[1::2] = -rows[0]
    elif kind == "nearly dependent":
        rows = rows[:1] * source.choice([-1, 1], (num_tasks, 1)) + 1e-5 * rows
    elif kind == "own scales":
        rows *= 10.0 ** source.uniform(-10, 15, (num_tasks, 1))
    return torch.from_numpy(rows)


gradients_of_all_kinds = st.builds(
    lambda rows, scale: rows * scale,
    st.builds(hard_gradients, st.sampled_from(KINDS), st.integers(1, 16), st.integers(0, 2**31)),
    st.sampled_from([1e-10, 1e-3, 1.0, 1e15]),
)
hard = settings(deadline=None, max_examples=100)


def weigh(name: str, gradients: torch.Tensor, **options) -> torch.Tensor:
    return make_weighting(name, **options)(gradients @ gradients.T, torch.Generator().manual_seed(0))


def cosines_to(gradients: torch.Tensor, combined: torch.Tensor) -> torch.Tensor:
    """Projections of `combined` on the directions of the gradients, 0 for a zero gradient. *Shape:* (K,)"""
    return torch.nn.functional.normalize(gradients, dim=1, eps=1e-300) @ combined


@pytest.mark.parametrize("name", WEIGHTINGS)
@settings(deadline=None, max_examples=40)
@given(gradients=gradients_of_all_kinds)
def test_weights_are_finite_and_the_same_bits_every_time(name, gradients):
    weights = weigh(name, gradients)
    assert weights.shape == (len(gradients),)
    assert weights.dtype == torch.float64
    assert weights.isfinite().all()
    assert torch.equal(weights, weigh(name, gradients.clone()))


@hard
@given(gradients=gradients_of_all_kinds)
def test_mgda_is_the_shortest_vector_in_the_convex_hull(gradients):
    weights, norms = weigh("mgda", gradients), gradients.norm(dim=1)
    combined = weights @ gradients
    assert (weights >= 0).all()
    assert math.isclose(weights.sum(), 1, rel_tol=1e-12)
    # The first-order condition, which is sufficient: no gradient lies closer to 0 along the shortest vector.
    assert (gradients @ combined >= combined @ combined - 1e-6 * norms * norms.min()).all()


@hard
@given(gradients=gradients_of_all_kinds)
def test_dualproj_is_the_closest_vector_that_conflicts_with_none(gradients):
    weights, mean, size = weigh("dualproj", gradients), gradients.mean(dim=0), gradients.norm(dim=1).mean()
    combined = weights @ gradients
    # The conditions of Karush, Kuhn and Tucker, sufficient for a convex problem.
    assert (cosines_to(gradients, combined) >= -1e-6 * size).all()
    added = weights - 1 / len(gradients)
    assert (added >= 0).all()
    assert abs(added @ (gradients @ combined)) <= 1e-6 * size**2
    assert (combined - mean).norm() <= mean.norm() * (1 + 1e-6) + 1e-6 * size


@hard
@given(gradients=gradients_of_all_kinds)
def test_upgrad_conflicts_with_none(gradients):
    combined = weigh("upgrad", gradients) @ gradients
    assert (cosines_to(gradients, combined) >= -1e-6 * gradients.norm(dim=1).mean()).all()


@pytest.mark.parametrize("name", ["upgrad", "dualproj"])
def test_without_conflict_the_projections_are_the_mean(name):
    gradients = torch.rand(5, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(weigh(name, gradients), torch.full((5,), 0.2).double(), rtol=1e-7, atol=0)


@hard
@given(gradients=gradients_of_all_kinds, c=st.sampled_from([0.1, 0.5, 1.0, 3.0]))
def test_cagrad_helps_the_worst_off_task_most(gradients, c):
    weights, mean, size = weigh("cagrad", gradients, c=c), gradients.mean(dim=0), gradients.norm(dim=1).mean()
    combined, radius = weights @ gradients, c * mean.norm()
    assert (combined - mean).norm() <= radius * (1 + 1e-6) + 1e-6 * size
    worst = (gradients @ combined).min()
    hull = weights - 1 / len(gradients)
    if hull.sum() > 0 and (combined - mean).norm() > 0.999 * radius > 0:
        # Weak duality: h . mean + radius |h| of any point h of the hull bounds the worst-off task from above.
        point = hull / hull.sum() @ gradients
        assert worst >= point @ mean + radius * point.norm() - 1e-6 * size**2
    else:  # the hull holds 0, so no direction gains more than 0
        assert worst >= -1e-6 * size**2


@hard
@given(gradients=gradients_of_all_kinds, alpha=st.sampled_from([0.5, 1.0, 2.0, 10.0]))
def test_fairgrad_weights_solve_the_fairness_equation(gradients, alpha):
    weights = weigh("fairgrad", gradients, alpha=alpha).numpy()
    norms, cosines = norms_and_cosines((gradients @ gradients.T).numpy())
    if not norms.any():
        return
    present = norms > 0
    assert (weights[present] > 0).all()
    assert (weights[~present] == 0).all()
    weights, norms = weights[present], norms[present]
    gramian = positive_definite(cosines[np.ix_(present, present)]) * norms[:, None] * norms
    fair, terms = weights ** (-1 / alpha), np.abs(gramian) @ weights  # the latter: what cancels in G w
    assert (np.abs(gramian @ weights - fair) <= 1e-6 * np.maximum(terms, fair)).all()


def test_the_fairness_equation_moves_the_gramian_by_its_rounding_only():
    cosines = norms_and_cosines(np.array([[4.0, 3.0], [3.0, 9.0]]))[1]
    assert np.abs(positive_definite(cosines) - cosines).max() <= ROUNDING


@hard
@given(num_tasks=st.integers(1, 16), seed=st.integers(0, 2**31), scale=st.sampled_from([1e-10, 1.0, 1e15]))
def test_imtl_g_projects_equally_on_every_gradient(num_tasks, seed, scale):
    gradients = hard_gradients("random", num_tasks, seed) * scale
    weights = weigh("imtl_g", gradients)
    projections = cosines_to(gradients, weights @ gradients)
    assert math.isclose(weights.sum(), 1, rel_tol=1e-9)
    # 16 random directions of 50: a condition number below 1e4 on fp64 rounding
    torch.testing.assert_close(projections, projections.mean().expand(num_tasks), rtol=1e-9, atol=0)


@pytest.mark.parametrize("scale", ["min", "median", "rmse"])
@pytest.mark.parametrize("num_tasks", [2, 5, 16])
def test_aligned_mtl_gives_every_component_the_same_length(num_tasks, scale):
    gradients = hard_gradients("random", num_tasks, 3)
    lengths = torch.linalg.svdvals(gradients) ** 2  # falling
    squared = {"min": lengths[-1], "median": lengths.median(), "rmse": lengths.mean()}[scale]
    combined = weigh("aligned_mtl", gradients, scale=scale) @ gradients
    # The sum of K orthogonal vectors of that squared length.
    assert math.isclose(combined @ combined, num_tasks * squared, rel_tol=1e-9)


EXACT = {"norm_eps": 0, "reg_eps": 1e-13}  # by default both are 1e-4, which changes the answer
ORACLES = {
    # name: options, torchjd's weighting, whether its mean has to become a sum, the packages it needs, tolerance
    "imtl_g": ({}, aggregation.IMTLGWeighting, False, [], 1e-9),
    "aligned_mtl": ({}, aggregation.AlignedMTLWeighting, True, [], 1e-9),
    "aligned_mtl rmse": ({"scale": "rmse"}, lambda: aggregation.AlignedMTLWeighting(None, "rmse"), True, [], 1e-9),
    # Its Frank-Wolfe steps end near the answer, not on it.
    "mgda": ({}, lambda: aggregation.MGDAWeighting(1e-12, 1000), False, [], 3e-2),
    # least_squares stops at 1e-8; ours shrinks the cosines by 1e-7.
    "fairgrad": ({"alpha": 2.0}, lambda: aggregation.FairGradWeighting(alpha=2.0), False, [], 1e-5),
    "upgrad": (
        {},
        lambda: aggregation.UPGradWeighting(projector=QuadprogProjector(**EXACT)),
        False,
        ["quadprog"],
        1e-7,
    ),
    "dualproj": (
        {},
        lambda: aggregation.DualProjWeighting(projector=QuadprogProjector(**EXACT)),
        False,
        ["quadprog"],
        1e-7,
    ),
    # An interior-point method, stopped at 1e-8 of the objective, so at the root of that in the weights.
    "cagrad": ({"c": 0.4}, lambda: aggregation.CAGradWeighting(c=0.4, norm_eps=0), False, ["cvxpy"], 1e-3),
}


@pytest.mark.parametrize("case", ORACLES)
@pytest.mark.parametrize("num_tasks", [1, 2, 3, 6])
def test_torchjd_agrees_on_gradients_that_are_not_degenerate(case, num_tasks):
    options, make_oracle, summed, packages, tolerance = ORACLES[case]
    for package in packages:
        pytest.importorskip(package)
    for seed in range(5):
        gradients = hard_gradients("common part", num_tasks, seed)
        wanted = make_oracle()(gradients @ gradients.T) @ gradients * (num_tasks if summed else 1)
        found = weigh(case.split()[0], gradients, **options) @ gradients
        assert (found - wanted).norm() <= tolerance * wanted.norm()


@pytest.mark.parametrize("name", WEIGHTINGS)
@pytest.mark.parametrize("scale", [1e-10, 1e-3, 1e15])
def test_weights_do_not_depend_on_a_common_factor_and_bargains_not_at_all(name, scale):
    gradients = hard_gradients("common part", 5, 8)
    weights = weigh(name, gradients * scale) * (scale if name in ("fairgrad", "nash_mtl") else 1)
    torch.testing.assert_close(weights, weigh(name, gradients), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted(set(WEIGHTINGS) - {"sum", "pcgrad"}))
def test_without_any_gradient_the_weights_are_the_means(name):
    assert weigh(name, torch.zeros(5, 3)).tolist() == [0.2] * 5


@pytest.mark.parametrize("name", sorted(set(WEIGHTINGS) - {"sum", "mean", "pcgrad"}))
def test_a_gramian_that_is_not_finite_gives_nan(name):
    for value in (math.inf, math.nan):
        gramian = torch.tensor([[1.0, value], [value, value]])
        assert make_weighting(name)(gramian, torch.Generator()).isnan().all()


@pytest.mark.parametrize("name", ["imtl_g", "aligned_mtl", "fairgrad", "nash_mtl", "gradvac", "pcgrad"])
def test_a_zero_gradient_changes_nothing_for_the_others(name):
    gradients = hard_gradients("common part", 3, 1)
    gradients[1] = 0
    others = gradients[[0, 2]]
    torch.testing.assert_close(weigh(name, gradients)[[0, 2]], weigh(name, others), rtol=1e-9, atol=1e-12)


def test_opposite_gradients_leave_nothing_to_follow():
    gradients = torch.tensor([[3.0, -4.0], [-3.0, 4.0]], dtype=torch.float64)
    for name in ("mgda", "imtl_g", "upgrad", "dualproj", "cagrad", "pcgrad", "gradvac"):
        assert (weigh(name, gradients) @ gradients).norm() <= 1e-6 * 5, name
    for name in ("fairgrad", "nash_mtl"):  # weights are at most 1 / sqrt(rounding) for unit gradients
        weights = weigh(name, gradients)
        assert 0 < weights.max() * 5 <= 1.01 / math.sqrt(ROUNDING), name


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_one_task_of_unit_length_has_weight_1(name):
    wanted = 1.5 if name == "cagrad" else 1.0  # it goes c times further along the only gradient
    assert math.isclose(weigh(name, torch.eye(1).double()).item(), wanted, rel_tol=1e-12)
