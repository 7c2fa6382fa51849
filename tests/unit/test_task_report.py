"""What `hf-mtl tasks` tells of a task is what training does with it: cut rows by the head's sequences, its options."""

import json

import pandas as pd
import pytest

from hf_mtl import TaskSpec
from hf_mtl.cli import main
from hf_mtl.data.task_report import describe_task, format_task
from hf_mtl.tasks.kinds import kind_of

LIMIT = 8  # tokens
PAIRS = [
    ("the plot is dull", "the film is good"),  # 6 and 6 tokens, 11 together
    ("the plot is dull and the film is good", "the cast"),  # 11 and 4
    ("dull", "the plot is dull and the film is good"),  # 3 and 11
    ("dull", "good"),  # 5 together
]
RANGE = {"label_range": (0.0, 1.0)}
HOW_READ = {
    "joint": ({"kind": "regression", **RANGE}, 0.75),
    "similarity": ({"kind": "similarity", **RANGE}, 0.5),
    "separate regression": ({"kind": "regression", **RANGE, "pair_encoding": "separate"}, 0.5),
    "separate classes": ({"kind": "classification", "labels": ("no", "yes"), "pair_encoding": "separate"}, 0.5),
}


@pytest.fixture
def pairs(tmp_path):
    frame = pd.DataFrame(PAIRS, columns=["one", "two"]).assign(label=[0, 1, 0, 1])
    frame.to_csv(tmp_path / "pairs.csv", index=False)
    return {"files": {"train": str(tmp_path / "pairs.csv")}, "text_columns": ("one", "two"), "name": "t"}


@pytest.mark.parametrize(("task", "share"), HOW_READ.values(), ids=HOW_READ)
def test_a_row_is_cut_when_one_of_its_sequences_is(pairs, tokenizer, task, share):
    spec = TaskSpec(**pairs, **task)
    tokens = describe_task(spec, tokenizer, LIMIT)["splits"]["train"]["tokens"]
    cut = kind_of(spec).head.encode(spec.head, PAIRS, tokenizer, LIMIT).cut
    assert tokens["truncated_share"] == share == sum(cut) / len(cut)
    alone = [len(tokenizer(text)["input_ids"]) for pair in PAIRS for text in pair]
    together = [len(tokenizer(*pair)["input_ids"]) for pair in PAIRS]
    assert tokens["longest"] == max(together if share == 0.75 else alone)


OPTIONS = {
    "similarity": {**RANGE, "pooling": "max", "loss": "huber"},
    "regression": {**RANGE, "pair_encoding": "separate"},
    "classification": {"labels": ["no", "yes"], "class_weights": [1.0, 2.5], "label_smoothing": 0.1},
    "multi_label": {"labels": ["no", "yes"], "thresholds": "fit"},
}
IN_WORDS = {
    "similarity": "head: pooling max, loss huber",
    "regression": "head: pair_encoding separate",
    "classification": "head: class_weights [1.0, 2.5], label_smoothing 0.1",
    "multi_label": "head: thresholds fit",
}


def test_the_options_of_a_head_are_shown(pairs, tmp_path, capsys):
    rows = pd.read_csv(pairs["files"]["train"])
    rows.assign(label=[["no"], ["yes"], [], ["no", "yes"]]).to_json(
        tmp_path / "sets.jsonl", orient="records", lines=True
    )
    files = {"multi_label": "sets.jsonl"}
    tasks = {
        kind: {"kind": kind, "files": {"train": files.get(kind, "pairs.csv")}, "text_columns": ["one", "two"], **more}
        for kind, more in OPTIONS.items()
    }
    (tmp_path / "my.yaml").write_text(json.dumps({"tasks": tasks}))
    assert main(["tasks", str(tmp_path / "my.yaml"), "--json"]) == 0
    names = ("pooling", "pair_encoding", "loss", "class_weights", "label_smoothing", "thresholds")
    for facts in json.loads(capsys.readouterr().out):
        wanted = {name: value for name, value in OPTIONS[facts["kind"]].items() if name in names}
        assert {name: facts[name] for name in names if name in facts} == wanted
    assert main(["tasks", str(tmp_path / "my.yaml")]) == 0
    told = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  head: ")]
    assert told == list(IN_WORDS.values())


def test_a_task_without_options_has_no_line_of_them(pairs):
    spec = TaskSpec(**pairs, kind="regression", **RANGE)
    assert "head:" not in format_task(describe_task(spec, None, LIMIT))


def test_rows_that_cannot_be_used_are_left_out_as_in_training(tmp_path, capsys, caplog):
    (tmp_path / "a.csv").write_text("text,label\na,no\nb,odd\nc,yes\n,no\n")
    task = {"kind": "classification", "text_columns": ["text"], "labels": ["no", "yes"], "files": {"train": "a.csv"}}
    (tmp_path / "t.yaml").write_text(json.dumps({"tasks": {"t": task}}))
    assert main(["tasks", str(tmp_path / "t.yaml")]) == 2
    assert "--on_bad_row skip leaves such" in capsys.readouterr().err
    assert main(["tasks", str(tmp_path / "t.yaml"), "--on_bad_row", "skip", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["splits"]["train"]["rows"] == 2 and "2 of 4 rows of" in caplog.text
