"""The metrics against scikit-learn and scipy, and where they are undefined."""

import logging
import socket

import evaluate
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from hf_mtl import TaskSpec
from hf_mtl.tasks.metric_names import METRICS, greater_is_better, is_of_one_class, metric_names
from hf_mtl.tasks.metrics import average_score, make_metric, task_scores

ORACLES = {
    "accuracy": sklearn_metrics.accuracy_score,
    "f1": lambda y, p: sklearn_metrics.f1_score(y == 1, p == 1, zero_division=0),
    "precision": lambda y, p: sklearn_metrics.precision_score(y == 1, p == 1, zero_division=0),
    "recall": lambda y, p: sklearn_metrics.recall_score(y == 1, p == 1, zero_division=0),
    "micro_f1": lambda y, p: sklearn_metrics.f1_score(y, p, average="micro", zero_division=0),
    "weighted_f1": lambda y, p: sklearn_metrics.f1_score(y, p, average="weighted", zero_division=0),
    "macro_f1": lambda y, p: sklearn_metrics.f1_score(y, p, average="macro", zero_division=0),
    "matthews_correlation": sklearn_metrics.matthews_corrcoef,
    "pearson": lambda y, p: stats.pearsonr(y, p).statistic,
    "spearman": lambda y, p: stats.spearmanr(y, p).statistic,
    "r2": sklearn_metrics.r2_score,
    "mse": sklearn_metrics.mean_squared_error,
    "mae": sklearn_metrics.mean_absolute_error,
    "quadratic_kappa": lambda y, p: sklearn_metrics.cohen_kappa_score(y, p, weights="quadratic"),
}


def spec(kind: str, *metrics: str, **changes) -> TaskSpec:
    """A task that is scored by these; of two classes where a metric is that of one, and by Pearson before errors."""
    classes = ("a", "b") if any(map(is_of_one_class, metrics)) else ("a", "b", "c")
    labels = {"labels": classes} if kind != "regression" else {"label_range": (0, 5)}
    metrics = ("pearson", *metrics) if kind == "regression" and not greater_is_better(metrics[0]) else metrics
    values = {"name": "t", "kind": kind, "text_columns": ("x",), "files": {"train": "x.csv"}, "metrics": metrics}
    return TaskSpec(**{**values, **labels, **changes})


def draw(kind: str, seed: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels that agree in part."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(5, 200))
    if kind != "regression":
        labels = rng.integers(0, classes, size)
        return np.where(rng.random(size) < 0.6, labels, rng.integers(0, classes, size)), labels
    labels = rng.uniform(0, 5, size).round(1)  # with ties, for the ranks
    return np.clip(labels + rng.normal(0, 1, size), 0, 5).astype(np.float32), labels


def test_every_metric_of_numbers_has_an_oracle():
    """Those of other kinds have theirs beside the kind's tests."""
    numbers = {"classification", "regression", "ordinal"}
    assert {name for name, metric in METRICS.items() if numbers & set(metric.kinds)} == ORACLES.keys()


@pytest.mark.parametrize("name", sorted(ORACLES))
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [2, 3])
def test_every_metric_is_that_of_sklearn_or_scipy(name, seed, classes):
    kind = METRICS[name].kinds[0]
    predictions, labels = draw(kind, seed, classes)
    scores = task_scores(spec(kind, name), predictions, labels)
    # fp64 on both sides, over at most 200 rows
    assert scores[name] == pytest.approx(ORACLES[name](labels, predictions), abs=1e-9)
    assert type(scores[name]) is float


@pytest.mark.parametrize("name", metric_names("classification"))
def test_a_class_that_is_predicted_and_never_there_counts_as_in_sklearn(name):
    predictions, labels = np.array([0, 2, 1, 0]), np.array([0, 1, 1, 0])
    if is_of_one_class(name):
        predictions, labels = np.array([0, 1, 1, 0]), np.array([0, 0, 0, 0])
    scores = task_scores(spec("classification", name), predictions, labels)
    assert scores[name] == pytest.approx(ORACLES[name](labels, predictions), abs=1e-12)


