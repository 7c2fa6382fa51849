"""Whatever watches a metric knows its name and which direction is up."""

import math
from itertools import pairwise

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import EarlyStoppingCallback, TrainerCallback

from hf_mtl import InputError, MultiTaskTrainer, MultiTaskTrainingArguments
from hf_mtl.tasks.kinds import KINDS
from hf_mtl.tasks.metric_names import greater_is_better, metric_names
from hf_mtl.training.argument_parser import parse_arguments
from hf_mtl.training.watched_metric import known_metrics

EVERY_STEP = {"eval_strategy": "steps", "eval_steps": 1, "train_metric_rows": 0}


class Scores(TrainerCallback):
    """Gives the n-th evaluation the n-th value of a metric, the last one from there on."""

    def __init__(self, values, name="eval_average"):
        self.values, self.name, self.count = values, name, 0

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        metrics[self.name] = self.values[min(self.count, len(self.values) - 1)]
        self.count += 1


def rates(trainer):
    return [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]


@pytest.mark.parametrize(
    ("metric", "better"),
    [
        ("eval_average", [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("eval_loss", [5.0, 4.0, 3.0, 2.0, 1.0]),
        ("loss", [5.0, 4, 3, 2, 1]),
    ],
)
@pytest.mark.parametrize("kind", ["reduce_lr_on_plateau", "greedy"])
def test_a_schedule_lowers_the_rate_when_the_metric_gets_worse_and_only_then(make_trainer, kind, metric, better):
    settings = {
        **EVERY_STEP,
        "max_steps": 4,
        "lr_scheduler_type": kind,
        "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5},
        "metric_for_best_model": metric,
    }
    name = metric if metric.startswith("eval_") else f"eval_{metric}"
    for values, holds in ((better, lambda a, b: b >= a), (better[::-1], lambda a, b: b <= a / 2)):
        trainer = make_trainer(callbacks=[Scores(values, name)], **settings)
        trainer.train()
        after = rates(trainer)[1:]  # the first value is the best so far, whatever it is
        assert all(holds(a, b) for a, b in pairwise(after)), after


def test_the_best_checkpoint_is_that_of_the_least_loss(make_trainer):
    trainer = make_trainer(
        callbacks=[Scores([3.0, 1.0, 2.0], "eval_pairs_loss")],
        **EVERY_STEP,
        max_steps=3,
        save_strategy="best",
        metric_for_best_model="eval_pairs_loss",
    )
    trainer.train()
    assert (trainer.state.best_metric, trainer.state.best_global_step) == (1.0, 2)


def test_a_metric_that_is_no_number_is_never_the_best(make_trainer):
    trainer = make_trainer(
        callbacks=[Scores([math.nan, 0.5, math.nan])], **EVERY_STEP, max_steps=3, save_strategy="best"
    )
    trainer.train()
    assert (trainer.state.best_metric, trainer.state.best_global_step) == (0.5, 2)


def test_what_an_evaluation_gives_is_known_before(make_trainer, specs):
    found = make_trainer().evaluate()
    known = known_metrics(specs)
    assert known.keys() <= found.keys()
    rest = {name for name in found.keys() - known.keys() if not name.startswith("train_")}
    assert all(name.endswith(("runtime", "_per_second", "_time")) for name in rest - {"epoch"})
    assert {name for name, up in known.items() if not up} == {"eval_loss", "eval_reviews_loss", "eval_pairs_loss"}


def test_errors_and_losses_are_better_when_they_are_less():
    assert [greater_is_better(name) for name in ("loss", "mse", "mae")] == [False, False, False]
    listed = {name for kind in KINDS for name in metric_names(kind)} - {"mse", "mae"}
    assert all(map(greater_is_better, listed))


WATCHERS = [
    {},
    {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 1},
    {"save_strategy": "best"},
    {"early_stopping_patience": 1},
    {"lr_scheduler_type": "greedy"},
]


@pytest.mark.parametrize("watcher", WATCHERS)
@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("eval_avrage", "eval_average"),
        ("avrage", "average"),
        ("eval_pairs_accuracy", "eval_.*"),
        ("train_average", ".*"),
    ],
)
def test_an_unknown_metric_is_refused_with_the_nearest_one_when_the_trainer_is_built(
    make_trainer, tmp_path, watcher, name, close
):
    wanted = rf"metric_for_best_model '{name}' \(did you mean '{close}'\?\); choose from: .*pairs_pearson"
    with pytest.raises(InputError, match=wanted):
        make_trainer(**EVERY_STEP, **watcher, metric_for_best_model=name)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["average", "pairs_pearson", "eval_reviews_accuracy", "loss"])
