"""The metric that decides: whether an evaluation has it, which direction is up, and what is made to watch it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import EarlyStoppingCallback, TrainingArguments
from transformers.optimization import GreedyLR
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType

from ..errors import InputError, unknown_name_error
from ..tasks.metric_names import greater_is_better
from ..tasks.spec import TaskSpec

logger = logging.getLogger(__name__)
WATCHING_SCHEDULES = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)


def known_metrics(tasks: Sequence[TaskSpec]) -> dict[str, bool]:
    """What an evaluation of these tasks gives, each with whether a greater value is the better one."""
    names = {"eval_average": True, "eval_loss": False}
    for spec in tasks:
        names |= {f"eval_{spec.name}_{metric}": greater_is_better(metric) for metric in (*spec.metrics, "loss")}
    return names


def _full_name(metric: str) -> str:
    """As in the Trainer, "eval_" may be left out."""
    return metric if metric.startswith("eval_") else f"eval_{metric}"


def check_watched_metric(
    args: TrainingArguments, tasks: Sequence[TaskSpec], scored: Sequence[str], with_function: Collection[str] = ()
) -> None:
    """Raise InputError unless `metric_for_best_model` is a metric of `scored`, with `greater_is_better` as it is.

    Args:
        args: with the metric.
        tasks: all there are.
        scored: names of those that have validation rows.
        with_function: names of those with a function of the user's, of whose metrics nothing is known yet.
    """
    name = args.metric_for_best_model
    if name is None:
        return
    known = known_metrics([spec for spec in tasks if spec.name in scored])
    full = _full_name(name)
    if full not in known:
        if any(task in scored and full.startswith(f"eval_{task}_") for task in with_function):
            return
        for spec in tasks:
            if full in known_metrics([spec]):
                raise InputError(
                    f"metric_for_best_model is {name!r}, and task {spec.name!r} has no validation rows; give it "
                    f"some, or choose from: {', '.join(sorted(known))}"
                )
        names = known if name == full else [each.removeprefix("eval_") for each in known]
        raise unknown_name_error("metric_for_best_model", name, names)
    if args.greater_is_better != known[full]:
        raise InputError(
            f"greater_is_better is {args.greater_is_better} and metric_for_best_model is {name!r}, of which "
            f"{'more' if known[full] else 'less'} is better; wanted --greater_is_better {str(known[full]).lower()}"
        )


def check_watched_metric_is_there(args: TrainingArguments, metrics: Collection[str]) -> None:
    """Raise InputError where an evaluation lacks `metric_for_best_model`: a function of the user's does not give it."""
    name = args.metric_for_best_model
    if name is not None and _full_name(name) not in metrics:
        raise InputError(
            f"metric_for_best_model is {name!r}, and no function in compute_metrics gives it; the evaluation has: "
            f"{', '.join(sorted(metrics))}"
        )


def watchers(args: TrainingArguments, callbacks: Sequence[object] = ()) -> list[str]:
    """What was asked for and cannot do without evaluations in the course of the training."""
    asked = {
        "load_best_model_at_end": args.load_best_model_at_end,
        "save_strategy best": args.save_strategy == SaveStrategy.BEST,
        "lr_scheduler_type reduce_lr_on_plateau": args.lr_scheduler_type == SchedulerType.REDUCE_ON_PLATEAU,
        "lr_scheduler_type greedy": args.lr_scheduler_type == SchedulerType.GREEDY,
        "early_stopping_patience": args.early_stopping_patience is not None,
        "EarlyStoppingCallback": any(
            issubclass(each if isinstance(each, type) else type(each), EarlyStoppingCallback) for each in callbacks
        ),
    }
    return [name for name, is_asked in asked.items() if is_asked]


def _wanting_evaluations(args: TrainingArguments, callbacks: Sequence[object]) -> list[str]:
    """The watchers, and a soup, which goes by `eval_average` whatever is watched."""
    return [*watchers(args, callbacks), *(["soup"] if args.soup else [])]


def refuse_watchers_without_evaluations(args: TrainingArguments, callbacks: Sequence[object] = ()) -> None:
    """Raise InputError for what watches a metric in a training that is never evaluated."""
    if args.eval_strategy == IntervalStrategy.NO and (asked := _wanting_evaluations(args, callbacks)):
        raise InputError(
            f"{' and '.join(asked)}: wants evaluations in the course of the training, and eval_strategy is 'no'; add "
            "--eval_strategy epoch or steps"
        )


