"""An exponential moving average of the weights is evaluated and saved, while training goes on from the raw ones."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments

from ..errors import InputError
from .checkpoint_callbacks import CheckpointManager
from .hub_sync import RAW_FILE

Method = TypeVar("Method", bound=Callable[..., Any])


def decay_at(update: int, decay: float) -> float:
    """The decay of an update, which are counted from 1: small at first, so that the start is soon forgotten."""
    return min(decay, (1 + update) / (10 + update))


class WeightAverage:
    """The average of a model's weights, kept beside them; while it is in the model, the raw weights are kept here.

    Parameters join when they train for the first time: until then they are their own average. Buffers are not averaged:
    the model has those of the last step.

    Args:
        model: its weights are in fp32.

    Attributes:
        decay: of an average that is old enough; 0 keeps none.
        updates: made so far.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.decay, self.updates = 0.0, 0
        self._beside: dict[str, Tensor] = {}  # the average or, while that is in the model, the raw weights
        self._is_shown = False

    def begin(self, decay: float, checkpoint: Path | None = None) -> None:
        """Begin a training, with the raw weights of a checkpoint where it has some; the model has its average.

        Args:
            decay: from here on.
            checkpoint: that training goes on from.
        """
        self.forget()
        self.decay, self.updates = decay, 0
        if checkpoint is None or not (checkpoint / RAW_FILE).is_file():
            return
        with safe_open(checkpoint / RAW_FILE, "pt") as file:
            updates = int(file.metadata()["updates"])
        self._beside = load_file(checkpoint / RAW_FILE, device=str(next(self.model.parameters()).device))
        self._is_shown = True
        self.hide()
        if decay:
            self.updates = updates
        else:
            self.forget()

    def write(self, checkpoint: Path) -> None:
        """Put the raw weights into a checkpoint, whose model is the average; nothing where there is none."""
        if self._beside:
            raw = self._beside if self._is_shown else {name: self._parameter(name) for name in self._beside}
            tensors = {name: tensor.detach().contiguous() for name, tensor in raw.items()}
            save_file(tensors, checkpoint / RAW_FILE, metadata={"updates": str(self.updates)})

    def include_what_trains(self) -> None:
        """Let the parameters that train now join, with their value before the step."""
        if self.decay:
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad and name not in self._beside:
                    self._beside[name] = parameter.detach().clone()

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights after a step of the optimizer."""
        assert not self._is_shown
        if self._beside:
            self.updates += 1
            raw: list[Tensor] = [self._parameter(name) for name in self._beside]
            torch._foreach_lerp_(list(self._beside.values()), raw, 1 - decay_at(self.updates, self.decay))

    def show(self) -> None:
        """Put the average into the model."""
        if not self._is_shown:
            self._swap()

    def hide(self) -> None:
        """Put the raw weights back into the model."""
        if self._is_shown:
            self._swap()

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """Within, the model has the average; after it, what it had before."""
        was_shown = self._is_shown
        self.show()
        try:
            yield
        finally:
            if not was_shown:
                self.hide()

    def forget(self) -> None:
        """Leave in the model what is there, and keep nothing beside it."""
        self._beside, self._is_shown = {}, False

    def _parameter(self, name: str) -> nn.Parameter:
        return self.model.get_parameter(name)

    @torch.no_grad()
    def _swap(self) -> None:
        for name, beside in self._beside.items():
            parameter = self._parameter(name)
            before = parameter.detach().clone()
            parameter.copy_(beside)
            beside.copy_(before)
        self._is_shown = bool(self._beside) and not self._is_shown


def of_the_average(method: Method) -> Method:
    """A method of a trainer that has an `average`, in which the model's weights are the average."""

    @functools.wraps(method)
    def with_average(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self.average.in_model():
            return method(self, *args, **kwargs)

    return cast(Method, with_average)


class AverageWeights(TrainerCallback):  # type: ignore[misc]  # transformers' base class is untyped
    """Keeps the average; it comes before every other callback, so that they see it as it is after the step.

    Args:
        average: of the model that is trained.
        checkpoints: knows the checkpoint that the run goes on from.
    """

    def __init__(self, average: WeightAverage, checkpoints: CheckpointManager) -> None:
        self.average, self.checkpoints = average, checkpoints

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.average.begin(args.ema_decay, self.checkpoints.resumed_from)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.average.hide()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.average.include_what_trains()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        if not getattr(optimizer, "step_was_skipped", False):  # under fp16, after an overflow
            self.average.update()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        best = state.best_model_checkpoint if args.load_best_model_at_end else None
        if best is None or not Path(best).is_dir():  # else that is in the model
            self.average.show()
        self.average.forget()


class ShowAverage(TrainerCallback):  # type: ignore[misc]  # transformers' base class is untyped
    """Puts the average into the model where an evaluation or a save follows, until the next step; it comes last.

    So it is there for callbacks and for a subclass's own `evaluate`, too.
    """

    def __init__(self, average: WeightAverage) -> None:
        self.average = average

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_evaluate or control.should_save:
            self.average.show()

    on_epoch_end = on_step_end


def check_average(args: TrainingArguments, optimizer_class: type) -> None:
    """Raise InputError for an average of weights with an optimizer that has one, and puts it into evaluations."""
    if args.ema_decay and hasattr(optimizer_class, "eval"):
        raise InputError(
            f"ema_decay is {args.ema_decay:g}, and optimizer {optimizer_class.__name__!r} averages weights itself; "
            "leave one of them out"
        )
