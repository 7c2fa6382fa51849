"""What a training argument may be: checked when the arguments are made, before data and model are loaded."""

from __future__ import annotations

import dataclasses
import importlib.util
import multiprocessing
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.optimization import get_scheduler
from transformers.trainer_utils import HubStrategy, IntervalStrategy, SaveStrategy, SchedulerType
from transformers.training_args import DebugOption, OptimizerNames

from ..errors import InputError, unknown_name_error
from ..validation import check_number, read_json
from .watched_metric import WATCHING_SCHEDULES, schedule_options

Check = tuple[str, Callable[[float], bool]]


# Beyond any count that makes sense, and as far as the C code below takes numbers.
MOST = 2**31 - 1


def _whole(least: int) -> Check:
    return f"a whole number >= {least} and <= {MOST}", lambda x: least <= x <= MOST and x == int(x)


_SEED: Check = ("a whole number from 0 to 4294967295", lambda x: 0 <= x < 2**32 and x == int(x))
_NOT_NEGATIVE: Check = ("a number >= 0", lambda x: x >= 0)
_ABOVE_0: Check = ("a number above 0", lambda x: x > 0)
_STEPS: Check = (
    "a whole number of steps, or a share of all steps between 0 and 1",
    lambda x: 0 < x < 1 or (x == int(x) and 0 < x <= MOST),
)
_SHARE: Check = ("a number >= 0 and below 1", lambda x: 0 <= x < 1)
NUMBERS: dict[str, Check] = {
    "gradient_accumulation_steps": _whole(1),
    "per_device_train_batch_size": _whole(1),
    "per_device_eval_batch_size": _whole(1),
    "eval_accumulation_steps": _whole(1),
    "max_bad_steps": _whole(1),
    "early_stopping_patience": _whole(1),
    "save_total_limit": _whole(0),
    "train_metric_rows": _whole(0),
    "torch_empty_cache_steps": _whole(1),
    "ddp_bucket_cap_mb": _whole(1),
    "ddp_timeout": _whole(1),
    "dataloader_num_workers": _whole(0),
    "dataloader_prefetch_factor": _whole(1),
    "seed": _SEED,
    "data_seed": _SEED,
    "max_steps": (
        f"a whole number >= 1 and <= {MOST}, or -1 for as many as num_train_epochs has",
        lambda x: x == -1 or (x == int(x) and 0 < x <= MOST),
    ),
    "num_train_epochs": ("a number above 0; without --do_train nothing is trained", lambda x: x > 0),
    "eval_delay": _NOT_NEGATIVE,
    "learning_rate": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "max_grad_norm": ("a number >= 0; 0 does not clip", lambda x: x >= 0),
    "warmup_steps": _NOT_NEGATIVE,
    "adam_beta1": _SHARE,
    "adam_beta2": _SHARE,
    "adam_epsilon": _NOT_NEGATIVE,
    "neftune_noise_alpha": _ABOVE_0,
    "layer_lr_decay": ("a number above 0 and at most 1; 1 is off", lambda x: 0 < x <= 1),
    "head_lr_multiplier": _ABOVE_0,
    "ema_decay": _SHARE,
    "soup": (
        f"0, which is off, or a whole number >= 2 and <= {MOST}",
        lambda x: x == 0 or (x == int(x) and 2 <= x <= MOST),
    ),
}
NAMES = {
    "eval_strategy": IntervalStrategy,
    "logging_strategy": IntervalStrategy,
    "save_strategy": SaveStrategy,
    "hub_strategy": HubStrategy,
    "lr_scheduler_type": SchedulerType,
    "optim": OptimizerNames,
}
# Names that the Trainer has and a later check refuses, with the reason.
NOT_OFFERED = (HubStrategy.ALL_CHECKPOINTS.value,)
TOKEN_COUNTS = ("all", "non_padding", "no")
# The tracker's name -> a module of it, and the package that brings it.
TRACKERS = {
    "azure_ml": ("azureml.core", "azureml-core"),
    "clearml": ("clearml", "clearml"),
    "codecarbon": ("codecarbon", "codecarbon"),
    "comet_ml": ("comet_ml", "comet-ml"),
    "dagshub": ("dagshub", "dagshub"),
    "dvclive": ("dvclive", "dvclive"),
    "flyte": ("flytekit", "flytekit"),
    "mlflow": ("mlflow", "mlflow"),
    "neptune": ("neptune", "neptune"),
    "swanlab": ("swanlab", "swanlab"),
    "tensorboard": ("tensorboard", "tensorboard"),
    "trackio": ("trackio", "trackio"),
    "wandb": ("wandb", "wandb"),
}
_OBJECTS = ("lr_scheduler_kwargs", "activation_checkpointing_kwargs", "gradient_checkpointing_kwargs")
_OBJECTS_OR_FILES = ("accelerator_config", "fsdp_config", "deepspeed")


