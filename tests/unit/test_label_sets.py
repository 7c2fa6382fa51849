"""Labels of multi_label tasks: read from every form, and named where they are wrong."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from table_files import folder

from hf_mtl import InputError, TaskSpec
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.tasks.kinds import KINDS
from hf_mtl.tasks.labels import has_label, read_labels

NAMES = ("sport", "politics", "weather")
COLUMNS = {"label_columns": ("is_sport", "is_politics", "is_weather")}
KIND = KINDS["multi_label"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def spec(**changes):
    values = {"name": "topics", "kind": "multi_label", "text_columns": ("text",), "labels": NAMES}
    return TaskSpec(**{**values, **changes})


def of_rows(cells, split="train", feature=None, **changes):
    """Labels of rows in memory."""
    rows = Dataset.from_dict({"text": ["x"] * len(cells), "label": cells}, features=feature)
    task = spec(**changes)
    return read_labels(task, load_rows(task, split, given={split: rows}), split).tolist()


def of_file(path, content, name, split="train", on_bad_row="error", **changes):
    """Labels of a file."""
    task = spec(files={split: folder(path, **{name: content}) + "/" + name}, **changes)
    return read_labels(task, load_rows(task, split, on_bad_row), split).tolist()


# ---- forms ----


@pytest.mark.parametrize(
    "cells",
    [
        [["sport", "weather"], [], ["politics"]],
        [[" SPORT", "Weather", "sport"], [], ["Politics "]],  # case, blanks, twice
        [[0, 2], [], [1]],
        [[0.0, 2.0, 2.0], [], [1.0]],
        [["0", "2"], [], ["1"]],
    ],
)
def test_lists_of_names_or_indices(cells):
    assert of_rows(cells) == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("mark", ["|", ";", ", ", " ", "\t"])
def test_texts_that_a_delimiter_parts(mark):
    cells = [mark.join(["weather", "sport"]), "", f"sport{mark}{mark}Sport ", "  ", "politics"]
    wanted = [[1, 0, 1], [0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert of_rows(cells, label_delimiter=mark) == wanted


def test_without_a_delimiter_a_text_is_one_name_and_a_number_one_index():
    assert of_rows(["weather", "", "Sport"]) == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert of_rows([2, 0]) == [[0, 0, 1], [1, 0, 0]]
    assert of_rows(["a|b", "a"], labels=("a|b", "a")) == [[1, 0], [0, 1]]


def test_classes_of_the_data_in_another_order_go_by_their_names(caplog):
    classes = ClassLabel(names=["Weather", "other", "politics", "SPORT"])
    feature = Features({"text": Value("string"), "label": List(classes)})
    with caplog.at_level("WARNING"):
        assert of_rows([[0, 3], [], [2]], feature=feature) == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert not caplog.records
    with pytest.raises(InputError, match=r"label 'other' in row 1 .* is not one of \['sport', 'politics', 'weather'\]"):
        of_rows([[0], [3, 1]], feature=feature)
    single = Features({"text": Value("string"), "label": classes})
    assert of_rows([0, 3], feature=single) == [[0, 0, 1], [1, 0, 0]]


def test_classes_of_the_data_with_other_names_go_by_their_indices_which_is_said(caplog):
    feature = Features({"text": Value("string"), "label": List(ClassLabel(names=["s", "p", "w"]))})
    assert of_rows([[0, 2], [1]], feature=feature) == [[1, 0, 1], [0, 1, 0]]
    assert "none of the data's labels is declared; they go by their indices: s = sport, p = politics" in caplog.text


INFO = """---
dataset_info:
  features:
  - {name: text, dtype: string}
  - name: label
    sequence:
      class_label: {names: {'0': weather, '1': politics, '2': sport}}
configs:
- config_name: default
  data_files: [{split: train, path: rows.jsonl}]
