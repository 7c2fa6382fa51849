"""Ordered classes: the head against numpy, how labels are read, and the metrics."""

import logging

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from scipy.special import expit
from sklearn.metrics import cohen_kappa_score

from hf_mtl import HeadSpec, InputError, TaskSpec, load_tasks
from hf_mtl.model.heads import HEADS
from hf_mtl.tasks.kinds import kind_of
from hf_mtl.tasks.labels import bad_labels, read_labels
from hf_mtl.tasks.metrics import task_scores

STARS = ("bad", "poor", "fair", "good", "great")


def head_of(labels=STARS, width=8, seed=0, **options):
    torch.manual_seed(seed)
    return HEADS["ordinal"](HeadSpec(name="stars", kind="ordinal", labels=labels, **options), width)


def task(**options):
    values = {"name": "stars", "kind": "ordinal", "text_columns": ("text",), "labels": STARS}
    return TaskSpec(**{**values, **options})


def inputs(rows, seed=1, scale=1.0):
    hidden = scale * torch.randn(rows, 5, 8, generator=torch.Generator().manual_seed(seed))
    return hidden, torch.ones(rows, 5, dtype=torch.long)


def plain_probabilities(weight, bias, gaps, vectors, classes):
    """McCullagh's model in fp64. *Shape:* (rows, classes)"""
    raw = 100 * np.asarray(gaps, dtype=np.float64)
    cuts = np.concatenate([[-np.log(classes - 1)], -np.log(classes - 1) + np.cumsum(np.log1p(np.exp(raw)))])
    scores = vectors.astype(np.float64) @ weight.astype(np.float64).T + bias
    below = np.hstack([np.zeros_like(scores), expit(cuts - scores), np.ones_like(scores)])
    return np.diff(below, axis=1)


# ---- the head ----


@pytest.mark.parametrize("classes", [2, 3, 5, 9])
def test_the_loss_is_the_plain_likelihood(classes):
    head = head_of(tuple(map(str, range(classes))))
    hidden, mask = inputs(32)
    labels = torch.arange(32) % classes
    total, units = head.loss(head(hidden, mask), labels)
    gaps = np.zeros(0) if head.gaps is None else head.gaps.detach().numpy()
    vectors = hidden.mean(dim=1).numpy()
    found = plain_probabilities(head.weight.detach().numpy(), head.bias.item(), gaps, vectors, classes)
    assert units == head.num_units(labels) == 32
    # fp32 against fp64 over 32 rows
    assert total.item() == pytest.approx(-np.log(found[np.arange(32), labels.numpy()]).sum(), rel=1e-5)


def test_the_gradients_are_those_of_the_plain_likelihood():
    """By differences in fp64: of the score's weights, and of the cut points, whose own rate leaves out the factor."""
    head = head_of()
    hidden, mask = inputs(32)
    labels = torch.arange(32) % 5
    head.loss(head(hidden, mask), labels)[0].backward()
    start = [head.weight, head.bias, head.gaps]
    flat = np.concatenate([p.detach().double().numpy().ravel() for p in start])
    vectors = hidden.mean(dim=1).numpy()

    def loss(values):
        found = plain_probabilities(values[:8][None], values[8], values[9:], vectors, 5)
        return -np.log(found[np.arange(32), labels.numpy()]).sum()

    steps = np.eye(len(flat)) * 1e-6
    wanted = np.array([(loss(flat + step) - loss(flat - step)) / 2e-6 for step in steps])
    wanted[9:] /= 100
    found = np.concatenate([p.grad.numpy().ravel() for p in start])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)  # fp32 sums of 32 rows


@pytest.mark.parametrize("classes", [2, 3, 5, 30])
def test_fresh_cut_points_make_all_classes_likely(classes):
    head = head_of(tuple(map(str, range(classes))))
    cuts = head.cut_points().detach()
    assert len(cuts) == classes - 1 and (cuts.diff() > 0).all()
    torch.testing.assert_close(cuts.diff(), cuts.diff()[:1].expand(classes - 2))  # equal gaps
    likely = head.log_probabilities(torch.zeros(1, 1)).exp()[0]
    assert likely.min() > 0.25 / classes and likely.max() < 2 / classes
    torch.testing.assert_close(likely[[0, -1]], torch.full((2,), 1 / classes))


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e2, 1e4, 1e6])
def test_probabilities_sum_to_one_and_nothing_is_infinite(scale):
    head = head_of()
    scores = torch.linspace(-scale, scale, 101)[:, None].requires_grad_()
    logits = head.log_probabilities(scores)
    sums = logits.double().exp().sum(dim=1)
    assert (sums - 1).abs().max() < 1e-6
    head.loss(logits, torch.arange(101) % 5)[0].backward()
    assert logits.isfinite().all() and scores.grad.isfinite().all() and head.gaps.grad.isfinite().all()
    assert scores.grad.abs().max() <= 1 + 1e-6  # however wrong a row is


