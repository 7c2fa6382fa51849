"""Whatever names, numbers or tags a table has, in any format, `auto` gives them back; rows without are left out."""

import csv
import json
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hf_mtl import TaskSpec, resolve_tasks
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.tasks.cells import MISSING
from hf_mtl.tasks.labels import read_labels

QUICK = settings(deadline=None, max_examples=40, derandomize=True)
WORDS = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=5).map(str.strip)
ODD = st.sampled_from(
    ["0", "1", "01", "1.0", "2.5", "-1", "1e3", "true", "False", "yes", "no", "a b", "[c]", '"d"', "A"]
)
NAMES = (WORDS | ODD).filter(lambda name: name not in MISSING)
LABELS = st.lists(NAMES, min_size=2, max_size=6, unique_by=lambda name: unicodedata.normalize("NFC", name))
NUMBERS = st.lists(st.integers(-(10**12), 10**12), min_size=2, max_size=6, unique=True)
ROWS = st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=8)


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def drawn(labels, rows):
    """A column in which every label occurs, and every row but these may have none."""
    return labels + [None if missing else labels[number % len(labels)] for number, missing in rows]


def write(path, cells):
    """A file as csv, json or pyarrow write it; the texts are the numbers of the rows."""
    texts = [f"row {number}" for number in range(len(cells))]
    match path.suffix:
        case ".csv":
            with open(path, "w", newline="", encoding="utf-8") as stream:
                csv.writer(stream).writerows([["text", "label"], *zip(texts, cells, strict=True)])
        case ".jsonl":
            rows = [{"text": text, "label": cell} for text, cell in zip(texts, cells, strict=True)]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        case ".parquet":
            pyarrow.parquet.write_table(pa.table({"text": texts, "label": cells}), path)


def read(cells, formats=("csv", "jsonl", "parquet"), **changes):
    """The task as resolved, its rows by number, and their labels, which do not depend on the format."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for suffix in formats:
            path = Path(folder) / f"rows.{suffix}"
            write(path, cells)
            values = {"kind": "classification", "labels": "auto", "missing_label": "skip", "text_columns": ("text",)}
            (spec,) = resolve_tasks([TaskSpec(name="t", files={"train": str(path)}, **{**values, **changes})])
            rows = load_rows(spec, "train")
            numbers = [int(text.split()[-1]) for text in rows["text"]]
            results.append((spec, numbers, read_labels(spec, rows, "train")))
    for spec, numbers, labels in results[1:]:
        assert (spec.labels, spec.label_range) == (results[0][0].labels, results[0][0].label_range)
        assert numbers == results[0][1] and np.array_equal(labels, results[0][2])
    return results[0]


@QUICK
@given(labels=LABELS, rows=ROWS)
def test_names_come_back_as_they_were_written_and_rows_without_are_left_out(labels, rows):
    cells = drawn(labels, rows)
    spec, numbers, found = read(cells)
    assert sorted(spec.labels) == sorted(labels)
    assert numbers == [number for number, cell in enumerate(cells) if cell is not None]
    assert [spec.labels[label] for label in found] == [cell for cell in cells if cell is not None]


@QUICK
@given(labels=NUMBERS, rows=ROWS)
def test_whole_numbers_are_sorted_by_number(labels, rows):
    cells = drawn(labels, rows)
    spec, numbers, found = read(cells)
    assert spec.labels == tuple(map(str, sorted(labels)))
    assert [int(spec.labels[label]) for label in found] == [cells[number] for number in numbers]
    assert len(numbers) == len(cells) - cells.count(None)


@QUICK
@given(labels=LABELS, rows=ROWS, data=st.data())
def test_names_do_not_depend_on_the_order_of_the_rows(labels, rows, data):
    cells = drawn(labels, rows)
    shuffled = data.draw(st.permutations(cells))
    assert read(cells, ["jsonl"])[0].labels == read(shuffled, ["jsonl"])[0].labels


@QUICK
@given(values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8, unique=True), rows=ROWS)
def test_every_value_is_in_the_range_that_is_found(values, rows):
    assume(max(values) - min(values) > 1e-6)
    cells = drawn(values, rows)
    spec, numbers, found = read(cells, kind="regression", labels=None, label_range="auto")
    assert spec.label_range == (min(values), max(values))
    assert found.tolist() == [cells[number] for number in numbers]


@QUICK
@given(labels=LABELS, data=st.data())
def test_sets_of_names_come_back_from_texts_with_a_delimiter_and_from_lists(labels, data):
    assume(not any("|" in name for name in labels))
    sets = st.lists(st.sampled_from(labels), max_size=3, unique=True)
    rows = [[name] for name in labels] + data.draw(st.lists(sets, max_size=5))
    for cells, formats in (["|".join(row) for row in rows], ["csv", "jsonl"]), (rows, ["jsonl", "parquet"]):
        spec, _, found = read(cells, formats, kind="multi_label", label_delimiter="|")
        assert sorted(spec.labels) == sorted(labels)
        assert [{spec.labels[place] for place in np.flatnonzero(row)} for row in found] == list(map(set, rows))


@QUICK
@given(labels=LABELS, rows=st.lists(st.lists(st.integers(0, 5), max_size=4) | st.none(), max_size=5))
def test_tags_come_back_as_they_were_written(labels, rows):
    labels = [name for name in labels if len(name.split()) == 1]
    assume(len(labels) > 1)
    tags = [labels] + [row and [labels[number % len(labels)] for number in row] for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        words = [row or ["x"] for row in tags]
        lines = [json.dumps({"words": each, "label": row}) for each, row in zip(words, tags, strict=True)]
        path.write_text("\n".join(lines), encoding="utf-8")
        values = {"kind": "token_classification", "text_columns": ("words",), "metrics": ("token_accuracy",)}
        declared = TaskSpec(name="t", files={"train": str(path)}, labels="auto", missing_label="skip", **values)
        (spec,) = resolve_tasks([declared])
        found = read_labels(spec, load_rows(spec, "train"), "train")
    assert sorted(spec.labels) == sorted(labels)
    assert [[spec.labels[tag] for tag in row] for row in found] == [row for row in tags if row]
