"""Rows of files and folders are what was written; a bad row is named, and skipped when asked."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from table_files import FRAME, load, task, write

from hf_mtl import InputError
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.tasks.labels import read_labels
from hf_mtl.tasks.text_files import columns_but


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".CSV"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    path = write(FRAME, tmp_path / f"rows{suffix.lower()}")
    path = path.rename(tmp_path / f"rows{suffix}")
    assert load(path) == (FRAME["text"].tolist(), FRAME["label"].tolist())


def test_a_quote_that_opens_a_field_of_a_tsv_swallows_no_rows(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text('text\tlabel\n"it opens\t1\nand goes on\t0\nhere" it ends\t1\n', encoding="utf-8")
    assert load(path) == (['"it opens', "and goes on", 'here" it ends'], [1, 0, 1])


def test_a_quoted_field_of_a_csv_may_hold_commas_and_line_ends(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('text,label\n"one, two\nthree",1\nfour,0\n', encoding="utf-8")
    assert load(path) == (["one, two\nthree", "four"], [1, 0])


@pytest.mark.parametrize("lines", ["label,text\n1,good, film\n0,bad, film\n", "label,text\n1,good\n0,bad, film\n"])
def test_a_line_with_a_cell_too_many_is_refused_and_not_cut(tmp_path, lines):
    path = tmp_path / "rows.csv"
    path.write_text(lines, encoding="utf-8")
    with pytest.raises(InputError, match=r"task 't': cannot load '.*rows\.csv'"):
        load(path)


def test_a_class_may_be_called_na(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\nx,NA\ny,yes\n", encoding="utf-8")
    assert load(path, labels=("NA", "yes"))[1] == [0, 1]


@pytest.mark.parametrize(
    "texts, labels, declared",
    [
        (["a"] * 12_001, ["2"] * 12_000 + ["2.5"], {"label_range": (0, 5)}),
        (["a"] * 12_001, ["0"] * 12_000 + ["good"], {}),
        (["7"] * 12_000 + ["hello"], ["0"] * 12_001, {}),
        (["7", "8"], ["0", "1"], {}),
        (["true", "False"], ["0", "1"], {}),
    ],
    ids=["a late fraction", "a late name", "a late text", "texts of digits", "texts like truth values"],
)
def test_a_csv_file_is_read_as_declared_whatever_its_first_rows_look_like(tmp_path, texts, labels, declared):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"{t},{v}\n" for t, v in zip(texts, labels, strict=True)))
    found = load(path, **declared)
    assert found[0] == texts
    assert found[1] == [1.0 if label == "good" else float(label) for label in labels]


def test_a_large_file_of_json_lines_has_one_type_for_a_column(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [{"text": "a" * 2**20, "label": 2} for _ in range(11)] + [{"text": "b", "label": 2.5}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert load(path, label_range=(0, 5))[1] == [2.0] * 11 + [2.5]


@pytest.mark.parametrize("content, suffix", [("text,label\n", ".csv"), ("", ".csv"), ("", ".jsonl"), ("\n", ".tsv")])
def test_a_file_without_rows_is_an_empty_split(tmp_path, content, suffix):
    path = tmp_path / f"rows{suffix}"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"task 't', split 'train': the split is empty"):
        load(path)


def test_a_parquet_file_without_rows_is_an_empty_split(tmp_path):
    with pytest.raises(InputError, match="the split is empty"):
        load(write(FRAME.head(0), tmp_path / "rows.parquet"))


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("rows.parquet", b"no parquet", "not a parquet file"),
        ("rows.jsonl", b"{text: 1}\n", "row 0 .* is no JSON"),
        (
            "rows.csv",
            "text,label\ncafé,1\n".encode("latin-1"),
            "row 0 .* is no UTF-8: byte 0xe9 at offset 14 of the file, 3 of its line",
        ),
        ("gone.csv", None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_name_and_reason(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"task 't': cannot load .*{name}.*{reason}" if content else reason):
        load(tmp_path / name)


README = """---
configs:
- config_name: mine
  data_files: [{split: train, path: train*}, {split: validation, path: validation*}, {split: test, path: test*}]