def test_a_far_label_has_the_loss_of_its_distance():
    logits = head_of().log_probabilities(torch.tensor([[1000.0]]))
    assert (-logits[0]).diff().lt(0).all()
    assert -logits[0, 0].item() == pytest.approx(1000 + np.log(4))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("rate", [1.0, 10.0])
def test_cut_points_stay_in_order_after_large_steps(optimizer, rate):
    head = head_of()
    stepper = optimizer(head.parameters(), lr=rate)
    hidden, mask = inputs(8, scale=10.0)
    for step in range(20):
        stepper.zero_grad()
        logits = head(hidden, mask)
        loss = head.loss(logits, torch.full((8,), step % 5))[0]
        loss.backward()
        stepper.step()
        assert loss.isfinite() and (head.cut_points().diff() >= 0).all()
        assert (head(hidden, mask).exp().sum(dim=1) - 1).abs().max() < 1e-6
    assert head.gaps.abs().max() * 100 > 5  # they were large


def test_cut_points_learn_where_a_plain_parameter_would_stand_still():
    """500 steps of AdamW at an encoder's rate, of rows whose classes do not follow from their texts."""
    head, labels = head_of(), torch.tensor([0] * 1 + [1] * 20 + [2] * 20 + [3] * 2 + [4] * 7)
    hidden, mask = torch.zeros(50, 2, 8), torch.ones(50, 2)
    stepper = torch.optim.AdamW([head.gaps], lr=1e-4, weight_decay=0.0)
    start = head.cut_points().detach().clone()
    for _ in range(500):
        stepper.zero_grad()
        head.loss(head(hidden, mask), labels)[0].backward()
        stepper.step()
    assert (head.cut_points() - start).abs().max() > 0.5
    assert head.gaps.detach().sub(np.log(np.expm1(np.log(4) * 2 / 3)) / 100).abs().max() <= 500e-4


def test_the_weights_are_those_of_one_score_and_the_gaps():
    assert {name: tuple(p.shape) for name, p in head_of().state_dict().items()} == {
        "weight": (1, 8), "bias": (1,), "gaps": (3,),
    }  # fmt: skip
    assert head_of(("no", "yes")).state_dict().keys() == {"weight", "bias"}


def test_two_ordered_classes_are_a_logistic_regression():
    head = head_of(("no", "yes"))
    hidden, mask = inputs(16)
    scores = (hidden.mean(dim=1) @ head.weight.T + head.bias).squeeze(1)
    labels = torch.arange(16) % 2
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(scores, labels.float(), reduction="sum")
    torch.testing.assert_close(head.loss(head(hidden, mask), labels)[0], wanted)


def test_an_answer_is_as_in_classification():
    head = head_of()
    logits = head.log_probabilities(torch.tensor([[-9.0], [0.1], [9.0]])).detach()
    assert [answer["label"] for answer in head.answer(logits)] == ["bad", "fair", "great"]
    assert head.decode(logits).tolist() == [0, 2, 4]
    (row,) = head.answer(logits[1:2], top_k=None)
    assert len(row) == 5 and sum(each["score"] for each in row) == pytest.approx(1, abs=1e-6)
    assert [each["score"] for each in row] == sorted((each["score"] for each in row), reverse=True)
    assert row[:2] == head.answer(logits[1:2], top_k=2)[0]
    assert row[0]["score"] == pytest.approx(logits[1, 2].exp().item(), abs=1e-6)


# ---- what a task may declare ----

