"""Patterns, folders and saved datasets under `files` give the rows of their files, or one sentence."""

import glob
import gzip
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from table_files import folder, task

from hf_mtl import InputError
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.tasks.labels import read_labels
from hf_mtl.tasks.sources import find_files
from hf_mtl.tasks.task_file import load_tasks


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def table(text: str) -> str:
    return f"text,label\n{text},good\n"


def tables(path: Path, *names: str) -> Path:
    """A folder of csv files, each of one row whose text is the file's name."""
    return Path(folder(path, **{name: table(name) for name in names}))


def texts_of(split="train", **source) -> list[str]:
    return load_rows(task(**source), split)["text"][:]


# ---- patterns ----


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("*.csv", ["a.csv", "b.csv"]),
        ("?.csv", ["a.csv", "b.csv"]),
        ("[b-z].csv", ["b.csv"]),
        ("*", ["a.csv", "b.csv"]),
        ("*/*.csv", ["in/a.csv", "in/c.csv"]),
        ("**/*.csv", ["a.csv", "b.csv", "in/a.csv", "in/c.csv", "in/deep/d.csv"]),
        ("in/**", ["in/a.csv", "in/c.csv", "in/deep/d.csv"]),
        (["in/*.csv", "a.csv"], ["in/a.csv", "in/c.csv", "a.csv"]),
    ],
)
def test_a_pattern_stands_for_its_files_in_the_order_of_their_names(tmp_path, pattern, wanted):
    there = ("in/c.csv", "b.csv", "in/deep/d.csv", "in/a.csv", "a.csv", ".hidden.csv", "in/.git/x.csv")
    root = tables(tmp_path / "set", *there)
    folder(root, **{"README.md": "rows", "in/notes.txt": "text"})
    entries = [str(root / entry) for entry in ([pattern] if isinstance(pattern, str) else pattern)]
    assert texts_of(files={"train": entries}) == wanted


def test_the_order_of_files_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    names = ["10.csv", "9.csv", "B.csv", "a/z.csv", "a-b/x.csv", "a.csv", "b-1.csv", "b.csv", "ä.csv"]
    root = tables(tmp_path / "set", *sorted(names, key=len))
    in_any_order, in_any_folder = glob.glob, Path.rglob
    for reverse in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(glob, "glob", lambda *args, r=reverse, **kw: sorted(in_any_order(*args, **kw), reverse=r))
            patch.setattr(Path, "rglob", lambda *args, r=reverse: sorted(in_any_folder(*args), reverse=r))
            for entry in (root, root / "**/*.csv"):
                found = find_files({"train": str(entry)}, "train")
                assert [str(Path(path).relative_to(root)) for path in found] == names


def test_brackets_in_the_name_of_a_folder_or_a_file_are_no_pattern(tmp_path):
    root = tables(tmp_path / "set[1]", "a*.csv", "ab.csv")
    assert texts_of(files={"train": str(root / "a*.csv")}) == ["a*.csv"]
    assert texts_of(files={"train": str(root / "*b.csv")}) == ["ab.csv"]
    with pytest.raises(InputError, match=r"'.*/set\[1\]/gone.csv': cannot be read: No such file"):
        texts_of(files={"train": str(root / "gone.csv")})


def test_a_task_file_takes_patterns_and_folders_from_its_own_folder(tmp_path, monkeypatch):
    tables(tmp_path / "set", "data/b.csv", "data/a.csv", "dev/c.csv", "test/d.csv")
    content = "{train: data/*.csv, validation: dev, test: [./test/]}"
    row = f"kind: classification, text_columns: text, labels: [bad, good], files: {content}"
    folder(tmp_path / "set", **{"my.yaml": f"tasks: {{t: {{{row}}}}}"})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (spec,) = load_tasks("../set/my.yaml")
    found = {split: load_rows(spec, split)["text"][:] for split in ("train", "validation", "test")}
    assert found == {"train": ["data/a.csv", "data/b.csv"], "validation": ["dev/c.csv"], "test": ["test/d.csv"]}


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("*.cvs", r"finds nothing; '.*/set' has a.csv, b.jsonl, c.csv, d.csv, e.csv and 3 more; wanted files of \.csv"),
        ("sets/*.csv", "finds nothing; there is no folder '.*/sets'"),
        ("notes*", "which is no table"),
        ("[ab].*", r"stands for files of several formats: a\.csv, b\.jsonl; keep one format"),
        ("f*", r"has 'f.csv.zip', which is compressed; decompress it"),
        ("e*", r"stands for 'e.csv' and 'e.csv.gz'; keep one of them"),
    ],
)
def test_a_pattern_that_stands_for_no_table_of_one_format_is_told(tmp_path, pattern, reason):
    root = tables(tmp_path / "set", "a.csv", "c.csv", "d.csv", "e.csv")
    folder(root, **{"b.jsonl": "{}", "e.csv.gz": gzip.compress(b"text"), "notes.md": "x", "f.csv.zip": b"PK"})
    with pytest.raises(InputError, match=f"task 't': cannot load .*{reason}") as refusal:
        texts_of(files={"train": str(root / pattern)})
    assert "\n" not in str(refusal.value)