---
"""


def save_folder(folder: Path, texts: list[str]) -> None:
    """A folder of parquet files with a configuration and three splits, like a copy of a data set from the Hub.

    All files have one date, as after unpacking an archive; `datasets` goes by dates and names, not by content.
    """
    rows = Dataset.from_dict({"text": texts, "label": [0, 1] * (len(texts) // 2)})
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_text(README)
    for split in ("train", "validation", "test"):
        rows.to_parquet(folder / f"{split}.parquet")
        os.utime(folder / f"{split}.parquet", (0, 0))


@pytest.mark.parametrize("config", [None, "mine"])
def test_a_folder_rewritten_under_its_name_gives_its_new_rows(tmp_path, config):
    spec = task(files={}, dataset=str(tmp_path / "set"), config=config)
    save_folder(tmp_path / "set", ["old one", "old two"])
    assert load_rows(spec, "train")["text"][:] == ["old one", "old two"]
    save_folder(tmp_path / "set", ["new one", "new two"])  # files of the same names and sizes
    assert load_rows(spec, "train")["text"][:] == ["new one", "new two"]
    shutil.rmtree(tmp_path / "set")
    save_folder(tmp_path / "set", ["last", "rows", "and", "more"])
    assert load_rows(spec, "validation")["text"][:] == ["last", "rows", "and", "more"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_file_rewritten_under_its_name_gives_its_new_rows(tmp_path, suffix):
    path = write(FRAME, tmp_path / f"rows{suffix}")
    os.utime(path, (0, 0))
    load(path)
    write(FRAME.iloc[::-1], path)
    os.utime(path, (0, 0))
    assert load(path)[0] == FRAME["text"].tolist()[::-1]


def test_two_tasks_read_one_file_each_in_its_own_way(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,other,label,score\nNA,x,1,0.5\nb,NA,0,NA\n", encoding="utf-8")
    assert load(path)[0] == ["NA", "b"]
    spec = task(files={"test": str(path)}, text_columns=("other",), label_column="score", label_range=(0, 1))
    rows = load_rows(spec, "test")
    assert rows["other"][:] == ["x", "NA"]
    np.testing.assert_array_equal(read_labels(spec, rows, "test"), [0.5, np.nan])


def test_splits_have_the_datasets_own_names_and_a_missing_one_is_none(tmp_path):
    save_folder(tmp_path / "set", ["a", "b"])
    (tmp_path / "set" / "README.md").unlink()
    (tmp_path / "set" / "test.parquet").unlink()
    (tmp_path / "set" / "validation.parquet").rename(tmp_path / "set" / "dev.parquet")
    spec = task(files={}, dataset=str(tmp_path / "set"), splits={"validation": "dev", "train": "train"})
    assert load_rows(spec, "train")["text"][:] == ["a", "b"]
    assert load_rows(spec, "test") is None


@pytest.mark.parametrize(
    "columns, problem",
    [
        ({"words": ["a"], "label": [1]}, "no column 'text'; the columns are 'words', 'label'"),
        ({"text": [1.5], "label": [1]}, "column 'text' is .*float.*, wanted text"),
        ({"text": [["a"]], "label": [1]}, "column 'text' is .*List.*, wanted text"),
        ({"text": ["a", None], "label": [1, 1]}, "column 'text' has no text in row 1"),
    ],
)
def test_a_text_column_without_text_is_refused(tmp_path, columns, problem):
    Dataset.from_dict(columns).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=f"task 't', split 'train': {problem}"):
        load(tmp_path / "rows.parquet")


BAD = pd.DataFrame({"text": ["a", None, "c", "d", "e"], "label": [0, 1, 7, 2, None]})
THREE = ("negative", "neutral", "positive")


def test_bad_rows_are_skipped_counted_and_listed_when_asked(tmp_path, caplog):
    path = write(BAD, tmp_path / "rows.parquet")
    declared = task(files={"train": str(path)}, labels=THREE)
    with caplog.at_level("WARNING", logger="hf_mtl"):
        rows = load_rows(declared, "train", "skip")
    assert rows["text"][:] == ["a", "d"] and read_labels(declared, rows, "train").tolist() == [0, 2]
    (line,) = caplog.messages
    assert line.startswith(f"task 't', split 'train': 3 of 5 rows of '{path}' skipped")
    assert "row 1: column 'text' has no text; row 2: label 7.0 is not one of" in line and "row 4: label None" in line


def test_a_bad_row_is_an_error_that_names_file_task_and_row_unless_skipped(tmp_path):
    path = write(BAD, tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=rf"task 't', split 'train': .* in row 1 .* of '{path}'; --on_bad_row skip"):
        load_rows(task(files={"train": str(path)}), "train")
    path = write(BAD.drop(index=1), tmp_path / "others.parquet")
    declared = task(files={"train": str(path)}, labels=THREE)
    with pytest.raises(InputError, match=rf"task 't', split 'train': label 7.0 in row 1 .* of '{path}' is not one of"):
        read_labels(declared, load_rows(declared, "train"), "train")


def test_more_bad_rows_than_one_reads_are_counted(tmp_path, caplog):
    frame = pd.DataFrame({"text": ["a"] * 100, "label": [0] + [9] * 99})
    declared = task(files={"train": str(write(frame, tmp_path / "rows.parquet"))})
    with caplog.at_level("WARNING", logger="hf_mtl"):
        assert len(load_rows(declared, "train", "skip")) == 1
    assert "99 of 100 rows" in caplog.messages[0] and caplog.messages[0].endswith("and 79 more")


def test_nothing_is_left_of_rows_that_are_all_bad(tmp_path):
    frame = pd.DataFrame({"text": ["a", "b"], "label": [9, 9]})
    with pytest.raises(InputError, match=r"none of the 2 rows of .*rows\.parquet' can be used; row 0: label 9 is not"):
        load_rows(task(files={"train": str(write(frame, tmp_path / "rows.parquet"))}), "train", "skip")


def test_rows_of_a_test_split_are_never_skipped(tmp_path):
    """Predictions are numbered by row."""
    declared = task(files={"test": str(write(BAD, tmp_path / "rows.parquet"))})
    with pytest.raises(InputError, match="no text in row 1"):
        load_rows(declared, "test", "skip")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([" label", "x"], "' label', 'x' (did you mean ' label'?)"),
        (["Label"], "'Label' (did you mean 'Label'?)"),
        (["labels", "x"], "'labels', 'x' (did you mean 'labels'?)"),
        (["mood"], "'mood'"),
        ([f"column {number}" for number in range(30)], "'column 18', 'column 19' and 10 more"),
        (['"x"'], """'"x"'; tsv is read without quoting"""),
    ],
)
def test_columns_that_there_are_in_place_of_one_that_is_not(names, told):
    found = columns_but("label", names)
    assert found.startswith("the columns are '") and told in found
    assert ("did you mean" in found) == ("did you mean" in told) and len(found) < 400


def test_a_name_in_other_forms_of_unicode_is_the_one_that_was_meant():
    assert columns_but("caf\u00e9", ["x", "cafe\u0301"]).endswith("(did you mean 'cafe\u0301'?)")
