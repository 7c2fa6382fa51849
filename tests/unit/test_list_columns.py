"""Columns of lists in which some cells are of another type, as people and programs write them."""

import json

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_mtl import InputError, TaskSpec
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.inference.file_reader import read_texts
from hf_mtl.tasks.labels import read_labels

TOPICS = {"kind": "multi_label", "text_columns": ["text"], "label_column": "topics", "labels": ["sport", "art", "war"]}
TAGS = {
    "kind": "token_classification",
    "text_columns": ["words"],
    "label_column": "tags",
    "labels": ["O", "B-X", "I-X"],
}
MANY = 5000  # more than one chunk of rows


def topics(cells):
    return [{"text": f"row {number}", "topics": cell} for number, cell in enumerate(cells)]


def read(kind, rows, form, folder, on_bad_row="error", **more):
    """The rows and labels of a task that reads `rows` from a file or from memory."""
    path = folder / "train.jsonl"
    if form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        spec = TaskSpec(name="t", **kind, files={"train": str(path)}, **more)
        found = load_rows(spec, "train", on_bad_row)
    else:
        spec = TaskSpec(name="t", **kind, **more)
        given = {"train": rows if form == "list" else pandas.DataFrame(rows)}
        found = load_rows(spec, "train", on_bad_row, given)
    return found, read_labels(spec, found, "train")


@pytest.mark.parametrize("form", ["jsonl", "list", "frame"])
@pytest.mark.parametrize("before", [0, MANY])
def test_a_bare_value_among_lists_is_a_list_of_one(tmp_path, form, before):
    cells = [["sport"]] * before + [["sport", "war"], "art", [], ["art"]]
    _, labels = read(TOPICS, topics(cells), form, tmp_path)
    assert labels[-4:].tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("form", ["jsonl", "list", "frame"])
def test_a_delimiter_parts_the_texts_among_lists(tmp_path, form):
    cells = [["sport", "war"], "art|war", "", ["sport|art"]]
    _, labels = read(TOPICS, topics(cells), form, tmp_path, label_delimiter="|")
    assert labels.tolist() == [[1, 0, 1], [0, 1, 1], [0, 0, 0], [1, 1, 0]]


@pytest.mark.parametrize("form", ["jsonl", "list", "frame"])
@pytest.mark.parametrize("odd", ["poetry", ["poetry"], 7, [7], {"sport": 1}, [["sport"]], [None]])
def test_the_odd_row_alone_is_bad(tmp_path, form, odd):
    cells = [["sport", "war"], ["art"], odd, []]
    with pytest.raises(InputError, match=r"label .* in row 2 \("):
        read(TOPICS, topics(cells), form, tmp_path)
    rows, labels = read(TOPICS, topics(cells), form, tmp_path, on_bad_row="skip")
    assert rows["text"][:] == ["row 0", "row 1", "row 3"]
    assert labels.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("form", ["jsonl", "list", "frame"])
@pytest.mark.parametrize("before", [0, MANY])
def test_of_words_and_tags_too_the_odd_row_alone_is_bad(tmp_path, form, before):
    good = {"words": ["Ada", "ran"], "tags": ["B-X", "O"]}
    odd = [
        {"words": "Ada ran", "tags": ["B-X", "O"]},
        {"words": ["Ada", "ran"], "tags": "B-X O"},
        {"words": ["Ada", "ran"], "tags": ["B-X", 7]},
        {"words": ["Ada", "ran"], "tags": [["B-X"], "O"]},
    ]
    rows = [
        *[good] * before,
        good,
        *odd,
        {"words": ["Route", 66], "tags": ["B-X", "I-X"]},
        {"words": "Ada", "tags": "O"},
    ]
    with pytest.raises(InputError, match=rf"row {before + 1}\b"):
        read(TAGS, rows, form, tmp_path)
    found, labels = read(TAGS, rows, form, tmp_path, on_bad_row="skip")
    assert found["words"][-3:] == [["Ada", "ran"], ["Route", "66"], ["Ada"]]
    assert [row.tolist() for row in labels[-3:]] == [[1, 0], [1, 2], [0]]
    assert len(found) == before + 3


