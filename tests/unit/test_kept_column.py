"""A column on disk is what was computed, or it is made anew; it is never half of it."""

import os

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from hf_mtl.data.kept_column import column_file, keep_column, read_column, rows_digest


@pytest.fixture
def file(tmp_path):
    return tmp_path / "made" / "column.npy"


@pytest.mark.parametrize("shape", [(7,), (7, 3), (1, 2)])
def test_what_is_kept_is_read_again_and_mapped(file, shape):
    column = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    keep_column(file, column)
    found = read_column(file, len(column))
    assert np.array_equal(found, column) and found.dtype == np.float32
    base = found
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_any_other_reader_of_numpy_files_reads_it(file):
    column = np.arange(6, dtype=np.float32).reshape(3, 2)
    keep_column(file, column)
    assert np.array_equal(np.load(file), column)


def test_a_file_that_is_cut_anywhere_or_has_a_byte_changed_is_made_anew(file, caplog):
    column = np.arange(6, dtype=np.float32).reshape(3, 2)
    keep_column(file, column)
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert read_column(file, 3) is None, length
    for place in range(128, len(whole)):  # behind the header
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert read_column(file, 3) is None, place
    assert "is damaged and made anew" in caplog.text
    keep_column(file, column)
    assert np.array_equal(read_column(file, 3), column)


@pytest.mark.parametrize("content", [b"", b"\0" * 400, b"PK\3\4 no numbers" * 9])
def test_a_file_of_something_else_is_made_anew(file, content):
    file.parent.mkdir()
    file.write_bytes(content)
    assert read_column(file, 3) is None


def test_a_column_of_other_rows_is_not_taken(file):
    keep_column(file, np.zeros((3, 2), np.float32))
    assert read_column(file, 4) is None and read_column(None, 3) is None


def test_a_write_that_stops_leaves_no_file(file, monkeypatch):
    def stopped(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stopped)
    with pytest.raises(KeyboardInterrupt):
        keep_column(file, np.zeros(3, np.float32))
    assert list(file.parent.iterdir()) == []


def test_where_nothing_can_be_written_that_is_said(tmp_path, caplog):
    (tmp_path / "made").write_text("a file where the folder would be")
    keep_column(tmp_path / "made" / "column.npy", np.zeros(3, np.float32))
    assert "is not kept for the next run" in caplog.text


def test_the_digest_is_of_the_cells_however_the_table_is_divided():
    cells = [[1, 2], [3], [], [4, 5, 6]] * 40
    whole = Dataset(pa.table({"input_ids": cells, "length": list(map(len, cells))}))
    parts = Dataset(pa.concat_tables([whole.data.table.slice(0, 30), whole.data.table.slice(30)]))
    digest = rows_digest(whole, ["input_ids"])
    assert rows_digest(parts, ["input_ids"]) == digest
    assert rows_digest(whole.select(range(160)), ["input_ids"]) == digest
    assert rows_digest(whole.select(range(159)), ["input_ids"]) != digest
    assert rows_digest(whole.select([1, 0, *range(2, 160)]), ["input_ids"]) != digest
    assert rows_digest(whole, ["length"]) != digest


def test_the_files_name_follows_from_every_fact_and_there_is_none_without_a_cache():
    assert column_file("teachers", ["a", "b"]) == column_file("teachers", ["a", "b"]) != column_file("teachers", ["a"])
    datasets.disable_caching()
    try:
        assert column_file("teachers", ["a", "b"]) is None
    finally:
        datasets.enable_caching()
