"""With `missing_label: skip` rows without a label are none of the task's; without, they are bad rows."""

import csv
import json
import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset
from transformers import PreTrainedTokenizerBase

from hf_mtl import InputError, TaskSpec, load_task_data, load_tasks
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.data.task_report import describe_task, format_task
from hf_mtl.plugins import load_plugin
from hf_mtl.tasks.labels import read_labels

TEXTS = ["the film", "the plot", "the cast", "a book", "a tale"]
HINT = r"; missing_label: skip in the task file leaves rows without a label out; --on_bad_row skip leaves"
CLASSES = {"kind": "classification", "labels": ("bad", "good")}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def task(path=None, **changes):
    files = {} if path is None else {"train": str(path), "validation": str(path)}
    values = {"name": "t", "text_columns": ("text",), "files": files, "missing_label": "skip", **CLASSES}
    return TaskSpec(**{**values, **changes})


def write(path, **columns):
    """A file as pandas writes it, which has no integer beside nothing in csv; or json, where it has no lists."""
    frame = pd.DataFrame({"text": TEXTS, **columns})
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        path.write_text("\n".join(map(json.dumps, rows)))
    return path


def read(spec, split="train", **options):
    rows = load_rows(spec, split, **options)
    return [(text, *np.ravel(label)) for text, label in zip(rows["text"], read_labels(spec, rows, split), strict=True)]


NAMES = ["good", None, "bad", np.nan, "good"]
FOUND = [("the film", 1), ("the cast", 0), ("a tale", 1)]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("cells", [NAMES, [1, None, 0, None, 1], [True, None, False, None, True]])
def test_rows_without_a_class_are_none_of_the_tasks(tmp_path, suffix, split, cells):
    path = write(tmp_path / f"rows.{suffix}", label=cells)
    assert read(task(path), split) == FOUND


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("kind", ["regression", "similarity"])
def test_rows_without_a_value_are_none_of_the_tasks(tmp_path, suffix, kind):
    path = write(tmp_path / f"rows.{suffix}", label=[0.5, None, 5, np.nan, 0])
    texts = ("text",) if kind == "regression" else ("text", "text")
    spec = task(path, kind=kind, labels=None, label_range=(0, 5), text_columns=texts)
    assert read(spec) == [("the film", 0.5), ("the cast", 5), ("a tale", 0)]


@pytest.mark.parametrize("cell", ["", " ", "NA", "NaN", "nan", "null"])
def test_what_a_csv_has_for_nothing_is_a_missing_label_unless_it_is_a_class(tmp_path, cell):
    with open(tmp_path / "rows.csv", "w", newline="") as file:
        csv.writer(file).writerows([["text", "label"], ["the film", "good"], ["the plot", cell]])
    assert read(task(tmp_path / "rows.csv")) == [("the film", 1)]
    if cell.strip():
        assert read(task(tmp_path / "rows.csv", labels=(cell, "good"))) == [("the film", 1), ("the plot", 0)]


def test_minus_one_is_a_missing_label_unless_it_is_a_class(tmp_path):
    rows = Dataset.from_dict({"text": TEXTS, "label": [1, -1, 0, None, 1]})
    for given in (rows, rows.cast_column("label", ClassLabel(names=["bad", "good"]))):
        assert read(task(), given={"train": given}) == FOUND
    path = write(tmp_path / "rows.csv", label=[1, -1, 0, -1, 1])
    assert len(read(task(path, labels=("-1", "0", "1")))) == 5
    spec = task(path, kind="regression", labels=None, label_range=(-2, 2))
    assert len(read(spec)) == 5


def test_rows_without_sets_or_tags_are_none_of_the_tasks(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"text": "a", "words": ["a", "b"], "tags": ["O", "B-X"], "sets": ["p", "q"], "p": 1, "q": 1},
        {"text": "b", "words": ["c"], "tags": None, "sets": None, "p": None, "q": None},
        {"text": "c", "words": ["d"], "tags": [], "sets": [], "p": 0, "q": 0},
        {"text": "d", "words": ["e"], "sets": ["p"], "tags": ["B-X"], "p": 1},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    sets = {"kind": "multi_label", "labels": ("p", "q")}
    # An empty list is a row without names, and no label is missing; of a column for each, one that lacks is enough.
    assert read(task(path, label_column="sets", **sets)) == [("a", 1, 1), ("c", 0, 0), ("d", 1, 0)]
    assert read(task(path, label_columns=("p", "q"), kind="multi_label", labels=None)) == [("a", 1, 1), ("c", 0, 0)]
    ner = {"kind": "token_classification", "text_columns": ("words",), "label_column": "tags", "labels": ("O", "B-X")}
    assert read(task(path, **ner)) == [("a", 0, 1), ("d", 1)]


