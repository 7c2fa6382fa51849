"""Gradual unfreezing: which encoder layers train is set at every step from the schedule and the step's number."""

from __future__ import annotations

import logging
import math
from typing import Any

from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..model.encoder_layers import encoder_layers
from .schedule import UnfreezeSchedule

logger = logging.getLogger(__name__)


def train_last_layers(encoder: PreTrainedModel, layers: int | None) -> None:
    """Let exactly the last `layers` layers of the encoder train; None lets everything train.

    What lies outside the layers (embeddings, relative-position tables, final norms) trains with None only. A frozen
    parameter has no gradient at all: a zero one would still let weight decay move it.
    """
    stacked = encoder_layers(encoder) if layers else []
    trained = {id(p) for layer in stacked[len(stacked) - (layers or 0) :] for p in layer.parameters()}
    for parameter in encoder.parameters():
        parameter.requires_grad_(layers is None or id(parameter) in trained)
        if not parameter.requires_grad:
            parameter.grad = None


class GradualUnfreezing(TrainerCallback):  # type: ignore[misc]  # transformers' base class is untyped
    """Freezes and thaws the encoder's layers as a function of `state.global_step`.

    It acts from `on_train_begin` on, when the optimizer already holds every parameter: layers frozen earlier would
    never reach it. It saves no state, so a resumed run continues in the right stage. What was frozen before the
    training stays frozen in it, and when it ends, every parameter trains or not as before.

    Args:
        schedule: when which layers train.
    """

    def __init__(self, schedule: UnfreezeSchedule) -> None:
        self.schedule = schedule
        self._trained_before: dict[nn.Parameter, bool] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # It comes again in one training where the batch was too large.
        self._trained_before = self._trained_before or {p: p.requires_grad for p in kwargs["model"].parameters()}
        self._apply(args, state, kwargs)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        now = self.schedule.layers(self._progress(args, state.global_step, kwargs))
        if now != self.schedule.layers(self._progress(args, max(state.global_step - 1, 0), kwargs)):
            self._apply(args, state, kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.put_back()

    def put_back(self) -> None:
        """Let each parameter train or not as before the training; also called where one ends by an error."""
        for parameter, trained in self._trained_before.items():
            parameter.requires_grad_(trained)
        self._trained_before = {}

    def _progress(self, args: TrainingArguments, step: int, kwargs: dict[str, Any]) -> float:
        if self.schedule.unit == "steps":
            return step
        return step / steps_per_epoch(args, len(kwargs["train_dataloader"]))

    def _apply(self, args: TrainingArguments, state: TrainerState, kwargs: dict[str, Any]) -> None:
        model = kwargs["model"]
        layers = self.schedule.layers(self._progress(args, state.global_step, kwargs))
        train_last_layers(model.encoder, layers)
        for parameter, trained in self._trained_before.items():
            if not trained:
                parameter.requires_grad_(False)
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        total = sum(p.numel() for p in model.parameters())
        epoch = state.global_step // steps_per_epoch(args, len(kwargs["train_dataloader"])) + 1
        logger.info(
            "epoch %d of %d, step %d: %s; %.2f of %.2f million parameters train",
            epoch,
            math.ceil(state.num_train_epochs),
            state.global_step,
            describe_layers(layers, model.encoder.config.num_hidden_layers),
            trainable / 1e6,
            total / 1e6,
        )


def steps_per_epoch(args: TrainingArguments, num_batches: int) -> int:
    """Optimizer steps in an epoch of `num_batches` micro-batches, counted as the Trainer counts them."""
    return max(1, math.ceil(num_batches / args.gradient_accumulation_steps))


def stages_of_run(
    schedule: UnfreezeSchedule, args: TrainingArguments, num_batches: int, num_layers: int
) -> dict[float, str]:
    """The step at which each stage of a run begins, and what trains from there on, in words.

    Args:
        schedule: of the run.
        args: likewise.
        num_batches: micro-batches of an epoch over all processes.
        num_layers: of the encoder.
    """
    unit = 1 if schedule.unit == "steps" else steps_per_epoch(args, num_batches // args.world_size)
    return {start * unit: describe_layers(layers, num_layers) for start, layers in schedule.stages}


def describe_layers(layers: int | None, num_layers: int) -> str:
    """Which part of the encoder trains, in words."""
    if layers is None:
        return "the whole encoder trains"
    if layers == 0:
        return "encoder frozen"
    return f"the last {layers} of {num_layers} encoder layers train"
