"""`compute_metrics={task: function}` joins a task's own metrics."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from token_rows import tagged_rows, task

from hf_mtl import InputError, MultiTaskTrainer, load_task_data


def errors(prediction):
    assert prediction.predictions.shape[1] == 2 and len(prediction.predictions) == len(prediction.label_ids)
    return {"errors": (prediction.predictions.argmax(-1) != prediction.label_ids).sum()}


@pytest.fixture
def make(make_model, make_arguments, specs, rows, tokenizer):
    def build(functions, tasks=None, **arguments):
        tasks = tasks or specs
        train, validation = ({spec.name: rows[s][spec.name] for spec in tasks} for s in ("train", "validation"))
        model = make_model()
        model.set_heads([spec.head for spec in tasks])
        return MultiTaskTrainer(
            model, make_arguments(**arguments), tasks, train, validation, tokenizer, compute_metrics=functions
        )

    return build


def test_its_values_stand_beside_the_tasks_metrics(make, specs):
    trainer = make({"reviews": errors}, train_metric_rows=8)
    scores = trainer.evaluate()
    assert scores["eval_reviews_errors"] == round(24 * (1 - scores["eval_reviews_accuracy"]))
    assert 0 <= scores["train_reviews_errors"] <= 8 and not any("pairs_errors" in name for name in scores)
    assert math.isfinite(scores["eval_average"])
    predicted = trainer.predict({"reviews": trainer.eval_dataset["reviews"]})["reviews"]
    assert predicted.metrics["test_reviews_errors"] == scores["eval_reviews_errors"]


def test_one_function_will_do_for_one_task(make, specs):
    assert "eval_reviews_errors" in make(errors, tasks=specs[:1]).evaluate()


def test_a_run_may_be_decided_by_it(make):
    trainer = make(
        {"reviews": errors}, metric_for_best_model="eval_reviews_errors", greater_is_better=False, max_steps=2,
        load_best_model_at_end=True, eval_strategy="steps", save_strategy="steps", eval_steps=1, save_steps=1,
    )  # fmt: skip
    trainer.train()
    assert trainer.state.best_metric == min(
        row["eval_reviews_errors"] for row in trainer.state.log_history if "eval_reviews_errors" in row
    )


@pytest.mark.parametrize(
    ("functions", "named"),
    [
        (errors, r"compute_metrics is <function .*, wanted \{task: function of EvalPrediction\}"),
        ({"review": errors}, "unknown task in compute_metrics: 'review' .did you mean 'reviews'"),
        ({"reviews": "accuracy"}, "compute_metrics of task 'reviews' is 'accuracy', wanted"),
    ],
)
def test_what_is_no_function_of_a_task_is_refused(make, functions, named):
    with pytest.raises(InputError, match=named):
        make(functions)


def test_one_that_gives_no_numbers_is_named(make):
    with pytest.raises(InputError, match=r"compute_metrics of task 'reviews' gives 0.5, wanted \{name: number\}"):
        make({"reviews": lambda prediction: 0.5}).evaluate()


def test_it_gets_the_rows_in_their_own_order_and_may_change_them(make):
    """Rows go through the model by length."""
    seen = []

    def note(prediction):
        seen.append(prediction.label_ids.tolist())
        prediction.predictions[:] = 0
        return {"zero": 0}

    trainer, plain = make({"reviews": note}, train_metric_rows=0), make(None, train_metric_rows=0)
    rows = trainer.eval_dataset
    assert trainer.evaluate()["eval_reviews_loss"] == plain.evaluate()["eval_reviews_loss"]
    trainer.predict(rows)
    assert seen == [list(rows["reviews"]["labels"])] * 2


@pytest.mark.parametrize("name", ["loss", "average", ""])
def test_names_that_stand_for_something_else_are_refused(make, name):
    with pytest.raises(InputError, match=f"compute_metrics of task 'reviews' gives a metric called '{name}'"):
        make({"reviews": lambda prediction: {name: 1}}).evaluate()


def test_a_metric_that_the_task_declares_is_not_replaced(make):
    with pytest.raises(InputError, match="gives a metric called 'accuracy', which would replace reviews_accuracy"):
        make({"reviews": lambda prediction: {"accuracy": 1}}).evaluate()


WATCHED = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1, "max_steps": 2}


@pytest.mark.parametrize(
    ("watched", "named"),
    [
        ({"metric_for_best_model": "reviews_accuracy", "greater_is_better": False}, "wanted --greater_is_better true"),
        ({"metric_for_best_model": "eval_loss", "greater_is_better": True}, "wanted --greater_is_better false"),
        ({"metric_for_best_model": "pairs_pearsn"}, "'pairs_pearsn' .did you mean 'pairs_pearson'"),
        ({"metric_for_best_model": "pairs_errors"}, "unknown metric_for_best_model 'pairs_errors'"),
    ],
)
def test_metrics_without_a_function_are_checked_as_ever(make, watched, named):
    with pytest.raises(InputError, match=named):
        make({"reviews": errors}, load_best_model_at_end=True, **WATCHED, **watched)


def test_a_watched_metric_that_the_function_does_not_give_stops_the_first_evaluation(make):
    trainer = make({"reviews": errors}, metric_for_best_model="reviews_erors", greater_is_better=False, **WATCHED)
    with pytest.raises(InputError, match=r"is 'reviews_erors', and no function in compute_metrics gives it; .*errors"):
        trainer.train()
    assert trainer.state.global_step == 1


def test_what_a_function_of_tags_gets_is_as_the_page_says(make_model, make_arguments, tokenizer):
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, flags=re.S) if "def names_found" in block]
    exec(code, given := {})
    seen = []

    def noting(prediction):
        seen.append(prediction)
        return given["names_found"](prediction)

    raw, spec = tagged_rows(11, seed=1), task()
    rows = load_task_data([spec], tokenizer, max_length=16, splits=["validation"], rows={"ner": {"validation": raw}})
    rows = rows["validation"]["ner"]
    arguments = make_arguments(per_device_eval_batch_size=3)
    trainer = MultiTaskTrainer(
        make_model([spec]), arguments, [spec], None, {"ner": rows}, tokenizer, compute_metrics={"ner": noting}
    )
    scores = trainer.evaluate()
    tags, numbers, losses = seen[0].predictions
    labels = seen[0].label_ids
    assert tags.shape == numbers.shape == labels.shape and losses.shape == (11,)
    right = []
    for place, row in enumerate(rows):
        length = len(row["input_ids"])
        with torch.no_grad():
            inputs = {name: torch.tensor([row[name]]) for name in ("input_ids", "token_type_ids")}
            logits = trainer.model.eval()(task="ner", **inputs).logits[0]
        wanted, is_word = torch.tensor(row["labels"]), np.array(row["word_numbers"]) > 0
        assert labels[place].tolist() == row["labels"] + [-100] * (labels.shape[1] - length)
        assert tags[place, :length][is_word].tolist() == logits.argmax(-1)[torch.tensor(is_word)].tolist()
        assert (tags[place, :length][~is_word] == -100).all() and (tags[place, length:] == -100).all()
        assert numbers[place, :length].tolist() == row["word_numbers"] and set(numbers[place, length:]) <= {0, -100}
        assert losses[place] == pytest.approx(float(F.cross_entropy(logits, wanted, reduction="sum")), rel=1e-4)
        right += (logits.argmax(-1) == wanted)[wanted > 0].tolist()
    assert scores["eval_ner_names_found"] == pytest.approx(np.mean(right))
    assert scores["eval_ner_words"] == sum((np.array(row["word_numbers"]) > 0).sum() for row in rows)