def test_scores_come_in_the_order_declared():
    predictions, labels = draw("regression", 0)
    assert list(task_scores(spec("regression", "r2", "spearman", "pearson"), predictions, labels)) == [
        "r2",
        "spearman",
        "pearson",
    ]


CONSTANT = [
    ("predictions", np.full(6, 2.5, dtype=np.float32), np.arange(6.0) % 5),
    ("labels", np.arange(6.0) % 5, np.full(6, 3.0)),
    ("both", np.full(6, 0.1), np.full(6, 0.1)),
    ("a single row", np.array([2.0]), np.array([3.0])),
]


@pytest.mark.parametrize("what, predictions, labels", CONSTANT, ids=[what for what, *_ in CONSTANT])
@pytest.mark.parametrize("metrics", [("pearson", "spearman"), ("spearman",), ("pearson", "spearman", "r2")])
def test_a_correlation_of_constants_is_0_and_said_once(caplog, what, predictions, labels, metrics):
    with caplog.at_level(logging.WARNING, logger="hf_mtl"):
        scores = task_scores(spec("regression", *metrics), predictions, labels)
    assert scores["spearman"] == scores.get("pearson", 0.0) == 0.0
    assert all(np.isfinite(value) for value in scores.values())
    assert len(caplog.records) == 1
    assert "'t'" in caplog.text
    assert "0.0" in caplog.text


def test_predictions_that_differ_in_their_last_bit_have_a_correlation_and_no_warning(caplog):
    predictions = np.full(20, 2.5, dtype=np.float32)  # what a head puts out is fp32; its last bit is 2e-7 here
    predictions[4] = np.nextafter(predictions[4], np.float32(5))
    scores = task_scores(spec("regression", "pearson", "spearman"), predictions, np.arange(20.0) % 5)
    assert all(-1 <= value <= 1 and value != 0 for value in scores.values())
    assert not caplog.records


@pytest.mark.parametrize(
    "predictions, labels", [([1, 1, 1], [0, 1, 2]), ([0, 1, 2], [1, 1, 1]), ([0, 0], [0, 0]), ([0], [2])]
)
def test_constant_classes_give_finite_scores_and_one_warning(caplog, predictions, labels):
    names = [name for name in metric_names("classification") if not is_of_one_class(name)]
    scores = task_scores(spec("classification", *names), np.array(predictions), np.array(labels))
    for name, score in scores.items():
        assert np.isfinite(score), name
    assert scores["matthews_correlation"] == 0.0
    assert len(caplog.records) == 1


def test_accuracy_of_constant_predictions_is_no_matter_for_a_warning(caplog):
    assert task_scores(spec("classification", "accuracy"), np.array([1, 1]), np.array([0, 1])) == {"accuracy": 0.5}
    assert not caplog.records


def test_r2_of_constant_labels_is_0():
    assert task_scores(spec("regression", "r2"), np.array([1.0, 2.0]), np.array([2.0, 2.0])) == {"r2": 0.0}


def test_metrics_are_evaluates_and_open_no_connection(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a metric opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", False)
    for name in ORACLES:
        metric = make_metric(name)
        assert isinstance(metric, evaluate.Metric)
        metric.add_batch(predictions=[0, 1], references=[0, 1])
        metric.add_batch(predictions=[1], references=[0])
        (value,) = metric.compute().values()
        assert value == pytest.approx(ORACLES[name](np.array([0, 1, 0]), np.array([0, 1, 1])))


def test_scoring_leaves_the_global_random_state_alone():
    before = np.random.get_state()[1].copy()
    task_scores(spec("classification", "accuracy"), np.array([0, 1]), np.array([0, 1]))
    assert np.array_equal(np.random.get_state()[1], before)


def test_the_average_is_that_of_the_main_metrics():
    specs = [spec("classification", "f1", "accuracy"), spec("regression", "pearson", "spearman")]
    object.__setattr__(specs[1], "name", "r")
    scores = {"eval_t_f1": 0.5, "eval_t_accuracy": 0.9, "eval_r_pearson": 0.7, "eval_r_spearman": 0.1}
    assert average_score(specs, scores, "eval") == pytest.approx(0.6)
