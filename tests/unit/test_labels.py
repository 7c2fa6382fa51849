"""Labels as people write them: by name, by index, as numbers in any spelling and any Arrow type."""

import datetime
import decimal
import json
import logging
import re

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Value, load_from_disk

from hf_mtl import InputError, TaskSpec, load_tasks
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.tasks.labels import read_labels
from hf_mtl.training.run_results import write_predictions

NLI = ("Not_entailment", "entailment")


def task(labels=None, **changes) -> TaskSpec:
    kind = {"kind": "classification", "labels": labels} if labels else {"kind": "regression"}
    if not labels and "label_range" not in changes:
        kind["label_range"] = (0, 5)
    return TaskSpec(**{"name": "t", "text_columns": ("text",), "files": {"train": "rows.parquet"}, **kind, **changes})


def rows_of(label, feature=None) -> Dataset:
    """Rows with this label column: a list or an Arrow array."""
    label = label if isinstance(label, pa.Array) else pa.array(label)
    rows = Dataset(pa.table({"text": ["a"] * len(label), "label": label}))
    return rows if feature is None else rows.cast(Features({"text": Value("string"), "label": feature}))


def classes_of(names, indices) -> Dataset:
    return rows_of(indices, ClassLabel(names=list(names)))


def read(rows: Dataset, labels=None, split="train", **changes) -> list:
    return read_labels(task(labels, **changes), rows, split).tolist()


# ---- class names ----


def test_classes_that_match_in_part_go_by_name():
    rows = classes_of(["entailment", "not_entailment"], [0, 1, 1])
    assert read(rows, NLI) == [1, 0, 0]
    assert read(rows, ("contradiction", "not_entailment", "entailment")) == [2, 1, 1]


def test_a_class_of_the_data_that_is_not_declared_is_an_error_where_a_row_has_it():
    names = ["entailment", "neutral", "not_entailment"]
    assert read(classes_of(names, [0, 2]), NLI) == [1, 0]
    with pytest.raises(InputError, match=r"label 'neutral' in row 1 .* is not one of \['Not_entailment', 'entailm"):
        read(classes_of(names, [0, 1, 2]), NLI)
    with pytest.raises(InputError, match="label '1' in row 1"):  # no index, since the names are known
        read(classes_of(["entailment", "1"], [0, 1]), NLI)


@pytest.mark.parametrize(
    "names, wanted, told",
    [
        (["a", "b"], [0, 1], "a = Not_entailment, b = entailment"),
        (["1", "2"], [0, 1], "1 = Not_entailment, 2 = entailment"),
        (["1", "0"], [1, 0], "1 = entailment, 0 = Not_entailment"),
        (["a", "b", "c"], [0, 1], "a = Not_entailment, b = entailment"),
    ],
)
def test_classes_of_other_names_go_by_index_with_a_warning_of_the_pairs(caplog, names, wanted, told):
    assert read(classes_of(names, [0, 1]), NLI) == wanted
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().endswith(f"none of the data's classes is declared; they go by their indices: {told}")


def test_a_class_of_the_data_beyond_those_declared_is_named():
    with pytest.raises(InputError, match="label 'c' in row 1"):
        read(classes_of(["a", "b", "c"], [0, 2]), NLI)


def test_names_are_told_from_numbers_they_spell():
    assert read(classes_of(["1.0", "0.0"], [0, 1]), ("0", "1")) == [1, 0]


def test_a_test_split_goes_by_name_too_and_keeps_its_unlabelled_rows():
    labels = read(classes_of(["entailment", "not_entailment"], [-1, 1, None]), NLI, "test")
    np.testing.assert_array_equal(labels, [np.nan, 0, np.nan])


@pytest.mark.parametrize("found", ["Positive", "POSITIVE", " positive", "positive\u00a0"])
def test_case_and_blanks_around_a_name_are_ignored_where_that_is_unambiguous(found):
    assert read(rows_of([found, "negative"]), ("negative", "positive")) == [1, 0]
    if found.strip() == "positive":
        assert read(rows_of([found]), ("pOsitive", "positive")) == [1]
        return
    with pytest.raises(InputError, match=re.escape(f"label {found!r} in row 0")):
        read(rows_of([found]), ("positive", "pOsitive"))


