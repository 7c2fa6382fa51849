"""Texts are cut to a length, and their tokens kept until anything that they follow from changes."""

import copy

import datasets
import numpy as np
import pyarrow
import pytest
from datasets import Dataset
from table_files import TEXTS, task
from tokenizers.pre_tokenizers import PreTokenizer
from transformers import BatchEncoding

from hf_mtl.data import token_cache
from hf_mtl.data.tokenization import tokenize


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


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
    changed = copy.deepcopy(tokenizer)
    changed.add_tokens(["plot is"])
    literal = copy.deepcopy(tokenizer)
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
    monkeypatch.setattr(token_cache, "ENCODING_VERSION", 0)
    tokenize(spec, rows, tokenizer, 16)
    assert len(kept()) == 7


def test_a_tokenizer_with_parts_in_python_is_not_kept(tokenizer, kept):
    own = copy.deepcopy(tokenizer)
    own.backend_tokenizer.pre_tokenizer = PreTokenizer.custom(ByWords())
    rows = tokenize(task(), Dataset.from_dict(TEXTS), own, 16)
    assert rows["length"][:] == [4, 6] and kept() == []


class ByWords:
    def pre_tokenize(self, text):
        text.split(lambda number, part: part.split(" ", "removed"))


def test_a_full_disk_costs_the_next_run_its_start_and_nothing_else(tokenizer, kept, monkeypatch, caplog):
    wanted = tokenize(task(), Dataset.from_dict(TEXTS), tokenizer, 12)["input_ids"][:]

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyarrow.ipc, "new_stream", full)
    before = kept()
    assert tokenize(task(), Dataset.from_dict(TEXTS), tokenizer, 16)["input_ids"][:] == wanted
    assert "tokens are not kept for the next run: [Errno 28] No space left" in caplog.text
    assert kept() == before


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
