"""What a student is trained towards: its head's loss between a row's own label and its teacher's answer, by hand."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mtl.model.heads import HEADS, Head, HeadSpec
from hf_mtl.training.teachers import teacher_share

CLASSES = HeadSpec(name="topic", kind="classification", labels=("a", "b", "c"))
WEIGHTS = (0.25, 3.0, 1.0)
OPTIONS = {
    "plain": {},
    "class weights": {"class_weights": WEIGHTS},
    "label smoothing": {"label_smoothing": 0.2},
    "both": {"class_weights": WEIGHTS, "label_smoothing": 0.2},
}
VALUES = {"regression": {}, "similarity": {"num_texts": 2}}
SHARES = st.floats(0, 1)
SEEDS = st.integers(0, 2**31)


def head_of(spec):
    return HEADS[spec.kind](spec, 8)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@settings(max_examples=30, deadline=None)
@given(share=SHARES, seed=SEEDS)
def test_the_loss_of_classes_is_the_teachers_cross_entropy_and_the_heads_own_by_their_shares(options, share, seed):
    torch.manual_seed(seed)
    head = head_of(dataclasses.replace(CLASSES, **options))
    logits, taught, labels = torch.randn(5, 3) * 3, torch.randn(5, 3).softmax(dim=1), torch.randint(3, (5,))
    total, units = head.loss(logits, head.mix(labels, taught, share))
    wanted = torch.zeros((), dtype=torch.float64)
    for row, label in enumerate(labels.tolist()):  # one row after the other, in fp64
        weight = options.get("class_weights", (1, 1, 1))[label]
        teachers = -weight * (taught[row].double() * logits[row].double().log_softmax(dim=0)).sum()
        own = head.loss(logits[row : row + 1], labels[row : row + 1])[0].double()
        wanted += share * teachers + (1 - share) * own
    assert units == 5
    torch.testing.assert_close(total.double(), wanted, rtol=1e-5, atol=1e-6)  # sums of fp32


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_without_a_share_of_the_teacher_the_loss_and_its_gradient_are_those_of_the_labels(options):
    torch.manual_seed(0)
    head = head_of(dataclasses.replace(CLASSES, **options))
    logits = torch.randn(6, 3, requires_grad=True)
    labels, taught = torch.randint(3, (6,)), torch.randn(6, 3).softmax(dim=1)
    of_labels = torch.autograd.grad(head.loss(logits, labels)[0], logits)[0]
    of_the_mix = torch.autograd.grad(head.loss(logits, head.mix(labels, taught, 0.0))[0], logits)[0]
    torch.testing.assert_close(of_the_mix, of_labels, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(
        torch.autograd.grad(head.loss(logits, head.mix(labels, taught, 0.5))[0], logits)[0], of_labels
    )


def test_of_plain_classes_the_target_is_a_distribution():
    taught = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    mixed = head_of(CLASSES).mix(torch.tensor([0, 1]), taught, 0.25)
    torch.testing.assert_close(mixed, torch.tensor([[0.875, 0.075, 0.05], [0.025, 0.775, 0.2]]))


@pytest.mark.parametrize("loss", ["mse", "bce", "mae", "huber"])
@pytest.mark.parametrize("kind", VALUES)
@settings(max_examples=20, deadline=None)
@given(share=SHARES, seed=SEEDS)
def test_the_loss_of_values_is_the_heads_own_of_the_value_in_between(kind, loss, share, seed):
    torch.manual_seed(seed)
    head = head_of(HeadSpec(name="score", kind=kind, label_range=(1.0, 4.0), loss=loss, **VALUES[kind]))
    outputs, labels, taught = torch.randn(5, 1), torch.rand(5) * 3 + 1, torch.rand(5) * 3 + 1
    total, units = head.loss(outputs, head.mix(labels, taught, share))
    between = [share * one + (1 - share) * other for one, other in zip(taught.tolist(), labels.tolist(), strict=True)]
    assert units == 5
    torch.testing.assert_close(total, head.loss(outputs, torch.tensor(between))[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_a_teacher_of_values_says_the_value_in_the_labels_range_whatever_its_loss(loss):
    head = head_of(HeadSpec(name="score", kind="regression", label_range=(0.0, 10.0), loss=loss))
    outputs = torch.tensor([[0.0], [1.0], [99.0]])
    inside = 7.0 if loss == "mse" else 10 * torch.sigmoid(torch.tensor(1.0)).item()
    torch.testing.assert_close(head.teach(outputs), torch.tensor([5.0, inside, 10.0]))


def test_a_teacher_of_classes_says_their_probabilities():
    logits = torch.tensor([[1.0, 2.0, -1.0]])
    torch.testing.assert_close(head_of(CLASSES).teach(logits), F.softmax(logits, dim=1))


def test_the_kinds_that_take_a_teacher_are_those_whose_head_says_so_itself():
    assert {kind for kind, head in HEADS.items() if vars(head).get("takes_teacher")} == {
        "classification",
        "regression",
        "similarity",
    }
    assert not Head.takes_teacher


def test_the_share_falls_from_one_in_the_first_step_to_nothing_at_the_end_of_the_run():
    assert [teacher_share(step, 5) for step in range(6)] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0])
    assert teacher_share(7, 5) == 0
    falls = [teacher_share(step, 2105) - teacher_share(step + 1, 2105) for step in range(2105)]
    assert falls == pytest.approx([1 / 2105] * 2105)
