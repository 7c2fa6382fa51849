"""Tables that are written in other ways than ours: read as they are meant, or refused in one sentence."""

import csv
import json
import time
import zipfile
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from table_files import folder, task

from hf_mtl import InputError
from hf_mtl.data.data_splits import split_names
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.inference.file_reader import read_texts
from hf_mtl.tasks.labels import read_labels
from hf_mtl.tasks.tables import read_records
from hf_mtl.tasks.task_file import load_tasks
from hf_mtl.tasks.text_files import format_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def written(path: Path, content: str | bytes) -> str:
    return f"{folder(path.parent, **{path.name: content})}/{path.name}"


def table(text: str) -> str:
    return f"text,label\n{text},good\n"


def texts_of(split="train", **source) -> list[str]:
    return load_rows(task(**source), split)["text"][:]


def labels_of(split="train", on_bad_row="error", **source) -> list[float]:
    rows = load_rows(task(**source), split, on_bad_row)
    return read_labels(task(**source), rows, split).tolist()


def predicted(path: str, columns=None) -> list[tuple[str, ...]]:
    return list(read_texts(path, format_of(path), columns))


# ---- headers ----


@pytest.mark.parametrize("rows", ['a,1,good\nb,2",bad\n', '"a",1,good\nb,2,bad\n', 'a,1,good\nb,"2",bad\n'])
def test_a_quote_in_an_unquoted_name_is_a_character(tmp_path, rows):
    path = written(tmp_path / "a.csv", f'text,size 5",label\n{rows}')
    assert texts_of(files={"train": path}) == ["a", "b"] and predicted(path) == [("a",), ("b",)]
    assert 'size 5"' in load_rows(task(files={"train": path}), "train").column_names


def test_a_header_with_a_quote_takes_no_more_time_than_another(tmp_path):
    rows = "some text that is of usual length here and there,1,good\n" * 40_000
    seconds = []
    for name in ("size", 'size"', '"size'):
        path = written(tmp_path / "a.csv", f"text,{name},label\n{rows}")
        start = time.process_time()
        try:
            assert sum(1 for _ in read_records(path, "csv")) == 40_000
        except InputError as error:
            assert name == '"size' and "the header is no csv: a quote opens and is never closed" in str(error)
        seconds.append(time.process_time() - start)
    assert max(seconds[1:]) < 5 * seconds[0] + 0.5


NAMES = st.lists(st.text(st.sampled_from('ab"; ,\t|\n'), min_size=1), min_size=2, max_size=4, unique=True)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=NAMES, num_rows=st.integers(0, 3))
def test_no_row_is_lost_whatever_the_names(tmp_path_factory, names, num_rows):
    path = tmp_path_factory.mktemp("set") / "a.csv"
    names = ["text", *(f"{name}x" for name in names)]
    rows = [[f"{row}-{column}" for column in range(len(names))] for row in range(num_rows)]
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([names, *rows])
    found = list(read_records(str(path), "csv", (names,)))
    assert found == [dict(zip(names, row, strict=True)) for row in rows]


def test_excels_first_line_names_the_delimiter(tmp_path):
    path = written(tmp_path / "a.csv", "sep=;\r\ntext;label,a\r\nx, y;1\r\n")
    assert list(read_records(path, "csv")) == [{"text": "x, y", "label,a": "1"}]
    path = written(tmp_path / "b.csv", '"sep=^"\ntext^label\nx^good\n')
    assert texts_of(files={"train": path}) == ["x"]


