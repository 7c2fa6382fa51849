"""What a user hands `MultiTaskTrainer` beside rows, checked: model, arguments, tasks, tokenizer, callbacks, options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.optimization import GreedyLR

from ..errors import InputError, unknown_name_error
from ..model.input_length import check_tokenizer
from ..model.modeling import MultiTaskModel
from ..tasks.spec import TaskSpec, check_metric_names, with_loss_weights
from .arguments import MultiTaskTrainingArguments
from .learning_rates import check_rates
from .unsupported import check_supported

KNOWN = [name for name in inspect.signature(Trainer.__init__).parameters if name != "self"]
REFUSED = {
    "model_init": "is refused: the trainer is set up for one model; give model, and make a trainer for every other",
    "compute_loss_func": "would not be called: a task's loss is that of its kind; override compute_loss in a subclass",
    "preprocess_logits_for_metrics": "is refused: a task's metrics are taken from all its logits",
}
NO_SEARCH = "hyperparameter_search is refused: the trainer is set up for one model; make a trainer for every trial"
COMPILE = "torch_compile=True in MultiTaskTrainingArguments, --torch_compile, compiles the layers of a plain model"


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """What was given for `Trainer`, without None; InputError for what it does not know or what would not be used."""
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name == "tokenizer":
            raise InputError("tokenizer is called processing_class, as in transformers 5")
        if name not in KNOWN:
            raise unknown_name_error("argument of MultiTaskTrainer:", name, KNOWN)
        if name in REFUSED:
            raise InputError(f"{name} {REFUSED[name]}")
    return given


def check_set_up(
    model: MultiTaskModel,
    args: MultiTaskTrainingArguments,
    tasks: list[TaskSpec],
    processing_class: object,
    options: Mapping[str, Any],
) -> list[TaskSpec]:
    """The tasks, with the loss weights of the arguments; InputError where model, arguments and tasks do not fit.

    Args:
        model: to be trained.
        args: of the run.
        tasks: of the trainer.
        processing_class: the tokenizer.
        options: those that go to `Trainer`.
    """
    check_batching(processing_class, options.get("data_collator"))
    check_optimizers(args, options)
    check_supported(model, args, tasks)
    given = options.get("optimizers", (None, None))[0] is not None
    check_rates(model, args, given=given)
    model.check_names()  # else the first save would be refused
    if processing_class is not None:
        check_tokenizer(processing_class, model.config.encoder_config)
    check_metric_names(tasks)
    return with_loss_weights(tasks, args.options("loss_weights"))


def metric_functions(given: object, tasks: Mapping[str, TaskSpec]) -> dict[str, Any]:
    """Task -> its function from `compute_metrics`; a bare function is that of the only task.

    Raises:
        InputError: for a name that is no task, for what is no function, and for one function of several tasks.
    """
    way = 'wanted {task: function of EvalPrediction}, e.g. {"' + next(iter(tasks)) + '": function}'
    if given is None:
        return {}
    if callable(given) and len(tasks) == 1:
        return {next(iter(tasks)): given}
    if not isinstance(given, Mapping):
        raise InputError(f"compute_metrics is {given!r:.60}, {way}")
    for task, function in given.items():
        if task not in tasks:
            raise unknown_name_error("task in compute_metrics:", task, tasks)
        if not callable(function):
            raise InputError(f"compute_metrics of task {task!r} is {function!r:.60}, {way}")
    return dict(given)


def check_model(model: object) -> MultiTaskModel:
    """The model, if it is a `MultiTaskModel` by itself; InputError with the way to one."""
    where = f"model is a {type(model).__name__}, wanted the MultiTaskModel"
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        raise InputError(f"{where} inside it: the trainer wraps it itself; give model.module")
    if isinstance(model, torch._dynamo.OptimizedModule):
        raise InputError(f"{where} before torch.compile: saved, its weights would have other names; {COMPILE}")
    if not isinstance(model, MultiTaskModel):
        raise InputError(
            f"{where} that load_model(name_or_path, [task.head for task in tasks]) makes of an encoder or of a saved "
            "multi-task model"
        )
    layers = model.encoder_layers() if any(map(_is_compiled, model.modules())) else []
    for name, module in model.named_modules():
        wrapped = isinstance(module, torch._dynamo.OptimizedModule)
        if wrapped or (_is_compiled(module) and module not in layers):
            raise InputError(f"{name or 'the model'} is compiled, for one task and length at a time; {COMPILE}")
    return model


def _is_compiled(module: nn.Module) -> bool:
    """Whether `module.compile()` was called."""
    return module._compiled_call_impl is not None


def has_compiled_layers(model: MultiTaskModel) -> bool:
    """Whether layers of the encoder were compiled, by this trainer or an earlier one."""
    return any(map(_is_compiled, model.modules()))


def check_arguments(args: object) -> MultiTaskTrainingArguments:
    """The arguments, if they are those of multi-task training."""
    if not isinstance(args, MultiTaskTrainingArguments):
        raise InputError(
            f"args is a {type(args).__name__}, wanted MultiTaskTrainingArguments(output_dir=...), which take what "
            "TrainingArguments take and gradient_method, task_sampling and the like"
        )
    return args


def check_batching(processing_class: object, data_collator: object) -> None:
    """Raise InputError where nothing can pad a task's rows, or a collator would not keep the tasks apart."""
    if data_collator is None and not isinstance(processing_class, PreTrainedTokenizerBase):
        raise InputError(
            f"processing_class is {'None' if processing_class is None else f'a {type(processing_class).__name__}'}, "
            "wanted the tokenizer: it pads the rows, and is saved with the model"
        )
    if data_collator is not None and not callable(data_collator):
        raise InputError(
            f"data_collator is {data_collator!r:.60}, wanted a function of rows that gives {{task: batch}}, such as "
            "hf_mtl.data.collator.TaskCollator(tokenizer)"
        )
    if getattr(data_collator, "__module__", "").startswith("transformers."):
        name = getattr(data_collator, "__name__", type(data_collator).__name__)
        raise InputError(
            f"data_collator {name} would not keep the tasks apart, wanted one that gives {{task: batch}}, such as "
            "hf_mtl.data.collator.TaskCollator(tokenizer), which is taken unless another is given"
        )


