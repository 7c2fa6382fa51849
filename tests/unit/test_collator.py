"""Rows of all tasks in one numbering, and batches of them padded by task."""

import copy
import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from table_files import TEXTS, task

from hf_mtl import InputError
from hf_mtl.data.collator import TaskCollator
from hf_mtl.data.task_rows import TaskRows
from hf_mtl.data.tokenization import tokenize


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
def test_padding_is_that_of_the_tokenizer_and_always_on_the_right(tokenizer, side, multiple):
    own = copy.deepcopy(tokenizer)
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


def test_padding_a_fast_tokenizers_rows_warns_of_nothing(rows, tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TaskCollator(tokenizer)(TaskRows(rows["train"]).__getitems__([0, 1]))


def test_rows_without_labels_collate(tokenizer):
    tokens = tokenize(task(), Dataset.from_dict({"text": ["the film", "the"]}), tokenizer, 16)
    batch = TaskCollator(tokenizer)(TaskRows(DatasetDict({"t": tokens})).__getitems__([0, 1]))
    assert "labels" not in batch["t"]


def test_rows_in_another_order_are_the_same_rows(rows):
    tasks = rows["train"]
    plain = TaskRows(tasks)
    order = np.random.default_rng(0).permutation(len(plain))
    ordered = TaskRows(tasks, order)
    indices = [0, 5, len(plain) - 1]
    wanted = plain.__getitems__(order[indices].tolist())
    for one, other in zip(ordered.__getitems__(indices), wanted, strict=True):
        assert one["task"] == other["task"] and one["input_ids"].tolist() == other["input_ids"].tolist()
    assert ordered[-1]["input_ids"].tolist() == plain[int(order[-1])]["input_ids"].tolist()
