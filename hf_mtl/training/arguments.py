"""The arguments of a run in three dataclasses: the model, the data, the training."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from ..data.raw_rows import ON_BAD_ROW
from ..data.task_data import DEFAULT_LENGTH
from ..data.task_shares import TASK_SAMPLING, check_sampling
from ..errors import InputError, unknown_name_error
from ..gradients.method import GRADIENT_METHODS, make_gradient_method
from ..kernels.strategy import CPU_KERNELS
from ..model.pooling import POOLINGS
from ..tasks.spec import EMBEDDED
from ..validation import check_number, read_json
from .argument_checks import MOST, check_folders, check_schedule, check_trackers, check_values
from .optimizers import optimizer_class, refuse_trainers_own
from .schedule import UnfreezeSchedule
from .soup import check_soup
from .watched_metric import refuse_watchers_without_evaluations, refuse_watchers_without_metric

logger = logging.getLogger(__name__)
DEFAULT_ENCODER = "sentence-transformers/all-mpnet-base-v2"
_METHOD_NAMES = ", ".join(sorted(GRADIENT_METHODS))


# A mapping in Python and YAML, JSON on the command line, and a dict once the arguments are made.
Options = dict[str, Any] | str | None


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


OPTION_FIELDS = ("gradient_method_args", "loss_weights", "task_sampling_args", "optimizer_args", "teachers")


@dataclass(kw_only=True)
class ModelArguments:
    """Which encoder, and what is put on it."""

    model_name_or_path: str = _option(
        DEFAULT_ENCODER,
        f"Hub id or folder of an encoder or of a saved multi-task model; {EMBEDDED} builds a small untrained encoder.",
    )
    model_revision: str = _option("main", "Branch, tag or commit of a model on the Hub.")
    pooling: str | None = _option(
        None, f"How token vectors become one: {', '.join(POOLINGS)}. A saved model's own, or mean, unless given."
    )
    head_dropout: float | None = _option(None, "Dropout before the heads. A saved model's own, or 0.1, unless given.")
    resize_embeddings: bool = _option(
        False, "Where the tokenizer has more tokens than the encoder, give the encoder embeddings for them."
    )
    trust_remote_code: bool = _option(False, "Run code that a tokenizer brings along; an encoder's never runs.")

    def __post_init__(self) -> None:
        if self.pooling is not None and self.pooling not in POOLINGS:
            raise unknown_name_error("pooling", self.pooling, POOLINGS)
        if self.head_dropout is not None:
            check_number("head_dropout", self.head_dropout, "a number >= 0 and below 1", lambda x: 0 <= x < 1)


@dataclass(kw_only=True)
class DataArguments:
    """Which tasks, and where their rows are."""

    task_set: str = _option("glue", "Tasks: glue, sst2_stsb (STS-B as similarity), demo, or a YAML file of your own.")
    tasks: list[str] | None = _option(None, "Tasks to train; sst2 and stsb of glue, all of any other set unless given.")
    alone: str | None = _option(
        None, "Train this one of the tasks alone, on the rows of it that every step of a training of all of them has."
    )
    dataset_name: str | None = _option(
        None, "Hub id or folder that replaces the task set's dataset, e.g. a local copy of nyu-mll/glue."
    )
    max_seq_length: int = _option(DEFAULT_LENGTH, "Inputs are cut to this many tokens.")
    on_bad_row: str = _option(
        "error",
        "What to do with a training or validation row without text or with a label that its task does not declare: "
        "error, or skip, which lists them.",
    )

    plugin: list[str] | None = _option(
        None, "Python files of your own to import first, which register kinds, metrics, gradient or sampling methods."
    )

    def __post_init__(self) -> None:
        check_length(self.max_seq_length)
        if self.on_bad_row not in ON_BAD_ROW:
            raise unknown_name_error("on_bad_row", self.on_bad_row, ON_BAD_ROW)
        if self.tasks is None and self.task_set == "glue":
            self.tasks = ["sst2", "stsb"]


@dataclass(kw_only=True)
class MultiTaskTrainingArguments(TrainingArguments):  # type: ignore[misc]  # transformers' base class is untyped
    """`TrainingArguments` with the defaults of the recipe and the arguments of multi-task training."""

    gradient_method: str = _option("pcgrad", f"How the tasks' gradients are combined: {_METHOD_NAMES}.")
    gradient_method_args: Options = _option(None, 'Its options as JSON, e.g. \'{"reduction": "mean"}\'.')
    loss_weights: Options = _option(
        None, "Factors on tasks' losses as JSON, e.g. '{\"stsb\": 2}'; the task set's own, mostly 1, unless given."
    )
    task_sampling: str = _option("equal", f"Each task's share of a batch: {', '.join(TASK_SAMPLING)}.")
    task_sampling_args: Options = _option(
        None,
        "Its options as JSON: '{\"temperature\": 2}' for temperature, '{\"cap\": 10000}' (rows) for capped, "
        '\'{"weights": {"sst2": 3, "stsb": 1}}\' for explicit.',
    )
    unfreeze_schedule: str = _option(
        "0:0,1:3,2:6",
        "From epoch 0 no encoder layer trains, from 1 the last 3, from 2 the last 6. '0:0,500:3,1000:all steps' counts "
        "steps; none trains everything.",
    )
    optimizer: str | None = _option(
        None, "Name of an optimizer of pytorch_optimizer; --optim, torch's fused AdamW by default, unless given."
    )
    optimizer_args: Options = _option(None, "Its options as JSON, e.g. '{\"betas\": [0.9, 0.98]}'.")

    layer_lr_decay: float = _option(
        1.0, "Learning rate of an encoder layer over that of the layer above it; the embeddings come last. 1 is off."
    )
    head_lr_multiplier: float = _option(1.0, "Learning rate of the heads over --learning_rate; 1 is off.")
    ema_decay: float = _option(
        0.0, "Evaluate and save an exponential moving average of the weights with this decay, e.g. 0.999; 0 is off."
    )
    soup: int = _option(
        0, "Make the final model of the means of the so many best checkpoints on eval_average; 0 is off."
    )
    teachers: Options = _option(
        None,
        "Distillation with teacher annealing: task -> folder or Hub id of a saved model that answers it, as JSON, e.g. "
        '\'{"sst2": "out-sst2"}\'; tasks without a teacher train as ever.',
    )

    cpu_kernels: str = _option(
        "auto",
        "Faster kernels for fp32 on a CPU: auto takes them on processors where they were measured to pay; off takes "
        "torch's.",
    )
    early_stopping_patience: int | None = _option(
        None, "Stop after so many evaluations in a row without a new best metric_for_best_model; not unless given."
    )
    max_bad_steps: int = _option(
        10, "Stop, with a checkpoint, when a task's loss or gradient is not finite in this many steps in a row."
    )
    enable_jit_checkpoint: bool = _option(
        True, "On SIGTERM, save a checkpoint after the step and exit with status 143."
    )
    train_metric_rows: int = _option(
        1024, "Size of the fixed sample of training rows that is scored beside validation."
    )

    per_device_train_batch_size: int = _option(64, "Rows per device and step, over all tasks.")
    per_device_eval_batch_size: int = _option(64, "Rows per device and evaluation batch.")
    num_train_epochs: float = _option(
        4.0, "Epochs; one is a pass over the largest task at its share of a batch in the first epoch."
    )
    learning_rate: float = _option(2e-5, "Peak learning rate.")
    warmup_steps: float = _option(100, "Steps of linear warm-up; a number below 1 is a share of all steps.")
    eval_strategy: str = _option("epoch", "When to evaluate: no, steps or epoch.")
    save_strategy: str = _option("epoch", "When to save: no, steps, epoch or best.")
    save_total_limit: int | None = _option(2, "Checkpoints to keep beside the best one; 0 keeps all.")
    logging_steps: float = _option(50, "Steps between two lines of losses.")
    metric_for_best_model: str | None = _option(
        "eval_average",
        "Decides on the best model, on early stopping, and in the schedules reduce_lr_on_plateau and greedy.",
    )
    train_sampling_strategy: str = _option(
        "group_by_length", "group_by_length puts rows of like length into a batch; random does not."
    )
    remove_unused_columns: bool = _option(False, "Not used: batches are nested by task.")
    logging_nan_inf_filter: bool = _option(
        False, "Not needed: a loss that is not finite is left out; the filter would wait for the device in every step."
    )
    hub_strategy: str = _option(
        "end", "What to push, with push_to_hub: end; every_save, the model; checkpoint, also all to resume from."
    )
    hub_license: str | None = _option(
        None, "Licence on the model card, e.g. apache-2.0; unless given, the base model's."
    )

    def __post_init__(self) -> None:
        for name in OPTION_FIELDS:
            setattr(self, name, self.options(name))
        self.teachers = check_folders("teachers", self.options("teachers"))
        self._check_choices()
        config: Any = self.accelerator_config
        try:
            super().__post_init__()
        except (ValueError, TypeError, ImportError) as error:  # ValueError: its own checks; else, of its JSON options
            raise InputError(str(error)) from error
        if config is None:  # a blocking copy would wait until the device has come to it
            self.accelerator_config.non_blocking = self.dataloader_pin_memory
        check_trackers(self.report_to)
        check_schedule(self)
        if self.do_train:
            check_soup(self)

    def _check_choices(self) -> None:
        """Raise InputError for a wrong name, option or number here, before data and model are loaded."""
        check_values(self)
        if self.cpu_kernels not in CPU_KERNELS:
            raise unknown_name_error("cpu_kernels", self.cpu_kernels, CPU_KERNELS)
        if self.do_train:
            refuse_watchers_without_evaluations(self)
            refuse_watchers_without_metric(self)
        make_gradient_method(self.gradient_method, **self.options("gradient_method_args"))
        UnfreezeSchedule.parse(self.unfreeze_schedule)
        check_sampling(self.task_sampling, self.options("task_sampling_args"))
        if self.optimizer is not None:
            optimizer_class(self.optimizer, self.options("optimizer_args"))
            refuse_trainers_own(self)
        elif self.optimizer_args:
            raise InputError(
                f"optimizer_args is {self.optimizer_args!r}, and no --optimizer is named, which takes them"
            )

    def options(self, name: str) -> dict[str, Any]:
        """The options in an argument of OPTION_FIELDS, also one that was changed after the arguments were made."""
        return read_options(name, getattr(self, name))


def read_options(name: str, value: Options) -> dict[str, Any]:
    """The options in an argument such as `gradient_method_args`: a mapping, or JSON that holds one; None is empty.

    Raises:
        InputError: for what is neither.
    """
    if value is None or isinstance(value, Mapping):
        return dict(value or {})
    try:
        options = read_json(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{name} {value!r} is no JSON: {error}") from error
    if not isinstance(options, dict):
        raise InputError(f'{name} {value!r} is no JSON object, wanted e.g. \'{{"reduction": "mean"}}\'')
    return options


def check_length(max_seq_length: int) -> None:
    """Raise InputError for inputs that would be cut to next to nothing, and for a length that is none."""
    if not 8 <= max_seq_length <= MOST:
        raise InputError(f"max_seq_length is {max_seq_length}, wanted at least 8 and at most {MOST}")
