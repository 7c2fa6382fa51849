"""A cell of csv may be longer than the standard library allows, whose limit stays what it was."""

import csv

import pytest

from hf_mtl import InputError
from hf_mtl.tasks.tables import read_records

LONG = "a long film " * 20_000  # 240,000 characters; the limit is 131,072


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text(f"text,label\n{LONG},0\nshort,1\n{LONG},1\n")
    return str(path)


@pytest.fixture(autouse=True)
def own_limit():
    before = csv.field_size_limit(1000)
    yield
    csv.field_size_limit(before)


def test_the_limit_is_the_callers_between_rows_and_afterwards(file):
    texts = []
    for record in read_records(file, "csv"):
        assert csv.field_size_limit() == 1000
        texts.append(record["text"])
    assert texts == [LONG, "short", LONG] and csv.field_size_limit() == 1000


def test_two_files_are_read_side_by_side(file):
    pairs = zip(read_records(file, "csv"), read_records(file, "csv"), strict=True)
    assert all(one == other for one, other in pairs)
    assert csv.field_size_limit() == 1000


def test_an_error_leaves_it_too(tmp_path):
    (tmp_path / "open.csv").write_text('text,label\n"a,1\n')
    with pytest.raises(InputError, match="a quote opens and is never closed"):
        list(read_records(str(tmp_path / "open.csv"), "csv"))
    assert csv.field_size_limit() == 1000
