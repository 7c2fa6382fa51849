"""Loading rows and labels from files, tokenising, and batching by task."""

import json
import os
import shutil
import warnings
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from tokenizers.pre_tokenizers import PreTokenizer
from transformers import BatchEncoding

from hf_mtl import InputError, TaskSpec
from hf_mtl.data import tokenization as data
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.data.tokenization import TaskCollator, TaskRows, tokenize
from hf_mtl.tasks.demo import demo_tokenizer
from hf_mtl.tasks.labels import read_labels

FRAME = pd.DataFrame(
    {
        "text": ["a good film", 'say "hello, world"', "commas, many, of them", "ünïcödé 漢字", "NA", "null", "None"],
        "label": [1, 1, 0, 0, 1, 0, 1],
    }
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


TEXTS = {"text": ["the film", "the plot is dull"]}


def task(**changes) -> TaskSpec:
    values = {"name": "t", "kind": "classification", "text_columns": ("text",), "labels": ("bad", "good")}
    if "label_range" in changes:
        values.update(kind="regression", labels=None)
    return TaskSpec(**{"files": {"train": "none.csv"}, **values, **changes})


def write(frame: pd.DataFrame, path: Path) -> Path:
    match path.suffix:
        case ".csv":
            frame.to_csv(path, index=False)
        case ".tsv":  # as GLUE's files: nothing is quoted
            lines = ["\t".join(frame.columns), *("\t".join(map(str, row)) for row in frame.itertuples(index=False))]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        case ".jsonl":
            lines = [json.dumps(row, ensure_ascii=False) for row in frame.to_dict("records")]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        case ".parquet":
            frame.to_parquet(path, index=False)
    return path


def load(path: Path, split: str = "train", **changes) -> tuple[list, list]:
    """Texts and labels of a file."""
    spec = task(files={split: str(path)}, **changes)
    rows = load_rows(spec, split)
    return rows["text"][:], read_labels(spec, rows, split).tolist()


# ---- rows ----


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
        ({"words": ["a"], "label": [1]}, "no column 'text'; the columns are words, label"),
        ({"text": [1.5], "label": [1]}, "column 'text' is .*float.*, wanted text"),
        ({"text": [["a"]], "label": [1]}, "column 'text' is .*List.*, wanted text"),
        ({"text": ["a", None], "label": [1, 1]}, "column 'text' has no text in row 1"),
    ],
)
def test_a_text_column_without_text_is_refused(tmp_path, columns, problem):
    Dataset.from_dict(columns).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=f"task 't', split 'train': {problem}"):
        load(tmp_path / "rows.parquet")


# ---- labels ----

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
    with pytest.raises(InputError, match="split 'validation': no label column 'label'; the columns are text"):
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


# ---- tokens and batches ----


def test_tokenising_cuts_the_longer_text_and_counts_the_tokens(tokenizer):
    spec = task(text_columns=("one", "two"))
    rows = Dataset.from_dict({"one": ["the plot " * 40, "good"], "two": ["the film is dull", "bad"]})
    tokens = tokenize(spec, rows, tokenizer, 32, np.array([1, 0]))
    assert tokens["length"][:] == [len(ids) for ids in tokens["input_ids"]]
    assert tokens["length"][0] == 32
    assert tokens["labels"][:] == [1, 0]
    assert tokens["input_ids"][1] == tokenizer("good", "bad")["input_ids"]
    whole = tokenizer("the film is dull", add_special_tokens=False)["input_ids"]
    assert tokens["input_ids"][0][-1 - len(whole) : -1] == whole
    assert "labels" not in tokenize(spec, rows, tokenizer, 32).column_names


def test_an_edit_of_the_rows_is_tokenised_anew(tokenizer):
    first = tokenize(task(), Dataset.from_dict({"text": ["the film"]}), tokenizer, 16)
    second = tokenize(task(), Dataset.from_dict({"text": ["the plot"]}), tokenizer, 16)
    assert first["input_ids"][0] != second["input_ids"][0]


def as_lists(rows):
    return [{name: value if name == "task" else value.tolist() for name, value in row.items()} for row in rows]


def test_rows_are_the_same_one_by_one_and_all_at_once(rows):
    everything = TaskRows(rows["train"])
    sizes = {name: len(part) for name, part in rows["train"].items()}
    assert len(everything) == sum(sizes.values())
    assert everything.sizes == sizes
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0)).tolist()
    together = as_lists(everything.__getitems__(order))
    assert together == as_lists(everything[index] for index in order)
    flat = [{"task": name, **row} for name, part in rows["train"].items() for row in part]
    for index, row in zip(order, together, strict=True):
        wanted = {key: value for key, value in flat[index].items() if key != "length"}
        assert row == wanted
    assert as_lists(everything.__getitems__([3, 3])) == as_lists([everything[3]] * 2)


