"""What classes are called: as it is written in a task's file, in tables of any type, and in what is told of them."""

import datetime
import decimal
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_mtl import InputError, TaskSpec
from hf_mtl.cli import main
from hf_mtl.model.pipeline_inputs import check_truncation
from hf_mtl.tasks.labels import bad_labels, read_labels
from hf_mtl.tasks.task_file import read_task_file


def task(**values) -> TaskSpec:
    given = {"name": "t", "text_columns": ("text",), "files": {"train": "t.parquet"}, **values}
    return TaskSpec(**{"kind": "classification" if "labels" in given else "regression", **given})


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("[010, 020]", ("010", "020")),
        ("[1:30, 2:30]", ("1:30", "2:30")),
        ("[0x10, 0x20]", ("0x10", "0x20")),
        ("[1_0, 2_0]", ("1_0", "2_0")),
        ("[1.50, 2.50]", ("1.50", "2.50")),
        ("[2024-01-01, 2024-01-02]", ("2024-01-01", "2024-01-02")),
        ("[1, 2]", ("1", "2")),
    ],
)
def test_names_are_what_was_written(tmp_path, written, names):
    text = f"tasks: {{t: {{kind: classification, text_columns: [a], files: {{train: t.csv}}, labels: {written}}}}}\n"
    (tmp_path / "t.yaml").write_text(text)
    assert read_task_file(tmp_path / "t.yaml")[0].labels == names


def test_dates_and_bytes_are_the_classes_that_are_called_so():
    dates = [datetime.date(2024, 1, 2), datetime.date(2024, 1, 1)]
    rows = Dataset(pa.table({"text": ["a", "b"], "label": dates}))
    assert read_labels(task(labels=("2024-01-01", "2024-01-02")), rows, "train").tolist() == [1, 0]
    rows = Dataset(pa.table({"text": ["a", "b"], "label": [b"pos", b"neg"]}))
    assert read_labels(task(labels=("neg", "pos")), rows, "train").tolist() == [1, 0]
    rows = Dataset(pa.table({"text": ["a", "b"], "label": [b"pos", b"\xff"]}))
    assert list(bad_labels(task(labels=("neg", "pos")), rows, "train")) == [1]


def test_names_that_differ_in_case_are_told_apart_with_blanks_around_them():
    rows = Dataset.from_dict({"text": ["x"] * 5, "label": ["b ", " B", "b", "caf\u00e9", "Cafe\u0301 "]})
    names = ("B", "b", "Caf\u00e9", "caf\u00e9")
    assert read_labels(task(labels=names), rows, "train").tolist() == [1, 0, 1, 3, 2]


def test_two_classes_of_the_data_are_never_joined():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["Pos", "pos", "neg"])})
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 2]}, features=features)
    bad = bad_labels(task(labels=("neg", "pos")), rows, "train")
    assert list(bad) == [0]
    assert read_labels(task(labels=("neg", "pos")), rows.select([1, 2]), "train").tolist() == [1, 0]
    assert "'Pos'" in "".join(bad[0])


@pytest.mark.parametrize(
    ("column", "first"),
    [
        ([decimal.Decimal("1.5"), decimal.Decimal("2")], "1.5"),
        ([float("nan"), 2.0], None),
        ([datetime.datetime(2024, 1, 1), None], "2024-01-01 00:00:00"),
    ],
)
def test_the_tasks_command_shows_a_first_row_of_any_type_as_json(tmp_path, capsys, column, first):
    pd.DataFrame({"text": ["a", "b"], "label": [1.0, 2.0]}).to_parquet(tmp_path / "train.parquet")
    table = pa.table({"text": ["a", "b"], "extra": ["x", "y"], "label": column})
    values = {"kind": "regression", "label_range": [0, 5], "text_columns": ["text"]}
    split = "test" if first is None else "train"
    pyarrow.parquet.write_table(table, tmp_path / f"{split}.parquet")
    values["files"] = {"train": "train.parquet", split: f"{split}.parquet"}
    if isinstance(column[0], datetime.datetime):
        values |= {"kind": "classification", "labels": ["2024-01-01 00:00:00", "other"], "label_column": "label"}
        del values["label_range"]
        pyarrow.parquet.write_table(table.slice(0, 1), tmp_path / "train.parquet")
    (tmp_path / "t.yaml").write_text(json.dumps({"tasks": {"t": values}}))
    assert main(["tasks", str(tmp_path / "t.yaml"), "--json"]) == 0
    described = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(word))
    assert described[0]["splits"][split]["first_row"]["label"] == first


@pytest.mark.parametrize("value", [np.array([1, 2]), 1, "always", ["longest"]])
def test_options_that_are_no_words_are_refused(value):
    with pytest.raises(InputError, match="truncation is "):
        check_truncation(value, None)
    with pytest.raises(InputError, match="padding is "):
        check_truncation(None, value)