---
"""


def test_classes_that_a_folder_declares_for_lists_count_for_its_json(tmp_path):
    lines = [{"text": "x", "label": [0, 2]}, {"text": "y", "label": []}, {"text": "z", "label": ["politics"]}]
    content = {"README.md": INFO, "rows.jsonl": "\n".join(json.dumps(row) for row in lines[:2])}
    task = spec(dataset=folder(tmp_path / "data", **content))
    assert read_labels(task, load_rows(task, "train"), "train").tolist() == [[1, 0, 1], [0, 0, 0]]
    mixed = {**content, "rows.jsonl": "\n".join(json.dumps(row) for row in (*lines[1:], {"text": "", "label": ["s"]}))}
    task = spec(dataset=folder(tmp_path / "mixed", **mixed))
    with pytest.raises(InputError, match="label 's' in row 2"):
        read_labels(task, load_rows(task, "train"), "train")


@pytest.mark.parametrize("no, yes", [("0", "1"), ("false", "TRUE"), ("0.0", "1.0"), (" 0", "1 ")])
def test_columns_of_0_and_1(tmp_path, no, yes):
    content = f"text,is_weather,is_sport,is_politics\nx,{yes},{yes},{no}\ny,{no},{no},{no}\n"
    assert of_file(tmp_path, content, "rows.csv", **COLUMNS) == [[1, 0, 1], [0, 0, 0]]


def test_columns_of_two_classes_say_which_is_which():
    features = Features(
        {"text": Value("string"), "a": ClassLabel(names=["yes", "no"]), "b": ClassLabel(names=["0", "1"])}
    )
    rows = Dataset.from_dict({"text": ["x", "y"], "a": [0, 1], "b": [0, 1]}, features=features)
    task = spec(labels=None, label_columns=["a", "b"])
    assert read_labels(task, load_rows(task, "train", given={"train": rows}), "train").tolist() == [[1, 0], [0, 1]]
    features["b"] = ClassLabel(names=["toxic", "fine"])
    rows = load_rows(task, "train", given={"train": rows.cast(features)})
    with pytest.raises(InputError, match=r"label 'toxic' of column 'b' in row 0 .* is not 0 or 1"):
        read_labels(task, rows, "train")


def test_a_frame_of_columns_and_one_of_lists():
    frame = pd.DataFrame(
        {"text": ["x", "y"], "is_sport": [1, 0], "is_politics": [False, True], "is_weather": ["0", "1"]}
    )
    task = spec(**COLUMNS)
    assert read_labels(task, load_rows(task, "train", given={"train": frame}), "train").tolist() == [
        [1, 0, 0],
        [0, 1, 1],
    ]
    frame = pd.DataFrame({"text": ["x", "y"], "label": [["sport"], np.array(["weather", "politics"])]})
    rows = load_rows(spec(), "train", given={"train": frame})
    assert read_labels(spec(), rows, "train").tolist() == [[1, 0, 0], [0, 1, 1]]


# ---- declarations ----


def test_names_of_columns_are_the_labels_unless_there_are_others():
    task = spec(labels=None, label_columns=["toxic", "insult"])
    assert task.labels == task.head.labels == ("toxic", "insult") == task.columns_of_labels
    assert spec(**COLUMNS).labels == NAMES


BAD = [
    ({"labels": None}, "labels is None, wanted one or more different names"),
    ({"label_columns": ("a", "b")}, r"label_columns is \['a', 'b'\], wanted a column for each of \['sport'"),
    ({"label_columns": ("a", "b", "a")}, "wanted a column for each of"),
    ({"label_columns": "toxic"}, "label_columns is 'toxic', wanted a list of texts"),
    ({**COLUMNS, "label_delimiter": "|"}, "wanted either label_columns or label_delimiter, found both"),
    ({"label_delimiter": ""}, "label_delimiter is '', wanted a text such as '|'"),
    ({"label_delimiter": "or"}, "label_delimiter 'or' is part of the label 'sport'; wanted another"),
    ({"metrics": ("accuracy",)}, "unknown metric for task 'topics'"),
    ({"positive_label": "sport"}, "positive_label is 'sport', wanted one of two labels"),
    ({"kind": "classification", **COLUMNS}, "of kind 'classification' has no label_columns; it is for multi_label"),
    (
        {"kind": "regression", "labels": None, "label_range": (0, 1), **COLUMNS},
        "has no label_columns; it is for multi_l",
    ),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_what_a_task_cannot_declare_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        spec(**changes)


# ---- no label, and a missing one ----


@pytest.mark.parametrize("suffix, mark", [("csv", ","), ("tsv", "\t")])
def test_an_empty_cell_of_csv_is_a_row_without_labels_where_the_column_is_parted_which_is_said(
    tmp_path, caplog, suffix, mark
):
    content = f"text{mark}label\nx{mark}sport|weather\ny{mark}\nz{mark}\n"
    with caplog.at_level(logging.INFO, logger="hf_mtl"):
        found = of_file(tmp_path, content, f"rows.{suffix}", label_delimiter="|")
    assert found == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    (record,) = [record.getMessage() for record in caplog.records if "empty cell" in record.getMessage()]
    assert f"rows.{suffix}': 2 of 3 rows have an empty cell in column 'label': they are rows without labels" in record


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_csv_whose_cells_are_all_empty_has_no_labels(tmp_path, split):
    content = "text,label\nx,\ny, \n" if split == "train" else "text,label\nx,\ny,\n"
    if split == "test":
        assert np.isnan(of_file(tmp_path, content, "rows.csv", split, label_delimiter="|")).all()
    else:
        with pytest.raises(InputError, match=r"label None in row 0 .*rows\.csv' is no list of names from \['sport'"):
            of_file(tmp_path, content, "rows.csv", split, label_delimiter="|")


def test_without_a_delimiter_an_empty_cell_of_csv_is_a_missing_label(tmp_path):
    content = "text,label\nx,sport\ny,\n"
    with pytest.raises(InputError, match=r"label None in row 1 .*with label_delimiter an empty cell of csv is one"):
        of_file(tmp_path, content, "rows.csv")
    found = of_file(tmp_path, content, "rows.csv", "test")
    assert found[0] == [1, 0, 0] and np.isnan(found[1]).all()


def test_the_rule_is_one_for_the_files_of_a_split_and_holds_where_rows_are_skipped(tmp_path):
    paths = folder(tmp_path, **{"a.csv": "text,label\nx,sport\ny,\nz,prasie\n", "b.csv": "text,label\nx,\n"})
    for names in (["a.csv", "b.csv"], ["b.csv", "a.csv"]):
        task = spec(files={"train": [f"{paths}/{name}" for name in names]}, label_delimiter="|")
        labels = read_labels(task, load_rows(task, "train", "skip"), "train").tolist()
        assert sorted(labels) == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("cells", [[["sport"], None], [["sport"], [None]]])
def test_null_is_a_missing_label(split, cells):
    with pytest.raises(
        InputError, match=rf"task 'topics', split '{split}': label None in row 1 .* the rows given is n"
    ):
        of_rows(cells, split)


@pytest.mark.parametrize("cell", [None, "NA", " nan", "-1", "null"])
def test_a_row_of_test_may_say_nothing(cell):
    found = of_rows(["sport|weather", cell, ""], "test", label_delimiter="|")
    assert has_label(found).tolist() == [True, False, True]
    assert found[0] == [1, 0, 1] and found[2] == [0, 0, 0]


def test_a_row_of_test_may_lack_some_columns_of_labels(tmp_path):
    content = "text,is_sport,is_politics,is_weather\nx,1,0,0\ny,-1,-1,-1\nz,,0,1\n"
    assert has_label(of_file(tmp_path, content, "rows.csv", "test", **COLUMNS)).tolist() == [True, False, False]
    assert np.isnan(of_file(tmp_path, "text\nx\n", "none.csv", "test", **COLUMNS)).all()
    with pytest.raises(InputError, match="'test': no label column 'is_politics', and there is 'is_sport'"):
        of_file(tmp_path, "text,is_sport\nx,1\n", "some.csv", "test", **COLUMNS)
    with pytest.raises(InputError, match="'train': no label column 'is_politics'; the columns are 'text', 'is_sport'"):
        of_file(tmp_path, "text,is_sport\nx,1\n", "some.csv", **COLUMNS)


# ---- bad rows ----

WRONG = [
    ([["sport"], ["prasie", "Wether"]], {"labels": ("sport", "praise")}, r"label 'prasie' .* \(did you mean 'praise'"),
    ([["sport"], ["Wheather"]], {}, r"label 'Wheather' in row 1 .* is not one of .* \(did you mean 'weather'\?\)"),
    ([["sport"], ["xyz"]], {}, r"label 'xyz' in row 1 \(the first row is 0\) of the rows given is not .*\]; --on"),
    ([[0], [1, 3]], {}, "label 3 in row 1"),
    ([[0], [-1]], {}, "label -1 in row 1"),
    ([[0.0], [1.5]], {}, "label 1.5 in row 1"),
    (["sport", "sport|weather"], {}, r"label 'sport\|weather' in row 1 .*; label_delimiter: '\|' would part it"),
    (["sport", "politics, weather"], {}, r"; label_delimiter: ',' would part it"),
    (["sport", "['sport', 'weather', 'rain']"], {}, "; a list is read from jsonl and parquet"),
    (["sport|wether"], {"label_delimiter": "|"}, r"label 'wether' in row 0 .* \(did you mean 'weather'\?\)"),
    ([[True, False]], {"labels": ("a", "b")}, "label True in row 0"),
    ([["n7"]], {"labels": [f"label {n}" for n in range(25)]}, r"is not one of \['label 0'.*'label 19'\] and 5 more"),
]  # fmt: skip


@pytest.mark.parametrize(("cells", "changes", "message"), WRONG)
def test_a_bad_row_names_the_value_and_the_nearest_name(cells, changes, message):
    with pytest.raises(InputError, match=f"task 'topics', split 'train': .*{message}"):
        of_rows(cells, **changes)


def test_a_bad_cell_of_a_column_is_named_with_the_column(tmp_path):
    content = "text,is_sport,is_politics,is_weather\nx,1,0,0\ny,0,2,maybe\n"
    message = r"label '2' of column 'is_politics' in row 1 .*rows\.csv' is not 0 or 1"
    with pytest.raises(InputError, match=message):
        of_file(tmp_path, content, "rows.csv", **COLUMNS)
    assert of_file(tmp_path, content, "rows.csv", on_bad_row="skip", **COLUMNS) == [[1, 0, 0]]
    with pytest.raises(InputError, match="label None of column 'is_sport' in row 0"):
        of_file(tmp_path, "text,is_sport,is_politics,is_weather\nx,,0,0\n", "rows.csv", **COLUMNS)


def test_lists_of_0_and_1_for_every_label_are_not_taken_for_indices():
    with pytest.raises(
        InputError, match=r"column 'label' of the rows given seem to be 0 or 1 for each of the 3 labels"
    ):
        of_rows([[0, 1, 0], [1, 1, 1]])
    with pytest.raises(InputError, match=r"seem to be 0 or 1 for each of the 2 labels.*label_columns"):
        of_rows([[True, False], [True, True]], labels=("a", "b"))
    with pytest.raises(InputError, match=r"seem to be 0 or 1 for each of the 2 labels"):
        of_rows([[0, 1], [1, 0]], labels=("a", "b"))  # more likely one-hot than both labels, now and then turned round
    assert of_rows([[0, 1], [0, 1]], labels=("a", "b")) == [[1, 1], [1, 1]]
    assert of_rows([[1, 0], [0]], labels=("a", "b")) == [[1, 1], [1, 0]]
    assert of_rows([[1, 1], [1, 0]], labels=("0", "1")) == [[0, 1], [1, 1]]  # names


def test_indices_that_count_from_1_are_told():
    with pytest.raises(InputError, match="seem to count from 1: write 0 to 2, or the names"):
        of_rows([[1, 3], [2]])


def test_numbers_that_are_indices_are_told(caplog):
    with caplog.at_level(logging.INFO, logger="hf_mtl"):
        of_rows([[0, 2]])
    assert "numbers in column 'label' are indices: 0 = sport, 1 = politics, 2 = weather" in caplog.text


# ---- rows for the trainer, predictions, descriptions ----


def given_labels(cells, labelled=True):
    column = Dataset.from_dict({"labels": cells}).with_format("arrow")[:]["labels"].combine_chunks()
    return KIND.check_labels(spec(), column, "here", labelled=labelled)


@pytest.mark.parametrize("cells", [[[1, 0, 1]], [[1.0, 0.0, 0.0]], [[True, False, True], [False] * 3]])
def test_labels_of_0_and_1_are_taken_as_they_are(cells):
    assert given_labels(cells) is None
    assert given_labels(cells, labelled=False) is None


def test_rows_without_labels_have_nan():
    found = given_labels([[1, 0, 1], None], labelled=False)
    assert found.dtype == np.float64 and found[0].tolist() == [1, 0, 1] and np.isnan(found[1]).all()
    assert np.isnan(given_labels([None, None], labelled=False)).all()
    assert given_labels([[np.nan] * 3, [0.0, 1.0, 0.0]], labelled=False)[1].tolist() == [0, 1, 0]


GIVEN = [
    ([[1, 0]], r"here: label \[1, 0\] in row 0 \(the first row is 0\), wanted 0 or 1 for each of \['sport'"),
    ([[1, 0, 1], [1, 0, 2]], r"label \[1, 0, 2\] in row 1"),
    ([[1, 0, 1], [1, 0, 1, 1]], "in row 1"),
    ([[1, 0, 1], []], r"label \[\] in row 1"),
    ([[1, None, 1]], r"label \[1, None, 1\] in row 0"),
    ([[1, 0, 1], None], "no label in row 1 .*; trainer.predict takes rows without labels"),
    ([[0.5, 0.0, 1.0]], r"label \[0.5, 0.0, 1.0\] in row 0"),
    ([[10**18, 0, 1]], "label .* in row 0"),
    ([1, 0], "column 'labels' holds int64, wanted 0 or 1 for each of .*; read_labels"),
    ([["sport"]], r"holds list<item: string>.*read_labels\(task, raw_rows, split\) makes them"),
]


@pytest.mark.parametrize(("cells", "message"), GIVEN)
def test_other_labels_of_rows_that_are_handed_to_the_trainer_are_refused(cells, message):
    with pytest.raises(InputError, match=message):
        given_labels(cells)


def test_predictions_are_names_with_the_delimiter_between_which_is_never_a_tab():
    predictions = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    assert KIND.write(spec(), predictions) == ["sport|weather", "", "politics"]
    assert KIND.write(spec(label_delimiter=", "), predictions)[0] == "sport, weather"
    for mark in ("\t", "\n", "\u2028"):
        assert KIND.write(spec(label_delimiter=mark), predictions)[0] == "sport|weather"


def test_rows_per_label_and_without_any_are_described():
    labels = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 0]])
    assert KIND.describe(spec(), labels) == {"sport": 2, "politics": 0, "weather": 1, "without_any": 1}