def test_lengths_are_those_of_the_tokens(rows):
    everything = TaskRows(rows["train"])
    for name, part in rows["train"].items():
        assert everything.lengths[name].tolist() == [len(ids) for ids in part["input_ids"]]


@pytest.mark.parametrize("multiple", [None, 8])
def test_every_task_is_padded_alone(rows, tokenizer, multiple):
    everything = TaskRows(rows["train"])
    size = everything.sizes["reviews"]
    longest = {name: int(lengths[:6].max()) for name, lengths in everything.lengths.items()}
    items = everything.__getitems__([index + start for index in range(6) for start in (0, size)])  # tasks alternate
    batch = TaskCollator(tokenizer, pad_to_multiple_of=multiple)(items)
    assert list(batch) == ["reviews", "pairs"]
    assert longest["reviews"] != longest["pairs"]
    for name, dtype in (("reviews", torch.int64), ("pairs", torch.float32)):
        width = longest[name] if multiple is None else -(-longest[name] // 8) * 8
        assert batch[name]["input_ids"].shape == batch[name]["attention_mask"].shape == (6, width)
        assert batch[name]["labels"].dtype == dtype
        assert batch[name]["labels"].tolist() == pytest.approx(rows["train"][name]["labels"][:6], rel=1e-6)
        assert batch[name]["attention_mask"].sum(dim=1).tolist() == everything.lengths[name][:6].tolist()
        for number, ids in enumerate(rows["train"][name]["input_ids"][:6]):
            assert batch[name]["input_ids"][number, : len(ids)].tolist() == ids
            assert (batch[name]["input_ids"][number, len(ids) :] == tokenizer.pad_token_id).all()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("multiple", [None, 8])
def test_padding_is_that_of_the_tokenizer_and_always_on_the_right(rows, specs, side, multiple):
    own = demo_tokenizer()
    own.padding_side, own.model_input_names = side, ["input_ids", "token_type_ids", "attention_mask"]
    raw = Dataset.from_dict({"one": ["the plot is dull", "good", "the film"], "two": ["bad", "the film is good", "a"]})
    spec = task(text_columns=("one", "two"))
    tokens = tokenize(spec, raw, own, 32, np.array([1, 0, 1]))
    plain = [{name: row[name] for name in tokens.column_names if name != "length"} for row in tokens]
    assert any(1 in row["token_type_ids"] for row in plain)
    wanted = own.pad(plain, padding=True, pad_to_multiple_of=multiple, padding_side="right", return_tensors="pt")
    found = TaskCollator(own, multiple)(TaskRows({"t": tokens}).__getitems__([0, 1, 2]))["t"]
    assert set(found) == set(wanted) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    for name, value in wanted.items():
        assert torch.equal(found[name], value) and found[name].dtype == value.dtype, name


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("multiple", [None, 8])
def test_batches_by_column_are_those_of_the_rows(rows, side, multiple):
    own = demo_tokenizer()
    own.padding_side, own.model_input_names = side, ["input_ids", "token_type_ids", "attention_mask"]
    soft = {name: [[0.0, i] for i in range(len(part))] for name, part in rows["train"].items()}
    parts = {name: part.add_column("soft", soft[name]) for name, part in rows["train"].items()}
    fixed = Dataset.from_dict({"input_ids": [[5, 6, 7]] * 9, "token_type_ids": [[1, 0, 1]] * 9, "length": [3] * 9})
    three = datasets.Sequence(datasets.Value("int64"), length=3)
    parts["fixed"] = fixed.cast_column("input_ids", three).cast_column("token_type_ids", three)
    everything, collate = TaskRows(parts), TaskCollator(own, multiple)
    by_column = everything.by_column()
    assert (by_column.tasks, by_column.sizes, by_column.lengths) == (
        everything.tasks, everything.sizes, everything.lengths,
    )  # fmt: skip
    assert as_lists(by_column) == as_lists(everything)
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0)).tolist()
    for indices in (order[:20], order[:1], order):
        found, wanted = collate(by_column.__getitems__(indices)), collate(everything.__getitems__(indices))
        assert set(found) == set(wanted)
        for name, batch in wanted.items():
            assert set(batch) >= {"input_ids", "attention_mask", "token_type_ids"}
            assert set(found[name]) == set(batch)
            for key, value in batch.items():
                assert found[name][key].dtype == value.dtype and torch.equal(found[name][key], value)
    assert set(wanted) == set(parts) and "soft" in wanted["pairs"]


