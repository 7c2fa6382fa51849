"""Which metrics a task may have, what is better of them, which class they are of, and how they are shown."""

import json
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from hf_mtl import InputError, MultiTaskTrainer, TaskSpec, load_tasks
from hf_mtl.cli import main
from hf_mtl.hub.model_card import CardFacts, model_card
from hf_mtl.tasks.kinds import KINDS
from hf_mtl.tasks.metric_names import METRICS, greater_is_better, metric_names
from hf_mtl.tasks.metrics import task_scores
from hf_mtl.tasks.spec import check_metric_names
from hf_mtl.training.progress import score_text
from hf_mtl.training.run_results import closing_table

OF_ONE_CLASS = ("f1", "precision", "recall")


def task(name="t", labels=("ham", "spam"), **changes) -> TaskSpec:
    kind = {"kind": "classification", "labels": labels} if labels else {"kind": "regression", "label_range": (0, 5)}
    return TaskSpec(**{"name": name, "text_columns": ("text",), "files": {"train": "a.csv"}, **kind, **changes})


def write_tasks(folder, **tasks: dict) -> str:
    shared = {"kind": "classification", "text_columns": "text", "labels": ["ham", "spam"], "files": {"train": "a.csv"}}
    (folder / "tasks.yaml").write_text(json.dumps({"tasks": {name: {**shared, **row} for name, row in tasks.items()}}))
    return str(folder / "tasks.yaml")


def test_the_names_know_what_the_metrics_know():
    assert {name: metric.greater_is_better for name, metric in METRICS.items()} == {
        name: greater_is_better(name) for kind in KINDS for name in metric_names(kind)
    }
    assert [name for name in METRICS if not greater_is_better(name)] == ["mse", "mae"]
    assert not greater_is_better("loss")


@pytest.mark.parametrize("name", sorted({*metric_names("classification"), *metric_names("regression")}))
def test_a_better_prediction_scores_better(name):
    """Swapping in more right answers moves every metric in the direction that it declares."""
    kind = METRICS[name].kinds[0]
    labels = np.array([0, 1, 1, 0, 1, 0] * 5)
    worse, better = np.tile([0, 1, 0, 1, 0, 1], 5), np.tile([0, 1, 1, 0, 1, 1], 5)
    metrics = (metric_names(kind)[0], name)
    spec = task(labels=("ham", "spam") if kind == "classification" else None, metrics=metrics)
    gain = task_scores(spec, better, labels)[name] - task_scores(spec, worse, labels)[name]
    assert (gain > 0) == METRICS[name].greater_is_better
    assert gain != 0


# ---- metrics of one class ----


@pytest.mark.parametrize("metric", OF_ONE_CLASS)
@pytest.mark.parametrize("metrics", [["{}"], ["accuracy", "{}"]])
def test_a_metric_of_one_class_is_refused_above_two(tmp_path, metric, metrics):
    metrics = [each.format(metric) for each in metrics]
    message = f"'t': {metric} is that of one class, and there are 3; wanted macro_f1, micro_f1 or weighted_f1"
    with pytest.raises(InputError, match=message):
        task(labels=("a", "b", "c"), metrics=metrics)
    path = write_tasks(tmp_path, t={"labels": ["a", "b", "c"], "metrics": metrics})
    with pytest.raises(InputError, match=rf"tasks\.yaml': task {message}"):
        load_tasks(path)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(pairs=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=12), positive=st.booleans())
def test_metrics_of_one_class_are_sklearns_for_either_class(pairs, positive):
    labels, predictions = map(np.array, zip(*pairs, strict=True))
    spec = task(metrics=OF_ONE_CLASS, positive_label=("ham", "spam")[positive])
    oracles = (sklearn_metrics.f1_score, sklearn_metrics.precision_score, sklearn_metrics.recall_score)
    wanted = [oracle(labels, predictions, pos_label=int(positive), zero_division=0) for oracle in oracles]
    assert list(task_scores(spec, predictions, labels).values()) == pytest.approx(wanted, abs=1e-12)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12))