def test_a_file_that_two_entries_stand_for_is_refused(tmp_path):
    root = tables(tmp_path / "set", "a.csv", "b.csv")
    with pytest.raises(InputError, match=r"'.*/a.csv': it is there twice for 'train', by '.*/\*.csv' and '.*/a.csv'"):
        texts_of(files={"train": [str(root / "*.csv"), str(root / "a.csv")]})


def test_a_pattern_that_takes_a_file_of_another_split_is_refused(tmp_path):
    root = tables(tmp_path / "set", "a.csv", "dev.csv")
    files = {"train": str(root / "*.csv"), "validation": str(root / "dev.csv")}
    for split in files:
        with pytest.raises(
            InputError, match=r"'.*/dev.csv': it is of the splits '\w+' and '\w+', by .*; wanted each file in"
        ):
            texts_of(split, files=files)
    with pytest.raises(InputError, match="is of the splits"):
        texts_of(files={"train": str(root), "validation": str(root / "dev.csv")})
    for same in ("dev.csv", "*.csv"):  # meant, as in a first try
        assert texts_of(files={"train": str(root / same), "validation": str(root / same)})
    assert texts_of(files={"train": str(root / "*.csv"), "test": str(root / "later/*.csv")}) == ["a.csv", "dev.csv"]


# ---- folders ----


def test_a_folder_stands_for_all_its_tables(tmp_path):
    root = tables(tmp_path / "set", "b.csv", "a.csv", "more/c.csv", ".git/x.csv", "__pycache__/y.csv")
    folder(root, **{"README.md": "rows", "more/d.csv.gz": gzip.compress(table("more/d.csv.gz").encode())})
    assert texts_of(files={"train": str(root)}) == ["a.csv", "b.csv", "more/c.csv", "more/d.csv.gz"]
    spark = tables(tmp_path / "out.csv", "part-00000-ab.csv", "_SUCCESS", "part-00001-ab.csv")
    assert texts_of(files={"train": [str(spark), str(root / "a.csv")]})[-1] == "a.csv"


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, r"the folder '.*/set' has no table in it; wanted files of \.csv, \.tsv"),
        ({"README.md": "x"}, "has no table in it"),
        ({"a.txt": "x"}, "'a.txt', which is no table"),
        ({"a.csv": "x", "b.parquet": "x"}, r"stands for files of several formats: a\.csv, b\.parquet"),
        ({"a.csv.zip": "x"}, "'a.csv.zip', which is compressed; decompress it"),
        (
            {"train.csv": "x", "dev.csv": "x"},
            "files of the splits train, validation, and files names all of it for 'tr",
        ),
        ({"train/a.csv": "x", "test/a.csv": "x"}, "files of the splits test, train, .*; wanted dataset: "),
        ({"x-00000-of-00002.csv": "x"}, "holds not each part of split 'train' once"),
        ({"a.csv": "x", "a.csv.gz": "x"}, "stands for 'a.csv' and 'a.csv.gz'"),
    ],
)
def test_a_folder_that_is_no_split_is_told(tmp_path, files, reason):
    (tmp_path / "set").mkdir()
    with pytest.raises(InputError, match=f"task 't': cannot load .*{reason}"):
        texts_of(files={"train": folder(tmp_path / "set", **files)})


@pytest.mark.parametrize("entry", ["rows", "rows.doc", "rows.txt", "no/such/folder"])
def test_what_is_no_file_of_rows_and_no_folder_is_refused_when_it_is_declared(tmp_path, entry):
    with pytest.raises(InputError, match=r"is none of \.csv, .* \.arrow, and no folder"):
        task(files={"train": str(tmp_path / entry)})
    with pytest.raises(InputError, match="files has no file for 'train'"):
        task(files={"train": []})


# ---- what save_to_disk wrote ----

FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["good", "bad"])})


def saved(path: Path, *texts: str) -> Dataset:
    rows = Dataset.from_dict({"text": list(texts), "label": [0] * len(texts)}, features=FEATURES)
    rows.save_to_disk(path)
    return rows


def test_a_saved_dataset_is_an_entry_of_files(tmp_path):
    rows = saved(tmp_path / "one", "a", "b")
    saved(tmp_path / "two", "c")
    spec = task(files={"train": [str(tmp_path / "one"), str(tmp_path / "two")]})
    found = load_rows(spec, "train")
    assert found["text"][:] == ["a", "b", "c"] and read_labels(spec, found, "train").tolist() == [1, 1, 1]
    assert texts_of(files={"train": str(tmp_path / "*")}, text_columns=("text",)) == ["a", "b", "c"]
    rows.select([1]).save_to_disk(tmp_path / "chosen")  # with indices
    assert texts_of(files={"train": str(tmp_path / "chosen")}) == ["b"]
    saved(tmp_path / "bad", "a", "b").map(lambda row, n: {"text": None if n else "a"}, with_indices=True).save_to_disk(
        tmp_path / "worse"
    )
    with pytest.raises(InputError, match=r"has no text in row 1 .* of '.*/worse'"):
        texts_of(files={"train": [str(tmp_path / "one"), str(tmp_path / "worse")]})