def test_the_two_ways_to_write_an_accent_are_one_name():
    assert read(rows_of(["cafe\u0301", "CAF\u00c9"]), ("tea", "caf\u00e9")) == [1, 1]


def test_names_that_differ_by_case_are_met_exactly():
    assert read(rows_of(["us", "US", "Them"]), ("US", "us", "them")) == [1, 0, 2]


@pytest.mark.parametrize(
    "column, labels, wanted",
    [
        (["9007199254740993", "9007199254740992"], ("9007199254740992", "9007199254740993"), [1, 0]),
        ([9007199254740993, 9007199254740992], ("9007199254740992", "9007199254740993"), [1, 0]),
        (pa.array([0.1, 0.5], pa.float32()), ("0.5", "0.1"), [1, 0]),
        (pa.array([0.1, 0.5], pa.float16()), ("0.5", "0.1"), [1, 0]),
        (pa.array([decimal.Decimal("0.10"), decimal.Decimal("1.00")], pa.decimal128(5, 2)), ("1", "0.1"), [1, 0]),
        ([True, False], ("yes", "no"), [0, 1]),
        (["true", "FALSE"], ("yes", "no"), [0, 1]),
    ],
)
def test_numbers_and_truth_values_find_the_names_that_spell_them(column, labels, wanted):
    assert read(rows_of(column), labels) == wanted


# ---- indices ----

ONE_TWO_THREE = ("one", "two", "three")


@pytest.mark.parametrize(
    "column",
    [
        [2, 0, 1],
        ["2", "0", " 1.0 "],
        pa.array([2, 0, 1], pa.uint8()),
        pa.array([2.0, 0.0, 1.0], pa.float16()),
        pa.array([2, 0, 1], pa.decimal128(3, 0)),
    ],
    ids=["integers", "texts", "uint8", "float16", "decimals"],
)
def test_numbers_are_indices_from_0_and_one_line_says_so(caplog, column):
    with caplog.at_level(logging.INFO, logger="hf_mtl"):
        assert read(rows_of(column), ONE_TWO_THREE) == [2, 0, 1]
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage().endswith("column 'label' are indices: 0 = one, 1 = two, 2 = three")


def test_names_need_no_line(caplog):
    with caplog.at_level(logging.INFO, logger="hf_mtl"):
        read(rows_of(["one", "Three"]), ONE_TWO_THREE)
        read(rows_of([1, 3]), ("1", "2", "3"))
        read(rows_of([-1, None]), ONE_TWO_THREE, "test")
        read(classes_of(ONE_TWO_THREE[::-1], [0, 1]), ONE_TWO_THREE)
        read(rows_of([1.0, 2.0]))
    assert not caplog.records


@pytest.mark.parametrize("split, warned", [("train", True), ("validation", False)])
def test_an_index_0_that_never_occurs_in_training_is_warned_of(caplog, split, warned):
    assert read(rows_of([1, 2]), ONE_TWO_THREE, split) == [1, 2]
    assert [record.levelname for record in caplog.records if "index 0 never occurs" in record.getMessage()] == (
        ["WARNING"] if warned else []
    )


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_indices_that_count_from_1_are_refused_and_none_is_skipped(tmp_path, on_bad_row):
    rows_of([1, 2, 3, 2]).to_parquet(tmp_path / "rows.parquet")
    spec = task(ONE_TWO_THREE, files={"train": str(tmp_path / "rows.parquet")})
    message = r"label 3 in row 2 .* is not one of .*; the labels seem to count from 1: write 0 to 2, or the names"
    with pytest.raises(InputError, match=message):
        read_labels(spec, load_rows(spec, "train", on_bad_row), "train")


def test_truth_values_are_indices_of_two_classes_only():
    assert read(rows_of([True, False]), ("bad", "good")) == [1, 0]
    with pytest.raises(InputError, match="label True in row 0"):
        read(rows_of([True, False]), ONE_TWO_THREE)


@pytest.mark.parametrize("text", ["", "NA", "NaN", "nan", "null", " NA "])
def test_texts_for_nothing_are_no_label_unless_a_class_is_named_so(text):
    for spec in ({"labels": ("no", "yes")}, {}):
        np.testing.assert_array_equal(read(rows_of([text]), split="test", **spec), [np.nan])
        with pytest.raises(InputError, match=f"label {text!r} in row 0"):
            read(rows_of([text]), **spec)
    if text:
        assert read(rows_of(["no", text]), ("no", text)) == [0, 1]