def test_averages_over_classes_are_sklearns(pairs):
    labels, predictions = map(np.array, zip(*pairs, strict=True))
    averages = ("macro", "micro", "weighted")
    spec = task(labels=tuple("abcd"), metrics=tuple(f"{average}_f1" for average in averages))
    wanted = [sklearn_metrics.f1_score(labels, predictions, average=each, zero_division=0) for each in averages]
    assert list(task_scores(spec, predictions, labels).values()) == pytest.approx(wanted, abs=1e-12)


def test_the_positive_class_is_the_second_unless_named(tmp_path):
    path = write_tasks(
        tmp_path,
        plain={"metrics": ["f1"]},
        named={"metrics": ["f1"], "positive_label": "ham"},
        number={"metrics": ["recall"], "labels": [0, 1], "positive_label": 0},
    )
    assert [spec.positive_class for spec in load_tasks(path)] == [1, 0, 0]
    assert task(labels=("a", "b", "c")).positive_class is task(labels=None).positive_class is None


@pytest.mark.parametrize(
    "row, message",
    [
        ({"positive_label": "Spam"}, r"positive_label is 'Spam', wanted one of two labels; they are \['ham', 'spam'\]"),
        ({"labels": ["a", "b", "c"], "positive_label": "a"}, "positive_label is 'a', wanted one of two labels"),
        (
            {"kind": "regression", "labels": None, "label_range": [0, 1], "positive_label": "a"},
            "'a', wanted one of two",
        ),
        ({"positive_label": True}, "positive_label is True, wanted a string"),
        ({"positive_label": ["spam"]}, r"positive_label is \['spam'\], wanted a string"),
        ({"positive_lable": "spam"}, "'positive_lable' .did you mean 'positive_label'"),
    ],
)
def test_a_positive_label_that_is_none_is_refused(tmp_path, row, message):
    path = write_tasks(tmp_path, t=row)
    if row.get("labels", ...) is None:  # no key at all
        (tmp_path / "tasks.yaml").write_text((tmp_path / "tasks.yaml").read_text().replace('"labels": null, ', ""))
    with pytest.raises(InputError, match=message):
        load_tasks(path)


# ---- metrics of which less is better ----


@pytest.mark.parametrize("metric", ["mse", "mae"])
@pytest.mark.parametrize(
    "row", [{"metrics": ["{}"]}, {"metrics": ["{}", "r2"]}, {"metrics": ["r2", "{}"], "main_metric": "{}"}]
)
def test_an_error_cannot_be_the_main_metric(metric, row):
    row = json.loads(json.dumps(row).replace("{}", metric))
    with pytest.raises(InputError, match=rf"'t': of the main metric, {metric}, less is better.*\[pearson, {metric}\]"):
        task(labels=None, **row)
    assert task(labels=None, metrics=("r2", metric)).main_metric == "r2"


def test_errors_are_shown_in_their_unit_and_scores_with_their_class():
    tasks = [task("mail", metrics=("f1",)), task("stars", None, metrics=("r2", "mae", "mse"))]
    scores = {"eval_mail_f1": 0.5, "eval_stars_r2": 0.25, "eval_stars_mae": 0.75, "eval_stars_mse": 1.5}
    table = closing_table(tasks, {**scores, "eval_average": 0.375}, {})
    lines = [" ".join(line.split()) for line in table.splitlines()]
    for line in ("mail f1 of spam 50.00 -", "stars r2 25.00 -", "stars mae (label unit) 0.75 -", "average of the main"):
        assert any(line in each for each in lines), line
    assert "stars mse (squared label unit) 1.5 -" in lines
    assert len({len(line) for line in table.splitlines()}) == 1
    assert score_text(tasks, scores, "eval") == "mail f1 50.00 | stars r2 25.00, mae 0.75, mse 1.5"
    card = model_card(CardFacts(repo_id="user/name", tasks=tasks, metrics=scores))
    assert "| mail | f1 of spam | 50.00 |" in card
    assert "| stars | mae (label unit) | 0.75 |" in card


