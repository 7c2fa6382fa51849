"""Labels are read as the task declares them: names, indices, and numbers in a range."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from table_files import load, task, write

from hf_mtl import InputError
from hf_mtl.tasks.labels import bad_labels, has_label, read_labels

NAMES = ("negative", "neutral", "positive")


@pytest.mark.parametrize(
    "column",
    [
        ["positive", "negative", "neutral"],
        [2, 0, 1],
        [2.0, 0.0, 1.0],
    ],
    ids=["names", "indices", "floats"],
)
def test_names_and_indices_give_the_same_labels(column):
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "label": column})
    labels = read_labels(task(labels=NAMES), rows, "train")
    assert (labels.tolist(), labels.dtype) == ([2, 0, 1], np.int64)


@pytest.mark.parametrize("names", [NAMES, ("positive", "negative", "neutral"), NAMES[::-1]])
def test_class_labels_in_another_order_are_matched_by_name(names):
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(names))})
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "label": ["positive", "negative", "neutral"]}, features=features)
    assert read_labels(task(labels=NAMES), rows, "train").tolist() == [2, 0, 1]


def test_class_labels_of_other_names_go_by_their_index():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["0", "1", "2"])})
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "label": [2, 0, 1]}, features=features)
    assert read_labels(task(labels=NAMES), rows, "train").tolist() == [2, 0, 1]


@pytest.mark.parametrize("column", [[5, 1, 3], ["5", "1", "3"], [5.0, 1.0, 3.0]])
def test_numbers_that_are_class_names_are_read_as_names(column):
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "label": column})
    assert read_labels(task(labels=tuple("12345")), rows, "train").tolist() == [4, 0, 2]
    assert read_labels(task(labels=tuple("54321")), rows, "train").tolist() == [0, 4, 2]
    with pytest.raises(InputError, match=r"label '?5(.0)?'? in row 0 .* is not one of \['0', '1', '3'\]"):
        read_labels(task(labels=tuple("013")), rows, "train")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(
    "labels, column, wanted",
    [
        (("true", "false"), [True, False, True], [0, 1, 0]),
        (("False", "True"), [True, False, True], [1, 0, 1]),
        (("bad", "good"), [True, False, True], [1, 0, 1]),
        (("-1", "0", "1"), [-1, 1, 0], [0, 2, 1]),
        (("1234567", "7654321"), [7654321, 1234567, 1234567], [1, 0, 0]),
        (("0", "0.5", "1"), [0.5, 0.0, 1.0], [1, 0, 2]),
        (("01", "02"), [2, 1, 1], [1, 0, 0]),
    ],
)
def test_names_that_spell_numbers_or_truth_values_are_meant_by_them(tmp_path, suffix, labels, column, wanted):
    path = write(pd.DataFrame({"text": ["a", "b", "c"], "label": column}), tmp_path / f"rows{suffix}")
    for split in ("train", "test"):
        assert load(path, split, labels=labels)[1] == wanted


@pytest.mark.parametrize("labels, value", [(("1", "many"), 0), (("1", "01"), 1), (("true", "unknown"), False)])
def test_what_no_name_or_more_than_one_spells_is_refused(labels, value):
    rows = Dataset.from_dict({"text": ["a"], "label": [value]})
    with pytest.raises(InputError, match=f"label {value} in row 0"):
        read_labels(task(labels=labels), rows, "train")


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize(
    "column, found",
    [([0, 3], "3"), ([0, -1], "-1"), ([0, 0.5], "0.5"), (["negative", "posit"], "'posit'"), ([0, None], "None")],
)
def test_a_label_outside_the_classes_is_refused_by_row_and_value(split, column, found):
    rows = Dataset.from_dict({"text": ["a", "b"], "label": column})
    with pytest.raises(InputError, match=rf"task 't', split '{split}': label {found} in row 1 .* is not one of"):
        read_labels(task(labels=NAMES), rows, split)


@pytest.mark.parametrize("value", [5.1, -0.1, np.nan, np.inf, None])
def test_a_label_outside_the_range_is_refused_by_row_and_value(value):
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [0.0, value]})
    with pytest.raises(InputError, match=rf"label {value} in row 1 .* is not a number in \[0.0, 5.0\]"):
        read_labels(task(label_range=(0.0, 5.0)), rows, "train")


def test_values_of_a_range_are_float64():
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 5]})
    labels = read_labels(task(label_range=(0, 5)), rows, "train")
    assert (labels.tolist(), labels.dtype) == ([0, 5], np.float64)


@pytest.mark.parametrize("column", [[-1, -1, 1], [None, None, 1], [np.nan, np.nan, 1.0]])
@pytest.mark.parametrize("kind", [{"labels": NAMES}, {"label_range": (0, 5)}, {"labels": ("1", "2")}])
def test_rows_of_a_test_split_may_lack_their_label(column, kind):
    labels = read_labels(task(**kind), Dataset.from_dict({"text": ["a", "b", "c"], "label": column}), "test")
    wanted = 0 if kind == {"labels": ("1", "2")} else 1
    np.testing.assert_array_equal(labels, [np.nan, np.nan, wanted])


def test_a_test_split_may_lack_the_label_column():
    rows = Dataset.from_dict({"text": ["a", "b"]})
    np.testing.assert_array_equal(read_labels(task(), rows, "test"), [np.nan, np.nan])
    with pytest.raises(InputError, match="split 'validation': no label column 'label'; the columns are 'text'"):
        read_labels(task(), rows, "validation")


@pytest.mark.parametrize("split", ["train", "test"])
def test_minus_1_inside_a_declared_range_is_a_label(split):
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [-1.0, 1.0]})
    assert read_labels(task(label_range=(-1, 1)), rows, split).tolist() == [-1, 1]


def test_a_wrong_label_of_a_test_split_is_refused_all_the_same():
    for label, found in ((7, "7"), ("posit", "'posit'")):
        rows = Dataset.from_dict({"text": ["a"], "label": [label]})
        with pytest.raises(InputError, match=f"label {found} in row 0"):
            read_labels(task(labels=NAMES), rows, "test")


@pytest.mark.parametrize("kind", ["classification", "multi_label", "token_classification"])
def test_many_bad_labels_share_the_words_about_them(kind):
    names = ("O", *(f"class-{number}" for number in range(1000)))
    cells = [f"bad {number}" for number in range(50)]
    texts = [["a"] for _ in cells] if kind == "token_classification" else cells
    rows = Dataset.from_dict({"text": texts, "label": [[c] for c in cells] if kind != "classification" else cells})
    metrics = {"metrics": ("token_accuracy",)} if kind == "token_classification" else {}
    bad = bad_labels(task(kind=kind, labels=names, **metrics), rows, "train")
    assert len(bad) == 50 and len({id(after) for _, after in bad.values()}) <= 2
    assert all("'class-18'] and 981 more" in after and len(after) < 600 for _, after in bad.values())


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_which_rows_have_a_label_is_found_in_little_memory(dtype):
    labels = np.ones((20_000, 50), dtype=dtype)
    missing = [] if dtype == np.int64 else [3, 7]
    labels[missing, 1] = np.nan if missing else 1
    tracemalloc.start()
    there = has_label(labels)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.flatnonzero(~there).tolist() == missing
    assert most < labels.nbytes / 2