# ---- values ----


@pytest.mark.parametrize(
    "cell, value",
    [("3.5", 3.5), (" 3.5 ", 3.5), ("1e0", 1.0), (".5", 0.5), ("4.", 4.0), ("+2", 2.0), ("-0.0", 0.0), ("0005", 5.0)],
)
def test_a_text_that_spells_a_number_is_that_number(cell, value):
    assert read(rows_of([cell, "1"])) == [value, 1.0]


NO_NUMBERS = ["n/a", "1_000", "50%", "0x10", "inf", "-Infinity", "٣", "1 2", "1.0.0", "\u22121", "1e999", "9" * 5000]


@pytest.mark.parametrize("cell", NO_NUMBERS, ids=lambda cell: cell[:9])
def test_a_text_that_spells_none_is_the_bad_row(cell):
    with pytest.raises(InputError, match=r"in row 2 .* is not a number in") as refusal:
        read(rows_of(["3.5", "1.0", cell]))
    assert f"label {cell!r}"[:50] in str(refusal.value)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("cell", ["2,5", "1,000", "1,000.5", " -2,5 "])
def test_a_comma_in_a_number_is_told(cell):
    with pytest.raises(InputError, match=f"label '{cell}' in row 1 .*; ',' is not read: write '.' before decimals"):
        read(rows_of(["3.5", cell]))


@pytest.mark.parametrize("low, high", [(0, 0.1), (0.1, 1), (-0.3, 0.7), (0, 1 / 3)])
@pytest.mark.parametrize("narrow", [pa.float16(), pa.float32(), "fp32 in float64", "fp32 as text"])
def test_a_border_is_in_range_in_every_precision(low, high, narrow):
    column = [np.float32(low), np.float32(high)]
    if isinstance(narrow, pa.DataType):
        low, high = (round(border, 3) for border in (low, high))  # as many digits as float16 has
        column = pa.array(np.asarray([low, high], dtype=narrow.to_pandas_dtype()))
    else:
        column = [str(float(x)) if "text" in narrow else float(x) for x in column]
    assert read(rows_of(column), label_range=(low, high)) == pytest.approx([low, high], rel=1e-6)


@pytest.mark.parametrize("value", [5.000005, -0.000005])
def test_a_value_beyond_the_rounding_of_a_border_is_refused(value):
    for column in ([0.0, value], pa.array([0.0, value], pa.float32())):
        with pytest.raises(InputError, match="in row 1"):
            read(rows_of(column))


def test_classes_of_the_data_are_values_by_their_names(caplog):
    assert read(classes_of(["1", "2", "4.5"], [2, 0, 1])) == [4.5, 1.0, 2.0]
    assert not caplog.records
    assert read(classes_of(["bad", "good"], [1, 0])) == [1.0, 0.0]
    assert "they go by their indices: bad = 0, good = 1" in caplog.text


# ---- types of columns ----

DAY = datetime.date(2024, 1, 31)
OTHER_TYPES = {
    "date32": (pa.array([DAY]), "2024-01-31"),
    "timestamp": (pa.array([datetime.datetime(2024, 1, 31, 12)]), "2024-01-31 12:00:00"),
    "time": (pa.array([datetime.time(12, 30)]), "12:30:00"),
    "duration": (pa.array([datetime.timedelta(1)]), "timedelta"),
    "list": (pa.array([[1, 2]]), r"\[1, 2\]"),
    "struct": (pa.array([{"a": 1}]), "{'a': 1}"),
    "binary": (pa.array([b"\xff"]), r"b'\\xff'"),
    "null": (pa.nulls(1), "None"),
    "a long list": (pa.array([list(range(10_000))]), r"\[0, 1, 2.{0,80}\.\.\."),
}


@pytest.mark.parametrize("column, found", OTHER_TYPES.values(), ids=OTHER_TYPES)
@pytest.mark.parametrize("labels", [None, ("bad", "good")])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_column_of_another_type_is_refused_with_what_it_holds(column, found, labels, split):
    if found == "None" and split == "test":
        np.testing.assert_array_equal(read(rows_of(column), labels, split), [np.nan])
        return
    with pytest.raises(InputError, match=f"label .*{found}.* in row 0"):
        read(rows_of(column), labels, split)


