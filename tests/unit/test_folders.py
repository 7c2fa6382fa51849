"""Which rows a dataset's folder or repository gives: one data set's, split by the names that `datasets` goes by."""

from pathlib import Path

import datasets
import pytest
from datasets import Dataset, DatasetDict
from datasets.data_files import DataFilesDict, get_data_patterns
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from table_files import folder, task

from hf_mtl import InputError
from hf_mtl.data import data_splits as loading
from hf_mtl.data.data_splits import split_names
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.tasks.folders import folder_splits
from hf_mtl.tasks.labels import read_labels

CSV = "text,label\nNA,1\n007,0\n"
ROWS = {"text": ["NA", "007"], "label": ["1", "0"]}
MINE = "---\nconfigs:\n- config_name: mine\n  data_files: [{split: train, path: 'tr*'}]\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def rows_of(split="train", **source) -> dict[str, list]:
    rows = load_rows(task(**source), split)
    return {name: rows[name][:] for name in ("text", "label")}


@pytest.mark.parametrize(
    "files",
    [
        ("imdb/train.csv", "yelp/train.csv"),
        ("imdb/a.csv", "yelp/a.csv"),
        ("imdb/train/a.csv", "yelp/train/b.csv"),
        ("train/imdb/a.csv", "train/yelp/a.csv"),
        ("train.csv", "old/train.csv"),
        ("imdb_train.csv", "yelp_train.csv"),
        ("imdb-train/a.csv", "yelp-train/a.csv"),
    ],
)
def test_a_folder_of_two_data_sets_is_refused_and_both_are_named(tmp_path, files):
    source = folder(tmp_path / "set", **dict.fromkeys(files, CSV))
    with pytest.raises(
        InputError, match=r"holds several data sets: .*; name the folder of one of them as dataset"
    ) as no:
        rows_of(dataset=source)
    assert all(name in str(no.value) for name in files)


@pytest.mark.parametrize(
    "files",
    [
        ("data/train-00000-of-00002.csv", "data/train-00001-of-00002.csv"),
        ("train/a.csv", "train/b.csv", "test/a.csv"),
        ("train_0.csv", "train_1.csv", "dev.csv"),
        ("part1.csv", "part2.csv", "README.md", "notes.txt", ".hidden.csv", "__pycache__/x.csv"),
    ],
)
def test_the_parts_of_one_data_set_are_joined(tmp_path, files):
    source = folder(tmp_path / "set", **dict.fromkeys(files, CSV))
    assert rows_of(dataset=source)["text"] == ROWS["text"] * 2


@pytest.mark.parametrize("other", ["train.jsonl", "train.csv.gz"])
def test_the_same_rows_in_two_formats_are_refused(tmp_path, other):
    source = folder(tmp_path / "set", **{"train.csv": CSV, other: '{"text": "a", "label": 1}'})
    with pytest.raises(InputError, match=r"split 'train' in several formats: train\.csv, train"):
        rows_of(dataset=source)


def test_what_save_to_disk_wrote_is_read(tmp_path):
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    rows.with_format("numpy", columns=["label"]).save_to_disk(tmp_path / "one")
    DatasetDict({"train": rows, "dev": rows}).save_to_disk(tmp_path / "two")
    assert rows_of(dataset=str(tmp_path / "one")) == {"text": ["a", "b"], "label": [0, 1]}
    assert load_rows(task(dataset=str(tmp_path / "one")), "validation") is None
    found = rows_of("validation", dataset=str(tmp_path / "two"), splits={"validation": "dev"})
    assert found == {"text": ["a", "b"], "label": [0, 1]}


def test_files_that_a_readme_names_are_read_by_the_same_rules(tmp_path):
    text = 'text\tlabel\n"NA\t1\n007\t0\n'
    source = folder(tmp_path / "set", **{"train.tsv": text, "README.md": f"{MINE}---\n"})
    assert rows_of(dataset=source, config="mine") == {"text": ['"NA', "007"], "label": ["1", "0"]}
    info = "dataset_info:\n- config_name: mine\n  features:\n  - {name: text, dtype: string}\n  - name: label\n"
    names = "    dtype: {class_label: {names: {'0': good, '1': bad}}}\n---\n"
    folder(tmp_path / "set", **{"README.md": MINE + info + names})
    spec = task(dataset=source, config="mine")
    assert read_labels(spec, load_rows(spec, "train"), "train").tolist() == [0, 1]


def test_a_hub_repository_is_read_by_the_same_rules_and_from_the_cache(tmp_path, monkeypatch):
    source = folder(tmp_path / "set", **{"train.csv": CSV})
    real = datasets.load_dataset_builder
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda name, config, **options: real(source, **options))
    assert rows_of(dataset="maria/set") == ROWS

    def unreachable(*args, **options):
        raise ConnectionError("no route to the Hub")

    monkeypatch.setattr(datasets, "load_dataset_builder", unreachable)
    with pytest.raises(InputError, match=r"cannot load 'maria/set'.*no route to the Hub"):
        rows_of(dataset="maria/set")
    monkeypatch.setattr(loading, "snapshot_download", lambda *args, **options: source)
    assert rows_of(dataset="maria/set") == ROWS


def test_a_wrong_split_name_lists_those_there_are(tmp_path):
    source = folder(tmp_path / "set", **{"train.csv": CSV, "dev.csv": CSV})
    with pytest.raises(InputError, match=r"splits names 'eval' for 'validation', .*; the splits are .*tra") as refusal:
        load_rows(task(dataset=source, splits={"validation": "eval"}), "validation")
    assert "validation" in str(refusal.value) and sorted(split_names(task(dataset=source))) == ["train", "validation"]
    assert load_rows(task(dataset=source), "test") is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("./no/where at all", "there is no such folder"),
        ("no/where/else", "there is no such folder"),
        ("set/train.csv", "it is a file; wanted a folder"),
        ("bare", "No .supported. data files"),
    ],
)
def test_a_dataset_that_is_not_there_is_told(tmp_path, monkeypatch, name, reason):
    folder(tmp_path, **{"set/train.csv": CSV, "bare/notes.md2": "x"})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"cannot load {name!r}.*{reason}"):
        rows_of(dataset=name)


NAMES = (
    "train",
    "training",
    "dev",
    "valid",
    "val",
    "validation",
    "test",
    "eval",
    "a",
    "b1",
    "x_train",
    "my-dev",
    "Data",
)


@settings(deadline=None, max_examples=80, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    folders=st.lists(st.sampled_from(["", "data", *NAMES]), min_size=1, max_size=2, unique=True),
    names=st.lists(st.sampled_from([*NAMES, "train-00000-of-00002", "extra-00001-of-00002"]), min_size=1, max_size=4),
)
def test_files_belong_to_the_splits_that_datasets_gives_them(tmp_path_factory, folders, names):
    """Or they are refused, as the same file in two splits and files of two data sets are."""
    source = tmp_path_factory.mktemp("set")
    for number, name in enumerate(names):
        folder(source, **{str(Path(folders[number % len(folders)], f"{name}.csv")): CSV})
    try:
        found = folder_splits(source)
    except InputError as error:
        assert "name the f" in str(error)
        return
    wanted = DataFilesDict.from_patterns(get_data_patterns(str(source)), base_path=str(source))
    assert {split: sorted(paths) for split, paths in found.items()} == {
        str(split): sorted(set(paths)) for split, paths in wanted.items()
    }
