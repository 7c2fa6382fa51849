"""Callbacks around a save: what seals it, which older ones go, a stop by SIGTERM, and when it happens.

The trainer holds them in the order of this file: `on_save` seals before it stops, `on_step_end` asks before it moves.
"""

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

from ..distributed import on_any_process, on_main_process
from .checkpoints import lock_output_folder, remove_old_checkpoints, unlock_output_folder, write_manifest
from .resuming import read_json_file

logger = logging.getLogger(__name__)
ORDER_FILE = "data_order.json"


class SealCheckpoints(TrainerCallback):  # type: ignore[misc]  # transformers' base class is untyped
    """Locks the output folder, seals a checkpoint when all of it is written, and only then removes old ones.

    Args:
        data_order: what the order of the batches follows from, saved with every checkpoint.
        in_use: the checkpoint whose files are being read, if any; it goes with a later save only.
    """

    def __init__(self, data_order: Callable[[], Mapping[str, Any]], in_use: Callable[[], Path | None]) -> None:
        self.data_order, self.in_use = data_order, in_use
        self.resumed_from: Path | None = None
        self.limit: int | None = None

    @contextmanager
    def takes_over_rotation(self, args: TrainingArguments) -> Iterator[None]:
        """Keeps the Trainer from removing checkpoints, and gives the folder's lock back in the end.

        The Trainer removes the old ones before the new one is sealed: a kill between the two would leave none.
        """
        self.limit, args.save_total_limit = args.save_total_limit, None
        try:
            yield
        finally:
            args.save_total_limit = self.limit
            unlock_output_folder(Path(args.output_dir))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        on_main_process(args, lambda: lock_output_folder(Path(args.output_dir)))
        if self.resumed_from is not None:
            say_if_order_differs(self.resumed_from, self.data_order())

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()  # every process puts its random state into the folder
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (checkpoint / ORDER_FILE).write_text(json.dumps(self.data_order()), encoding="utf-8")
            write_manifest(checkpoint)
            if self.limit is not None and self.limit > 0:
                remove_old_checkpoints(checkpoint, self.limit, [state.best_model_checkpoint, self.in_use()])
        PartialState().wait_for_everyone()  # a process that ends now would take the others with it


class StopOnSigterm(TrainerCallback):  # type: ignore[misc]  # transformers' base class is untyped
    """On SIGTERM the run saves a checkpoint after the step that it is in, then exits with status 143.

    It stands in for the Trainer's own callback behind `enable_jit_checkpoint`, which saves in mid-step, when dropout
    and a method with memory have moved on already, fires no `on_save`, asks every process by itself, and swallows the
    signal in a process that does not train.
    """

    def __init__(self) -> None:
        self.asked = self.stopping = False

    @contextmanager
    def catch_sigterm(self) -> Iterator[None]:
        """Catches the signal; afterwards it does again what it did before."""
        self.asked = self.stopping = False
        if threading.current_thread() is not threading.main_thread():
            logger.warning("training outside the main thread: SIGTERM cannot be caught, so it saves no checkpoint")
            yield
            return
        before = signal.signal(signal.SIGTERM, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stopping = args.enable_jit_checkpoint and on_any_process(args, self.asked)
        control.should_save |= self.stopping

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.stopping:
            logger.warning(
                "SIGTERM: stopped after step %d; go on with --resume_from_checkpoint latest", state.global_step
            )
            raise SystemExit(128 + signal.SIGTERM)


class DelaySaveToEpochEnd(TrainerCallback):  # type: ignore[misc]  # transformers' base class is untyped
    """A save due at the last step of an epoch or of the run waits for what the Trainer does at the epoch's end.

    Else a run resumed from it would lack that evaluation, and draw other random numbers after it. A run resumed when it
    was through has all that, and does it no second time.
    """

    def __init__(self) -> None:
        self.waiting = self.through = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.waiting = False
        self.through = state.global_step >= state.max_steps or control.should_training_stop  # by early stopping

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_save and (state.epoch == int(state.epoch) or state.global_step >= state.max_steps):
            self.waiting, control.should_save = True, False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save |= self.waiting
        self.waiting = False
        if self.through:
            control.should_log = control.should_evaluate = control.should_save = False


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