def test_an_empty_cell_of_a_parted_column_is_a_row_without_names_still(tmp_path):
    path = write(tmp_path / "rows.csv", label=["p|q", None, "p", None, "NA"])
    spec = task(path, kind="multi_label", labels=("p", "q"), label_delimiter="|")
    assert read(spec) == [("the film", 1, 1), ("the plot", 0, 0), ("the cast", 1, 0), ("a book", 0, 0)]


def test_the_log_says_once_per_split_how_many_rows_are_the_tasks(tmp_path, tokenizer, caplog):
    spec = task(write(tmp_path / "rows.csv", label=NAMES))
    with caplog.at_level(logging.INFO, logger="hf_mtl"):
        load_task_data([spec], tokenizer)
    said = [message for message in caplog.messages if "have a label" in message]
    assert said == [f"task 't', split '{split}': 3 of 5 rows have a label" for split in ("train", "validation")]


MISSING = {
    "classification": {"label": NAMES},
    "regression": {"label": [0.5, None, 5, np.nan, 0]},
    "multi_label": {"label": [["bad"], None, [], None, []]},
    "columns": {"bad": [1, None, 0, 1, 0], "good": [1, 1, 1, 1, 1]},
    "token_classification": {"words": [["a"]] * 5, "label": [["bad"], None, ["good"], [], ["bad"]]},
}


@pytest.mark.parametrize("kind", MISSING)
def test_without_it_a_missing_label_is_a_bad_row_with_a_hint(tmp_path, kind, caplog):
    path = write(tmp_path / "rows.jsonl", **MISSING[kind])
    changes = {"kind": kind, "missing_label": "error"}
    match kind:
        case "regression":
            changes |= {"labels": None, "label_range": (0, 5)}
        case "columns":
            changes |= {"kind": "multi_label", "labels": None, "label_columns": ("bad", "good")}
        case "token_classification":
            changes |= {"text_columns": ("words",), "metrics": ("token_accuracy",)}
    spec = task(path, **changes)
    with pytest.raises(InputError, match=rf"in row 1 \(the first row is 0\) of '.*rows.jsonl'.*{HINT}"):
        read(spec)
    with caplog.at_level(logging.WARNING, logger="hf_mtl"):
        assert len(load_rows(spec, "train", "skip")) == (4 if kind == "columns" else 3)
    assert "missing_label" not in caplog.text


def test_a_wrong_label_is_an_error_that_names_its_row_in_the_file(tmp_path):
    files = [str(write(tmp_path / "a.csv", label=NAMES)), str(write(tmp_path / "b.csv", label=[None, "god", *"abc"]))]
    spec = task(files={"train": files})
    with pytest.raises(InputError, match=r"label 'god' in row 1 \(the first row is 0\) of '.*b.csv' is not one of"):
        read(spec)
    for suffix, cells in (("jsonl", [["p"], None, ["pp"], [], []]), ("parquet", [["p"], None, ["pp"], [], []])):
        path = write(tmp_path / f"sets.{suffix}", label=cells)
        with pytest.raises(InputError, match=r"label 'pp' in row 2 .*is not one of \['p', 'q'\] \(did you mean 'p'"):
            read(task(path, kind="multi_label", labels=("p", "q")))
    path = write(tmp_path / "columns.csv", p=[1, 0, None, None, 1], q=[0, None, None, 7, 1])
    with pytest.raises(InputError, match=r"label '7\.0' of column 'q' in row 3 .* is not 0 or 1"):
        read(task(path, kind="multi_label", labels=None, label_columns=("p", "q")))


def test_it_composes_with_on_bad_row(tmp_path, caplog):
    path = write(tmp_path / "rows.csv", label=["good", None, "god", np.nan, "bad"])
    with caplog.at_level(logging.INFO, logger="hf_mtl"):
        assert read(task(path), on_bad_row="skip") == [("the film", 1), ("a tale", 0)]
    assert caplog.messages[0] == "task 't', split 'train': 3 of 5 rows have a label"
    assert re.search(r"1 of 3 rows of '.*' skipped \(the first row is 0\): row 2: label 'god'", caplog.messages[1])
    path = write(tmp_path / "bad.csv", label=["god", None, "god", np.nan, None])
    with pytest.raises(InputError, match=r"none of the 2 rows of '.*' can be used; row 0: label 'god'"):
        read(task(path), on_bad_row="skip")


