"""`labels: auto` takes the names from the training rows, `label_range: auto` the borders; a saved head keeps its."""

import dataclasses
import datetime
import json
import logging
import re
from pathlib import Path

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from hf_mtl import InputError, MultiTaskTrainer, TaskSpec, load_model, load_task_data, load_tasks, resolve_tasks
from hf_mtl.data.shared_reads import SharedReads
from hf_mtl.tasks import columns

TEXTS = ["the film", "the plot", "the cast", "a book", "a tale"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def task(**changes):
    values = {"name": "t", "kind": "classification", "text_columns": ("text",), "labels": "auto"}
    return TaskSpec(**{**values, **changes})


def found(cells, feature=None, *, texts=None, heads=None, **changes):
    """The labels, or the range, of a task over rows in memory."""
    rows = Dataset.from_dict({"text": texts or ["a film"] * len(cells), "label": cells})
    if feature is not None:
        rows = rows.cast_column("label", feature)
    (spec,) = resolve_tasks([task(**changes)], rows={"t": {"train": rows}}, heads=heads)
    return spec.labels if spec.label_range is None else spec.label_range


def to_file(path, cells):
    frame = pd.DataFrame({"text": ["a film"] * len(cells), "label": cells})
    match path.suffix:
        case ".csv":
            frame.to_csv(path, index=False)
        case ".jsonl":
            frame.to_json(path, orient="records", lines=True, date_format="iso")
        case ".parquet":
            frame.to_parquet(path, index=False)
    return {"train": str(path)}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["b", "a", "b", "C"], ("C", "a", "b")),  # as texts are sorted: capitals first
        ([10, 9, 2, -1], ("-1", "2", "9", "10")),  # as numbers
        (["10", "9", "two"], ("10", "9", "two")),
        ([0.5, 10.25, 2.0], ("0.5", "2", "10.25")),
        (["b", None, "a"], ("a", "b")),
        ([1, 0, 1, None], ("0", "1")),
        (["é", "e", "z"], ("e", "z", "é")),
    ],
)
def test_names_are_those_of_the_training_rows_sorted(tmp_path, suffix, cells, names):
    (spec,) = resolve_tasks([task(files=to_file(tmp_path / f"rows.{suffix}", cells))])
    if suffix == "csv" and all(isinstance(cell, float | int | None) for cell in cells):
        # pandas writes numbers beside fractions, or beside nothing, with a point.
        assert [float(name) for name in spec.labels] == [float(name) for name in names]
    else:
        assert spec.labels == names


def test_truth_values_dates_and_bytes_have_names_too():
    assert found([True, False, True]) == ("false", "true")
    assert found(["True", "False"]) == ("False", "True")
    days = [datetime.date(2024, 5, 17), datetime.date(2023, 1, 2)]
    assert found(days) == ("2023-01-02", "2024-05-17")
    assert found([b"no", b"yes"]) == ("no", "yes")
    assert found([" a", "a ", "a", "b"]) == ("a", "b")  # but for blanks around it, a name is what was written
    assert found(["e\u0301", "\u00e9", "b"]) == ("b", "e\u0301")  # these two look alike


def test_names_that_a_classlabel_declares_keep_its_order():
    classes = ClassLabel(names=["sad", "odd", "glad"])
    assert found(["glad", "sad"], classes) == ("sad", "odd", "glad")
    sets = {"kind": "multi_label"}
    assert found([["glad"], []], List(classes), **sets) == ("sad", "odd", "glad")
    tags = {"kind": "token_classification", "text_columns": ("words",), "label_column": "tags"}
    features = Features(words=List(Value("string")), tags=List(ClassLabel(names=["O", "I-X", "B-X"])))
    rows = Dataset.from_dict({"words": [["a", "b"]], "tags": [["B-X", "O"]]}, features)
    (spec,) = resolve_tasks([task(**tags)], rows={"t": {"train": rows}})
    assert spec.labels == ("O", "I-X", "B-X")


def test_class_names_that_a_folder_declares_beside_its_files(tmp_path):
    to_file(tmp_path / "train.csv", ["glad", "sad"])
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: train.csv\ndataset_info:\n  features:\n"
        "  - name: text\n    dtype: string\n  - name: label\n    dtype:\n      class_label:\n        names:\n"
        "          '0': sad\n          '1': glad\n---\n"
    )
    (spec,) = resolve_tasks([task(dataset=str(tmp_path))])
    assert spec.labels == ("sad", "glad")