# ---- ends of lines ----


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n", "\r"])
@pytest.mark.parametrize("form", ["csv", "tsv", "txt"])
def test_line_ends_of_any_kind_give_the_same_rows(tmp_path, form, end):
    mark = {"csv": ",", "tsv": "\t"}.get(form, "")
    lines = ["a", "b"] if form == "txt" else [f"text{mark}label", f"a{mark}good", f"b{mark}bad"]
    path = written(tmp_path / f"a.{form}", "".join(line + end for line in lines))
    assert predicted(path) == [("a",), ("b",)]
    if form != "txt":
        assert texts_of(files={"train": path}) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "row"),
    [
        ("a.tsv", "text\tlabel\na\tgood\rb\tbad\r", "row 0 "),
        ("b.tsv", "text\tlabel\ra\tgood\nb\tbad\n", "row 0 "),
        ("c.tsv", "text\tlabel\na\tgood\nb\rc\tbad\n", "row 1 "),
        ("d.txt", "a\nb\rc\n", "row 1 "),
        ("e.txt", "a\rb\nc\n", "row 1 "),
        ("f.csv", "text,label\na,good\rb,bad\r", "row 0 "),
        ("g.csv", "text,label\ra,good\nb,bad\n", "row 0 "),
    ],
)
def test_ends_of_several_kinds_are_refused(tmp_path, name, content, row):
    path = written(tmp_path / name, content)
    with pytest.raises(InputError, match=f"{row}.*(line end of another kind|new-line character)"):
        predicted(path)


# ---- folders ----

MINE = "---\nconfigs: [{config_name: default, data_files: [{split: train, path: %s}]}]\n---\n"


@pytest.mark.parametrize(
    ("split", "files"),
    [
        ("validation", ("train.csv", "dev_matched.csv", "dev_mismatched.csv")),
        ("validation", ("validation_matched-00000-of-00001.csv", "validation_mismatched-00000-of-00001.csv")),
        ("train", ("train.csv", "train (1).csv")),
        ("train", ("train.csv", "train_small.csv")),
        ("train", ("train.csv", "train.old.csv")),
        ("train", ("train.csv", "train_2.csv")),
        ("train", ("train_v1.csv", "train_v2.csv")),
        ("train", ("imdb.csv", "yelp.csv")),
        ("validation", ("dev.csv", "val.csv")),
    ],
)
def test_only_numbered_parts_are_joined(tmp_path, split, files):
    source = folder(tmp_path / "set", **{name: table(name) for name in files})
    with pytest.raises(InputError, match=r"holds several data sets of split .*; name the folder of one") as refusal:
        texts_of(split, dataset=source)
    assert all(name in str(refusal.value) for name in files[-2:])
    assert texts_of("train", files={"train": f"{source}/{files[-1]}"}) == [files[-1]]


@pytest.mark.parametrize("place", ["", "data/"])
@pytest.mark.parametrize("tail", ["", "-00000-of-00001"])
def test_a_task_chooses_among_splits_by_the_names_of_files(tmp_path, place, tail):
    (mnli,) = load_tasks("glue", tasks=["mnli"])
    names = ("train", *(f"{split}_{genre}" for split in ("validation", "test") for genre in ("matched", "mismatched")))
    for name in names:
        path = tmp_path / "set" / f"{place if tail else ''}{name}{tail}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": [name], "label": ["good"]}), path)
    source = {"dataset": str(tmp_path / "set"), "splits": mnli.splits}
    assert {split: texts_of(split, **source) for split in ("train", "validation", "test")} == {
        "train": ["train"],
        "validation": ["validation_matched"],
        "test": ["test_matched"],
    }


@pytest.mark.parametrize(
    "files",
    [
        ("train-00000-of-00003", "train-00002-of-00003"),
        ("train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"),
        ("train-00000-of-00001-ab", "train-00000-of-00001-cd"),
        ("train-00001-of-00002",),
    ],
)
@pytest.mark.parametrize("place", ["", "data/", "train/"])
def test_missing_and_surplus_parts_are_refused(tmp_path, place, files):
    source = folder(tmp_path / "set", **{f"{place}{name}.csv": table(name) for name in files})
    with pytest.raises(InputError, match="holds not each part of split 'train' once"):
        texts_of(dataset=source)


def test_a_file_named_twice_is_refused(tmp_path):
    path = written(tmp_path / "x.csv", table("a"))
    with pytest.raises(InputError, match=r"files names '.*x.csv' twice for 'train'"):
        task(files={"train": [path, f"{tmp_path}/./x.csv"]})


