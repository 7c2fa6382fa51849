"""What is told of a task's rows before training, and never stops it."""

import logging

import pytest

from hf_mtl import TaskSpec, load_task_data
from hf_mtl.tasks.demo import demo_tokenizer

TEXTS = [f"film {number} was fine" for number in range(8)]


def told(caplog, splits, **task):
    """The warnings of loading some rows of a task."""
    values = {"name": "t", "kind": "classification", "text_columns": ("text",), **task}
    with caplog.at_level(logging.WARNING, logger="hf_mtl"):
        load_task_data([TaskSpec(**values)], demo_tokenizer(), splits=tuple(splits), rows={"t": splits})
    return [each.message for each in caplog.records if each.name.endswith("data_checks")]


def rows(texts, labels, column="text"):
    return [{column: text, "label": label} for text, label in zip(texts, labels, strict=True)]


def test_labels_without_a_training_row_are_told_with_where_they_are(caplog):
    splits = {"train": rows(TEXTS[:4], "abab"), "validation": rows(TEXTS[4:7], "ccd")}
    assert told(caplog, splits, labels=("a", "b", "c", "d", "e")) == [
        "task 't': no training row has the label 'c', 'd', 'e', which cannot be learned; there are 3 in 'validation'"
    ]
    caplog.clear()
    assert told(caplog, {"train": rows(TEXTS[:4], "abab")}, labels=("a", "b", "c")) == [
        "task 't': no training row has the label 'c', which cannot be learned; no other row has it either"
    ]
    caplog.clear()
    assert told(caplog, splits | {"validation": rows(TEXTS[4:7], "abb")}, labels=("a", "b")) == []


@pytest.mark.parametrize(
    ("kind", "column", "train", "validation"),
    [
        ("multi_label", "text", [["a"], ["a", "b"]], [["c"], []]),
        ("ordinal", "text", ["a", "b"], ["c", "b"]),
        ("token_classification", "words", [["a"], ["b"]], [["c"], ["c"]]),
    ],
)
def test_so_are_those_of_other_kinds(caplog, kind, column, train, validation):
    texts = [["x"], ["y"]] if column == "words" else ["x", "y"]
    other = [["v"], ["w"]] if column == "words" else ["v", "w"]
    splits = {"train": rows(texts, train, column), "validation": rows(other, validation, column)}
    more = {"metrics": ("token_accuracy",)} if column == "words" else {}
    (message,) = told(caplog, splits, kind=kind, text_columns=(column,), labels=("a", "b", "c"), **more)
    assert message.startswith("task 't': no training row has the label 'c', which cannot be learned; there are ")


def test_rows_of_two_splits_are_counted_with_one_of_them(caplog):
    splits = {
        "train": rows(TEXTS[:6], [0, 1] * 3),
        "validation": rows([TEXTS[7], TEXTS[2], TEXTS[2], TEXTS[5]], [0, 1, 0, 1]),
        "test": rows([TEXTS[7], TEXTS[6]], [0, 1]),
    }
    assert told(caplog, splits, labels=("0", "1")) == [
        "task 't': 3 of the 4 rows of 'validation' have texts that rows of 'train' have too, such as row 1 (the first "
        "row is 0) of the rows given, 'film 2 was fine'",
        "task 't': 1 of the 2 rows of 'test' have texts that rows of 'validation' have too, such as row 0 (the first "
        "row is 0) of the rows given, 'film 7 was fine'",
    ]


def test_a_shared_row_is_told_with_its_file_and_its_number_there(tmp_path, caplog):
    for name, content in {"train.csv": "z,1\nw,0\n", "a.csv": "u,0\n", "b.csv": "v,\n,1\nz,0\n"}.items():
        (tmp_path / name).write_text(f"text,label\n{content}")
    files = {"train": str(tmp_path / "train.csv"), "validation": [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]}
    spec = TaskSpec(name="t", kind="classification", text_columns=("text",), labels=("0", "1"), files=files)
    with caplog.at_level(logging.WARNING, logger="hf_mtl"):
        load_task_data([spec], demo_tokenizer(), on_bad_row="skip")
    assert f"such as row 2 (the first row is 0) of {str(tmp_path / 'b.csv')!r}, 'z'" in caplog.text


def test_a_pair_is_shared_where_both_texts_are(caplog):
    def pairs(*texts):
        return [{"one": one, "other": other, "label": 1.0} for one, other in texts]

    splits = {"train": pairs(("a", "b"), ("c", "d")), "validation": pairs(("a", "d"), ("b", "a"), ("c" * 90, "d"))}
    task = {"kind": "regression", "text_columns": ("one", "other"), "label_range": (0, 5)}
    assert told(caplog, splits, **task) == []
    splits["train"] += splits["validation"][2:]
    (message,) = told(caplog, splits, **task)
    assert message.endswith(f"such as row 2 (the first row is 0) of the rows given, '{'c' * 57}...'")