def test_sets_of_labels():
    sets = {"kind": "multi_label"}
    assert found([["b", "a"], [], None, ["c"]], **sets) == ("a", "b", "c")
    assert found(["b|a", "", " c | b"], label_delimiter="|", **sets) == ("a", "b", "c")
    assert found([[10, 9], [2]], **sets) == ("2", "9", "10")
    assert found(["a", "a"], **sets) == ("a",)
    assert task(label_columns=("p", "q"), **sets).labels == ("p", "q")  # no row has to be read
    with pytest.raises(InputError, match="seem to be 0 or 1 for each of the 3 labels"):
        found([[0, 1, 1], [1, 0, 0]], **sets)


def test_tags(tmp_path):
    rows = [{"words": ["a", "b"], "tags": ["B-X", "O"]}, {"words": ["c"], "tags": ["I-X"]}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ner = {"kind": "token_classification", "text_columns": ("words",), "label_column": "tags"}
    (spec,) = resolve_tasks([task(files={"train": str(tmp_path / "rows.jsonl")}, **ner)])
    assert spec.labels == ("B-X", "I-X", "O")
    with pytest.raises(
        InputError, match=r"wants the tag 'O'.* metrics: \[token_accuracy\]; labels is 'auto', and this"
    ):
        resolve_tasks([task(**ner)], rows={"t": {"train": [{"words": ["a", "b"], "tags": [0, 1]}]}})


@pytest.mark.parametrize("kind", ["regression", "similarity"])
def test_the_range_is_from_the_smallest_to_the_largest_label(tmp_path, kind):
    values = {"kind": kind, "labels": None, "label_range": "auto"}
    values["text_columns"] = ("text",) if kind == "regression" else ("text", "text")
    for suffix in ("csv", "jsonl", "parquet"):
        files = to_file(tmp_path / f"{kind}.{suffix}", [2.5, -1, 7, None, 3])
        (spec,) = resolve_tasks([task(files=files, **values)])
        assert spec.label_range == (-1.0, 7.0)
    assert found(["1e1", "9"], **values) == (9.0, 10.0)
    with pytest.raises(
        InputError, match=r"label_range is \(3\.0, 3\.0\), wanted .*'auto', and this is from column 'label'"
    ):
        found([3, 3], **values)
    with pytest.raises(InputError, match="label_range is None"):
        found(["x", "y"], **values)


def test_rows_that_have_no_text_have_no_say():
    assert found(["a", "b", "c"], texts=["x", "y", None]) == ("a", "b")


def test_too_few_names_are_an_error_that_says_where_they_are_from(tmp_path):
    files = to_file(tmp_path / "rows.csv", ["a", "a", None])
    with pytest.raises(InputError, match=r"labels is \('a',\), wanted two .*'auto', .* column 'label' of .*rows\.csv'"):
        resolve_tasks([task(files=files)])
    with pytest.raises(InputError, match=r"split 'train': no label column 'mark'; the columns are 'text', 'label'"):
        resolve_tasks([task(files=files, label_column="mark")])
    with pytest.raises(
        InputError, match=r"labels is 'auto', which the training rows tell, .* only 'validation'; write"
    ):
        resolve_tasks([task(files={"validation": files["train"]})])
    with pytest.raises(InputError, match=r"has the name 'a\\nb'; .* 'auto'"):
        found(["a\nb", "c"])


def test_the_log_says_which_names_and_where_from(tmp_path, caplog):
    files = to_file(tmp_path / "rows.csv", ["b", "a"])
    rows = Dataset.from_dict({"text": ["x"], "label": [0]}).cast_column("label", ClassLabel(names=["p", "q"]))
    many = [{"text": "x", "label": number} for number in range(25)]
    values = {"kind": "regression", "labels": None, "label_range": "auto"}
    tasks = [
        task(files=files),
        task(name="u"),
        task(name="v"),
        task(name="w", **values),
        task(name="x", labels=("a", "b")),
    ]
    given = {"u": {"train": rows}, "v": {"train": many}, "w": {"train": many}}
    with caplog.at_level(logging.INFO, logger="hf_mtl"):
        resolve_tasks(tasks, rows=given)
    said = [message for message in caplog.messages if message.startswith("task ")]
    assert said[0] == f"task t: labels are 'a', 'b', from the training rows of {str(tmp_path / 'rows.csv')!r}"
    assert said[1].startswith(
        "task u: labels are 'p', 'q', from the ClassLabel of column 'label' in the training rows of"
    )
    assert "'19' and 5 more, from the training rows of the rows given" in said[2]
    assert said[3] == "task w: label_range is 0.0, 24.0, from the training rows of the rows given"
    assert len(said) == 4


def test_names_that_differ_in_case_alone_are_told(caplog):
    assert found(["Good", "good", "bad"]) == ("Good", "bad", "good")
    assert "task t: these labels differ in case alone, and are classes of their own: 'Good', 'good'" in caplog.text


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        (["1", "1.0", "2"], "spell the same number, and are classes of their own: '1', '1.0'"),
        (["a", "None", "<NA>"], "are classes: '<NA>', 'None'; where they mean that there is no label, empty their"),
        (["a", "b", "a\u200b"], r"nobody sees, and are classes of their own: 'a', 'a\u200b'"),
        (["a", "none", "1", "2.0"], ""),
    ],
)
def test_names_that_are_probably_no_classes_of_their_own_are_told(caplog, cells, told):
    assert len(found(cells)) == len(cells)
    assert told in caplog.text
    assert bool(caplog.text) == bool(told)
    caplog.clear()
    found(cells, ClassLabel(names=cells))
    assert not caplog.text  # the data declares them


