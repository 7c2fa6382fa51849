"""Task declarations: GLUE's own, and what a user's YAML file may say."""

import json
from pathlib import Path

import pandas as pd
import pytest

from hf_mtl import InputError, TaskSpec, load_tasks
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.tasks.kinds import KINDS
from hf_mtl.tasks.labels import read_labels
from hf_mtl.tasks.metric_names import METRICS, metric_names
from hf_mtl.tasks.task_file import TASK_SETS, read_task_file

# Columns, label names (in index order) and splits as on the card of nyu-mll/glue; metrics as in Wang et al. 2018.
GLUE = {
    "cola": (("sentence",), ("unacceptable", "acceptable"), ("matthews_correlation",)),
    "sst2": (("sentence",), ("negative", "positive"), ("accuracy",)),
    "mrpc": (("sentence1", "sentence2"), ("not_equivalent", "equivalent"), ("f1", "accuracy")),
    "stsb": (("sentence1", "sentence2"), None, ("pearson", "spearman")),
    "qqp": (("question1", "question2"), ("not_duplicate", "duplicate"), ("f1", "accuracy")),
    "mnli": (("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), ("accuracy",)),
    "qnli": (("question", "sentence"), ("entailment", "not_entailment"), ("accuracy",)),
    "rte": (("sentence1", "sentence2"), ("entailment", "not_entailment"), ("accuracy",)),
    "wnli": (("sentence1", "sentence2"), ("not_entailment", "entailment"), ("accuracy",)),
}
FRAME = pd.DataFrame({"text": ["good film", 'a "fine" one', "bad"], "label": [1, 1, 0]})
ROW = "{kind: classification, text_columns: [text], labels: [bad, good], files: {train: rows.csv}}"


def write_yaml(folder: Path, content: str, name: str = "mine.yaml") -> str:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return str(path)


def test_metric_names_of_the_tasks_are_the_metrics_there_are():
    assert {name for kind in KINDS for name in metric_names(kind)} == METRICS.keys()


def test_glue_declares_its_nine_tasks():
    specs = load_tasks("glue")
    assert [spec.name for spec in specs] == list(GLUE)
    for spec in specs:
        assert (spec.text_columns, spec.labels, spec.metrics) == GLUE[spec.name]
        assert (spec.dataset, spec.config, spec.label_column) == ("nyu-mll/glue", spec.name, "label")
        assert spec.kind == ("regression" if spec.name == "stsb" else "classification")
        assert spec.main_metric == spec.metrics[0]
        assert spec.label_range == ((0, 5) if spec.name == "stsb" else None)
        assert spec.loss_weight == spec.sampling_weight == 1
        matched = {"validation": "validation_matched", "test": "test_matched"}
        assert spec.splits == (matched if spec.name == "mnli" else {})


def test_tasks_come_in_the_order_asked_for_without_repeats():
    assert [s.name for s in load_tasks("glue", tasks=["stsb", "sst2", "stsb"])] == ["stsb", "sst2"]


def test_every_task_set_of_the_package_can_be_read():
    assert {path.stem for path in TASK_SETS.glob("*.yaml")} == {"glue", "demo", "sst2_stsb"}
    assert [spec.name for spec in load_tasks("demo")] == ["reviews", "pairs"]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_a_users_yaml_with_files_loads_from_its_own_folder(tmp_path, monkeypatch, suffix):
    (tmp_path / "set" / "data").mkdir(parents=True)
    path = tmp_path / "set" / "data" / f"train.{suffix}"
    match suffix:
        case "csv":
            FRAME.to_csv(path, index=False)
        case "tsv":
            path.write_text("text\tlabel\n" + "".join(f"{t}\t{n}\n" for t, n in FRAME.values), encoding="utf-8")
        case "jsonl":
            FRAME.to_json(path, orient="records", lines=True)
        case "parquet":
            FRAME.to_parquet(path, index=False)
    content = ROW.replace("rows.csv", f"data/train.{suffix}")
    task_set = write_yaml(tmp_path / "set", f"tasks:\n  mine: {content}\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (spec,) = load_tasks(task_set)
    assert spec.files == {"train": str(path)}
    rows = load_rows(spec, "train")
    assert list(rows["text"]) == list(FRAME["text"])
    assert read_labels(spec, rows, "train").tolist() == [1, 1, 0]
    assert load_rows(spec, "validation") is None


def test_a_relative_yaml_path_and_absolute_files_work(tmp_path, monkeypatch):
    FRAME.to_csv(tmp_path / "rows.csv", index=False)
    write_yaml(tmp_path, f"tasks: {{mine: {ROW.replace('rows.csv', str(tmp_path / 'rows.csv'))}}}")
    monkeypatch.chdir(tmp_path)
    assert load_tasks("mine.yaml")[0].files == {"train": str(tmp_path / "rows.csv")}


@pytest.mark.parametrize("name", ["index", "truncated"])
def test_a_task_may_not_have_the_name_of_a_key_of_predictions(tmp_path, name):
    with pytest.raises(InputError, match=f"task '{name}': in a line of hf-mtl predict, '{name}' is something else"):
        load_tasks(write_yaml(tmp_path, f"tasks: {{{name}: {ROW}}}"))
    assert load_tasks(write_yaml(tmp_path, f"tasks: {{{name}es: {ROW}}}"))[0].name == f"{name}es"


def test_dataset_replaces_that_of_tasks_that_have_one(tmp_path):
    content = f"""
        tasks:
          hub: {{kind: regression, text_columns: a, label_range: [1, 5], dataset: some/where, config: c}}
          local: {ROW}
    """
    hub, local = load_tasks(write_yaml(tmp_path, content), dataset="/a/copy")
    assert (hub.dataset, hub.config, hub.text_columns, hub.label_range) == ("/a/copy", "c", ("a",), (1.0, 5.0))
    assert (local.dataset, local.files) == (None, {"train": str(tmp_path / "rows.csv")})
    assert load_tasks("glue", tasks=["rte"], dataset="/glue")[0] == TaskSpec(
        name="rte",
        kind="classification",
        dataset="/glue",
        config="rte",
        text_columns=("sentence1", "sentence2"),
        labels=("entailment", "not_entailment"),
        metrics=("accuracy",),
    )


def test_dataset_folders_with_a_dot_are_relative_to_the_file(tmp_path):
    content = "tasks: {a: {kind: regression, text_columns: x, label_range: [0, 1], dataset: ./rows}}"
    assert load_tasks(write_yaml(tmp_path, content))[0].dataset == str(tmp_path / "rows")


def test_defaults_reach_every_task_and_a_task_overrides_them(tmp_path):
    content = """
        defaults: {kind: classification, text_columns: text, labels: [bad, good], files: {train: a.csv},
                   sampling_weight: 3, loss_weight: 0.5}
        tasks: {first: {}, second: {loss_weight: 2e0, labels: [1, 2, 3], metrics: macro_f1}}
    """
    first, second = load_tasks(write_yaml(tmp_path, content))
    assert (first.labels, first.loss_weight, first.sampling_weight, first.metrics) == (
        ("bad", "good"),
        0.5,
        3,
        ("accuracy",),
    )
    assert (second.labels, second.loss_weight, second.sampling_weight) == (("1", "2", "3"), 2, 3)
    assert (second.metrics, second.main_metric) == (("macro_f1",), "macro_f1")


def edited(**changes) -> str:
    row = {"kind": "classification", "text_columns": ["text"], "labels": ["bad", "good"], "files": {"train": "a.csv"}}
    row = {key: value for key, value in {**row, **changes}.items() if value is not None}
    return "tasks: {mine: " + json.dumps(row) + "}"


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"text_column": "x"}, ["text_column'", "did you mean 'text_columns'", "label_range"]),
        ({"name": "x"}, ["'name'"]),
        ({"kind": "classify"}, ["'classify'", "choose from: classification, ", "regression"]),
        ({"kind": None}, ["'kind'", "missing"]),
        ({"text_columns": None}, ["'text_columns'", "missing"]),
        ({"text_columns": ["a", "b", "c"]}, ["3", "1 (a text) or 2"]),
        ({"text_columns": []}, ["text_columns"]),
        ({"label_column": "text"}, ["column 'text' is among text_columns and holds the labels too"]),
        ({"kind": "multi_label", "label_columns": ["good", "text"]}, ["column 'text' is among text_columns and"]),
        ({"metrics": ["pearson"]}, ["metric", "'pearson'", "macro_f1"]),
        ({"metrics": ["accurracy"]}, ["'accurracy'", "did you mean 'accuracy'"]),
        ({"main_metric": "f1"}, ["main_metric", "'f1'", "metrics"]),
        ({"files": {"dev": "a.csv"}}, ["split", "'dev'", "test, train, validation"]),
        ({"files": {"train": "a.txt"}}, ["a.txt", ".tsv"]),
        ({"files": "a.csv"}, ["files", "'a.csv'", "split: name"]),
        ({"files": None}, ["dataset or files", "neither"]),
        ({"dataset": "x/y"}, ["dataset or files", "both"]),
        ({"splits": {"dev": "validation"}}, ["split", "'dev'"]),
        ({"labels": ["one"]}, ["labels", "two or more"]),
        ({"labels": ["a", "a"]}, ["labels", "different"]),
        ({"labels": [True, False]}, ["labels", "quote"]),
        ({"labels": None}, ["labels", "None"]),
        ({"label_range": [0, 5]}, ["label_range", "regression"]),
        ({"kind": "regression", "labels": None, "label_range": [5, 0]}, ["label_range", "[lowest, highest]"]),
        ({"kind": "regression", "labels": None, "label_range": [0]}, ["label_range", "[lowest, highest]"]),
        ({"kind": "regression", "labels": None}, ["label_range", "None"]),
        ({"kind": "regression", "label_range": [0, 5]}, ["labels", "classification"]),
        ({"loss_weight": 0}, ["loss_weight", "0.0", "above 0"]),
        ({"loss_weight": "heavy"}, ["loss_weight", "'heavy'", "number"]),
        ({"sampling_weight": -1}, ["sampling_weight", "above 0"]),
        ({"config": 3}, ["config", "3", "string"]),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_value_that_cannot_be_used_is_refused_by_file_task_and_key(tmp_path, changes, words):
    path = write_yaml(tmp_path, edited(**changes))
    with pytest.raises(InputError) as refusal:
        load_tasks(path)
    for word in (path, "'mine'", *words):
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    "content, word",
    [
        ("tasks: [", "cannot be read"),
        ("tasks: []", "'tasks'"),
        ("tasks: {}", "'tasks'"),
        ("[1, 2]", "'tasks'"),
        ("", "'tasks'"),
        ("tasks: {mine: 3}", "'mine'"),
        ("task: {}\ntasks: {mine: {}}", "did you mean 'tasks'"),
        (f"tasks: {{train x: {ROW}}}", "'train x'"),
        (f"tasks: {{keys: {ROW}}}", "'keys'"),
        (f"tasks: {{3: {ROW}}}", "3"),
        (f"tasks:\n  mine: {ROW}\n  mine: {ROW}\n", "'mine'"),
    ],
)
def test_a_file_of_another_form_is_refused_by_name(tmp_path, content, word):
    path = write_yaml(tmp_path, content)
    with pytest.raises(InputError) as refusal:
        read_task_file(Path(path))
    assert path in str(refusal.value)
    assert word in str(refusal.value)


@pytest.mark.parametrize("task_set", ["nowhere.yaml", "gluee"])
def test_a_task_set_that_is_not_there_is_refused(task_set):
    with pytest.raises(InputError, match=task_set):
        load_tasks(task_set)


def test_an_unknown_task_names_the_closest():
    with pytest.raises(InputError, match=r"unknown task 'sst-2' \(did you mean 'sst2'\?\)"):
        load_tasks("glue", tasks=["sst-2"])


def test_lists_of_columns_and_of_a_range_are_tuples_and_a_text_is_neither():
    spec = TaskSpec(name="t", kind="regression", text_columns=["a", "b"], label_range=[0, 5])
    assert spec.text_columns == ("a", "b") and spec.head.label_range == spec.label_range == (0, 5)
    for key, value in {"text_columns": "ab", "metrics": "pearson"}.items():
        with pytest.raises(InputError, match=f"task 't': {key} is '{value}', wanted a list of texts"):
            TaskSpec(**{"name": "t", "kind": "regression", "text_columns": ("a",), "label_range": (0, 5), key: value})