def test_other_columns_stay_texts_where_one_cell_is_a_list(tmp_path):
    spec = TaskSpec(name="t", kind="classification", text_columns=["text"], label_column="label", labels=["a", "b"])
    rows = [{"text": "x", "label": "a"}, {"text": "y", "label": ["b"]}, {"text": "z", "label": "b"}]
    found = load_rows(spec, "train", "skip", {"train": rows})
    assert found["text"][:] == ["x", "z"]


@pytest.mark.parametrize("kind", [pa.string_view(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
def test_lists_of_strings_of_every_type_are_words(tmp_path, kind):
    def column(lists):
        flat = [item for items in lists for item in items]
        ends = [0]
        for items in lists:
            ends.append(ends[-1] + len(items))
        values = pa.array(flat).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(flat).cast(kind)
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values)

    table = pa.table({"words": column([["Ada", "ran"], ["Bob"]]), "tags": column([["B-X", "O"], ["B-X"]])})
    pq.write_table(table, tmp_path / "train.parquet", store_schema=True)
    spec = TaskSpec(name="t", **TAGS, files={"train": str(tmp_path / "train.parquet")})
    rows = load_rows(spec, "train")
    assert rows["words"][:] == [["Ada", "ran"], ["Bob"]]
    assert [row.tolist() for row in read_labels(spec, rows, "train")] == [[1, 0], [1]]


ONE = pandas.DataFrame({"words": [["Ada", "runs"]], "tags": [["B-X", "O"]]})
LAYOUTS = {
    "an array": ONE.to_json(orient="records"),
    "an array of json": json.dumps(ONE.to_dict(orient="records"), indent=1),
    "columns": json.dumps(ONE.to_dict(orient="list")),
    "pandas' columns": ONE.to_json(),
    "pandas' table": ONE.to_json(orient="table", index=False),
    "data": json.dumps({"version": 1, "data": ONE.to_dict(orient="records")}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_row_of_lists_is_one_row_in_every_layout(tmp_path, layout):
    (tmp_path / "train.json").write_text(LAYOUTS[layout])
    spec = TaskSpec(name="t", **TAGS, files={"train": str(tmp_path / "train.json")})
    rows = load_rows(spec, "train")
    assert rows["words"][:] == [["Ada", "runs"]]
    assert [labels.tolist() for labels in read_labels(spec, rows, "train")] == [[1, 0]]
    assert list(read_texts(str(tmp_path / "train.json"), "json", ["words"])) == [("Ada", "runs")]


def test_one_row_of_two_columns_of_dicts_in_an_array_is_a_row(tmp_path):
    (tmp_path / "a.json").write_text('[{"text": {"0": "a"}, "label": {"0": 1}}]')
    with pytest.raises(InputError, match=r"column 'text' holds \{'0': 'a'\} instead of text in row 0"):
        list(read_texts(str(tmp_path / "a.json"), "json", ["text"]))


def write_tags(path, names, tags):
    """Tags as indices of names that the data has, in a parquet file."""
    features = Features({"words": List(Value("string")), "tags": List(ClassLabel(names=names))})
    words = [[f"word {number}" for number in range(len(each))] for each in tags]
    Dataset.from_dict({"words": words, "tags": tags}, features=features).to_parquet(path)
    return str(path)


def test_lists_of_named_classes_keep_their_names_over_files(tmp_path):
    names, tags = ["I-X", "O", "B-X"], [[1, 2], [2, 0], [1]]
    files = [write_tags(tmp_path / f"{number}.parquet", names, [each]) for number, each in enumerate(tags)]
    spec = TaskSpec(name="t", **TAGS, files={"train": tuple(files)})
    found = read_labels(spec, load_rows(spec, "train"), "train")
    assert [each.tolist() for each in found] == [[0, 1], [1, 2], [0]]  # indices of the task's names
    files.append(write_tags(tmp_path / "other.parquet", names[::-1], [[1, 2]]))
    with pytest.raises(InputError, match="different class names"):
        load_rows(TaskSpec(name="t", **TAGS, files={"train": tuple(files)}), "train")
