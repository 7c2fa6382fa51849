"""A training with teachers: what its loss is, step by step, and what becomes of the answers between runs."""

import copy
import dataclasses
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from packed_steps import assert_same, batches_of
from plain_steps import assert_step_is_backward_of
from teachers import Remembering, one_by_one, save_teacher

from hf_mtl import MultiTaskModel, MultiTaskTrainer
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.data.task_rows import TaskRows
from hf_mtl.data.tokenization import tokenize
from hf_mtl.tasks.labels import read_labels
from hf_mtl.training.teachers import teacher_share

KINDS = {
    "regression": {},
    "similarity": {"kind": "similarity", "metrics": (), "main_metric": ""},
    "regression, read apart": {"pair_encoding": "separate", "loss": "huber"},
}


SCORES = ("_loss", "accuracy", "pearson", "spearman", "average")


@pytest.fixture(autouse=True)
def no_answers_yet(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def kept(tmp_path):
    """The files of answers that are kept."""
    return lambda: sorted((tmp_path / "cache" / "hf_mtl" / "teachers").glob("*"))


@pytest.fixture
def forwards(monkeypatch):
    """How often a model that was loaded from a folder has answered."""
    calls, real = [], MultiTaskModel.forward

    def forward(self, *args, **kwargs):
        if self.name_or_path:
            calls.append(kwargs["task"])
        return real(self, *args, **kwargs)

    monkeypatch.setattr(MultiTaskModel, "forward", forward)
    return calls


@pytest.fixture
def make(specs, rows, make_model, make_arguments, tokenizer, tmp_path):
    """A trainer of the demo's tasks, taught unless told otherwise; changes are those of pairs."""

    def trainer(
        changes=None, *, of_reviews=None, dropout=0.0, seed=0, model=None, given=None, cls=Remembering, **arguments
    ):
        tasks = [dataclasses.replace(specs[0], **(of_reviews or {})), dataclasses.replace(specs[1], **(changes or {}))]
        teacher = tmp_path / "teacher"
        if not teacher.exists():
            save_teacher(make_model(tasks, dropout=0.5, seed=3), tokenizer, teacher)
        data = dict(given or rows["train"])
        if given is None and changes:
            raw = load_rows(tasks[1], "train").select(range(40))
            data["pairs"] = tokenize(tasks[1], raw, tokenizer, 64, read_labels(tasks[1], raw, "train"))
        taught = {"teachers": {"reviews": teacher, "pairs": teacher}}
        return cls(
            model=model or make_model(tasks, dropout=dropout, seed=seed),
            args=make_arguments(**{**taught, **arguments}),
            tasks=tasks,
            train_dataset=data,
            processing_class=tokenizer,
        )

    return trainer


def ended(trainer, **options):
    """What a training ends with, and its losses."""
    trainer.train(**options)
    losses = [[row[f"loss_{task}"] for task in trainer.tasks] for row in trainer.state.log_history if "loss" in row]
    return trainer.model.state_dict(), losses


def are_equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_the_answers_are_those_of_each_row_alone_without_dropout(make, tokenizer, tmp_path, changes):
    trainer = make(changes, per_device_eval_batch_size=7)
    rows = trainer.teachers.with_answers(trainer.train_dataset)
    model = MultiTaskModel.from_pretrained(tmp_path / "teacher")
    for task, own in trainer.train_dataset.tasks.items():
        wanted = model.heads[task].teach(one_by_one(model, task, own, tokenizer))
        start = 0 if task == "reviews" else len(trainer.train_dataset.tasks["reviews"])
        found = [rows[start + place]["teacher"] for place in range(len(own))]
        torch.testing.assert_close(torch.tensor(np.array(found)), wanted, rtol=1e-4, atol=1e-5)  # fp32, padding
        assert len({str(answer) for answer in found}) > 20  # they are not all alike


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_the_gradient_of_a_step_is_that_of_the_loss_written_by_hand(make, changes):
    trainer = make(changes, gradient_method="sum", learning_rate=1e-9, cls=MultiTaskTrainer)
    (batch,) = batches_of(trainer)
    assert batch["reviews"]["teacher"].shape == (4, 2) and batch["pairs"]["teacher"].shape == (4,)
    trainer.state.global_step, trainer.state.max_steps = 1, 4
    of_rows = {task: {name: v for name, v in b.items() if name != "teacher"} for task, b in batch.items()}

    def loss(trainer):
        reviews, pairs = of_rows["reviews"], of_rows["pairs"]
        of_reviews = trainer.model(task="reviews", **reviews)
        log_p = of_reviews.logits.log_softmax(dim=1)
        teachers = -(batch["reviews"]["teacher"] * log_p).sum(dim=1).mean()
        between = 0.75 * batch["pairs"]["teacher"] + 0.25 * pairs["labels"]
        of_pairs = trainer.model(task="pairs", **{**pairs, "labels": between}).loss
        return 0.75 * teachers + 0.25 * of_reviews.loss + of_pairs

    assert_step_is_backward_of(trainer, batch, loss)


def test_balanced_class_weights_are_on_both_parts_of_a_rows_loss_and_smoothing_on_its_label_alone(
    make, rows, monkeypatch
):
    reviews = rows["train"]["reviews"]
    few = reviews.select([row for row, label in enumerate(reviews["labels"]) if label == 0 or row % 5 == 0])
    options = {"of_reviews": {"class_weights": "balanced", "label_smoothing": 0.2}}
    options["given"] = {**rows["train"], "reviews": few}
    trainer = make(**options, gradient_method="sum", learning_rate=1e-9, cls=MultiTaskTrainer)
    (batch,) = batches_of(trainer)
    trainer.state.global_step, trainer.state.max_steps = 3, 4
    counts = np.bincount(trainer.train_dataset.tasks["reviews"]["labels"][:])
    weights = torch.tensor(counts.sum() / (2 * counts), dtype=torch.float32)
    assert weights[1] > 2 * weights[0]

    def loss(trainer):
        inputs = {name: v for name, v in batch["reviews"].items() if name not in ("teacher", "labels")}
        log_p, labels = trainer.model(task="reviews", **inputs).logits.log_softmax(dim=1), batch["reviews"]["labels"]
        teachers = -(weights[labels] * (batch["reviews"]["teacher"] * log_p).sum(dim=1)).mean()
        own = F.cross_entropy(log_p, labels, weights, label_smoothing=0.2, reduction="none").mean()
        pairs = {name: v for name, v in batch["pairs"].items() if name != "teacher"}
        between = 0.25 * batch["pairs"]["teacher"] + 0.75 * pairs["labels"]
        return 0.25 * teachers + 0.75 * own + trainer.model(task="pairs", **{**pairs, "labels": between}).loss

    assert_step_is_backward_of(trainer, batch, loss)
    assert_same(trainer, [batch], monkeypatch)


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_a_packed_step_equals_one_with_a_pass_per_task(make, monkeypatch, changes):
    trainer = make(changes, cls=MultiTaskTrainer)
    trainer.state.global_step, trainer.state.max_steps = 1, 4
    assert_same(trainer, batches_of(trainer, 2), monkeypatch)


def test_a_packed_run_has_the_losses_of_a_run_without_the_kernels(make):
    packed, plain = (ended(make(cpu_kernels=kernels, gradient_method="sum"))[1] for kernels in ("auto", "off"))
    np.testing.assert_allclose(packed, plain, rtol=1e-6)  # sums of fp32 in another order


@pytest.mark.parametrize(
    "length", [{"max_steps": 6}, {"max_steps": -1, "num_train_epochs": 2}], ids=["steps", "epochs"]
)
@pytest.mark.parametrize("accumulation", [1, 3])
def test_every_micro_batch_of_a_step_has_the_share_of_the_step(make, rows, accumulation, length):
    trainer = make(gradient_accumulation_steps=accumulation, learning_rate=0.0, **length)
    answers = {}
    column = trainer.teachers.with_answers(trainer.train_dataset)
    for place in range(96):
        row = column[place]
        answers[tuple(row["input_ids"].tolist())] = row["labels"], row["teacher"]
    seen, collate = [], trainer.data_collator

    def noting(group):
        seen.append([tuple(row["input_ids"].tolist()) for row in group if row["task"] == "reviews"])
        return collate(group)

    trainer.data_collator = noting
    trainer.train()
    steps = trainer.state.max_steps
    assert steps == (6 if length["max_steps"] == 6 else trainer.state.global_step)
    assert [step for step, _ in trainer.targets] == [step for step in range(steps) for _ in range(accumulation)][
        : len(trainer.targets)
    ]
    for (step, labels), ids in zip(trainer.targets, seen, strict=False):
        for found, row in zip(labels["reviews"], ids, strict=True):
            label, taught = answers[row]
            share = 1 - step / steps
            wanted = share * torch.from_numpy(taught) + (1 - share) * F.one_hot(torch.tensor(label), 2)
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_a_task_without_a_teacher_and_a_run_without_any_train_as_before(make, rows, tmp_path):
    alone = make(teachers={"reviews": tmp_path / "teacher"})
    alone.train()
    for _, labels in alone.targets:
        assert labels["pairs"].ndim == 1 and set(labels["pairs"].tolist()) <= set(
            np.float32(rows["train"]["pairs"]["labels"][:]).tolist()
        )
        assert labels["reviews"].shape == (4, 2)
    without = make(teachers=None)
    without.train()
    assert all(labels["reviews"].dtype == torch.int64 for _, labels in without.targets)


def test_answers_are_computed_once_and_read_by_the_next_run_with_the_same_losses(make, kept, forwards):
    first = ended(make(dropout=0.1))
    files, computed = kept(), len(forwards)
    assert len(files) == 2 and computed == 3  # batches: 64 and 32 reviews, 40 pairs
    again = ended(make(dropout=0.1))
    assert len(forwards) == computed and kept() == files
    assert are_equal(first[0], again[0]) and first[1] == again[1]


def test_a_damaged_file_of_answers_is_made_anew(make, kept, forwards):
    first = ended(make())
    file, computed = kept()[0], len(forwards)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    again = ended(make())
    assert len(forwards) > computed and are_equal(first[0], again[0])
    assert file.read_bytes() == whole


def test_answers_are_of_the_teachers_weights_and_of_the_rows(make, rows, kept, tmp_path, forwards):
    ended(make())
    files = set(kept())
    few = {**rows["train"], "reviews": rows["train"]["reviews"].select(range(0, 96, 2))}  # as rows that are skipped
    ended(make(given=few))
    assert len(set(kept()) - files) == 1
    turned = {**few, "reviews": few["reviews"].select(range(47, -1, -1))}
    trainer = make(given=turned)
    ended(trainer)
    answers = trainer.teachers.with_answers(trainer.train_dataset)
    straight = make().teachers.with_answers(TaskRows(rows["train"]))
    np.testing.assert_allclose(answers[0]["teacher"], straight[94]["teacher"], rtol=1e-4)
    files = set(kept())
    model = MultiTaskModel.from_pretrained(tmp_path / "teacher")
    with torch.no_grad():
        model.heads["pairs"].bias += 1
    model.save_pretrained(tmp_path / "teacher")
    ended(make())
    assert len(set(kept()) - files) == 2


def test_a_folder_that_was_moved_is_the_same_teacher(make, kept, tmp_path, forwards):
    ended(make())
    computed = len(forwards)
    moved = str(shutil.copytree(tmp_path / "teacher", tmp_path / "elsewhere"))
    ended(make(teachers={"reviews": moved, "pairs": moved}))
    assert len(forwards) == computed and len(kept()) == 2


def test_where_nothing_can_be_kept_the_run_is_the_same(make, kept, tmp_path, caplog):
    wanted = ended(make())
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("a file where the cache would be")
    found = ended(make())
    assert are_equal(found[0], wanted[0]) and "is not kept for the next run" in caplog.text


@pytest.mark.parametrize("arguments", [{}, {"gradient_accumulation_steps": 2}], ids=["steps", "accumulation"])
def test_a_resumed_run_ends_bit_equal(make, tmp_path, arguments):
    saves = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": None, "dropout": 0.1, **arguments}
    whole = make(**saves)
    weights, losses = ended(whole)
    again = make(seed=9, **saves)
    resumed, _ = ended(again, resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert are_equal(resumed, weights) and len(losses) == 4
    later = [labels for step, labels in whole.targets if step >= 2]
    assert again.targets[0][0] == 2 and len(later) == len(again.targets)
    for one, (_, other) in zip(later, again.targets, strict=True):
        assert are_equal(one, other)


def test_the_training_sample_is_scored_against_its_own_labels(make, rows):
    """As without teachers: nothing of them is in an evaluation."""
    scores = []
    for teachers in (None, make().args.teachers):
        trainer = make(teachers=teachers, cls=MultiTaskTrainer)
        trainer.eval_dataset = copy.copy(rows["validation"])
        scores.append({name: v for name, v in trainer.evaluate().items() if name.endswith(SCORES)})
    assert scores[0] == scores[1] and "train_reviews_loss" in scores[0]


def test_an_own_loss_gets_the_target_as_its_labels(make):
    seen = []

    class Own(MultiTaskTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            seen.append(dict(inputs))
            outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
            if inputs["task"] == "reviews":
                loss = F.cross_entropy(outputs.logits, inputs["labels"])  # takes a distribution
            else:
                loss = (outputs.logits.squeeze(-1) + 2.5 - inputs["labels"]).square().mean()
            return (loss, outputs) if return_outputs else loss

    found, stock = ended(make(cls=Own)), ended(make(cls=MultiTaskTrainer, cpu_kernels="off"))
    assert {inputs["labels"].ndim for inputs in seen if inputs["task"] == "reviews"} == {2}
    assert all("teacher" not in inputs for inputs in seen)
    np.testing.assert_allclose(found[1], stock[1], rtol=1e-5)


def test_a_student_comes_to_answer_as_its_teacher_where_labels_say_nothing(make, make_model, rows, tokenizer, tmp_path):
    """Labels that are drawn at random pull to the middle; the teacher does not."""
    labels = np.random.default_rng(0).integers(0, 2, 96)
    noise = rows["train"]["reviews"].remove_columns("labels").add_column("labels", labels)
    given = {**rows["train"], "reviews": noise}
    found = {}
    for name, teachers in (("labels", None), ("teacher", {"reviews": tmp_path / "teacher"})):
        trainer = make(given=given, teachers=teachers, max_steps=60, learning_rate=3e-3, cls=MultiTaskTrainer)
        trainer.step.run = _with_share_of_one(trainer) if teachers else trainer.step.run
        trainer.train()
        found[name] = one_by_one(trainer.model, "reviews", noise, tokenizer).softmax(dim=1)
    teacher = MultiTaskModel.from_pretrained(tmp_path / "teacher")
    wanted = one_by_one(teacher, "reviews", noise, tokenizer).softmax(dim=1)
    distance = {name: (each - wanted).abs().mean().item() for name, each in found.items()}
    assert distance["teacher"] < distance["labels"] / 2, distance


def _with_share_of_one(trainer):
    """The step of a trainer whose run is so long that the teacher's share stays near 1."""
    real = trainer.teachers.mixed
    trainer.teachers.mixed = lambda batches, step, steps: real(batches, step, 1000 * steps)
    assert teacher_share(60, 60_000) > 0.99
    return trainer.step.run


def test_rows_from_memory_are_taught_like_those_of_a_file(make, rows, forwards):
    """A table without a file behind it, divided otherwise, has the answers that were kept."""
    ended(make())
    computed = len(forwards)
    given = {task: Dataset.from_dict(own.to_dict(), features=own.features) for task, own in rows["train"].items()}
    ended(make(given=given))
    assert len(forwards) == computed
