"""Rows from Python: what `tokenize` makes trains, scores and predicts; anything else is one sentence with the way."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from hf_mtl import InputError, MultiTaskTrainer
from hf_mtl.data.collator import TaskCollator
from hf_mtl.data.given_rows import checked_rows
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.data.task_rows import TaskRows
from hf_mtl.data.tokenization import tokenize
from hf_mtl.tasks.labels import read_labels
from hf_mtl.training.run import predict


@pytest.fixture
def make(make_model, make_arguments, specs, rows, tokenizer):
    def make(train=rows["train"], validation=rows["validation"], tasks=specs, **options):
        arguments = {k: options.pop(k) for k in ("optim",) if k in options}
        args = make_arguments(**{"max_steps": 1, "train_metric_rows": 0, **arguments})
        return MultiTaskTrainer(make_model(), args, tasks, train, validation, tokenizer, **options)

    return make


def with_column(rows, name, values):
    return (rows.remove_columns(name) if name in rows.column_names else rows).add_column(name, values)


# ---- {task: rows}, and nothing else ----

NO_TASKS = {
    "no task": ({}, "is empty, wanted .task: rows. for one or more of reviews, pairs"),
    "a wrong name": (lambda rows: {"review": rows["reviews"]}, "'review' .did you mean 'reviews'"),
    "a wrong name beside a right one": (lambda rows: {"reviews": rows["reviews"], "piars": rows["pairs"]}, "'piars'"),
    "bare rows": (lambda rows: rows["reviews"], "is a Dataset, wanted .task: rows. for reviews, pairs"),
    "a list": (lambda rows: list(rows.values()), "is a list, wanted .task: rows. for reviews, pairs"),
    "a name": ("reviews", "is a str, wanted .task: rows."),
    "splits": (lambda rows: DatasetDict(validation=rows["reviews"]), "'validation'"),
    "splits of a task": (
        lambda rows: {"reviews": DatasetDict(train=rows["reviews"]), "pairs": rows["pairs"]},
        "task 'reviews': .* is a DatasetDict, wanted one of its splits: train",
    ),
}


@pytest.mark.parametrize("entry", ["train_dataset", "eval_dataset", "evaluate", "predict"])
@pytest.mark.parametrize(("wrong", "named"), NO_TASKS.values(), ids=NO_TASKS)
def test_what_names_no_task_is_refused_everywhere(make, rows, entry, wrong, named):
    wrong = wrong(rows["validation"]) if callable(wrong) else wrong
    entries = {
        "train_dataset": lambda: make(train=wrong),
        "eval_dataset": lambda: make(validation=wrong),
        "evaluate": lambda: make().evaluate(wrong),
        "predict": lambda: make().predict(wrong),
    }
    with pytest.raises(InputError, match=named):
        entries[entry]()


def test_a_training_set_without_a_task_is_refused(make, rows):
    with pytest.raises(InputError, match="task 'pairs': train_dataset has no rows of it, only of reviews"):
        make(train={"reviews": rows["train"]["reviews"]})


def test_nothing_to_train_or_score_is_told(make):
    trainer = make(train=None, validation=None)
    with pytest.raises(InputError, match="without eval_dataset"):
        trainer.evaluate()
    with pytest.raises(InputError, match="without train_dataset"):
        trainer.train()


def test_with_one_task_its_rows_will_do_everywhere(make, rows, specs):
    bare, named = make(rows["train"]["reviews"], rows["validation"]["reviews"], specs[:1]), make(tasks=specs[:1])
    bare.train(), named.train()
    for one, other in zip(bare.model.parameters(), named.model.parameters(), strict=True):
        assert torch.equal(one, other)
    split = rows["validation"]["reviews"]
    assert bare.evaluate(split)["eval_average"] == named.evaluate()["eval_average"]
    alone, by_task = bare.predict(split), named.predict({"reviews": split})["reviews"]
    assert np.array_equal(alone.predictions, by_task.predictions)
    assert alone.metrics["test_reviews_accuracy"] == by_task.metrics["test_reviews_accuracy"]


def test_tasks_that_the_evaluation_lacks_are_not_scored(make, rows):
    scores = make(validation={"pairs": rows["validation"]["pairs"]}).evaluate()
    assert scores["eval_average"] == scores["eval_pairs_pearson"]
    assert "eval_reviews_accuracy" not in scores


# ---- predictions ----


def test_predictions_come_by_task_with_the_scores_that_an_evaluation_gives(make, rows):
    trainer = make()
    outputs, scores = trainer.predict(rows["validation"], metric_key_prefix="dev"), trainer.evaluate()
    assert list(outputs) == ["reviews", "pairs"]
    for name, metric in (("reviews", "accuracy"), ("pairs", "pearson"), ("reviews", "loss"), ("pairs", "loss")):
        assert outputs[name].metrics[f"dev_{name}_{metric}"] == scores[f"eval_{name}_{metric}"]
    assert outputs["reviews"].predictions.shape == (24, 2)
    assert outputs["pairs"].label_ids.tolist() == pytest.approx(rows["validation"]["pairs"]["labels"])
    bare = {name: each.remove_columns("labels") for name, each in rows["validation"].items()}
    unlabelled = trainer.predict(bare)
    for name, output in unlabelled.items():
        assert np.array_equal(output.predictions, outputs[name].predictions)
        assert output.label_ids is None and f"test_{name}_loss" not in output.metrics


def test_rows_of_a_test_split_are_scored_where_they_have_a_label(make, specs, tokenizer):
    trainer = make()
    for spec, none in zip(specs, (-1, None), strict=True):
        raw = load_rows(spec, "validation").select(range(20))
        kept = [row for row in range(20) if row % 3]
        cells = [label if row % 3 else none for row, label in enumerate(raw[spec.label_column])]
        test = raw.remove_columns(spec.label_column).add_column(spec.label_column, cells)
        labels = read_labels(spec, test, "test")
        some = trainer.predict({spec.name: tokenize(spec, test, tokenizer, 64, labels)})[spec.name]
        known = raw.select(kept)
        full = tokenize(spec, known, tokenizer, 64, read_labels(spec, known, "test"))
        wanted = trainer.predict({spec.name: full})[spec.name]
        assert np.isnan(some.label_ids).tolist() == [row % 3 == 0 for row in range(20)]
        np.testing.assert_allclose(some.predictions[kept], wanted.predictions, rtol=1e-5, atol=1e-6)
        for metric in (*spec.metrics, "loss"):
            key = f"test_{spec.name}_{metric}"
            assert some.metrics[key] == pytest.approx(wanted.metrics[key], rel=1e-5)


def test_the_command_writes_predictions_and_the_scores_of_labelled_rows(make, rows, tmp_path):
    trainer = make(train=None)
    split = {"reviews": rows["validation"]["reviews"], "pairs": rows["validation"]["pairs"].remove_columns("labels")}
    predict(trainer, split)
    found = json.loads((tmp_path / "out" / "test_results.json").read_text())
    assert found == {"test_reviews_accuracy": trainer.evaluate()["eval_reviews_accuracy"]}
    lines = (tmp_path / "out" / "predictions" / "pairs.tsv").read_text().splitlines()
    wanted = trainer.model.decode("pairs", torch.from_numpy(trainer.predict(split)["pairs"].predictions))
    assert [float(line.split("\t")[1]) for line in lines[1:]] == pytest.approx(wanted.tolist())


def test_a_value_on_the_borders_of_its_range_in_half_the_digits_is_one(specs, rows, tokenizer):
    spec = replace(specs[1], label_range=(0.0, 0.1))
    pairs = with_column(rows["train"]["pairs"], "labels", np.full(40, 0.1, dtype=np.float32))
    inputs = tokenizer.model_input_names
    assert checked_rows(pairs, spec, "rows", vocab_size=None, positions=None, inputs=inputs, labelled=True) is not None
    high = with_column(pairs, "labels", np.full(40, 0.1001, dtype=np.float32))
    with pytest.raises(InputError, match=r"label 0.1001 in row 0 .*a number in \[0.0, 0.1\]"):
        checked_rows(high, spec, "rows", vocab_size=None, positions=None, inputs=inputs, labelled=True)


def test_a_trainer_without_training_rows_predicts(make, rows):
    assert make(train=None, validation=None).predict(rows["validation"])["pairs"].predictions.shape == (24, 1)


# ---- columns ----

WAY = "load_task_data.tasks, tokenizer, max_length=..."
COLUMNS = {
    "raw rows": (
        lambda r: Dataset.from_dict({"text": ["a"], "label": [0]}),
        "no column 'input_ids', 'length', .*" + WAY,
    ),
    "no length": (lambda r: r.remove_columns("length"), "no column 'length'; .*" + WAY),
    "no labels": (lambda r: r.remove_columns("labels"), "no column 'labels'; .*load_task_data"),
    "label": (lambda r: r.rename_column("labels", "label"), r"rows.rename_column\('label', 'labels'\)"),
    "text": (lambda r: r.add_column("text", ["a"] * len(r)), r"'text' \(string\).*rows.remove_columns\(\['text'\]\)"),
    "text and None": (
        lambda r: r.add_column("text", ["a"] * len(r)).add_column("note", [1, None] * (len(r) // 2)),
        r"'text' \(string\), 'note' \(no value in row 1\); rows.remove_columns\(\['text', 'note'\]\)",
    ),
    "a task column": (lambda r: r.add_column("task", [0] * len(r)), "'task' .which the model calls something else"),
    "ragged lists": (
        lambda r: r.add_column("spans", [[1], [1, 2]] * (len(r) // 2)),
        "'spans' .lists of unequal length",
    ),
    "text labels": (lambda r: with_column(r, "labels", ["bad"] * len(r)), "'labels' holds string, wanted numbers"),
    "lists of labels": (lambda r: with_column(r, "labels", [[1.0]] * len(r)), "'labels' holds list.*, wanted numbers"),
    "a class too many": (
        lambda r: with_column(r, "labels", [0, 7] * (len(r) // 2)),
        r"label 7 in row 1 \(the first row is 0\), wanted one of 0 \(negative\), 1 \(positive\)",
    ),
    "a label between": (lambda r: with_column(r, "labels", [0, 0.5] * (len(r) // 2)), "label 0.5 in row 1"),
    "no label": (lambda r: with_column(r, "labels", [0.0, float("nan")] * (len(r) // 2)), "no label in row 1"),
    "None as a label": (lambda r: with_column(r, "labels", [0, None] * (len(r) // 2)), "no label in row 1"),
    "text as tokens": (lambda r: with_column(r, "input_ids", ["a"] * len(r)), "'input_ids' holds string"),
    "another tokenizer": (
        lambda r: with_column(r, "input_ids", [[99_999 if i == 3 else 1] * n for i, n in enumerate(r["length"])]),
        "row 3 .* has the token id 99999, and the encoder has .* another encoder's tokenizer",
    ),
    "more than the encoder takes": (
        lambda r: with_column(r.remove_columns("token_type_ids"), "input_ids", [[1] * 65] * len(r)).map(
            lambda row: {"length": 65}
        ),
        "row 0 .* has 65 tokens, and the encoder takes 64; cut in tokenize",
    ),
    "no tokens": (lambda r: with_column(r, "input_ids", [[1]] + [[]] * (len(r) - 1)), "row 1 .* has no tokens"),
    "cut afterwards": (
        lambda r: r.map(lambda row: {"input_ids": row["input_ids"][:3], "token_type_ids": row["token_type_ids"][:3]}),
        "in row 0 .*, 'length' is for .* tokens and there are 3",
    ),
    "a transform": (lambda r: r.with_transform(lambda batch: batch), "set_transform.*use map"),
    "a list of rows": (lambda r: list(r), "is a list, wanted a datasets.Dataset; Dataset.from_list"),
    "a data frame": (lambda r: pd.DataFrame({"length": [1]}), "is a DataFrame, wanted a datasets.Dataset"),
    "an iterable": (lambda r: r.to_iterable_dataset(), "is a IterableDataset, wanted a datasets.Dataset"),
    "tagged rows": (lambda r: TaskRows({"reviews": r}), "is a TaskRows, wanted a datasets.Dataset"),
}


@pytest.mark.parametrize(("change", "named"), COLUMNS.values(), ids=COLUMNS)
def test_rows_that_cannot_be_trained_on_or_scored_are_refused(make, rows, change, named):
    changed = change(rows["validation"]["reviews"])
    for argument in ("train", "validation"):
        given = {**rows["validation"], "reviews": changed}
        with pytest.raises(InputError, match=f"task 'reviews': {argument.replace('validation', 'eval')}.*{named}"):
            make(**{argument: given})
    with pytest.raises(InputError, match=named):
        make().evaluate({"reviews": changed})


def test_a_value_outside_the_range_is_refused(make, rows):
    pairs = rows["train"]["pairs"]
    high = with_column(pairs, "labels", [5.0, 5.1] * (len(pairs) // 2))
    with pytest.raises(InputError, match=r"task 'pairs': train_dataset: label 5.1 in row 1 .*a number in \[0.0, 5.0\]"):
        make(train={**rows["train"], "pairs": high})


def test_other_forms_of_the_same_rows_train_alike(make, rows):
    def weights(change):
        # Adam's first step would make much of rounding.
        trainer = make(train={name: change(each) for name, each in rows["train"].items()}, optim="sgd")
        trainer.train()
        return list(trainer.model.parameters())

    same = {
        "torch": lambda r: r.with_format("torch"),
        "numpy": lambda r: r.with_format("numpy"),
        "a mask": lambda r: r.add_column("attention_mask", [[1] * length for length in r["length"]]),
        "a number more": lambda r: r.add_column("idx", list(range(len(r)))),
        "whole floats": lambda r: with_column(r, "labels", np.asarray(r["labels"], dtype=np.float64)),
        "picked and put back": lambda r: r.select(list(range(len(r)))[::-1]).select(list(range(len(r)))[::-1]),
    }
    wanted = weights(lambda r: r)
    for name, change in same.items():
        assert all(map(torch.allclose, wanted, weights(change))), name


def test_a_collator_of_ones_own_may_take_other_columns(make, rows, tokenizer):
    class Texts(TaskCollator):
        def __call__(self, given):
            assert all(isinstance(row.pop("note"), str) for row in given)
            return super().__call__(given)

    noted = {name: each.add_column("note", ["n"] * len(each)) for name, each in rows["train"].items()}
    make(train=noted, data_collator=Texts(tokenizer)).train()


def test_a_collator_that_does_not_keep_the_tasks_apart_is_told(make):
    def flat(given):
        return {"input_ids": torch.zeros(len(given), 2), "labels": torch.zeros(len(given))}

    trainer = make(data_collator=flat)
    for run in (trainer.train, trainer.evaluate):
        with pytest.raises(InputError, match=r"data_collator gave a batch of input_ids, labels, wanted {task: batch}"):
            run()


CELLS = {
    "input_ids": st.lists(st.lists(st.integers(-1, 40) | st.none(), max_size=4), min_size=3, max_size=3),
    "length": st.lists(st.integers(0, 4) | st.none(), min_size=3, max_size=3),
    "token_type_ids": st.lists(st.lists(st.integers(0, 1), max_size=4), min_size=3, max_size=3),
    "labels": st.lists(st.none() | st.booleans() | st.integers(-1, 3) | st.floats(), min_size=3, max_size=3),
    "text": st.lists(st.text(max_size=3), min_size=3, max_size=3),
    "more": st.lists(st.none() | st.floats(), min_size=3, max_size=3),
}


@settings(deadline=None, max_examples=99, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(data=st.data(), kind=st.sampled_from(["reviews", "pairs"]), labelled=st.booleans())
def test_generated_columns_have_a_loss_or_are_refused(make_model, specs, tokenizer, data, kind, labelled):
    good = {"input_ids": [[1, 5, 2], [1, 2], [1, 6, 7, 2]], "length": [3, 2, 4], "labels": [0, 1, 1]}
    good |= {"token_type_ids": [[0] * 3, [0] * 2, [0] * 4]}
    changed = data.draw(st.sets(st.sampled_from([*CELLS]), max_size=2))
    try:
        rows = Dataset.from_dict({**good, **{name: data.draw(CELLS[name]) for name in sorted(changed)}})
    except Exception:  # Arrow takes no column of several types
        return
    (spec,) = (each for each in specs if each.name == kind)
    limits = {
        "vocab_size": len(tokenizer),
        "positions": 64,
        "inputs": tokenizer.model_input_names,
        "labelled": labelled,
    }
    try:
        checked = checked_rows(rows, spec, "train_dataset", **limits)
    except InputError as error:
        event("refused")
        assert str(error).startswith(f"task {kind!r}: train_dataset")
        return
    event("taken")
    labels = np.asarray(checked["labels"] if "labels" in checked.column_names else [], dtype=np.float64)
    if np.isnan(labels).any():
        assert not labelled
        checked = checked.remove_columns("labels")
    (batch,) = TaskCollator(tokenizer)(TaskRows({kind: checked}).__getitems__(range(3))).values()
    output = make_model()(task=kind, **batch)
    assert output.loss is None or output.loss.isfinite()
    assert output.loss is not None or not labelled