def check_values(args: TrainingArguments) -> None:
    """Raise InputError for a number, a name or a JSON text that the Trainer could not use; before it is converted."""
    for field in dataclasses.fields(args):
        value = getattr(args, field.name)
        if field.name == "save_total_limit" and value is None:  # keeps all
            continue
        if field.name in NUMBERS and (value is not None or field.default is not None):
            check_number(field.name, value, *NUMBERS[field.name])
    metric = args.metric_for_best_model
    if metric is not None and not isinstance(metric, str):
        raise InputError(f"metric_for_best_model is {metric!r}, wanted the name of a metric, such as 'eval_average'")
    for kind in ("logging", "eval", "save"):
        steps, is_used = getattr(args, f"{kind}_steps"), getattr(args, f"{kind}_strategy") == "steps"
        if is_used and (steps is not None or kind != "eval"):  # evaluations follow logging_steps unless told
            check_number(f"{kind}_steps", steps, *_STEPS)
    for name, names in NAMES.items():
        _check_name(name, getattr(args, name), [each.value for each in names])
    if not isinstance(args.include_num_input_tokens_seen, bool):
        args.include_num_input_tokens_seen = _token_count(args.include_num_input_tokens_seen)
    _check_workers(args)
    for option in args.debug.split() if isinstance(args.debug, str) else ():
        _check_name("debug", option, [each.value for each in DebugOption])
    for name in (*_OBJECTS, *_OBJECTS_OR_FILES):
        value = getattr(args, name, None)  # transformers 5.17 has no activation_checkpointing_kwargs
        if isinstance(value, str):
            _check_object(name, value, file_will_do=name in _OBJECTS_OR_FILES)


def _check_workers(args: TrainingArguments) -> None:
    """Raise InputError for what only data loader workers have, where there are none, and an unknown way to start."""
    context = getattr(args, "dataloader_multiprocessing_context", None)  # transformers 5.17 has none
    if context is not None:
        _check_name("dataloader_multiprocessing_context", context, multiprocessing.get_all_start_methods())
    for name, is_given in (
        ("dataloader_persistent_workers", args.dataloader_persistent_workers),
        ("dataloader_multiprocessing_context", context is not None),
    ):
        if is_given and args.dataloader_num_workers == 0:
            raise InputError(f"{name} is {getattr(args, name)!r}, and dataloader_num_workers is 0; wanted 1 or more")


def check_folders(name: str, given: Mapping[str, Any]) -> dict[str, str]:
    """Task -> a folder or Hub id, as text; InputError for anything else."""
    for task, value in given.items():
        if not isinstance(value, str | os.PathLike) or not os.fspath(value):
            raise InputError(
                f"{name}: {value!r} for task {task!r} is no folder and no Hub id; of a folder that is called like a "
                "number, write ./NUMBER"
            )
    return {task: os.fspath(value) for task, value in given.items()}


def _check_name(argument: str, value: object, known: Any) -> None:
    if getattr(value, "value", value) not in known:
        offered = [name for name in known if name not in NOT_OFFERED]
        raise unknown_name_error(argument, getattr(value, "value", value), offered)


def _token_count(value: str) -> str:
    """The way of counting tokens that a text names."""
    name = {"true": "all", "yes": "all", "false": "no"}.get(str(value).lower(), value)
    _check_name("include_num_input_tokens_seen", name, TOKEN_COUNTS)
    return name


def _check_object(name: str, text: str, *, file_will_do: bool) -> None:
    if file_will_do and not text.strip().startswith("{"):
        if not Path(text).is_file():
            raise InputError(f"{name} {text!r} is neither a JSON object nor a file")
        return
    try:
        value = read_json(text)
    except ValueError as error:
        raise InputError(f"{name} {text!r} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{name} {text!r} is no JSON object")


def check_schedule(args: TrainingArguments) -> None:
    """Raise InputError for a learning rate schedule that cannot be made, or gives no rate at some step."""
    kind, options = SchedulerType(args.lr_scheduler_type), schedule_options(args)
    if kind in (SchedulerType.CONSTANT, SchedulerType.CONSTANT_WITH_WARMUP) and options:
        raise InputError(f"lr_scheduler_kwargs: lr_scheduler_type {kind.value!r} takes no options, found {options}")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    total = args.max_steps if args.max_steps > 0 else 1000
    try:
        schedule = get_scheduler(kind, optimizer, args.get_warmup_steps(total), total, options)
        if kind in WATCHING_SCHEDULES:
            schedule.step(0.0)
        else:
            for step in range(0, total + 1, max(1, total // 20)):
                check_number("the rate", schedule.lr_lambdas[0](step), "a finite number", lambda x: True)
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise InputError(f"lr_scheduler_type {kind.value!r} with lr_scheduler_kwargs {options}: {error}") from error


def check_trackers(names: list[str]) -> None:
    """Raise InputError for a name of `report_to` that is no tracker, or one that is not installed."""
    for name in names:
        if name == "kubeflow":  # comes with the job that it reports to
            continue
        if name not in TRACKERS:
            raise unknown_name_error("report_to", name, (*TRACKERS, "all", "none"))
        module, package = TRACKERS[name]
        if not _is_installed(module):
            raise InputError(
                f"report_to is {name!r}, which is not installed; pip install {package}, or --report_to none"
            )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is missing
        return False
