"""A split may be slices of the data's own splits, as `datasets` takes them, wherever the rows are."""

import dataclasses
from pathlib import Path

import datasets
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from table_files import folder, task

from hf_mtl import InputError, load_task_data
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.tasks.labels import read_labels
from hf_mtl.tasks.task_file import load_tasks


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def frame(num_rows: int, name: str = "row") -> pd.DataFrame:
    return pd.DataFrame({"text": [f"{name} {n}" for n in range(num_rows)], "label": ["good", "bad"] * (num_rows // 2)})


SPLITS = {"train": "train[:90%]", "validation": "train[90%:]", "test": "train[:2]+train[-2:]"}


def sources(tmp_path: Path) -> dict[str, dict]:
    """A table of 20 rows, wherever a task may have it."""
    rows = Dataset.from_pandas(frame(20))
    (tmp_path / "files").mkdir()
    frame(20).to_csv(tmp_path / "files" / "train.csv", index=False)
    frame(12).to_csv(tmp_path / "a.csv", index=False)
    pd.DataFrame(frame(20)[12:]).to_csv(tmp_path / "b.csv", index=False)
    DatasetDict(train=rows).save_to_disk(tmp_path / "saved")
    (tmp_path / "hub" / "data").mkdir(parents=True)
    rows.to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    (tmp_path / "declared").mkdir()
    rows.to_parquet(tmp_path / "declared" / "rows.parquet")
    card = "---\nconfigs: [{config_name: default, data_files: [{split: train, path: rows.parquet}]}]\n---\n"
    (tmp_path / "declared" / "README.md").write_text(card)
    folders = {name: {"dataset": str(tmp_path / name)} for name in ("files", "saved", "hub", "declared")}
    return {**folders, "list": {"files": {"train": [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]}}}


@pytest.mark.parametrize("name", ["files", "saved", "hub", "declared", "list"])
def test_slices_are_those_that_datasets_takes(tmp_path, name):
    source = sources(tmp_path)[name]
    for split, wanted in SPLITS.items():
        taken = datasets.load_dataset(str(tmp_path / "hub"), split=wanted, cache_dir=str(tmp_path / "other"))
        rows = load_rows(task(**source, splits=SPLITS), split)
        assert rows["text"][:] == taken["text"][:] and rows["label"][:] == taken["label"][:]


NUMBERS, PERCENTS = ["", "0", "3", "7", "-4", "-1", "50"], ["", "0", "17", "34", "66", "100", "-10", "-33"]
SPECS = st.builds("train[{}:{}]".format, st.sampled_from(NUMBERS), st.sampled_from(NUMBERS)) | st.builds(
    lambda first, end, rounding: f"train[{first}{'%' * bool(first)}:{end}{'%' * bool(end)}]{rounding}",
    st.sampled_from(PERCENTS),
    st.sampled_from(PERCENTS[1:]),
    st.sampled_from(["", "(closest)"]),
)


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    """What `datasets` makes of a file of 20 rows, and the file."""
    place = tmp_path_factory.mktemp("builder")
    frame(20).to_json(place / "train.jsonl", orient="records", lines=True)
    files = {"train": str(place / "train.jsonl")}
    made = datasets.load_dataset_builder("json", data_files=files, cache_dir=str(place / "cache"))
    made.download_and_prepare()
    return made, files


@settings(deadline=None, max_examples=100, derandomize=True)
@given(first=SPECS, more=st.lists(SPECS, max_size=2))
def test_any_slices_are_those_that_datasets_takes(builder, first, more):
    made, files = builder
    spec = "+".join([first, *more])
    try:
        taken = made.as_dataset(split=spec)["text"][:]
    except (ValueError, AssertionError):  # it has nothing to take
        taken = []
    declared = task(files=files, splits={"train": spec})
    if taken:
        assert load_rows(declared, "train")["text"][:] == taken
    else:
        with pytest.raises(InputError, match="the split is empty"):
            load_rows(declared, "train")


def test_slices_of_several_splits_follow_one_another(tmp_path):
    for split, name in (("train", "t"), ("validation", "v")):
        frame(10, name).to_csv(tmp_path / f"{split}.csv", index=False)
    declared = task(
        dataset=str(tmp_path), splits={"train": "train[:2] + validation[-1:]+train[9:]", "test": "validation"}
    )
    assert load_rows(declared, "train")["text"][:] == ["t 0", "t 1", "v 9", "t 9"]
    assert load_rows(declared, "validation")["text"][0] == "v 0"


def test_a_bad_row_of_a_slice_is_told_by_its_place_in_its_file(tmp_path, caplog):
    rows = frame(20).assign(label=[*["good"] * 18, "ugly", ""])
    rows[:12].to_csv(tmp_path / "a.csv", index=False)
    rows[12:].to_csv(tmp_path / "b.csv", index=False)
    files = {"train": [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]}
    declared = task(files=files, splits={"validation": "train[3:5]+train[50%:]"})
    with pytest.raises(InputError, match=r"'validation': label 'ugly' in row 6 \(the first row is 0\) of '.*/b.csv'"):
        read_labels(declared, load_rows(declared, "validation"), "validation")
    assert load_rows(declared, "validation", "skip")["text"][:] == [f"row {n}" for n in (3, 4, *range(10, 18))]
    assert "row 6 of '" in caplog.text and "row 7 of '" in caplog.text
    folder(tmp_path, **{"c.jsonl": '{"text": "a", "label": 0}\n{"text": 5, "label": 0}\n{"text": 7, "label": 1}'})
    declared = task(files={"test": str(tmp_path / "c.jsonl")}, splits={"train": "test[2:]", "validation": "test[:1]"})
    with pytest.raises(InputError, match="column 'text' holds 7 instead of text in row 2 "):
        load_rows(declared, "train")
    assert load_rows(declared, "validation")["text"][:] == ["a"]


def test_the_rows_of_the_demo_may_be_sliced():
    (spec,) = load_tasks("demo", tasks=["reviews"])
    whole = load_rows(spec, "train")["sentence"][:]
    part = load_rows(dataclasses.replace(spec, splits={"train": "train[3:5]"}), "train")
    assert part["sentence"][:] == whole[3:5]


def test_rows_in_memory_may_be_sliced(tokenizer):
    declared = task(dataset=None, files={}, splits={"train": "all[:75%]", "validation": "all[75%:]"})
    data = load_task_data([declared], tokenizer, rows={"t": {"all": frame(20)}})
    assert [len(data[split]["t"]) for split in ("train", "validation")] == [15, 5]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("train[", "splits has 'train.' for 'train', which is no slice of a split; wanted one such as train"),
        ("train[:12.5%]", "which is no slice of a split"),
        ("train[:1000%]", "which is no slice of a split: Percent slice boundaries must be"),
        ("train[:10](closest)", "which is no slice of a split: It is forbidden"),
        ("trian[:10]", r"splits names 'trian\[:10\]' for 'train', and there is none; the splits are train"),
        ("train[20:]", "split 'train': the split is empty"),
        ("train[:50%](pct1_dropremainder)", "the slice .* cannot be taken: Using .pct1_dropremainder. rounding on"),
    ],
)
def test_what_is_no_slice_is_told(tmp_path, name, reason):
    frame(20).to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(InputError, match=f"task 't'.*{reason}") as told:
        load_rows(task(dataset=str(tmp_path), splits={"train": name}), "train")
    assert "\n" not in str(told.value)


def test_a_file_may_be_called_as_a_slice_is_written(tmp_path):
    frame(4).to_csv(tmp_path / "train+dev.csv", index=False)
    rows = load_rows(task(dataset=str(tmp_path), splits={"train": "train+dev"}), "train")
    assert len(rows) == 4


def test_a_task_file_has_slices(tmp_path):
    frame(20).to_csv(tmp_path / "train.csv", index=False)
    row = "kind: classification, text_columns: text, labels: [bad, good], dataset: ./."
    content = 'tasks: {t: {ROW, splits: {train: "train[:90%]", validation: "train[90%:]"}}}'.replace("ROW", row)
    folder(tmp_path, **{"my.yaml": content})
    (spec,) = load_tasks(str(tmp_path / "my.yaml"))
    assert [len(load_rows(spec, split)) for split in ("train", "validation")] == [18, 2]
