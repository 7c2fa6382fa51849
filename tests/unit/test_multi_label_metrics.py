"""The metrics of multi_label tasks against plain formulas, and where they are undefined."""

import numpy as np
import pytest

from hf_mtl import TaskSpec
from hf_mtl.tasks.metric_names import METRICS, metric_names
from hf_mtl.tasks.metrics import task_scores

NAMES = ("micro_f1", "macro_f1", "subset_accuracy", "average_precision")


def spec(num_labels):
    labels = tuple(f"label {number}" for number in range(num_labels))
    return TaskSpec(name="t", kind="multi_label", text_columns=("x",), labels=labels, metrics=NAMES)


def plain_f1(predicted, actual):
    both, total = np.sum((predicted == 1) & (actual == 1)), np.sum(predicted == 1) + np.sum(actual == 1)
    return float(2 * both / total) if total else 0.0


def plain_average_precision(scores, actual):
    """The sum over the distinct scores of precision, times the share of positive rows that each adds."""
    total, before = 0.0, 0.0
    for cut in sorted(set(scores), reverse=True):
        found = actual[scores >= cut]
        recall = found.sum() / actual.sum()
        total += (recall - before) * found.mean()
        before = recall
    return total


def plain_subset_accuracy(predicted, actual):
    return np.mean([list(row) == list(wanted) for row, wanted in zip(predicted, actual, strict=True)])


def plain_scores(predicted, actual, scores):
    columns = list(zip(predicted.T, actual.T, scores.T, strict=True))
    of_labels = [plain_average_precision(score, label) for _, label, score in columns if label.any()]
    return {
        "micro_f1": plain_f1(predicted, actual),
        "macro_f1": np.mean([plain_f1(*pair[:2]) for pair in columns]),
        "subset_accuracy": plain_subset_accuracy(predicted, actual),
        "average_precision": np.mean(of_labels) if of_labels else 0.0,
    }


def test_the_kind_has_these_metrics_and_the_first_is_the_default():
    assert metric_names("multi_label")[0] == "micro_f1" and set(metric_names("multi_label")) == set(NAMES)
    assert TaskSpec(name="t", kind="multi_label", text_columns=("x",), labels=("a",)).main_metric == "micro_f1"
    assert "multi_label" in METRICS["micro_f1"].kinds and "classification" in METRICS["micro_f1"].kinds


@pytest.mark.parametrize("num_labels", [1, 2, 3, 6])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_every_metric_is_the_plain_formula(num_labels, share):
    rng = np.random.default_rng(num_labels)
    for size in (1, 2, 5, 40):
        actual = (rng.random((size, num_labels)) < share).astype(np.float32)
        scores = rng.random((size, num_labels)).round(1)  # with ties
        for predicted in (scores > 0.5, scores > 0.0, scores > 1.0, actual == 1):
            found = {
                name: METRICS[name].score(scores if METRICS[name].of_scores else predicted.astype(np.int64), actual)
                for name in NAMES
            }
            wanted = plain_scores(predicted, actual.astype(np.float64), scores)
            assert found == pytest.approx(wanted, abs=1e-12)  # means of fp64 in another order


def test_one_label_is_scored_by_its_own_f1_not_by_that_of_its_absence():
    actual, predicted = np.array([[0.0], [0.0], [0.0], [1.0]]), np.array([[0], [0], [0], [0]])
    scores = task_scores(spec(1), predicted, actual, predicted.astype(float))
    assert scores["micro_f1"] == scores["macro_f1"] == 0.0 and scores["subset_accuracy"] == 0.75


def test_scores_that_are_no_numbers_have_no_average_precision():
    actual, scores = np.array([[1.0, 0.0]]), np.array([[np.nan, 0.5]])
    assert np.isnan(task_scores(spec(2), np.array([[0, 0]]), actual, scores)["average_precision"])


def test_a_label_that_never_occurs_counts_in_macro_f1_and_not_in_average_precision():
    actual = np.array([[1.0, 0.0], [0.0, 0.0]])
    predicted, scores = np.array([[1, 0], [0, 0]]), np.array([[0.9, 0.1], [0.2, 0.1]])
    found = task_scores(spec(2), predicted, actual, scores)
    assert found == {"micro_f1": 1.0, "macro_f1": 0.5, "subset_accuracy": 1.0, "average_precision": 1.0}