def test_rows_count_from_the_end_too(rows):
    everything = TaskRows(rows["train"])
    assert as_lists([everything[-1]]) == as_lists([everything[len(everything) - 1]])
    with pytest.raises(IndexError):
        everything[len(everything)]


@pytest.mark.parametrize(
    ("value", "dtype"), [("int8", torch.int64), ("int32", torch.int64), ("float64", torch.float32)]
)
def test_labels_are_of_the_types_that_losses_take(tokenizer, value, dtype):
    tokens = tokenize(task(), Dataset.from_dict(TEXTS), tokenizer, 16, np.array([1, 0], dtype=value))
    batch = TaskCollator(tokenizer)(TaskRows({"t": tokens}).__getitems__([0, 1]))["t"]
    assert batch["labels"].dtype == dtype and batch["labels"].tolist() == [1, 0]


def test_columns_that_are_no_input_of_the_model_are_stacked(tokenizer):
    tokens = tokenize(task(), Dataset.from_dict(TEXTS), tokenizer, 16).add_column("soft", [[0.25, 0.75], [1.0, 0.0]])
    batch = TaskCollator(tokenizer)(TaskRows({"t": tokens}).__getitems__([0, 1]))["t"]
    assert batch["soft"].tolist() == [[0.25, 0.75], [1.0, 0.0]]


def test_rows_with_a_transform_are_refused(tokenizer):
    tokens = tokenize(task(), Dataset.from_dict(TEXTS), tokenizer, 16).with_transform(lambda batch: batch)
    with pytest.raises(InputError, match=r"'t' have a transform \(set_transform\); use map"):
        TaskRows({"t": tokens})


def test_rows_that_were_picked_are_the_ones_that_are_read(rows):
    part = rows["train"]["reviews"]
    everything = TaskRows({"reviews": part.select([5, 2, 9]), "pairs": rows["train"]["pairs"]})
    assert [row["input_ids"].tolist() for row in everything.__getitems__([0, 1, 2])] == [
        part[i]["input_ids"] for i in (5, 2, 9)
    ]
    assert everything[3]["task"] == "pairs"
    assert everything[3]["input_ids"].tolist() == rows["train"]["pairs"][0]["input_ids"]


# ---- tokens are kept ----


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The files of tokens that are kept, in a cache of the test's own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return lambda: sorted(path.name for path in (tmp_path / "hf_mtl" / "tokens").glob("*"))


def test_tokens_are_made_once(tokenizer, kept, monkeypatch):
    first = tokenize(task(), Dataset.from_dict(TEXTS), tokenizer, 16)
    assert len(kept()) == 1
    monkeypatch.setattr(type(tokenizer), "__call__", lambda *args, **kwargs: pytest.fail("tokenised anew"))
    longer = Dataset.from_dict({"text": ["a", *TEXTS["text"]], "other": [1, 2, 3]})
    again = tokenize(task(), longer.select([1, 2]), tokenizer, 16, np.array([0, 1]))
    assert again["input_ids"][:] == first["input_ids"][:] and again["labels"][:] == [0, 1]


@pytest.mark.parametrize("damage", ["empty", "cut", "rows missing"])
def test_a_damaged_file_of_tokens_is_made_anew(tokenizer, kept, tmp_path, caplog, damage):
    first = tokenize(task(), Dataset.from_dict(TEXTS), tokenizer, 16)["input_ids"][:]
    (file,) = [tmp_path / "hf_mtl" / "tokens" / name for name in kept()]
    content = file.read_bytes()
    if damage == "rows missing":
        table = Dataset.from_file(str(file)).select([0]).flatten_indices().data.table
        with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        file.write_bytes(b"" if damage == "empty" else content[:-200])
    for _ in range(2):
        assert tokenize(task(), Dataset.from_dict(TEXTS), tokenizer, 16)["input_ids"][:] == first
    assert caplog.text.count("is damaged and made anew") == 1