@pytest.mark.parametrize("suffix", [".bz2", ".xz", ".zst", ".zip"])
@pytest.mark.parametrize("name", ["train.tsv", "test.csv", "other.jsonl"])
def test_compressed_tables_are_refused(tmp_path, name, suffix):
    source = folder(tmp_path / "set", **{name + suffix: "", "train.csv": table("a")})
    with zipfile.ZipFile(f"{source}/{name}{suffix}", "w") as archive:
        archive.writestr(name, table("NA"))
    with pytest.raises(InputError, match=f"{name}{suffix}'.* compressed; decompress it"):
        texts_of(dataset=source)
    folder(tmp_path / "set", **{"README.md": MINE % (name + suffix)})
    with pytest.raises(InputError, match=f"{name}{suffix}' is compressed; decompress it"):
        texts_of(dataset=source)
    with pytest.raises(InputError, match=r"is none of .*; decompress it"):
        task(files={"train": f"{source}/{name}{suffix}"})


def test_other_files_of_a_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"'train.txt', which is no table; wanted csv"):
        texts_of(dataset=folder(tmp_path / "set", **{"train.txt": "a\n"}))
    rows = Dataset.from_dict({"text": ["a"], "label": ["good"]})
    rows.save_to_disk(tmp_path / "deep" / "imdb" / "train")
    with pytest.raises(InputError, match=r"a saved dataset in 'imdb/train'; wanted dataset: "):
        texts_of(dataset=str(tmp_path / "deep"))
    with pytest.raises(InputError, match=r"file 'x\\x00.csv' has a NUL character"):
        task(files={"train": "x\0.csv"})


def test_splits_that_were_saved_one_by_one_are_read(tmp_path):
    for split in ("train", "test"):
        Dataset.from_dict({"text": [split], "label": ["good"]}).save_to_disk(tmp_path / "set" / split)
    source = str(tmp_path / "set")
    assert [texts_of(split, dataset=source) for split in ("train", "test")] == [["train"], ["test"]]
    assert split_names(task(dataset=source)) == ["test", "train"]


# ---- labels and places ----

README = """---
configs: [{config_name: default, data_files: [{split: train, path: rows.csv}]}]
dataset_info:
  features:
  - {name: text, dtype: string}
  - {name: label, dtype: {class_label: {names: {'0': %s, '1': %s}}}}
---
"""


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["good", "unknown", "bad"], ["good", "bad"]),
        (["1", "0", "7"], ["good", "bad"]),
        (["Good", "bad "], ["good", "bad"]),
        (["1.0", "0.0"], ["good", "bad"]),
        (["good", ""], ["good"]),
    ],
)
def test_declared_classes_are_read_by_the_rules_of_all_labels(tmp_path, cells, names):
    rows = "".join(f"t,{cell}\n" for cell in cells)
    source = folder(tmp_path / "set", **{"rows.csv": f"text,label\n{rows}", "README.md": README % ("bad", "good")})
    wanted = [int(name == "good") for name in names]
    results = []
    for where in ({"dataset": source}, {"files": {"train": f"{source}/rows.csv"}}):
        assert labels_of(on_bad_row="skip", **where) == wanted
        try:
            results.append(labels_of(**where))
        except InputError as error:
            results.append(str(error).replace("'7'", "7"))
    assert str(results[0]).split(" of '")[0] == str(results[1]).split(" of '")[0]


def test_indices_of_declared_classes_are_those_of_the_declaration(tmp_path):
    rows = "text,label\na,0\nb,1\nc,maybe\n"
    source = folder(tmp_path / "set", **{"rows.csv": rows, "README.md": README % ("good", "bad")})
    assert labels_of(on_bad_row="skip", dataset=source) == [1, 0]


@pytest.mark.parametrize("fault", ["c,ugly\n", ",good\n"])
def test_a_bad_row_is_told_with_its_own_file_and_number(tmp_path, fault, caplog):
    files = {"train_1.csv": table("a"), "train_2.csv": "text,label\nb,bad\n" + fault, "train_3.csv": table("d")}
    source = folder(tmp_path / "set", **files)
    for where in ({"dataset": source}, {"files": {"train": [f"{source}/{name}" for name in files]}}):
        with pytest.raises(InputError, match=r"in row 1 \(the first row is 0\) of '.*train_2.csv'[; ]"):
            labels_of(**where)
        caplog.clear()
        assert labels_of(on_bad_row="skip", **where) == [1, 0, 1]
        assert "1 of 4 rows of 3 files skipped" in caplog.text and "train_2.csv': " in caplog.text