def test_eval_may_be_left_out_of_the_metrics_name(make_trainer, name):
    make_trainer(**EVERY_STEP, save_strategy="best", metric_for_best_model=name)


def test_a_task_without_validation_rows_has_no_metric_to_choose(make_model, make_arguments, specs, rows, tokenizer):
    args = make_arguments(**EVERY_STEP, metric_for_best_model="eval_pairs_pearson")
    scored = {"reviews": rows["validation"]["reviews"]}
    with pytest.raises(
        InputError, match=r"'eval_pairs_pearson'.*choose from: eval_average, eval_loss, eval_reviews_acc"
    ):
        MultiTaskTrainer(make_model(), args, specs, rows["train"], scored, tokenizer)


@pytest.mark.parametrize(("metric", "flag", "wanted"), [("eval_average", False, "true"), ("eval_loss", True, "false")])
def test_the_wrong_direction_is_refused(make_trainer, metric, flag, wanted):
    with pytest.raises(InputError, match=f"greater_is_better is {flag} and .*'{metric}'.*--greater_is_better {wanted}"):
        make_trainer(**EVERY_STEP, metric_for_best_model=metric, greater_is_better=flag)


@pytest.mark.parametrize("kind", ["reduce_lr_on_plateau", "greedy"])
def test_a_mode_that_contradicts_the_metric_is_refused(make_arguments, kind):
    with pytest.raises(InputError, match="lr_scheduler_kwargs has mode 'min', wanted 'max', as eval_average"):
        make_arguments(**EVERY_STEP, lr_scheduler_type=kind, lr_scheduler_kwargs={"mode": "min"})
    make_arguments(**EVERY_STEP, lr_scheduler_type=kind, lr_scheduler_kwargs={"mode": "max"})


def test_a_schedule_of_ones_own_with_the_wrong_direction_is_refused(make_model, make_arguments, specs, rows, tokenizer):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for mode in ("max", "min"):
        arguments = (model, make_arguments(**EVERY_STEP), specs, rows["train"], rows["validation"], tokenizer)
        optimizers = (optimizer, ReduceLROnPlateau(optimizer, mode=mode))
        if mode == "max":
            MultiTaskTrainer(*arguments, optimizers=optimizers)
        else:
            with pytest.raises(InputError, match="ReduceLROnPlateau has mode 'min', wanted 'max'"):
                MultiTaskTrainer(*arguments, optimizers=optimizers)


def test_the_options_of_the_schedule_stay_as_they_were_given(make_trainer):
    trainer = make_trainer(**EVERY_STEP, max_steps=1, lr_scheduler_type="greedy", lr_scheduler_kwargs={"patience": 3})
    trainer.train()
    assert trainer.args.lr_scheduler_kwargs == {"patience": 3}
    assert (trainer.lr_scheduler.mode, trainer.lr_scheduler.patience) == ("max", 3)


@pytest.mark.parametrize("watcher", WATCHERS[1:])
def test_what_watches_a_metric_wants_evaluations(watcher):
    flags = [f"--{name}={value}" for name, value in watcher.items()]
    with pytest.raises(InputError, match="wants evaluations in the course of the training, and eval_strategy is 'no'"):
        parse_arguments(["--use_cpu", "--do_train", "--eval_strategy", "no", *flags])
    parse_arguments(["--use_cpu", "--do_predict", *flags])  # nothing is trained


def test_early_stopping_of_ones_own_wants_evaluations_too(make_trainer):
    with pytest.raises(InputError, match="EarlyStoppingCallback: wants evaluations"):
        make_trainer(callbacks=[EarlyStoppingCallback(2)])


def test_a_subclass_may_choose_by_a_metric_of_its_own(make_model, make_arguments, specs, rows, tokenizer):
    class Own(MultiTaskTrainer):
        def evaluate(self, *args, **kwargs):
            return {**super().evaluate(*args, **kwargs), "eval_mine": 1.0}

    args = make_arguments(**EVERY_STEP, max_steps=1, metric_for_best_model="mine", save_strategy="best")
    assert isinstance(args, MultiTaskTrainingArguments)
    trainer = Own(make_model(), args, specs, rows["train"], rows["validation"], tokenizer)
    trainer.train()
    assert trainer.state.best_metric == 1.0