def test_a_task_with_labels_is_as_it_was_and_its_rows_are_not_read(tmp_path):
    spec = task(labels=("a", "b"), files={"train": str(tmp_path / "nowhere.csv")})
    assert resolve_tasks([spec])[0] is spec


def test_labels_that_training_lacks_are_an_error_that_names_them(tmp_path, tokenizer):
    files = {**to_file(tmp_path / "train.csv", ["a", "b"])}
    files["validation"] = to_file(tmp_path / "dev.csv", ["a", "c"])["train"]
    tasks = resolve_tasks([task(files=files)])
    with pytest.raises(InputError, match=r"split 'validation': label 'c' in row 1 .* is not one of \['a', 'b'\]"):
        load_task_data(tasks, tokenizer)
    values = {"kind": "regression", "labels": None, "label_range": "auto"}
    files = {**to_file(tmp_path / "t.csv", [1, 2]), "test": to_file(tmp_path / "d.csv", [1, 2.5])["train"]}
    tasks = resolve_tasks([task(files=files, **values)])
    with pytest.raises(InputError, match=r"split 'test': label '2\.5' in row 1 .* is not a number in \[1\.0, 2\.0\]"):
        load_task_data(tasks, tokenizer, splits=["train", "test"])


def test_what_may_not_be_auto():
    with pytest.raises(
        InputError,
        match=r"labels is 'auto', which is for classification, multi_label, token_.*; wanted "
        "the names from the lowest to the highest, an order that the rows do not tell",
    ):
        task(kind="ordinal")
    with pytest.raises(InputError, match="label_range is None"):
        task(kind="regression")
    with pytest.raises(InputError, match="label_range belongs to regression"):
        task(label_range="auto")
    with pytest.raises(InputError, match=r"label_range is 'car', wanted \[lowest, highest\]"):
        task(kind="regression", labels=None, label_range="car")
    with pytest.raises(InputError, match="labels is 'car', wanted a list of texts"):
        task(labels="car")
    assert task(kind="multi_label", labels=["auto"]).labels == ("auto",)


def test_what_labels_decide_is_checked_when_they_are_known():
    with pytest.raises(InputError, match="positive_label is 'c', wanted one of two labels"):
        found(["a", "b"], positive_label="c")
    with pytest.raises(InputError, match="f1 is that of one class, and there are 3"):
        found(["a", "b", "c"], metrics=("f1",))
    with pytest.raises(InputError, match=r"class_weights is .* list of 3 numbers"):
        found(["a", "b", "c"], class_weights=(1.0, 2.0))
    assert found(["a", "b", "c"], class_weights=(1.0, 2.0, 3.0)) == ("a", "b", "c")
    with pytest.raises(InputError, match="label_smoothing is 2, wanted a number"):
        task(label_smoothing=2)  # at once


def test_a_task_that_is_still_auto_says_what_to_call(tokenizer, make_model, make_arguments):
    spec, rows = task(), [{"text": "x", "label": "a"}]
    wanted = r"task 't': labels is still 'auto'; tasks = hf_mtl\.resolve_tasks\(tasks\)"
    assert spec.labels_in_words == "auto" and spec.names == ()
    with pytest.raises(InputError, match=wanted):
        load_model("anywhere", [each.head for each in [spec]])
    with pytest.raises(InputError, match=wanted):
        load_task_data([spec], tokenizer, rows={"t": {"train": rows}})
    known = dataclasses.replace(spec, labels=("a", "b"))
    data = load_task_data([known], tokenizer, splits=["train"], rows={"t": {"train": rows}})
    with pytest.raises(InputError, match=wanted):
        MultiTaskTrainer(make_model([known]), make_arguments(), [spec], data["train"], None, tokenizer)