def check_callbacks(callbacks: object) -> list[Any]:
    """The callbacks as a list; None means none."""
    if callbacks is None:
        return []
    if not isinstance(callbacks, Sequence) or isinstance(callbacks, str):
        raise InputError(f"callbacks is a {type(callbacks).__name__}, wanted a list of callbacks")
    for callback in callbacks:
        if not issubclass(callback if isinstance(callback, type) else type(callback), TrainerCallback):
            raise InputError(f"callbacks has {callback!r:.60}, wanted TrainerCallback only")
    return list(callbacks)


def check_optimizers(args: MultiTaskTrainingArguments, options: Mapping[str, Any]) -> None:
    """Raise InputError where more than one optimizer is chosen, or what is given is none."""
    given = options.get("optimizers", (None, None))
    if not (
        isinstance(given, tuple | list)
        and len(given) == 2
        and isinstance(given[0], torch.optim.Optimizer | None)
        and isinstance(given[1], torch.optim.lr_scheduler.LRScheduler | GreedyLR | None)
    ):
        raise InputError(f"optimizers is {given!r:.80}, wanted (optimizer, learning rate schedule or None)")
    if given[0] is None and given[1] is not None:
        raise InputError("optimizers has a learning rate schedule alone, wanted the optimizer that it is of before it")
    _check_class_and_options(options.get("optimizer_cls_and_kwargs", (torch.optim.SGD, {})))
    chosen = [name for name in ("optimizer_cls_and_kwargs",) if name in options]
    chosen += ["optimizers"] if given[0] is not None else []
    chosen += ["args.optimizer"] if args.optimizer is not None else []
    if len(chosen) > 1:
        raise InputError(f"{' and '.join(chosen)} each choose an optimizer, wanted one of them")


def _check_class_and_options(given: object) -> None:
    """Raise InputError for an `optimizer_cls_and_kwargs` that is none, or has an option that would not act."""
    name = "optimizer_cls_and_kwargs"
    if not (
        isinstance(given, tuple | list) and len(given) == 2 and callable(given[0]) and isinstance(given[1], Mapping)
    ):
        raise InputError(f"{name} is {given!r:.80}, wanted (class, {{option: value}})")
    if "weight_decay" in given[1]:
        raise InputError(f"{name} has weight_decay, which would not act; give weight_decay in the arguments instead")