def test_rows_that_are_chosen_again_name_all_files(tmp_path):
    paths = [
        written(tmp_path / name, f"text,label\na,{label}\n") for name, label in (("a.csv", "good"), ("b.csv", "x"))
    ]
    rows = load_rows(task(files={"train": paths}), "train").select([1, 0])
    with pytest.raises(InputError, match=r"in row 0 .* of '.*a.csv', '.*b.csv'"):
        read_labels(task(files={"train": paths}), rows, "train")


def test_no_way_to_skip_is_named_for_a_split_where_there_is_none(tmp_path):
    path = written(tmp_path / "a.csv", "text,label\n,good\n")
    for split, told in (("test", False), ("train", True)):
        with pytest.raises(InputError) as refusal:
            texts_of(split, files={split: path})
        assert ("--on_bad_row skip" in str(refusal.value)) is told


# ---- prediction ----


def test_a_second_text_that_is_not_read_is_refused(tmp_path):
    path = written(
        tmp_path / "a.jsonl", '{"text": "a"}\n{"text": "b", "text_pair": null}\n{"text": "b", "text_pair": "c"}'
    )
    with pytest.raises(InputError, match=r"row 2 .* has the column 'text_pair', and row 0 has not"):
        predicted(path)
    assert predicted(path, ["text"]) == [("a",), ("b",), ("b",)]
    path = written(tmp_path / "b.jsonl", '{"text": "a", "text_pair": "b"}\n{"text": "b"}\n')
    with pytest.raises(InputError, match="column 'text_pair' has no text in row 1"):
        predicted(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", ""), ("b.csv", "text\n"), ("c.json", "[]"), ("d.jsonl", ""), ("e.txt", ""), ("f.tsv", "x\ty\n\n")],
)
def test_an_input_without_rows_is_refused(tmp_path, name, content):
    for columns in (None, ["text"], ["other"]):
        with pytest.raises(InputError, match=f"input '.*{name}' has no rows"):
            predicted(written(tmp_path / name, content), columns)


def test_a_tsv_that_was_written_with_quotes_is_told(tmp_path, caplog):
    frame = pd.DataFrame({"text": ["plain", 'He said "hi"'], "label": ["good", "bad"]})
    frame.to_csv(tmp_path / "all.tsv", sep="\t", index=False, quoting=csv.QUOTE_ALL)
    hint = "tsv is read without quoting; save a table whose cells are quoted as .csv"
    for read in (
        lambda: texts_of(files={"train": f"{tmp_path}/all.tsv"}),
        lambda: labels_of(files={"train": f"{tmp_path}/all.tsv"}, text_columns=('"text"',)),
        lambda: predicted(f"{tmp_path}/all.tsv"),
        lambda: predicted(f"{tmp_path}/all.tsv", ["text"]),
        lambda: predicted(written(tmp_path / "cells.tsv", 'text\tlabel\n"a\tb"\tgood\n')),
    ):
        with pytest.raises(InputError, match=hint):
            read()
    frame.to_csv(tmp_path / "some.tsv", sep="\t", index=False)
    caplog.clear()
    texts_of(files={"train": f"{tmp_path}/some.tsv"})
    assert caplog.messages == [
        f"'{tmp_path}/some.tsv': row 1 (the first row is 0) has a cell that seems quoted; {hint}"
    ]


def test_rows_that_each_have_a_key_of_their_own_take_little_time(tmp_path, caplog):
    records = [{"text": "a", f"k{number}": 1, "label": "good"} for number in range(12_000)]
    path = written(tmp_path / "a.jsonl", "\n".join(map(json.dumps, records)))
    start = time.process_time()  # whatever else the machine does
    assert len(texts_of(files={"train": path})) == 12_000
    assert time.process_time() - start < 10 and "more than 1000 different columns" in caplog.text
