"""The metrics of classes that scikit-learn computes, against plain formulas over random and degenerate predictions."""

import numpy as np
import pytest

from hf_mtl.tasks import metrics


def share(part, whole):
    return float(part / whole) if whole else 0.0


def plain_accuracy(predictions, references):
    return float(np.mean(predictions == references))


def plain_f1(predictions, references, *, positive=1):
    predicted, actual = predictions == positive, references == positive
    return share(2 * np.sum(predicted & actual), np.sum(predicted) + np.sum(actual))


def plain_precision(predictions, references, *, positive=1):
    predicted = predictions == positive
    return share(np.sum(predicted & (references == positive)), np.sum(predicted))


def plain_recall(predictions, references, *, positive=1):
    actual = references == positive
    return share(np.sum((predictions == positive) & actual), np.sum(actual))


def plain_macro_f1(predictions, references):
    classes = np.union1d(predictions, references)
    return float(np.mean([plain_f1(predictions, references, positive=c) for c in classes]))


def plain_weighted_f1(predictions, references):
    classes, rows = np.unique(references, return_counts=True)
    return float(np.average([plain_f1(predictions, references, positive=c) for c in classes], weights=rows))


def plain_matthews(predictions, references):
    """Gorodkin 2004, as a correlation of indicators."""
    classes = np.union1d(predictions, references)
    predicted = (predictions[:, None] == classes).astype(float)
    actual = (references[:, None] == classes).astype(float)
    predicted -= predicted.mean(axis=0)
    actual -= actual.mean(axis=0)
    spread = np.sqrt(np.sum(predicted**2) * np.sum(actual**2))
    return float(np.sum(predicted * actual) / spread) if spread else 0.0


# The tolerance is 0 where both sides divide the same whole numbers. It is 1e-12 where they add fractions in another
# order: macro and weighted means, and Matthews' sums, which scikit-learn takes from a table of counts.
PLAIN = {
    "accuracy": (plain_accuracy, 0),
    "micro_f1": (plain_accuracy, 0),
    "macro_f1": (plain_macro_f1, 1e-12),
    "weighted_f1": (plain_weighted_f1, 1e-12),
    "matthews_correlation": (plain_matthews, 1e-12),
}
OF_ONE_CLASS = {"f1": plain_f1, "precision": plain_precision, "recall": plain_recall}


def draws():
    """Predictions and labels: random, with classes that one side lacks, of one class, constant, and of a single row."""
    rng = np.random.default_rng(0)
    for number in range(60):
        size, classes = int(rng.integers(1, 120)), int(rng.integers(2, 7))
        labels = rng.integers(0, classes, size)
        predictions = np.where(rng.random(size) < rng.random(), labels, rng.integers(0, classes, size))
        yield f"random {number}", predictions, labels
        yield f"predictions lack classes {number}", predictions.clip(0, 1), labels
        yield f"labels lack classes {number}", predictions, labels.clip(0, 1)
        yield f"constant predictions {number}", np.full(size, classes - 1), labels
        yield f"one class {number}", predictions, np.zeros(size, dtype=np.int64)
        yield f"one class on both sides {number}", np.ones(size, dtype=np.int64), np.ones(size, dtype=np.int64)
    for prediction in (0, 1, 2):
        for label in (0, 1, 2):
            yield f"a single row {prediction} {label}", np.array([prediction]), np.array([label])


@pytest.mark.parametrize("name", PLAIN)
def test_a_metric_over_all_classes_is_the_plain_formula(name):
    plain, tolerance = PLAIN[name]
    for case, predictions, labels in draws():
        found = metrics.METRICS[name].score(predictions, labels)
        assert type(found) is float
        assert found == pytest.approx(plain(predictions, labels), rel=0, abs=tolerance), case


@pytest.mark.parametrize("positive", [0, 1])
@pytest.mark.parametrize("name", OF_ONE_CLASS)
def test_a_metric_of_one_class_is_the_plain_formula_to_the_bit(name, positive):
    for case, predictions, labels in draws():
        found = metrics.METRICS[name].score(predictions, labels, positive=positive)
        assert type(found) is float
        assert found == OF_ONE_CLASS[name](predictions, labels, positive=positive), case
