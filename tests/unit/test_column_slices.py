"""Columns that are read some rows at a time are as if they were read at once."""

import numpy as np
import pyarrow
import pytest
from datasets import Dataset, Features, Json, Value

from hf_mtl import TaskSpec, load_task_data
from hf_mtl.data.cut_rows import _cells
from hf_mtl.data.ragged_column import as_array, from_arrow
from hf_mtl.errors import InputError
from hf_mtl.tasks import column_slices, label_column, number_kind
from hf_mtl.tasks.labels import find_labels, missing_labels, read_labels


def task():
    return TaskSpec(name="t", kind="classification", text_columns=("text",), labels=("a", "b"))


@pytest.fixture
def few_at_once(monkeypatch):
    for module in (column_slices, number_kind):
        monkeypatch.setattr(module, "AT_ONCE", 3)


CELLS = {
    "names": ["a", "b", " A", "b", None, "B", "a", "b"],
    "numbers": [0, 1, 1, None, 0, 1, 1, 0],
    "floats": [0.0, 1.0, float("nan"), None, 1.0, 0.0, -1.0, 1.0],
    "truths": [True, False, None, True, True, False, False, True],
    "bytes": [b"a", b"b", None, b"a", b"a", b"b", b"b", b"a"],
}


@pytest.mark.parametrize("column", CELLS)
def test_labels_are_the_same_however_many_are_read_at_once(few_at_once, column):
    rows = Dataset.from_dict({"text": ["x"] * 8, "label": CELLS[column]})
    few = missing_labels(task(), rows, "train"), read_labels(task(), rows, "test")
    column_slices.AT_ONCE = number_kind.AT_ONCE = 100  # the fixture puts both back
    whole = missing_labels(task(), rows, "train"), read_labels(task(), rows, "test")
    np.testing.assert_array_equal(few[0], whole[0])
    np.testing.assert_array_equal(few[1], whole[1])
    wanted = [cell is None or cell != cell or cell == -1 for cell in CELLS[column]]
    assert few[0].tolist() == wanted and np.isnan(few[1]).tolist() == wanted


def test_a_bad_label_beyond_the_first_rows_is_named_by_its_row(few_at_once):
    rows = Dataset.from_dict({"text": ["x"] * 8, "label": ["a", "b", "a", "b", "a", "c", "b", "d"]})
    with pytest.raises(InputError, match="label 'c' in row 5 "):
        read_labels(task(), rows, "train")


def test_values_of_less_than_fp64_are_read_as_written(few_at_once):
    wanted = [0.1, 0.7, 0.3, 0.9, 0.1]
    column = pyarrow.array(np.array(wanted, dtype=np.float32))
    rows = Dataset(pyarrow.table({"text": ["x"] * 5, "label": column}))
    found = label_column.read_values(rows, "label", (0.1, 0.9))
    assert found.values.tolist() == wanted
    assert found.cells(np.array([1, 4])) == [0.7, 0.1]


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.int8])
def test_a_column_in_pieces_has_the_numbers_of_the_whole(dtype):
    values = np.arange(10, dtype=dtype)
    pieces = pyarrow.chunked_array([pyarrow.array(part) for part in (values[:3], values[3:3], values[3:9], values[9:])])
    column, places = from_arrow(pieces), np.array([9, 0, 3, 2, 8])
    assert column[places].dtype == dtype and column[places].tolist() == values[places].tolist()
    assert as_array(pieces, np.int32).tolist() == list(range(10))


def test_cells_of_several_types_are_what_they_are_and_not_their_json():
    """`load_dataset("json")` gives such columns the feature Json."""
    features = Features({"text": Value("string"), "label": Json(), "author": Json()})
    cells = {"text": list("stuvwxyz"), "label": [0, "a", 1, "b"] * 2, "author": ["", 1, "1", None] * 2}
    rows = Dataset.from_dict(cells, features=features)
    assert read_labels(task(), rows, "train").tolist() == [0, 0, 1, 1] * 2
    assert find_labels(task(), rows).labels == ("0", "1", "a", "b")
    assert list(_cells(rows, "author")) == rows["author"][:]


def test_the_same_rows_with_the_same_labels_are_known_again(tokenizer):
    """So is what `map` makes of them, which `datasets` keeps by their fingerprint."""
    rows = {"t": {"train": [{"text": "the film", "label": "a"}, {"text": "a plot", "label": "b"}]}}
    turned = {"t": {"train": [{**row, "label": "b"} for row in rows["t"]["train"]]}}
    one, again, other = (
        load_task_data([task()], tokenizer, splits=("train",), rows=given)["train"]["t"]._fingerprint
        for given in (rows, rows, turned)
    )
    assert one == again != other