def test_a_saved_dict_gives_the_split_of_its_name(tmp_path):
    parts = {split: saved(tmp_path / "parts" / split, split) for split in ("train", "test")}
    DatasetDict(parts).save_to_disk(tmp_path / "all")
    for name in ("parts", "all"):
        source = str(tmp_path / name)
        assert [texts_of(split, files={split: source}) for split in parts] == [["train"], ["test"]]
        assert texts_of(files={"train": f"{source}/test"}) == ["test"]
        with pytest.raises(
            InputError, match=r"saved dataset '.*' has no split 'validation'; it has test, train; wanted"
        ):
            texts_of("validation", files={"validation": source})


@pytest.mark.parametrize("damaged", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
@pytest.mark.parametrize("content", ["", "{", "{}", None])
def test_a_damaged_saved_dataset_is_told(tmp_path, damaged, content):
    saved(tmp_path / "one", "a")
    path = tmp_path / "one" / damaged
    path.unlink() if content is None else path.write_text(content)
    try:
        assert texts_of(files={"train": str(tmp_path / "one")}) == ["a"]
    except InputError as error:
        assert "\n" not in str(error) and str(tmp_path / "one") in str(error)


# ---- Arrow and gzip ----


def arrow_file(path: Path, frame: pd.DataFrame, kind: str, **options) -> Path:
    made = pa.Table.from_pandas(frame, preserve_index=False)
    with getattr(pa.ipc, f"new_{kind}")(path, made.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(made, max_chunksize=2)
    return path


FRAME = pd.DataFrame({"text": ["a", "ü漢", "c d"], "label": ["good", "bad", "good"]})


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
@pytest.mark.parametrize("kind", ["file", "stream"])
def test_arrows_files_and_streams_are_read(tmp_path, kind, compression):
    path = arrow_file(tmp_path / "a.arrow", FRAME, kind, compression=compression)
    assert texts_of(files={"train": str(path)}) == FRAME["text"].tolist()
    path = arrow_file(tmp_path / "b.arrow", FRAME.astype({"text": "category"}), kind)
    assert texts_of(files={"train": str(path)}) == FRAME["text"].tolist()


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_a_damaged_arrow_file_gives_rows_or_one_sentence(tmp_path, kind):
    whole = arrow_file(tmp_path / "a.arrow", FRAME, kind).read_bytes()
    path, outcomes = tmp_path / "b.arrow", set()
    for place in range(0, len(whole), 3):
        for content in (whole[:place], whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]):
            path.write_bytes(content)
            try:
                load_rows(task(files={"train": str(path)}), "train")["text"][:]
                outcomes.add("rows")
            except InputError as error:
                assert ("\n" not in str(error) and "b.arrow" in str(error)) or "split is empty" in str(error)
                outcomes.add("sentence")
    assert outcomes == {"rows", "sentence"}


def test_a_name_that_tells_wrongly_of_gzip_is_told_and_the_content_read(tmp_path, caplog):
    FRAME.to_parquet(tmp_path / "pandas.parquet.gz", compression="gzip")  # of the columns, not of the file
    folder(tmp_path, **{"packed.csv": gzip.compress(table("x").encode()), "plain.csv.gz": table("y")})
    for name, texts, told in (
        ("pandas.parquet.gz", FRAME["text"].tolist(), "it is not gzipped, and its name ends in .gz"),
        ("packed.csv", ["x"], "it is gzipped, and its name does not end in .gz"),
        ("plain.csv.gz", ["y"], "it is not gzipped, and its name ends in .gz"),
    ):
        caplog.clear()
        assert texts_of(files={"train": str(tmp_path / name)}) == texts
        assert caplog.messages == [f"{str(tmp_path / name)!r}: {told}; it is read by what is in it"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "arrow"])
def test_a_gzipped_file_that_is_cut_or_damaged_is_named(tmp_path, suffix):
    plain, path = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}.gz"
    frame = pd.concat([FRAME] * 99, ignore_index=True)
    match suffix:
        case "csv":
            frame.to_csv(plain, index=False)
        case "jsonl":
            frame.to_json(plain, orient="records", lines=True)
        case "parquet":
            frame.to_parquet(plain, compression=None)
        case "arrow":
            arrow_file(plain, frame, "file")
    packed = gzip.compress(plain.read_bytes())
    path.write_bytes(packed)
    assert texts_of(files={"train": str(path)}) == frame["text"].tolist()
    half = len(packed) // 2
    for content in (packed[:half], packed[:-3], packed[:half] + b"damage" + packed[half + 6 :], packed[:-8] + b"x" * 8):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"task 't': cannot load '.*b\.{suffix}\.gz': ") as refusal:
            texts_of(files={"train": str(path)})
        assert "\n" not in str(refusal.value)