def test_a_row_without_label_needs_no_text(tmp_path):
    (tmp_path / "rows.csv").write_text("text,label,other\nthe film,good,\n,,\n,,x\nthe plot,bad,\n")
    assert read(task(tmp_path / "rows.csv")) == [("the film", 1), ("the plot", 0)]
    (tmp_path / "rows.csv").write_text("text,label,other\nthe film,good,\n,,\n,bad,x\nthe plot,bad,\n")
    with pytest.raises(InputError, match="column 'text' has no text in row 2"):
        read(task(tmp_path / "rows.csv"))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_split_without_any_label_is_an_error(tmp_path, suffix):
    path = write(tmp_path / f"rows.{suffix}", label=[None] * 5)
    with pytest.raises(InputError, match=r"task 't', split 'train': none of the 5 rows of '.*' has a label in column"):
        read(task(path))
    with pytest.raises(InputError, match="split 'validation': no label column 'mark'; the columns are 'text', 'label'"):
        read(task(path, label_column="mark"), "validation")


def test_a_test_split_keeps_its_rows(tmp_path):
    path = write(tmp_path / "rows.csv", label=NAMES)
    found = read(task(files={"test": str(path)}), "test")
    assert [text for text, _ in found] == TEXTS and np.isnan(found[1][1])


def test_the_key_of_a_task_file(tmp_path):
    write(tmp_path / "rows.csv", label=NAMES)
    row = {"kind": "classification", "text_columns": "text", "labels": ["bad", "good"], "files": {"train": "rows.csv"}}
    content = {"defaults": {"missing_label": "skip"}, "tasks": {"t": row, "u": {**row, "missing_label": "error"}}}
    (tmp_path / "tasks.yaml").write_text(json.dumps(content))
    assert [spec.missing_label for spec in load_tasks(str(tmp_path / "tasks.yaml"))] == ["skip", "error"]
    with pytest.raises(InputError, match=r"unknown missing_label of task 't': 'skipp' \(did you mean 'skip'\?\)"):
        task(missing_label="skipp")


def test_what_the_file_was_understood_to_mean(tmp_path, tokenizer):
    spec = task(write(tmp_path / "rows.csv", label=NAMES))
    facts = describe_task(spec, tokenizer, 64)
    assert facts["missing_label"] == "skip"
    assert facts["splits"]["train"]["rows"] == 3 and facts["splits"]["train"]["rows_without_label"] == 2
    assert "train: 3 rows, and 2 without a label; columns text, label" in format_task(facts)


def test_rows_that_are_cut_off_or_not_sampled_have_a_label(tmp_path, tokenizer):
    rows = [f"text {row},{'' if row < 5 else ('bad', 'good')[row % 2]}" for row in range(45)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]))
    files = {"train": str(tmp_path / "rows.csv")}
    spec = task(files=files, validation_fraction=0.1, max_rows={"train": 20})
    splits = describe_task(spec, tokenizer, 64)["splits"]
    assert [(splits[name]["rows"], splits[name].get("rows_without_label")) for name in splits] == [(20, 5), (4, None)]


def test_tasks_that_label_other_rows_of_one_file_share_its_tokens(tmp_path, tokenizer, monkeypatch):
    path = write(tmp_path / "rows.csv", mood=["good", None, "bad", None, "good"], kind=[None, 1, 0, 1, None])
    files = {"train": str(path)}
    tasks = [task(name=column, files=files, label_column=column) for column in ("mood", "kind")]
    texts = []

    def count(self, *columns, real=PreTrainedTokenizerBase.__call__, **options):
        texts.extend(columns[0])
        return real(self, *columns, **options)

    monkeypatch.setattr(PreTrainedTokenizerBase, "__call__", count)
    data = load_task_data(tasks, tokenizer, splits=["train"])["train"]
    assert texts == TEXTS
    assert data["mood"]["labels"][:] == [1, 0, 1] and data["kind"]["labels"][:] == [1, 0, 1]
    ids = tokenizer(TEXTS)["input_ids"]
    assert data["mood"]["input_ids"][:] == [ids[0], ids[2], ids[4]]
    assert data["kind"]["input_ids"][:] == ids[1:4]
    for each in tasks:
        alone = load_task_data([each], tokenizer, splits=["train"])["train"][each.name]
        assert alone.features == data[each.name].features
        assert alone.with_format("arrow")[:].equals(data[each.name].with_format("arrow")[:])


def test_a_kind_of_ones_own_looks_for_nothing_unless_it_knows_better(tmp_path, plugins_of_this_test):
    load_plugin(Path(__file__).parents[2] / "examples" / "plugins" / "label_set.py")
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": "x", "label": cell}) for cell in (["p"], None, [], ["q", "p"])))
    changes = {"kind": "label_set", "labels": ("p", "q")}
    assert read(task(path, **changes)) == [("x", 1, 0), ("x", 0, 0), ("x", 1, 1)]
    with pytest.raises(InputError, match="label None in row 1"):
        read(task(path, missing_label="error", **changes))
    with pytest.raises(InputError, match=r"labels is 'auto', which is for classification.*; wanted a list of names"):
        task(path, kind="label_set", labels="auto")
