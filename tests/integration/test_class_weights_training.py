"""Class weights and label smoothing in a training: packed and plain steps, evaluation, resumed and continued runs."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from packed_steps import assert_same, batches_of
from plain_steps import assert_step_is_backward_of

from hf_mtl import MultiTaskTrainer, load_model
from hf_mtl.data.tokenization import tokenize
from hf_mtl.tasks.demo import demo_rows
from hf_mtl.tasks.labels import read_labels

GIVEN = (0.25, 3.0)
OPTIONS = {
    "balanced": {"class_weights": "balanced"},
    "given": {"class_weights": GIVEN},
    "smoothed": {"label_smoothing": 0.2},
    "given and smoothed": {"class_weights": GIVEN, "label_smoothing": 0.2},
    "ordinal": {"kind": "ordinal", "metrics": (), "main_metric": ""},
    "ordinal and balanced": {"kind": "ordinal", "metrics": (), "main_metric": "", "class_weights": "balanced"},
}


@pytest.fixture
def make(specs, rows, make_model, make_arguments, tokenizer):
    """A trainer of the demo's tasks, the reviews of which are few of one class; options go to their task."""
    reviews = rows["train"]["reviews"]
    keep = [row for row, label in enumerate(reviews["labels"]) if label == 0 or row % 5 == 0]
    given = {**rows["train"], "reviews": reviews.select(keep)}

    def trainer(options, model=None, seed=0, **arguments):
        tasks = [dataclasses.replace(specs[0], **options), specs[1]]
        return MultiTaskTrainer(
            model=make_model(tasks, seed=seed) if model is None else model,
            args=make_arguments(**arguments),
            tasks=tasks,
            train_dataset=given,
            eval_dataset=rows["validation"],
            processing_class=tokenizer,
        )

    return trainer


def plain_loss(trainer, batch):
    """Of the reviews, with torch's own function, over rows."""
    model, spec = trainer.model, trainer.tasks["reviews"]
    labels = batch["labels"]
    logits = model(task="reviews", **{name: value for name, value in batch.items() if name != "labels"}).logits
    counts = np.bincount(trainer.train_dataset.tasks["reviews"]["labels"][:], minlength=2)
    balanced = counts.sum() / (2 * counts)
    factors = {"balanced": balanced, None: (1.0, 1.0)}.get(spec.class_weights, spec.class_weights)
    weights = torch.tensor(factors, dtype=torch.float32)
    if spec.kind == "ordinal":
        return (weights[labels] * -logits[torch.arange(len(labels)), labels]).sum() / len(labels)
    options = {"weight": weights, "label_smoothing": spec.label_smoothing or 0.0, "reduction": "none"}
    return F.cross_entropy(logits, labels, **options).sum() / len(labels)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_packed_step_equals_one_with_a_pass_per_task(make, monkeypatch, options):
    trainer = make(options)
    assert_same(trainer, batches_of(trainer), monkeypatch)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_gradient_of_a_step_is_the_plain_one(make, options):
    trainer = make(options, gradient_method="sum", learning_rate=1e-9)
    (batch,) = batches_of(trainer)

    def loss(trainer):
        return plain_loss(trainer, batch["reviews"]) + trainer.model(task="pairs", **batch["pairs"]).loss

    assert_step_is_backward_of(trainer, batch, loss)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_loss_of_an_evaluation_is_that_of_the_training_and_stays_it_in_a_loaded_model(make, tmp_path, options):
    trainer = make(options)
    trainer.train()
    found = trainer.evaluate()
    rows = trainer.eval_dataset["reviews"]
    with torch.no_grad():
        one_by_one = [
            plain_loss(trainer, {name: torch.tensor([row[name]]) for name in row if name != "length"}) for row in rows
        ]
    assert found["eval_reviews_loss"] == pytest.approx(torch.stack(one_by_one).mean().item(), rel=1e-4)

    trainer.save_final()
    spec = trainer.tasks["reviews"]
    loaded = load_model(tmp_path / "out", [task.head for task in trainer.tasks.values()])
    assert ("heads.reviews.class_weights" in loaded.state_dict()) == (spec.class_weights is not None)
    evaluated = MultiTaskTrainer(
        loaded, trainer.args, list(trainer.tasks.values()), None, trainer.eval_dataset, trainer.processing_class
    ).evaluate()
    assert evaluated["eval_reviews_loss"] == pytest.approx(found["eval_reviews_loss"], abs=1e-7)


@pytest.mark.parametrize("name", ["balanced", "given and smoothed", "ordinal and balanced"])
def test_a_resumed_run_ends_bit_equal(make, tmp_path, name):
    saves = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": None}
    whole = make(OPTIONS[name], **saves)
    whole.train()
    again = make(OPTIONS[name], seed=9, **saves)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    wanted = whole.model.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in again.model.state_dict().items())
    other = make({**OPTIONS[name], "class_weights": (1.0, 1.5)}, **saves)
    with pytest.raises(ValueError, match="the head of task 'reviews' as"):
        other.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))


def test_a_saved_model_goes_on_with_other_weights(make, tmp_path):
    first = make(OPTIONS["given"])
    first.train()
    first.save_final()
    tasks = [dataclasses.replace(first.tasks["reviews"], class_weights="balanced"), first.tasks["pairs"]]
    model = load_model(tmp_path / "out", [task.head for task in tasks])
    assert torch.equal(model.heads["reviews"].weight, first.model.heads["reviews"].weight)
    second = make(OPTIONS["balanced"], model)
    assert model.heads["reviews"].class_weights.tolist() == [1, 1]  # until it trains: a trainer may only evaluate
    second.train()
    counts = np.bincount(second.train_dataset.tasks["reviews"]["labels"][:], minlength=2)
    wanted = (counts.sum() / (2 * counts)).tolist()
    assert model.heads["reviews"].class_weights.tolist() == pytest.approx(wanted) != list(GIVEN)


def test_balanced_weights_lift_the_rare_class(make, specs, tokenizer):
    """Over validation rows of which as many are of each class, where one was a sixth of the training rows."""
    found = {}
    for name, options in (("plain", {}), ("balanced", OPTIONS["balanced"])):
        trainer = make(options, max_steps=40, learning_rate=1e-3)
        trainer.train()
        raw = Dataset.from_dict(demo_rows("reviews", "validation")).select(range(80))
        spec = trainer.tasks["reviews"]
        rows = tokenize(spec, raw, tokenizer, 64, read_labels(spec, raw, "validation"))
        logits = torch.from_numpy(trainer.predict({"reviews": rows})["reviews"].predictions)
        found[name] = logits.softmax(dim=1)[:, 1].mean().item()
    assert found["plain"] + 0.15 < found["balanced"] < 0.65