def test_the_tasks_command_shows_the_positive_class(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("text,label\nx,spam\ny,ham\n")
    named = {"metrics": ["accuracy", "precision"], "positive_label": "ham"}
    path = write_tasks(tmp_path, named=named, plain={"metrics": ["f1"]}, other={})
    assert main(["tasks", path]) == 0
    assert capsys.readouterr().out.count("the positive class is") == 2
    assert main(["tasks", path, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [each.get("positive_label") for each in facts] == ["ham", "spam", None]


def test_training_scores_the_class_that_is_named(make_trainer, make_model, make_arguments, specs, rows, tokenizer):
    """The same predictions have the recall of one class or of the other, by the task's word alone."""
    recalls = []
    for positive in range(2):
        values = {**vars(specs[0]), "metrics": ("accuracy", "recall"), "main_metric": "accuracy"}
        tasks = [TaskSpec(**{**values, "positive_label": specs[0].labels[positive]}), specs[1]]
        trainer = MultiTaskTrainer(make_model(), make_arguments(), tasks, rows["train"], rows["validation"], tokenizer)
        scores = trainer.evaluate()
        recalls.append(scores["eval_reviews_recall"])
    labels = np.array(rows["validation"]["reviews"]["labels"])
    right = scores["eval_reviews_accuracy"] * len(labels)
    assert np.dot(recalls, [np.sum(labels == 0), np.sum(labels == 1)]) == pytest.approx(right)
    assert recalls[0] != recalls[1]


# ---- names of scores ----


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
def test_scores_of_two_tasks_with_one_name_are_refused(tmp_path, average):
    path = write_tasks(tmp_path, a={"metrics": [f"{average}_f1"]}, **{f"a_{average}": {"metrics": ["f1"]}, "b": {}})
    message = rf"tasks 'a' and 'a_{average}' both have a score called 'a_{average}_f1'; rename"
    with pytest.raises(InputError, match=message):
        load_tasks(path)
    with pytest.raises(InputError, match=message):
        check_metric_names([task("a", metrics=(f"{average}_f1",)), task(f"a_{average}", metrics=("f1",))])
    assert [spec.name for spec in load_tasks(path, tasks=["a", "b"])] == ["a", "b"]


def test_the_trainer_refuses_scores_with_one_name(make_model, make_arguments, tokenizer, caplog):
    tasks = [task("a", metrics=("macro_f1",)), task("a_macro", metrics=("f1",))]
    with pytest.raises(InputError, match="'a_macro_f1'"):
        MultiTaskTrainer(make_model(tasks), make_arguments(), tasks, processing_class=tokenizer)


PARTS = st.sampled_from(["a", "macro", "f1", "loss", "average", "runtime", "r2"])


@settings(deadline=None, max_examples=200, derandomize=True)
@given(names=st.lists(st.lists(PARTS, min_size=1, max_size=3).map("_".join), min_size=2, max_size=4, unique=True))
def test_all_scores_of_accepted_tasks_have_names_of_their_own(names):
    metrics = metric_names("classification")
    keys = [f"{name}_{metric}" for name in names for metric in (*metrics, "loss")]
    reserved = ["average", "loss", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time"]
    try:
        check_metric_names([task(name, metrics=metrics) for name in names])
    except InputError:
        assert len(set(keys)) < len(keys)
    else:
        assert len({*keys, *reserved}) == len(keys) + len(reserved)


def test_a_metric_named_twice_counts_once(caplog):
    with caplog.at_level(logging.INFO):
        assert task(metrics=["f1", "accuracy", "f1"]).metrics == ("f1", "accuracy")
