"""What happens around a save, in one place: what a checkpoint gets, its seal, the older ones, the push, the stop."""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import HubStrategy

from ..distributed import on_any_process, on_main_process
from .checkpoints import lock_output_folder, remove_old_checkpoints, write_manifest
from .hub_sync import CheckpointPusher
from .resuming import read_json_file
from .soup import best_checkpoints

logger = logging.getLogger(__name__)
ORDER_FILE = "data_order.json"


# The Trainer would remove old checkpoints, and push, after `save_model` of a checkpoint's folder and before `on_save`;
# with a limit of 1 it also removes the last one between the last line of the log and `on_train_end`.
NO_STOCK_SAVES = {"save_total_limit": None, "hub_strategy": HubStrategy.END}
# A resumed run was evaluated at its start before; the Trainer would do so again between `on_train_begin` and the rest.
NO_START_EVALUATION = {"eval_on_start": False}
# A run that is stopped goes on from what is saved at its last step.
WHOLE_CHECKPOINT = {"save_only_model": False}


class ArgumentsAside(TrainerCallback):  # type: ignore[misc]  # transformers' base class is untyped
    """Keeps the Trainer from something that has no public hook, by other arguments between two events.

    This callback comes first, so that every other one sees the user's values.
    """

    def __init__(self) -> None:
        self._aside: dict[str, Any] = {}

    def set_aside(self, args: TrainingArguments, values: Mapping[str, Any]) -> None:
        """Give arguments other values until the next event, or `put_back`."""
        for name, value in values.items():
            self._aside.setdefault(name, getattr(args, name))
            setattr(args, name, value)

    def put_back(self, args: TrainingArguments) -> None:
        """Give the arguments the user's values again."""
        for name, value in self._aside.items():
            setattr(args, name, value)
        self._aside = {}

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.put_back(args)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.put_back(args)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.put_back(args)


class CheckpointManager(TrainerCallback):  # type: ignore[misc]  # transformers' base class is untyped
    """Completes every checkpoint that the Trainer has written; it comes after all callbacks that add to one.

    `on_save` is the order of what happens. The Trainer itself would remove old checkpoints and push the new one before
    it is complete: `ArgumentsAside` keeps it from both.

    Args:
        write_memory: puts what the run needs beside the Trainer's files into a checkpoint, on the main process.
        data_order: what the order of the batches follows from.
        pusher: uploads checkpoints.
        aside: of the trainer.

    Attributes:
        resumed_from: the checkpoint that the run goes on from.
    """

    def __init__(
        self,
        write_memory: Callable[[Path], None],
        data_order: Callable[[], Mapping[str, Any]],
        pusher: CheckpointPusher,
        aside: ArgumentsAside,
    ) -> None:
        self.write_memory, self.data_order, self.pusher, self.aside = write_memory, data_order, pusher, aside
        self.resumed_from: Path | None = None
        self._stop_asked = self._stopping = False
        self._save_is_due = self._was_through = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        on_main_process(args, lambda: lock_output_folder(Path(args.output_dir)))
        if self.resumed_from is not None:
            say_if_order_differs(self.resumed_from, self.data_order())
        self._save_is_due = False
        # A run resumed after its last step, or after early stopping, does not repeat the final evaluation or save.
        self._was_through = state.global_step >= state.max_steps or control.should_training_stop

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stopping = args.enable_jit_checkpoint and on_any_process(args, self._stop_asked)
        if self._stopping:
            self.save_whole(args, control)
        # A save at the last step of an epoch waits for what the Trainer does at the epoch's end: a run resumed from it
        # would lack that evaluation, and draw other random numbers after it.
        if control.should_save and (state.epoch == int(state.epoch) or state.global_step >= state.max_steps):
            self._save_is_due, control.should_save = True, False

    def save_whole(self, args: Any, control: Any) -> None:
        """Ask for a checkpoint that a run can go on from, also with `save_only_model`."""
        self.aside.set_aside(args, WHOLE_CHECKPOINT)
        control.should_save = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save |= self._save_is_due
        self._save_is_due = False
        if self._was_through:
            control.should_log = control.should_evaluate = control.should_save = False

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        PartialState().wait_for_everyone()  # every process puts its random state into the folder
        if state.is_world_process_zero:
            self.write_memory(checkpoint)
            (checkpoint / ORDER_FILE).write_text(json.dumps(self.data_order()), encoding="utf-8")
            write_manifest(checkpoint)  # the seal
            if args.save_total_limit is not None and args.save_total_limit > 0:
                kept = [state.best_model_checkpoint, self.pusher.in_use()]
                kept += [path for path, _ in best_checkpoints(checkpoint.parent, state.log_history, args.soup)]
                remove_old_checkpoints(checkpoint, args.save_total_limit, kept)
            self.pusher.push(checkpoint, args)
        PartialState().wait_for_everyone()  # a process that ends now would take the others with it
        if self._stopping:
            logger.warning(
                "SIGTERM: stopped after step %d; go on with --resume_from_checkpoint latest", state.global_step
            )
            raise SystemExit(128 + signal.SIGTERM)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.pusher.wait()

    @contextmanager
    def catching_sigterm(self, args: TrainingArguments) -> Iterator[None]:
        """On SIGTERM, where that is asked for, the run saves after the step that it is in and exits with status 143.

        The Trainer's own callback behind `enable_jit_checkpoint` saves in mid-step, when dropout and a method with
        memory have moved on already, fires no `on_save`, asks every process by itself, and swallows the signal in a
        process that does not train.
        """
        self._stop_asked = self._stopping = False
        if not args.enable_jit_checkpoint:
            yield
            return
        if threading.current_thread() is not threading.main_thread():
            logger.warning("training outside the main thread: SIGTERM cannot be caught, so it saves no checkpoint")
            yield
            return
        before = signal.signal(signal.SIGTERM, self._ask_to_stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._stop_asked = True


class SkipStartEvaluation(TrainerCallback):  # type: ignore[misc]  # transformers' base class is untyped
    """Comes last in a resumed run."""

    def __init__(self, aside: ArgumentsAside) -> None:
        self.aside = aside

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.aside.set_aside(args, NO_START_EVALUATION)


def say_if_order_differs(checkpoint: Path, now: Mapping[str, Any]) -> None:
    """Log whether a run that goes on from a checkpoint sees the batches that the run before would have seen."""
    before = read_json_file(checkpoint / ORDER_FILE)
    changed = {key: (before.get(key), value) for key, value in now.items() if before.get(key) != value}
    if not changed:
        return
    words = ", ".join(f"{key} was {old} and is {new}" for key, (old, new) in changed.items())
    if set(changed) <= {"processes", "gradient_accumulation_steps"} and _batches(before) == _batches(now):
        logger.warning("resumed with the same batches in every step, and other random numbers for dropout: %s", words)
    else:
        logger.warning("resumed with other batches than the run before: rows may repeat or be left out: %s", words)


def _batches(order: Mapping[str, Any]) -> int:
    """Micro-batches of an optimizer step over all processes."""
    return int(order["processes"] * order["gradient_accumulation_steps"])
