"""Generated tables read the same whoever wrote them and whoever reads; damaged files give rows or one sentence."""

import csv
import gzip
import itertools
import json

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hf_mtl import InputError, TaskSpec
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.inference.file_reader import read_texts
from hf_mtl.tasks.labels import read_labels
from hf_mtl.tasks.text_files import format_of

TRICKY = [
    "NA",
    "nan",
    "null",
    "None",
    "007",
    "1.0",
    "true",
    "2020-01-01",
    '"',
    '""',
    'say "a, b"',
    ";",
    "|",
    "a\nb",
    "ü漢😀",
]
TRICKY += [" padded ", "#", "'", "\\", "\\n", "1e5", "{}", "[1]", "\u2028", "\x85", "\ufeff", "\x00", "=1+1"]
TEXTS = st.sampled_from(TRICKY) | st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\r"), min_size=1
)
TABLES = st.lists(st.tuples(TEXTS, st.sampled_from(["bad", "good"])), min_size=1, max_size=6)
SETTINGS = settings(
    deadline=None,
    max_examples=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        datasets.disable_progress_bars()
        yield
        datasets.enable_progress_bars()


def by_csv_module(path, frame, **options):
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, **options)
        writer.writerows([list(frame.columns), *frame.itertuples(index=False)])


def by_hand(path, frame):
    lines = ["\t".join(cells) for cells in [list(frame.columns), *frame.itertuples(index=False)]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def as_lines(frame) -> str:
    return "".join(json.dumps(record) + "\n" for record in frame.to_dict("records"))


WRITERS = {
    "module.csv": by_csv_module,
    "excel.csv": lambda path, frame: by_csv_module(path, frame, delimiter=";", quoting=csv.QUOTE_ALL),
    "tabs.csv": lambda path, frame: by_csv_module(path, frame, delimiter="\t"),
    "pandas.csv": lambda path, frame: frame.to_csv(path, index=False),
    "pandas_index.csv": lambda path, frame: frame.to_csv(path),
    "bom.csv": lambda path, frame: frame.to_csv(path, index=False, encoding="utf-8-sig"),
    "pandas.csv.gz": lambda path, frame: frame.to_csv(path, index=False),
    "arrow.csv": lambda path, frame: pyarrow.csv.write_csv(pa.Table.from_pandas(frame), path),
    "datasets.csv": lambda path, frame: Dataset.from_pandas(frame).to_csv(path),
    "plain.tsv": by_hand,
    "pandas.jsonl": lambda path, frame: frame.to_json(path, orient="records", lines=True),
    "pandas.json": lambda path, frame: frame.to_json(path),
    "array.json": lambda path, frame: frame.to_json(path, orient="records"),
    "pretty.json": lambda path, frame: frame.to_json(path, orient="records", indent=2),
    "columns.json": lambda path, frame: path.write_text(json.dumps(frame.to_dict("list"))),
    "datasets.jsonl": lambda path, frame: Dataset.from_pandas(frame).to_json(path),
    "packed.jsonl.gz": lambda path, frame: path.write_bytes(gzip.compress(as_lines(frame).encode())),
    "pandas.parquet": lambda path, frame: frame.to_parquet(path),
    "category.parquet": lambda path, frame: frame.astype("category").to_parquet(path),
    "datasets.parquet": lambda path, frame: Dataset.from_pandas(frame).to_parquet(path),
}


def task(**source) -> TaskSpec:
    names = {"name": "t", "kind": "classification", "text_columns": ("text",), "labels": ("bad", "good")}
    return TaskSpec(**names, **source)


def training(**source) -> tuple[list[str], list[int]]:
    rows = load_rows(task(**source), "train")
    return rows["text"][:], read_labels(task(**source), rows, "train").tolist()


@pytest.mark.parametrize("name", WRITERS)
@SETTINGS
@given(table=TABLES)
@example(table=[(text, "good") for text in TRICKY])
def test_a_table_has_the_same_rows_from_every_writer_for_every_reader(tmp_path_factory, name, table):
    if name.endswith(".tsv"):
        table = [(text.translate(str.maketrans("\t\n", "  ")), label) for text, label in table]
    folder = tmp_path_factory.mktemp("set")
    path = folder / name
    WRITERS[name](path, pd.DataFrame(table, columns=["text", "label"]))
    wanted = [text for text, _ in table], [int(label == "good") for _, label in table]
    assert training(files={"train": str(path)}) == training(dataset=str(folder)) == wanted
    assert [text for (text,) in read_texts(str(path), format_of(name), None)] == wanted[0]


@SETTINGS
@given(table=TABLES)
def test_a_saved_dataset_has_the_same_rows(tmp_path_factory, table):
    folder = tmp_path_factory.mktemp("set")
    frame = pd.DataFrame(table, columns=["text", "label"])
    Dataset.from_pandas(frame).save_to_disk(folder)
    assert training(dataset=str(folder)) == (frame["text"].tolist(), [int(label == "good") for label in frame["label"]])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["good", "1", "\ud800"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)
RECORDS = st.lists(st.dictionaries(st.sampled_from(["text", "label", "other"]), VALUES), max_size=4)


def outcome(read) -> str | None:
    """The sentence that a reading ends in, if it does; anything but an InputError fails the test."""
    try:
        read()
    except InputError as error:
        assert "\n" not in str(error)
        return str(error)
    return None


@settings(SETTINGS, max_examples=150)
@given(records=RECORDS, array=st.booleans())
def test_any_json_is_read_or_refused_in_training_and_prediction(tmp_path_factory, records, array):
    path = tmp_path_factory.mktemp("set") / "rows.jsonl"
    path.write_text(json.dumps(records) if array else "\n".join(map(json.dumps, records)))
    refused = outcome(lambda: training(files={"train": str(path)}))
    unread = outcome(lambda: list(read_texts(str(path), "jsonl", ["text"])))
    if unread and "no column" not in unread:
        assert refused


FRAME = pd.DataFrame({"text": ["a", 'b "quoted", text', "c\nd", "ü"], "label": ["good", "bad", "good", "bad"]})
NAMES = ("module.csv", "plain.tsv", "array.json", "pandas.jsonl", "pandas.csv.gz", "packed.jsonl.gz", "pandas.parquet")
BYTES = st.binary(max_size=3) | st.sampled_from(
    [b'"', b"\n", b"\r", b"\t", b",", b"\0", b"\xff", b"[", b"}", b"\xed\xa0\x80"]
)


@pytest.mark.parametrize("name", NAMES)
@settings(SETTINGS, max_examples=60)
@given(start=st.floats(0, 1), length=st.integers(0, 8), new=BYTES)
def test_a_damaged_file_gives_rows_or_one_sentence(tmp_path_factory, name, start, length, new):
    path = tmp_path_factory.mktemp("set") / name
    WRITERS[name](path, FRAME if name != "plain.tsv" else FRAME.replace("\n", " ", regex=True))
    content = path.read_bytes()
    place = int(start * len(content))
    path.write_bytes(content[:place] + new + content[place + length :])
    outcome(lambda: training(files={"train": str(path)}))
    outcome(lambda: list(itertools.islice(read_texts(str(path), format_of(name), None), 9)))