@pytest.mark.parametrize("column", [[True, False], pa.array([np.True_])])
def test_truth_values_are_no_values(column):
    with pytest.raises(InputError, match=r"label True in row 0 .* is not a number in"):
        read(rows_of(column), label_range=(0, 1))


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.string()])
def test_texts_of_every_arrow_type_are_read(kind):
    assert read(rows_of(pa.array(["good", "Bad"], kind)), ("bad", "good")) == [1, 0]
    assert read(rows_of(pa.array(["2.5", "1"], kind))) == [2.5, 1.0]


def test_decimals_huge_integers_and_values_of_a_formatted_data_set_are_read(tmp_path):
    assert read(rows_of(pa.array([decimal.Decimal("3.50"), None], pa.decimal128(5, 2))), split="test")[0] == 3.5
    with pytest.raises(InputError, match=r"label 9\.99 in row 0"):
        read(rows_of(pa.array([decimal.Decimal("9.99")])))
    assert read(rows_of([2**62]), label_range=(0, 1e30)) == [2.0**62]
    rows_of([1, 0]).save_to_disk(tmp_path / "rows")
    for kind in ("numpy", "torch", "pandas"):
        assert read(load_from_disk(tmp_path / "rows").with_format(kind), ("bad", "good")) == [1, 0]


# ---- files ----

CELLS = ["3.5", "1.0", "n/a"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_the_bad_row_alone_is_named_and_skipped(tmp_path, caplog, suffix):
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        rows_of(CELLS).to_parquet(path)
    elif suffix == ".jsonl":
        cells = [3.5, "1.0", "n/a"]
        path.write_text("".join(json.dumps({"text": "a", "label": cell}) + "\n" for cell in cells))
    else:
        mark = {".csv": ",", ".tsv": "\t"}[suffix]
        path.write_text(
            "".join(
                f"{text}{mark}{cell}\n" for text, cell in zip(["text", "a", "b", "c"], ["label", *CELLS], strict=True)
            )
        )
    spec = task(files={"train": str(path)})
    with pytest.raises(InputError, match="label 'n/a' in row 2"):
        read_labels(spec, load_rows(spec, "train"), "train")
    assert read_labels(spec, load_rows(spec, "train", "skip"), "train").tolist() == [3.5, 1.0]
    assert "1 of 3 rows" in caplog.text
    assert "row 2: label 'n/a' is not a number" in caplog.text


# ---- names that can be declared ----


@pytest.mark.parametrize("name", ["", " ", *(f"a{mark}b" for mark in "\t\n\r\x0b\x1e\x85\u2028\0\ud800")])
def test_a_name_that_a_line_cannot_hold_or_show_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="task 't': labels has the name"):
        task(("b", name))
    if "\ud800" not in name:
        row = {"kind": "classification", "text_columns": "text", "labels": ["b", name], "files": {"train": "a.csv"}}
        (tmp_path / "tasks.yaml").write_text(json.dumps({"tasks": {"t": row}}))
        with pytest.raises(InputError, match=r"tasks\.yaml': task 't': labels has the name"):
            load_tasks(str(tmp_path / "tasks.yaml"))


def test_names_that_look_alike_or_are_no_texts_are_refused():
    for labels in (("caf\u00e9", "cafe\u0301"), ("pos", "pos ")):
        with pytest.raises(InputError, match="look different"):
            task(labels)
    for labels in ("ab", 5, (0, 1), (["a"], "b"), {"b": 1, "a": 0}):
        with pytest.raises(InputError, match="wanted a list of texts"):
            task(labels)
    assert task(["a", "b"]).labels == ("a", "b")


def test_predictions_are_read_back_as_they_were_written(tmp_path):
    labels = (' "quoted', "a,b", "NA", "c\\td", "naïve 漢字 👩‍🚀", "'", "US", "us")
    spec = task(labels)
    write_predictions(spec, np.arange(len(labels)), tmp_path / "t.tsv")
    lines = (tmp_path / "t.tsv").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t") for line in lines[1:]] == [[str(i), label] for i, label in enumerate(labels)]
    again = task(labels, files={"train": str(tmp_path / "t.tsv")}, text_columns=("index",), label_column="prediction")
    assert read_labels(again, load_rows(again, "train"), "train").tolist() == list(range(len(labels)))
