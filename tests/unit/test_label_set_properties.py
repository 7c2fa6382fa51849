"""However a table writes which labels a row has, the same labels are read."""

import csv
import json
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hf_mtl import TaskSpec
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.tasks.labels import bad_labels, read_labels
from hf_mtl.training.run_results import write_predictions

QUICK = settings(deadline=None, max_examples=40, derandomize=True)
WORDS = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=5).map(str.strip)
NAMES = WORDS | st.sampled_from(["0", "1", "2.5", "-1", "true", "False", "yes", "no", "NA", "nan", "a b", "[c]", '"d"'])
LABELS = st.lists(NAMES.filter(bool), min_size=1, max_size=5, unique_by=lambda name: unicodedata.normalize("NFC", name))
DELIMITERS = st.sampled_from(["|", ";", ",", ", ", "::", "\t", " / "])


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def read(path, labels, split="train", **changes):
    spec = TaskSpec(
        name="t", kind="multi_label", text_columns=("text",), labels=labels, files={split: str(path)}, **changes
    )
    rows = load_rows(spec, split)
    assert not bad_labels(spec, rows, split)
    return read_labels(spec, rows, split)


def write_csv(path, header, rows):
    with open(path, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps({"text": "x", "label": row}) + "\n" for row in rows), encoding="utf-8")


def write_parquet(path, **columns):
    pyarrow.parquet.write_table(pa.table(columns), path)


@QUICK
@given(st.data(), LABELS, DELIMITERS)
def test_every_form_of_a_table_has_the_same_labels(data, labels, delimiter):
    rows = data.draw(st.lists(st.lists(st.sampled_from(labels), max_size=4), min_size=1, max_size=6))
    assume(any(rows))  # a csv whose label cells are all empty says nothing
    assume(all(name not in delimiter and delimiter.strip(" ") not in name for name in labels))
    assume(all([part.strip() for part in delimiter.join(row).split(delimiter)] == row for row in rows if row))
    wanted = np.array([[int(name in row) for name in labels] for row in rows])
    columns = [f"is {number}" for number in range(len(labels))]
    texts, hot = ["x"] * len(rows), wanted.tolist()
    spelled = data.draw(st.sampled_from([str, bool, lambda one: str(bool(one)).upper(), float, "{}.0".format]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_jsonl(path / "names.jsonl", rows)
        write_jsonl(path / "texts.jsonl", [delimiter.join(row) for row in rows])
        write_csv(path / "texts.csv", ["text", "label"], [["x", delimiter.join(row)] for row in rows])
        write_csv(path / "hot.csv", ["text", *columns], [["x", *map(spelled, row)] for row in hot])
        write_parquet(path / "names.parquet", text=texts, label=pa.array(rows, pa.list_(pa.string())))
        write_parquet(path / "large.parquet", text=texts, label=pa.array(rows, pa.large_list(pa.large_string())))
        by_column = {name: [row[place] for row in hot] for place, name in enumerate(columns)}
        truths = {name: pa.array(map(bool, cells), pa.bool_()) for name, cells in by_column.items()}
        write_parquet(path / "hot.parquet", text=texts, **by_column)
        write_parquet(path / "truths.parquet", text=texts, **truths)
        found = {
            "names.jsonl": read(path / "names.jsonl", labels),
            "names.parquet": read(path / "names.parquet", labels),
            "large.parquet": read(path / "large.parquet", labels),
            **{
                name: read(path / name, labels, label_delimiter=delimiter)
                for name in ("texts.jsonl", "texts.csv", "names.jsonl")
            },
            **{
                name: read(path / name, labels, label_columns=columns)
                for name in ("hot.csv", "hot.parquet", "truths.parquet")
            },
        }
    for form, values in found.items():
        assert values.dtype == np.int64 and np.array_equal(values, wanted), form


@QUICK
@given(st.data(), st.integers(1, 6))
def test_indices_mean_the_labels_in_their_order(data, num_labels):
    labels = [f"label {'abcdef'[number]}" for number in range(num_labels)]
    rows = data.draw(st.lists(st.lists(st.integers(0, num_labels - 1), max_size=3), min_size=1, max_size=6))
    wanted = np.array([[int(number in row) for number in range(num_labels)] for row in rows])
    assume(any(len(row) != num_labels or not set(row) <= {0, 1} for row in rows))  # which would be vectors of 0 and 1
    assume(any(0 in row for row in rows))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_jsonl(path / "rows.jsonl", rows)
        write_parquet(path / "rows.parquet", text=["x"] * len(rows), label=pa.array(rows, pa.list_(pa.int16())))
        for name in ("rows.jsonl", "rows.parquet"):
            assert np.array_equal(read(path / name, labels), wanted), name


@QUICK
@given(st.data(), LABELS | st.just(["a:", "b"]), st.none() | DELIMITERS, st.booleans())
def test_predictions_can_be_read_back(data, labels, delimiter, with_bar):
    labels = [*labels, "a|b"] if with_bar and "a|b" not in labels else labels
    assume(delimiter is None or not any(delimiter in label.strip() for label in labels))
    spec = TaskSpec(name="t", kind="multi_label", text_columns=("x",), labels=labels, label_delimiter=delimiter)
    there = st.lists(st.booleans(), min_size=len(labels), max_size=len(labels))
    rows = data.draw(st.lists(there, min_size=1, max_size=4))
    with tempfile.TemporaryDirectory() as folder:
        write_predictions(spec, np.array(rows), Path(folder) / "t.tsv")
        lines = (Path(folder) / "t.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
    cells = [line.split("\t", 1)[1] for line in lines]
    mark = "|" if delimiter in (None, "\t") else delimiter
    as_json = any(label.split(mark) != [label] or (label + mark).find(mark) < len(label) for label in labels)
    found = [json.loads(cell) if as_json else cell.split(mark) if cell else [] for cell in cells]
    assert found == [[label for label, is_there in zip(labels, row, strict=True) if is_there] for row in rows]


def test_pandas_reads_lists_of_names_that_have_the_bar(tmp_path):
    spec = TaskSpec(name="t", kind="multi_label", text_columns=("x",), labels=("a|b", "a", 'say "b"'))
    write_predictions(spec, np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0]]), tmp_path / "t.tsv")
    cells = pd.read_csv(tmp_path / "t.tsv", sep="\t")["prediction"]
    assert [json.loads(cell) for cell in cells] == [["a|b", 'say "b"'], ["a"], []]
