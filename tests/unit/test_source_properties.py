"""A generated table is the same rows from every writer, in every format and place, down to the tokens and the cut."""

import csv
import gzip
import itertools
import shutil
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from table_files import task

from hf_mtl import InputError, load_task_data
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.inference.file_reader import read_texts
from hf_mtl.tasks.labels import read_labels
from hf_mtl.tasks.text_files import format_of

TRICKY = [
    "NA",
    "null",
    "007",
    "1.0",
    "true",
    '"',
    'say "a, b"',
    ";",
    "|",
    "a\nb",
    "ü漢😀",
    " padded ",
    "\u2028",
    "\ufeff",
]
TEXTS = st.sampled_from(TRICKY) | st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\r"), min_size=1
)
TABLES = st.lists(st.tuples(TEXTS, st.sampled_from(["bad", "good"])), min_size=1, max_size=8)
SETTINGS = settings(
    deadline=None,
    max_examples=15,
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


def by_csv(frame: pd.DataFrame, path: Path, encoding: str = "utf-8") -> None:
    with open(path, "w", encoding=encoding, newline="") as stream:
        csv.writer(stream).writerows([list(frame.columns), *frame.itertuples(index=False)])


def by_arrow(frame: pd.DataFrame, path: Path, kind: str) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    with getattr(pa.ipc, f"new_{kind}")(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


def packed(write):
    """A writer of a gzipped file: what another one writes, packed."""

    def packed_write(frame: pd.DataFrame, path: Path) -> None:
        plain = path.parent / f".{path.name.removesuffix('.gz')}"
        write(frame, plain)
        with gzip.open(path, "wb") as stream:
            stream.write(plain.read_bytes())

    return packed_write


def by_cache(frame: pd.DataFrame, path: Path) -> None:
    """What `datasets` keeps its rows in."""
    Dataset.from_pandas(frame, preserve_index=False).save_to_disk(path.parent / ".saved")
    (path.parent / ".saved" / "data-00000-of-00001.arrow").rename(path)
    shutil.rmtree(path.parent / ".saved")


FILES = {  # name -> what writes it
    "csv.csv": by_csv,
    "pandas.csv": lambda frame, path: frame.to_csv(path, index=False),
    "pandas.csv.gz": lambda frame, path: frame.to_csv(path, index=False),
    "datasets.csv": lambda frame, path: Dataset.from_pandas(frame, preserve_index=False).to_csv(path),
    "pandas.jsonl.gz": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    "pandas.json.gz": lambda frame, path: frame.to_json(path, orient="records"),
    "datasets.jsonl": lambda frame, path: Dataset.from_pandas(frame, preserve_index=False).to_json(path),
    "pandas.parquet": lambda frame, path: frame.to_parquet(path),
    "pyarrow.parquet": lambda frame, path: pq.write_table(pa.Table.from_pandas(frame), path, row_group_size=2),
    "packed.parquet.gz": packed(lambda frame, path: frame.to_parquet(path)),
    "named.parquet.gz": lambda frame, path: frame.to_parquet(path, compression="gzip"),
    "file.arrow": lambda frame, path: by_arrow(frame, path, "file"),
    "stream.arrow": lambda frame, path: by_arrow(frame, path, "stream"),
    "feather.arrow": lambda frame, path: pyarrow.feather.write_feather(frame, path, compression="zstd"),
    "cache.arrow": by_cache,
    "category.arrow": lambda frame, path: by_arrow(frame.astype("category"), path, "file"),
    "file.arrow.gz": packed(lambda frame, path: by_arrow(frame, path, "file")),
    "stream.arrow.gz": packed(lambda frame, path: by_arrow(frame, path, "stream")),
}
ENCODED = {"wide.csv": "utf-16", "marked.csv": "utf-8-sig"}


def rows_of(**source) -> tuple[list[str], list[int]]:
    rows = load_rows(task(**source), "train")
    return rows["text"][:], read_labels(task(**source), rows, "train").tolist()


def frame_of(table) -> pd.DataFrame:
    return pd.DataFrame(table, columns=["text", "label"])


@pytest.mark.parametrize("name", [*FILES, *ENCODED])
@SETTINGS
@given(table=TABLES)
@example(table=[(text, "good") for text in TRICKY])
def test_a_row_that_is_read_is_the_row_that_was_written(tmp_path_factory, name, table):
    path, encoding = tmp_path_factory.mktemp("set") / name, ENCODED.get(name)
    by_csv(frame_of(table), path, encoding) if encoding else FILES[name](frame_of(table), path)
    wanted = [text for text, _ in table], [int(label == "good") for _, label in table]
    for entry in (path, path.parent, path.parent / "*", path.parent / "**" / f"*{path.suffix}"):
        assert rows_of(files={"train": str(entry)}, encoding=encoding) == wanted
    assert rows_of(dataset=str(path.parent), encoding=encoding) == wanted
    assert [text for (text,) in read_texts(str(path), format_of(name), None, encoding)] == wanted[0]


def places(frame: pd.DataFrame, root: Path):
    """A table of at least two rows in every format and place: how each is named in a task."""
    for name, write in FILES.items():
        (root / name).mkdir()
        write(frame, root / name / name)
        yield {"files": {"train": str(root / name / name)}}
    half = len(frame) // 2
    for number, part in enumerate((frame[:half], frame[half:])):
        (root / "parts" / "data").mkdir(parents=True, exist_ok=True)
        part.to_parquet(root / "parts" / "data" / f"train-0000{number}-of-00002.parquet", index=False)
        part.to_csv(root / "parts" / f"part-{number}.csv.gz", index=False)
    yield {"dataset": str(root / "parts")}
    yield {"files": {"train": str(root / "parts" / "*.csv.gz")}}
    rows = Dataset.from_pandas(frame, preserve_index=False)
    rows.save_to_disk(root / "one", num_shards=2)
    DatasetDict(train=rows, other=rows).save_to_disk(root / "two")
    yield from ({"dataset": str(root / "one")}, {"dataset": str(root / "two")})
    yield from ({"files": {"train": str(root / "one")}}, {"files": {"train": str(root / "two")}})
    yield {"files": {"train": str(root / "csv.csv")}, "splits": {"train": "train[:100%]"}}


def tokens(spec, tokenizer, **rows) -> dict[str, list]:
    """Every split's tokens and labels, or the sentence that says why there are none."""
    try:
        data = load_task_data([spec], tokenizer, max_length=16, **rows)
    except InputError as error:
        assert "\n" not in str(error)
        return {"refused": [str(error).split(": ", 1)[1]]}
    return {split: [found["t"]["input_ids"][:], found["t"]["labels"][:]] for split, found in data.items() if found}


@settings(SETTINGS, max_examples=5)
@given(table=st.lists(st.tuples(TEXTS, st.sampled_from(["bad", "good"])), min_size=2, max_size=12))
@example(table=[(text, ("good", "bad")[n % 2]) for n, text in enumerate(TRICKY)])
def test_every_format_and_place_gives_the_same_tokens_and_the_same_cut(tmp_path_factory, tokenizer, table):
    frame, root = frame_of(table), tmp_path_factory.mktemp("set")
    cut = {"validation_fraction": 0.3, "max_rows": {"train": 6}}
    wanted = tokens(task(dataset=None, files={}, **cut), tokenizer, rows={"t": {"train": frame}})
    assert "refused" in wanted or len(wanted) == 2
    for source in places(frame, root):
        assert tokens(task(**source, **cut), tokenizer) == wanted


SMALL = frame_of([("a", "good"), ("b\nc", "bad"), ("ü", "good")])
BYTES = st.binary(max_size=3) | st.sampled_from([b'"', b"\n", b"\0", b"\xff", b"\x1f\x8b", b"ARROW1", b"PAR1"])


@pytest.mark.parametrize(
    "name", ["pandas.csv.gz", "packed.parquet.gz", "file.arrow", "stream.arrow", "stream.arrow.gz"]
)
@settings(SETTINGS, max_examples=60)
@given(start=st.floats(0, 1), length=st.integers(0, 40), new=BYTES)
def test_a_damaged_file_gives_rows_or_one_sentence(tmp_path_factory, name, start, length, new):
    path = tmp_path_factory.mktemp("set") / name
    FILES[name](SMALL, path)
    content = path.read_bytes()
    place = int(start * len(content))
    path.write_bytes(content[:place] + new + content[place + length :])
    for read in (
        lambda: rows_of(files={"train": str(path)}),
        lambda: list(itertools.islice(read_texts(str(path), format_of(name), ["text"]), 9)),
    ):
        try:
            read()
        except InputError as error:
            assert "\n" not in str(error) and (
                name in str(error) or "split is empty" in str(error) or "column" in str(error)
            )