WRONG = {
    "one label": ({"labels": ("good",)}, r"wanted two or more different class names"),
    "no labels": ({"labels": None}, r"labels is None, wanted two or more"),
    "a range": ({"label_range": (1, 5)}, r"label_range belongs to regression; ordinal declares labels"),
    "smoothing": ({"label_smoothing": 0.1}, r"kind 'ordinal' has no label_smoothing; it is for classification"),
    "thresholds": ({"thresholds": 0.5}, r"kind 'ordinal' has no thresholds"),
    "a metric of classes": ({"metrics": ("macro_f1",)}, r"unknown metric for task 'stars' \(ordinal\): 'macro_f1'"),
    "an error first": ({"metrics": ("mae",)}, r"of the main metric, mae, less is better"),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_what_a_task_cannot_declare(options, message):
    with pytest.raises(InputError, match=message):
        task(**options)


def test_a_task_file_is_as_one_of_classification(tmp_path):
    (tmp_path / "tasks.yaml").write_text(
        "tasks: {stars: {kind: ordinal, files: {train: rows.csv}, text_columns: text, labels: [1, 2, 3],"
        " class_weights: balanced}}"
    )
    (spec,) = load_tasks(str(tmp_path / "tasks.yaml"))
    assert (spec.labels, spec.metrics, spec.class_weights) == (("1", "2", "3"), ("quadratic_kappa",), "balanced")
    assert spec.metric_title("mae") == "mae (steps)"


# ---- labels ----

COLUMNS = {
    "names": ["great", "bad", "fair"],
    "names in another case": ["GREAT", " bad ", "Fair"],
    "indices": [4, 0, 2],
    "indices as texts": ["4", "0", "2"],
    "floats": [4.0, 0.0, 2.0],
}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_labels_are_read_as_in_classification(column):
    labels = read_labels(task(), Dataset.from_dict({"text": ["a", "b", "c"], "label": column}), "train")
    assert (labels.tolist(), labels.dtype) == ([4, 0, 2], np.int64)


def test_a_class_label_of_another_order_goes_by_its_names():
    features = Features({"text": Value("string"), "label": ClassLabel(names=sorted(STARS))})
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "label": ["great", "bad", "fair"]}, features=features)
    assert read_labels(task(), rows, "train").tolist() == [4, 0, 2]


def test_bad_labels_are_named():
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "label": ["good", "superb", None]})
    message = r"task 'stars', split 'train': label 'superb' in row 1 \(the first row is 0\) .* is not one of \['bad', "
    with pytest.raises(InputError, match=message):
        read_labels(task(), rows, "train")
    assert list(bad_labels(task(), rows, "train")) == [1, 2]
    counted = Dataset.from_dict({"text": list("abcde"), "label": [1, 2, 3, 4, 5]})
    with pytest.raises(InputError, match="the labels seem to count from 1: write 0 to 4, or the names"):
        read_labels(task(), counted, "train")
    tested = read_labels(task(), Dataset.from_dict({"text": ["a", "b"], "label": ["good", None]}), "test")
    np.testing.assert_array_equal(tested, [3.0, np.nan])


def test_labels_of_rows_that_are_handed_over_are_checked():
    kind, where = kind_of(task()), "task 'stars': train_dataset"
    assert kind.check_labels(task(), pa.array([0, 4, 2]), where, labelled=True) is None
    with pytest.raises(InputError, match=r"label 5 in row 1 .* wanted one of 0 \(bad\), 1 \(poor\)"):
        kind.check_labels(task(), pa.array([0, 5, 2]), where, labelled=True)
    with pytest.raises(InputError, match=r"no label in row 0"):
        kind.check_labels(task(), pa.array([None, 4]), where, labelled=True)


def test_it_is_written_and_described_by_names():
    kind = kind_of(task())
    assert kind.write(task(), np.array([4, 0])) == ["great", "bad"]
    found = kind.describe(task(), np.array([4, 0, 4]))
    assert found == {"bad": 1, "poor": 0, "fair": 0, "good": 0, "great": 2}


# ---- metrics ----


def test_kappa_counts_the_squares_of_the_distances():
    """Cohen 1968 in plain numpy, over all five classes, of which some do not occur."""
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 4], 60)
    predictions = np.where(rng.random(60) < 0.5, labels, rng.choice([0, 4], 60))
    seen = np.mean((labels - predictions) ** 2)
    expected = np.mean((labels[:, None] - predictions[None]) ** 2)
    scores = task_scores(task(metrics=("quadratic_kappa", "mae", "accuracy")), predictions, labels)
    assert scores["quadratic_kappa"] == pytest.approx(1 - seen / expected, abs=1e-12)
    wanted = cohen_kappa_score(labels, predictions, labels=range(5), weights="quadratic")
    assert scores["quadratic_kappa"] == pytest.approx(wanted, abs=1e-12)
    assert scores["mae"] == pytest.approx(np.mean(np.abs(labels - predictions)))
    assert scores["accuracy"] == np.mean(labels == predictions)


@pytest.mark.parametrize(
    "predictions, labels", [([1, 1], [1, 1]), ([2, 2, 2], [0, 1, 2]), ([0, 1], [3, 3]), ([4], [2])]
)
def test_kappa_without_a_spread_is_0_and_said(caplog, predictions, labels):
    with caplog.at_level(logging.WARNING, logger="hf_mtl"):
        assert task_scores(task(), np.array(predictions), np.array(labels)) == {"quadratic_kappa": 0.0}
    assert "are equal, so quadratic_kappa is reported as 0.0" in caplog.text and len(caplog.records) == 1