def refuse_watchers_without_metric(args: TrainingArguments, callbacks: Sequence[object] = ()) -> None:
    """Raise InputError for what watches a metric where none is named."""
    if args.metric_for_best_model is None and (asked := watchers(args, callbacks)):
        raise InputError(
            f"{' and '.join(asked)}: wants a metric that decides, and metric_for_best_model is None; leave that out "
            "for eval_average, or name one"
        )


def go_without_evaluations(args: TrainingArguments, there: str = "", callbacks: Sequence[object] = ()) -> None:
    """Turn evaluation off where no task has validation rows; said once.

    Args:
        args: changed.
        there: which splits there are, to be said too.
        callbacks: of the trainer.

    Raises:
        InputError: for what was asked for and wants evaluations.
    """
    asked = _wanting_evaluations(args, callbacks)
    asked += ["eval_on_start"] if args.eval_on_start else []
    asked += ["eval_strategy steps"] if args.eval_strategy == IntervalStrategy.STEPS else []
    if asked:
        reason = f"no task has any{there and f' ({there})'}"
        raise InputError(f"{' and '.join(asked)}: wants validation rows, and {reason}; leave it out")
    args.eval_strategy, args.do_eval = IntervalStrategy.NO, False
    logger.warning("no task has validation rows, so the training is not evaluated%s", there and f": {there}")


def check_evaluations(
    args: TrainingArguments,
    tasks: Mapping[str, TaskSpec],
    scored: Sequence[str],
    callbacks: Sequence[object],
    *,
    with_function: Collection[str],
    metrics_are_known: bool,
) -> None:
    """Check that a training is evaluated where something watches a metric, and that it has this metric.

    Args:
        args: of the run; evaluation is turned off in them where no task has validation rows.
        tasks: task -> its declaration.
        scored: the tasks with validation rows.
        callbacks: of the user's.
        with_function: the tasks with a function of the user's, which may give further metrics.
        metrics_are_known: false where a subclass of the user's may give others.

    Raises:
        InputError: for what watches a metric that will not be there.
    """
    if not scored and (args.eval_strategy != IntervalStrategy.NO or args.eval_on_start):
        go_without_evaluations(args, callbacks=callbacks)
    refuse_watchers_without_evaluations(args, callbacks)
    refuse_watchers_without_metric(args, callbacks)
    if args.eval_strategy != IntervalStrategy.NO and metrics_are_known:
        check_watched_metric(args, list(tasks.values()), scored, with_function)


def schedule_options(args: TrainingArguments) -> dict[str, Any]:
    """The learning rate schedule's options; one that watches the metric is told which direction is up.

    A greedy schedule would keep the rate at 0.001 or more, which is no fine-tuning; here it may fall to 0.

    Raises:
        InputError: for a `mode` that says otherwise.
    """
    options = dict(args.lr_scheduler_kwargs or {})
    if args.lr_scheduler_type not in WATCHING_SCHEDULES:
        return options
    mode = "max" if args.greater_is_better else "min"
    if options.setdefault("mode", mode) != mode:
        raise InputError(
            f"lr_scheduler_kwargs has mode {options['mode']!r}, wanted {mode!r}, as {args.metric_for_best_model} is "
            f"better when it is {'greater' if mode == 'max' else 'less'}; leave it out"
        )
    if args.lr_scheduler_type == SchedulerType.GREEDY:
        options.setdefault("min_lr", 0.0)
    return options


def check_own_schedule(schedule: object, args: TrainingArguments) -> None:
    """Raise InputError for a schedule of the user's own that takes the worse metrics for the better ones."""
    mode = "max" if args.greater_is_better else "min"
    if isinstance(schedule, ReduceLROnPlateau | GreedyLR) and schedule.mode != mode:
        raise InputError(
            f"the learning rate schedule {type(schedule).__name__} has mode {schedule.mode!r}, wanted {mode!r}: "
            f"{args.metric_for_best_model} is better when it is {'greater' if mode == 'max' else 'less'}"
        )
