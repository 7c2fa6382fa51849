"""A head that encodes its rows in its own way does so in training and in the pipeline, beside others that do not."""

import importlib
import sys

import pytest
from datasets import Dataset
from transformers import pipeline

from hf_mtl import HeadSpec, TaskKind, TaskSpec, register_kind
from hf_mtl.data.tokenization import tokenize
from hf_mtl.model.encoding import encode
from hf_mtl.model.head_regression import RegressionHead
from hf_mtl.model.heads import HEADS
from hf_mtl.tasks.kinds import KINDS

TEXTS = ["a dull film and a long one", "great", "the script is clever and the cast never disappoints"]

pytestmark = pytest.mark.usefixtures("plugins_of_this_test")


class BeginningHead(RegressionHead):
    """Reads the first tokens only, and counts two units a row."""

    @classmethod
    def encode(cls, spec, rows, tokenizer, max_length):
        return encode(rows, tokenizer, min(max_length, 5))

    def loss(self, logits, labels):
        total, _ = super().loss(logits, labels)
        return total, self.num_units(labels)

    def num_units(self, labels):
        return 2 * len(labels)


class Beginning(TaskKind):
    head = BeginningHead
    metrics = ("pearson",)


@pytest.fixture
def spec():
    register_kind("beginning")(Beginning)
    files = {"train": "a.csv"}
    return TaskSpec(name="start", kind="beginning", text_columns=("text",), label_range=(0, 1), files=files)


def test_every_task_of_the_pipeline_answers_as_alone(spec, specs, make_model, tokenizer):
    pipe = pipeline("multi-task-classification", model=make_model([specs[0], spec]).eval(), tokenizer=tokenizer)
    alone = [pipe(TEXTS, task_name=name) for name in ("reviews", "start")]
    both = pipe(TEXTS)
    assert [list(answer) for answer in both] == [["reviews", "start"]] * 3
    for name, answers in zip(("reviews", "start"), alone, strict=True):
        key = "value" if name == "start" else "score"
        assert [a[name][key] for a in both] == pytest.approx([a[key] for a in answers], abs=1e-6)
    cut = [was_cut for _, was_cut in pipe.stream(TEXTS, "start")]
    assert cut == [True, False, True]
    assert [was_cut for _, was_cut in pipe.stream(TEXTS)] == cut
    assert not any(was_cut for _, was_cut in pipe.stream(TEXTS, "reviews"))


def test_training_reads_the_same_tokens(spec, tokenizer):
    rows = tokenize(spec, Dataset.from_dict({"text": TEXTS}), tokenizer, 32)
    assert rows["length"][:] == [5, 5, 5]
    assert rows["input_ids"][:] == [tokenizer(text, truncation=True, max_length=5)["input_ids"] for text in TEXTS]


def test_the_loss_is_the_mean_over_the_units(spec, make_model, tokenizer):
    model = make_model([spec])
    model.set_heads([spec.head, HeadSpec(name="plain", kind="regression", label_range=(0, 1))])
    model.heads["plain"].load_state_dict(model.heads["start"].state_dict())
    batch = {**tokenizer(TEXTS, padding=True, return_tensors="pt")}
    batch["labels"] = batch["input_ids"].new_tensor([0, 1, 0])
    ours, plain = (model.eval()(task=name, **batch) for name in ("start", "plain"))
    assert (ours.units, plain.units) == (6, 3)
    assert ours.loss.item() == pytest.approx(plain.loss.item() / 2)


OWN_HEAD = """
from hf_mtl.model.encoding import encode
from hf_mtl.model.head_regression import RegressionHead
class ShortHead(RegressionHead):
    @classmethod
    def encode(cls, spec, rows, tokenizer, max_length):
        return encode(rows, tokenizer, {length})
"""


def test_tokens_are_made_anew_where_the_file_of_a_heads_encoding_has_changed(tmp_path, monkeypatch, tokenizer):
    """The file may be anywhere, so it is no neighbour of the plugin."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    lengths = []
    for length in (4, 3):
        (tmp_path / "short_head_elsewhere.py").write_text(OWN_HEAD.format(length=length))
        sys.modules.pop("short_head_elsewhere", None)
        importlib.invalidate_caches()
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        head = importlib.import_module("short_head_elsewhere").ShortHead
        for registry in (HEADS, KINDS):
            registry.pop("short", None)
        register_kind("short")(type("Short", (TaskKind,), {"head": head, "metrics": ("pearson",)}))
        files = {"train": "a.csv"}
        spec = TaskSpec(name="s", kind="short", text_columns=("text",), label_range=(0, 1), files=files)
        lengths += tokenize(spec, Dataset.from_dict({"text": TEXTS[:1]}), tokenizer, 32)["length"][:]
    assert lengths == [4, 3]