def test_the_keys_of_a_task_file(tmp_path):
    to_file(tmp_path / "rows.csv", [2, 1])
    row = {"text_columns": "text", "files": {"train": "rows.csv"}}
    tasks = {
        "t": {**row, "kind": "classification", "labels": "auto"},
        "u": {**row, "kind": "regression", "label_range": "auto"},
    }
    (tmp_path / "tasks.yaml").write_text(json.dumps({"tasks": tasks}))
    specs = load_tasks(str(tmp_path / "tasks.yaml"))
    assert [spec.is_auto for spec in specs] == [True, True]
    one, other = resolve_tasks(specs)
    assert (one.labels, other.label_range) == (("1", "2"), (1.0, 2.0))


def test_a_saved_head_keeps_its_labels_whatever_the_data_has(tokenizer, caplog):
    heads = {"t": task(labels=("b", "a", "z")).head}
    assert found(["a", "b"], heads=heads) == ("b", "a", "z")
    assert found(["a", "b"], ClassLabel(names=["a", "b"]), heads=heads) == ("b", "a", "z")
    (spec,) = resolve_tasks([task()], heads=heads)  # no row is needed
    rows = Dataset.from_dict({"text": TEXTS[:2], "label": ["a", "b"]}).cast_column(
        "label", ClassLabel(names=["a", "b"])
    )
    data = load_task_data([spec], tokenizer, splits=["train"], rows={"t": {"train": rows}})
    assert data["train"]["t"]["labels"][:] == [1, 0]  # by name
    with pytest.raises(InputError, match=r"label 'c' in row 1 .* is not one of \['b', 'a', 'z'\]"):
        load_task_data(
            [spec], tokenizer, splits=["train"], rows={"t": {"train": [{"text": "x", "label": c} for c in "ac"]}}
        )
    values = {"kind": "regression", "labels": None, "label_range": "auto"}
    heads = {"t": task(**{**values, "label_range": (0, 9)}).head}
    assert found([1, 2], heads=heads, **values) == (0, 9)
    assert found(["a", "b"], heads=heads) == ("a", "b")  # a head of another kind says nothing


def test_the_training_rows_are_read_once_for_names_and_for_training(tmp_path, tokenizer, monkeypatch):
    files, opened = to_file(tmp_path / "rows.csv", ["b", "a"]), []

    def count(path, *args, real=columns.read_records):
        opened.append(path)
        return real(path, *args)

    monkeypatch.setattr(columns, "read_records", count)
    tasks = [task(files=files), task(name="u", files=files)]
    reads = SharedReads(tasks)
    known = resolve_tasks(tasks[:1], reads=reads)
    data = load_task_data(known, tokenizer, splits=["train"], reads=reads)
    assert opened == [files["train"]] and data["train"]["t"]["labels"][:] == [1, 0]


def test_a_dataset_dict_in_memory():
    rows = DatasetDict(train=Dataset.from_dict({"text": ["x", "y"], "label": ["q", "p"]}))
    (spec,) = resolve_tasks([task()], rows={"t": rows})
    assert spec.labels == ("p", "q") and spec.dataset is None


def test_the_example_of_the_docs(tmp_path, tokenizer):
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yml\n(.*?)```", page, flags=re.S)
    (tmp_path / "tasks.yaml").write_text(example)
    frame = pd.DataFrame(
        {
            "text": TEXTS,
            "topic": ["film", None, "book", "film", "book"],
            "urgent": ["no", "yes", None, None, "no"],
            "anger": [0, 10, 2.5, None, None],
        }
    )
    for name in ("tickets", "tickets_dev"):
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    tasks = resolve_tasks(load_tasks(str(tmp_path / "tasks.yaml")))
    data = load_task_data(tasks, tokenizer)["validation"]
    found = {task.name: (task.labels_in_words, data[task.name]["labels"][:]) for task in tasks}
    assert found == {
        "topic": ("book, film", [1, 0, 1, 0]),
        "urgent": ("no, yes", [0, 1, 0]),
        "anger": ("0 to 10", [0, 10, 2.5]),
    }
