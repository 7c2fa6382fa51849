"""What `MultiTaskTrainer` is built of, made from its arguments, and small contexts that it enters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor
from transformers import Trainer, TrainingArguments

from ..errors import InputError
from ..gradients.method import make_gradient_method
from ..kernels.strategy import make_step_strategy
from ..model.modeling import MultiTaskModel
from ..tasks.spec import TaskSpec
from .arguments import MultiTaskTrainingArguments
from .joint_step import JointStep
from .learning_rates import check_takes_rates
from .run_settings import ClassAndOptions
from .step import Batches, MultiTaskStep
from .trainer_checks import has_compiled_layers
from .unsupported import shards_gradients

logger = logging.getLogger(__name__)


def make_step(
    model: MultiTaskModel,
    args: MultiTaskTrainingArguments,
    tasks: Mapping[str, TaskSpec],
    *,
    loss_of: Callable[[str, Mapping[str, Tensor]], Tensor],
    losses_of: Callable[[Batches], Mapping[str, Tensor]],
    context: Callable[[], AbstractContextManager[Any]],
    stock_loss: bool,
    mixed_precision: str,
) -> MultiTaskStep:
    """The step of a training; under an engine that shards, the one with a joint loss.

    Args:
        model: the model itself.
        args: of the run.
        tasks: task -> its declaration.
        loss_of: (task, its batch) -> mean loss.
        losses_of: batches -> mean losses by one forward of the model as the engine wrapped it.
        context: entered around every forward.
        stock_loss: whether a task's loss is that of its kind; then tasks may share a pass.
        mixed_precision: "no", "fp16" or "bf16".
    """
    method = make_gradient_method(args.gradient_method, **args.options("gradient_method_args"))
    if method.needs.startswith("losses") and shards_gradients(model, args):
        return JointStep(model, tasks, method, losses_of=losses_of, context=context, seed=args.seed)
    # On several processes a gradient's sum travels while the next task's backward runs; a method that asks for the
    # losses again wants the same forwards.
    may_pack = args.world_size == 1 and method.needs != "losses_after_step" and stock_loss and mixed_precision == "no"
    compiled = args.torch_compile or has_compiled_layers(model)
    strategy = make_step_strategy(model, args, may_pack=may_pack, compiled=compiled, mixed_precision=mixed_precision)
    return MultiTaskStep(
        model, tasks, method, loss_of=loss_of, context=context, seed=args.seed, stock_loss=stock_loss, strategy=strategy
    )


def new_optimizer(trainer: Trainer) -> ClassAndOptions:
    """Class and options of a trainer's optimizer to be.

    Raises:
        InputError: for one that is not installed, lacks an option, or cannot have the rates that are asked for.
    """
    args = trainer.args
    try:
        given: ClassAndOptions | None = trainer.optimizer_cls_and_kwargs
        chosen = given or trainer.get_optimizer_cls_and_kwargs(args, trainer.model)
    except (ImportError, ValueError) as error:
        raise InputError(f"optim is {args.optim.value!r}: {error}") from error
    check_takes_rates(args, *chosen)
    return chosen


def compile_layers(model: MultiTaskModel, args: TrainingArguments) -> None:
    """Compile each encoder layer; the Trainer would compile the whole model, with a graph per task and length."""
    logger.info("layers are compiled in the first steps, which takes a minute or so")
    for layer in dict.fromkeys(model.encoder_layers()):
        layer.compile(backend=args.torch_compile_backend, mode=args.torch_compile_mode, dynamic=True)


@contextmanager
def changed(args: TrainingArguments, **values: Any) -> Iterator[None]:
    """Arguments with other values for a while, in which no callback sees them."""
    before = {name: getattr(args, name) for name in values}
    try:
        for name, value in values.items():
            setattr(args, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(args, name, value)


@contextmanager
def without_token_warning() -> Iterator[None]:
    """Drops the Trainer's warning, in every micro-batch, that it finds no tokens to count: the step counts them."""
    stock = logging.getLogger("transformers.trainer")
    stock.addFilter(_is_no_token_warning)
    try:
        yield
    finally:
        stock.removeFilter(_is_no_token_warning)


def _is_no_token_warning(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Tried to track the number of tokens seen")