def test_tokens_are_made_anew_when_anything_that_they_follow_from_changes(tokenizer, kept, monkeypatch):
    spec, rows = task(), Dataset.from_dict(TEXTS)
    tokenize(spec, rows, tokenizer, 16)
    tokenizer("padded and cut", padding="max_length", max_length=4, truncation=True)  # leaves its mark on the state
    tokenize(spec, rows, tokenizer, 16)
    assert len(kept()) == 1
    changed = demo_tokenizer()
    changed.add_tokens(["plot is"])
    literal = demo_tokenizer()
    literal.split_special_tokens = True  # "[SEP]" in a text is then no separator
    swapped = Dataset.from_dict({"text": TEXTS["text"][::-1]})
    calls = [
        lambda: tokenize(spec, rows, tokenizer, 15),
        lambda: tokenize(spec, rows, changed, 16),
        lambda: tokenize(spec, swapped, tokenizer, 16),
        lambda: tokenize(task(text_columns=("text", "text")), rows, tokenizer, 16),
        lambda: tokenize(spec, rows, literal, 16),
    ]
    for number, call in enumerate(calls, start=2):
        call()
        assert len(kept()) == number
    monkeypatch.setattr(data, "ENCODING_VERSION", 0)
    tokenize(spec, rows, tokenizer, 16)
    assert len(kept()) == 7


def test_a_tokenizer_with_parts_in_python_is_not_kept(kept):
    own = demo_tokenizer()
    own.backend_tokenizer.pre_tokenizer = PreTokenizer.custom(ByWords())
    rows = tokenize(task(), Dataset.from_dict(TEXTS), own, 16)
    assert rows["length"][:] == [4, 6] and kept() == []


class ByWords:
    def pre_tokenize(self, text):
        text.split(lambda number, part: part.split(" ", "removed"))


def test_a_full_disk_costs_the_next_run_its_start_and_nothing_else(tokenizer, kept, monkeypatch, caplog):
    wanted = tokenize(task(), Dataset.from_dict(TEXTS), tokenizer, 12)["input_ids"][:]

    def full(self, *args, real=Dataset.map, **options):
        if options.get("cache_file_name"):
            raise OSError(28, "No space left on device")
        return real(self, *args, **options)

    monkeypatch.setattr(Dataset, "map", full)
    assert tokenize(task(), Dataset.from_dict(TEXTS), tokenizer, 16)["input_ids"][:] == wanted
    assert "tokens are not kept for the next run: [Errno 28] No space left" in caplog.text


def test_without_a_cache_tokens_are_made_every_time(tokenizer, kept, tmp_path, monkeypatch):
    wanted = tokenize(task(), Dataset.from_dict(TEXTS), tokenizer, 16)["input_ids"][:]
    before = kept()
    datasets.disable_caching()
    try:
        assert tokenize(task(), Dataset.from_dict(TEXTS), tokenizer, 12)["input_ids"][:] == wanted
    finally:
        datasets.enable_caching()
    assert kept() == before
    (tmp_path / "file").touch()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")  # where no folder can be made
    assert tokenize(task(), Dataset.from_dict(TEXTS), tokenizer, 16)["input_ids"][:] == wanted


def test_padding_a_fast_tokenizers_rows_warns_of_nothing(rows, tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TaskCollator(tokenizer)(TaskRows(rows["train"]).__getitems__([0, 1]))


def test_rows_without_labels_collate(tokenizer):
    tokens = tokenize(task(), Dataset.from_dict({"text": ["the film", "the"]}), tokenizer, 16)
    batch = TaskCollator(tokenizer)(TaskRows(DatasetDict({"t": tokens})).__getitems__([0, 1]))
    assert "labels" not in batch["t"]


# ---- bad rows ----

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


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "slow"])
def test_rows_that_are_cut_are_counted(tokenizer, caplog, fast):
    declared = task(labels=("a", "b"))
    rows = Dataset.from_dict({"text": ["the film is good " * n for n in (1, 2, 3, 4)]})
    lengths = [len(tokenizer(text)["input_ids"]) for text in rows["text"]]
    with caplog.at_level("INFO", logger="hf_mtl"):
        tokenize(declared, rows, tokenizer if fast else Slow(tokenizer), lengths[1])
        tokenize(declared, rows, tokenizer if fast else Slow(tokenizer), lengths[3])
    assert caplog.messages == [f"t: 2 of 4 rows are longer than {lengths[1]} tokens, cut"]


class Slow:
    """A tokenizer that does not keep what it cut off."""

    is_fast = False

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def num_special_tokens_to_add(self, pair):
        return self.tokenizer.num_special_tokens_to_add(pair)

    def __call__(self, *texts, **options):
        return BatchEncoding(self.tokenizer(*texts, **options).data)
