"""`load_task_data` gives what the trainer takes, from any source of rows; what it cannot take is told with the way."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, IterableDatasetDict

from hf_mtl import InputError, MultiTaskTrainer, TaskSpec, load_task_data, load_tasks
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.data.tokenization import tokenize
from hf_mtl.tasks.labels import read_labels

TOPIC = TaskSpec(name="topic", kind="classification", text_columns=("text",), labels=("film", "book"))
GRADE = TaskSpec(name="grade", kind="regression", text_columns=("one", "two"), label_range=(0.0, 5.0))
TEXTS = ["the film is good", "the book is dull", "the plot works", "the plot bores"]
RECORDS = [{"text": text, "label": number % 2} for number, text in enumerate(TEXTS)]
WANTED = r"wanted a datasets\.Dataset, a pandas DataFrame or a list of dicts"


def topic(tokenizer, rows, **options):
    """The training rows of the task topic."""
    data = load_task_data([TOPIC], tokenizer, splits=["train"], rows={"topic": {"train": rows}}, **options)
    assert set(data) == {"train"} and set(data["train"]) == {"topic"}
    return data["train"]["topic"]


@pytest.fixture
def files(tmp_path):
    """Tasks a (three splits), b (train only) and c (no train) in csv files."""
    for name in ("rows", "unlabelled"):
        frame = pd.DataFrame(RECORDS)
        (frame if name == "rows" else frame[["text"]]).to_csv(tmp_path / f"{name}.csv", index=False)
    splits = {
        "a": {"train": "rows.csv", "validation": "rows.csv", "test": "unlabelled.csv"},
        "b": {"train": "rows.csv"},
        "c": {"validation": "rows.csv"},
    }
    row = {"kind": "classification", "text_columns": ["text"], "labels": ["film", "book"]}
    tasks = {name: {**row, "files": files} for name, files in splits.items()}
    (tmp_path / "tasks.yaml").write_text(json.dumps({"tasks": tasks}))
    return {spec.name: spec for spec in load_tasks(str(tmp_path / "tasks.yaml"))}


def test_gives_what_the_steps_one_by_one_give(files, tokenizer):
    spec = files["a"]
    data = load_task_data([spec], tokenizer, max_length=16, splits=("train", "validation", "test"))
    assert list(data) == ["train", "validation", "test"]
    for split, rows in data.items():
        raw = load_rows(spec, split)
        wanted = tokenize(spec, raw, tokenizer, 16, read_labels(spec, raw, split))
        assert rows["a"].column_names == wanted.column_names
        for name in wanted.column_names:
            np.testing.assert_equal(rows["a"][name][:], wanted[name][:])
    assert np.isnan(data["test"]["a"]["labels"][:]).all()


def test_a_split_that_a_task_lacks(files, tokenizer, caplog):
    tasks = [files["a"], files["b"]]
    with caplog.at_level("WARNING", logger="hf_mtl"):
        data = load_task_data(tasks, tokenizer, splits=("train", "validation", "test"))
    assert {split: list(rows) for split, rows in data.items()} == {
        "train": ["a", "b"],
        "validation": ["a"],
        "test": ["a"],
    }
    said = [message for message in caplog.messages if "task b" in message]
    assert len(said) == 2 and "no test split" in said[0] and "not scored; it has 'train'" in said[1]
    with pytest.raises(InputError, match="task 'c' has no split 'train'; it has 'validation'; the key 'splits'"):
        load_task_data([files["c"]], tokenizer)
    assert list(load_task_data([files["c"]], tokenizer, splits=["validation"])["validation"]) == ["c"]
    assert load_task_data([files["b"]], tokenizer)["validation"] == {}


SOURCES = {
    "a list": RECORDS,
    "a tuple of other mappings": tuple(pd.DataFrame(RECORDS).T.to_dict().values()),
    "a Dataset": Dataset.from_list(RECORDS),
    "a formatted Dataset": Dataset.from_list(RECORDS).with_format("numpy"),
    "a Dataset with classes": Dataset.from_list(RECORDS).cast_column("label", ClassLabel(names=["film", "book"])),
    "a DataFrame": pd.DataFrame(RECORDS),
    "a DataFrame with an index": pd.DataFrame(RECORDS, index=[7, 7, 8, 9]),
    "names as labels": pd.DataFrame(RECORDS).assign(label=["film", "book"] * 2),
    "a categorical": pd.DataFrame(RECORDS).assign(label=pd.Categorical(["film", "book"] * 2)),
    "mixed labels": [{**row, "label": "book" if row["label"] else 0} for row in RECORDS],
    "mixed labels in a DataFrame": pd.DataFrame(RECORDS).assign(label=[0, "book", 0.0, "1"]),
    "other columns": pd.DataFrame(RECORDS).assign(note=[object()] * 4, **{"3": 1}).rename(columns={"3": 3}),
}


@pytest.mark.parametrize("rows", SOURCES.values(), ids=SOURCES)
def test_rows_in_memory(tokenizer, rows):
    found = topic(tokenizer, rows)
    assert found["labels"][:] == [0, 1, 0, 1]
    assert found["input_ids"][:] == tokenizer(TEXTS)["input_ids"]


def test_a_task_from_memory_trains_beside_one_from_files(files, tokenizer, make_model, make_arguments):
    pairs = [{"one": text, "two": text, "label": 2.5} for text in TEXTS]
    tasks, rows = [GRADE, files["a"]], {"grade": {"train": pairs, "validation": pairs}}
    data = load_task_data(tasks, tokenizer, max_length=16, rows=rows)
    trainer = MultiTaskTrainer(
        make_model(tasks), make_arguments(max_steps=1), tasks, data["train"], data["validation"], tokenizer
    )
    trainer.train()
    trainer.create_model_card()
    assert {"eval_grade_pearson", "eval_a_accuracy"} <= trainer.evaluate().keys()


def test_rows_given_stand_for_all_splits_of_a_task(files, tokenizer):
    rows = {"a": DatasetDict(train=Dataset.from_list(RECORDS[:2]))}
    data = load_task_data([files["a"]], tokenizer, rows=rows)
    assert len(data["train"]["a"]) == 2 and data["validation"] == {}


def test_splits_of_a_task_may_have_names_of_their_own(tokenizer):
    spec = TaskSpec(name="t", kind="classification", text_columns=("text",), labels=("a", "b"), splits={"train": "all"})
    assert len(load_task_data([spec], tokenizer, rows={"t": {"all": RECORDS}})["train"]["t"]) == 4


def test_a_bad_row_in_memory_is_named_or_skipped(tokenizer, caplog):
    bad = [*RECORDS, {"text": None, "label": 1}, {"text": 5, "label": 1}, {"text": "a", "label": "neither"}]
    with pytest.raises(InputError, match=r"'topic', split 'train': column 'text' .* in row 4 .* of the rows given"):
        topic(tokenizer, bad)
    with pytest.raises(InputError, match=r"label 'neither' in row 4 .* of the rows given is not one of"):
        topic(tokenizer, pd.DataFrame([*RECORDS, bad[-1]]))
    with caplog.at_level("WARNING", logger="hf_mtl"):
        assert len(topic(tokenizer, bad, on_bad_row="skip")) == 4
    assert "3 of 7 rows of the rows given skipped" in caplog.text
    with pytest.raises(InputError, match="column 'text' has no text in row 1"):
        topic(tokenizer, pd.DataFrame(RECORDS).assign(text=["a", None, np.nan, pd.NA]))


def stream():
    return Dataset.from_list(RECORDS).to_iterable_dataset()


def transformed():
    rows = Dataset.from_list(RECORDS)
    rows.set_transform(lambda batch: batch)
    return rows


REFUSED = {
    "a stream": (lambda: {"train": stream()}, "found a IterableDataset, whose rows come one by one.*without streaming"),
    "streams": (lambda: IterableDatasetDict(train=stream()), "is an IterableDatasetDict, whose rows come one by one"),
    "a DatasetDict": (
        lambda: {"train": DatasetDict(train=Dataset.from_list(RECORDS))},
        "found a DatasetDict, wanted one of its splits: 'train'",
    ),
    "a generator": (lambda: {"train": (row for row in RECORDS)}, rf"found a generator, {WANTED}; list\(rows\) or"),
    "a function": (lambda: {"train": lambda: RECORDS}, rf"found a function, {WANTED}; list\(rows\)"),
    "columns": (lambda: {"train": {"text": TEXTS}}, rf"found a dict, {WANTED}; Dataset.from_dict makes one"),
    "a path": (lambda: {"train": "rows.csv"}, f"split 'train': found a str, {WANTED}"),
    "no split": (lambda: Dataset.from_list(RECORDS), r"is a Dataset, wanted \{split: rows\}, e.g. \{'train': dataset"),
    "a wrong split": (lambda: {"trian": RECORDS}, "unknown split in rows of task 'topic': 'trian'.*'train'"),
    "no training rows": (lambda: {"validation": RECORDS}, "'topic' has no split 'train'; it has 'validation'$"),
    "texts": (lambda: {"train": TEXTS}, "'topic', split 'train': row 0 .* is 'the film is good', wanted a dict"),
    "numbered columns": (lambda: {"train": [{0: "a", 1: 1}]}, "row 0 .* is .*, wanted a dict of columns by name"),
    "nothing": (lambda: {"train": []}, "the split is empty"),
    "an empty DataFrame": (lambda: {"train": pd.DataFrame({"text": [], "label": []})}, "the split is empty"),
    "no text column": (
        lambda: {"train": [{"texts": "a", "label": 1}]},
        r"the columns are 'texts', 'label' \(did you mean 'texts'\?\)",
    ),
    "no label column": (lambda: {"train": [{"text": "a"}]}, "no label column 'label'; the columns are 'text'"),
    "numbers": (lambda: {"train": pd.DataFrame({"text": [1], "label": [1]})}, "column 'text' is Value.*, wanted text"),
    "a column twice": (
        lambda: {"train": pd.DataFrame([["a", "b", 1]], columns=["text", "text", "label"])},
        "has the column 'text' twice",
    ),
    "a transform": (lambda: {"train": transformed()}, "a transform .set_transform., which would not be applied"),
}


@pytest.mark.parametrize(("make", "named"), REFUSED.values(), ids=REFUSED)
def test_rows_that_cannot_be_used(tokenizer, make, named):
    with pytest.raises(InputError, match=named):
        load_task_data([TOPIC], tokenizer, rows={"topic": make()})


OPTIONS = {
    "rows without a task": ({"rows": [RECORDS]}, r"rows is a list, wanted \{task: \{split: rows\}\} for topic"),
    "rows of no task": ({"rows": {"topics": {}}}, "unknown task in rows: 'topics' .did you mean 'topic'"),
    "a split": ({"splits": "train"}, "splits is 'train', wanted a list"),
    "no split": ({"splits": []}, r"splits is \[\], wanted a list"),
    "a wrong split": ({"splits": ["dev"]}, "unknown split in splits: 'dev'"),
    "what to do": ({"on_bad_row": "drop"}, "unknown on_bad_row 'drop'"),
    "no length": ({"max_length": 0}, "max_length is 0, wanted a whole number of tokens"),
    "a tokenizer's name": ({"tokenizer": "bert"}, "tokenizer is a str, wanted the encoder's own"),
    "a task alone": ({"tasks": TOPIC}, "tasks is a TaskSpec, wanted a list of TaskSpec"),
}


@pytest.mark.parametrize(("given", "named"), OPTIONS.values(), ids=OPTIONS)
def test_options_that_cannot_be_used(tokenizer, given, named):
    usual = {"tasks": [TOPIC], "tokenizer": tokenizer, "rows": {"topic": {"train": RECORDS}}}
    with pytest.raises(InputError, match=named):
        load_task_data(**{**usual, **given})


def test_a_task_without_any_rows_is_told_how_to_give_them(tokenizer):
    way = r"topic' has neither dataset nor files.*rows=\{'topic': \{'train': dataset\}\}\) takes them"
    with pytest.raises(InputError, match=way):
        load_task_data([TOPIC], tokenizer)
    with pytest.raises(InputError, match="wanted either dataset or files, found both"):
        dataclasses.replace(TOPIC, dataset="user/data", files={"train": "a.csv"})


def test_inputs_are_cut_at_what_was_asked_for_or_the_tokenizers_limit(tokenizer):
    long = [{"text": "film " * 5000, "label": 1}]
    assert topic(tokenizer, long)["length"][:] == [min(512, tokenizer.model_max_length)]
    assert topic(tokenizer, long, max_length=20)["length"][:] == [20]
    assert topic(tokenizer, long, max_length=10**6)["length"][:] == [min(10**6, tokenizer.model_max_length, 5002)]


def test_a_split_of_a_dataset_dict_that_nobody_asks_for_is_left_out(tokenizer):
    topic = TaskSpec(name="topic", kind="classification", text_columns=("text",), labels=("a", "b"))
    rows = Dataset.from_dict({"text": ["one", "two"], "label": ["a", "b"]})
    given = DatasetDict(train=rows, unsupervised=rows)
    data = load_task_data([topic], tokenizer, rows={"topic": given}, splits=["train"])
    assert len(data["train"]["topic"]) == 2
    with pytest.raises(InputError, match="unknown split"):
        load_task_data([topic], tokenizer, rows={"topic": dict(given)}, splits=["train"])


DATE = pd.Timestamp("2020-01-01")
ODD_CELLS = {
    "no time first": [pd.NaT, DATE],
    "no time last": [DATE, pd.NaT],
    "no time in a time zone": [pd.NaT, DATE.tz_localize("UTC")],
    "no time beside text": [pd.NaT, "x"],
    "a dict whose keys are tuples": [{(1, 2): 3}, 4],
}


@pytest.mark.parametrize("cells", ODD_CELLS.values(), ids=ODD_CELLS)
def test_a_column_that_no_task_reads_may_hold_anything(tokenizer, cells):
    rows = [{**row, "when": cell} for row, cell in zip(RECORDS[:2], cells, strict=True)]
    assert list(topic(tokenizer, rows)["labels"]) == [0, 1]
    assert list(topic(tokenizer, pd.DataFrame(RECORDS[:2]).assign(when=cells).to_dict("records"))["labels"]) == [0, 1]


@pytest.mark.parametrize("one", [np.int64(1), np.float32(1), np.bool_(True), np.str_("book")])
def test_numbers_of_numpy_beside_names_are_labels(tokenizer, one):
    rows = [{"text": TEXTS[0], "label": one}, {"text": TEXTS[1], "label": "film"}]
    assert list(topic(tokenizer, rows)["labels"]) == [1, 0]
    assert list(topic(tokenizer, pd.DataFrame(rows))["labels"]) == [1, 0]


@pytest.mark.parametrize("missing", [pd.NA, pd.NaT, float("nan"), np.float64("nan"), np.datetime64("NaT"), None])
def test_what_pandas_calls_missing_is_no_label(tokenizer, missing):
    rows = [{"text": TEXTS[0], "label": missing}, {"text": TEXTS[1], "label": "book"}]
    data = load_task_data([TOPIC], tokenizer, splits=["test"], rows={"topic": {"test": rows}})
    assert np.isnan(data["test"]["topic"]["labels"][0]) and data["test"]["topic"]["labels"][1] == 1
    with pytest.raises(InputError, match=r"label None in row 0 .* is not one of \['film', 'book'\]"):
        topic(tokenizer, rows)


def test_a_column_of_a_type_that_cannot_be_is_named(tokenizer):
    frame = pd.DataFrame(RECORDS).assign(month=pd.period_range("2020", periods=4, freq="M"))
    with pytest.raises(InputError, match=r"column 'month' is of type .*period.*, which cannot be used; leave it out"):
        topic(tokenizer, frame)
