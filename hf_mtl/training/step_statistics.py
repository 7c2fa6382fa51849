"""What happened in a run's steps: losses and conflicts since the last line of the log, tasks that were left out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..gradients.all_reduce import sum_over_processes

logger = logging.getLogger(__name__)


class StepStatistics:
    """Sums over the steps of a run.

    Args:
        tasks: names, in the order of the losses.
        method: name of the gradient method.

    Attributes:
        bad_steps: task -> the steps in a row, up to the last one, that it was left out of.
        bad_method_steps: the steps in a row, up to the last one, in which the method gave numbers that are not finite.
    """

    def __init__(self, tasks: Sequence[str], method: str = "") -> None:
        self.tasks, self.method = list(tasks), method
        self.clear()

    def clear(self) -> None:
        """Begin a run."""
        self.bad_steps = dict.fromkeys(self.tasks, 0)
        self.bad_method_steps = 0
        self._begin_line()

    def _begin_line(self) -> None:
        self._loss_sums, self._loss_steps = torch.zeros(2, len(self.tasks), dtype=torch.float64)
        self._conflicts: Tensor | float = 0.0
        self._compared_steps = 0

    def add(
        self,
        step: int,
        bad: Sequence[str],
        mean_losses: Tensor,
        conflict: Tensor | None = None,
        *,
        is_present: Tensor | bool = True,
        method_failed: bool = False,
    ) -> None:
        """Count a step.

        Args:
            step: its number, for the warning.
            bad: the tasks that were left out of it.
            mean_losses: over all processes. *Shape:* (K,)
            conflict: whether two tasks' gradients had a negative inner product; None when they were not compared.
                *Shape:* (), bool
            is_present: whether each task has a unit in the step, without which it has no loss. *Shape:* (K,), bool
            method_failed: whether the method gave numbers that are not finite.
        """
        self.bad_steps = {task: self.bad_steps[task] + 1 if task in bad else 0 for task in self.tasks}
        for task in bad:
            logger.warning("step %d: loss or gradient of %s is not finite; left out", step, task)
        self.bad_method_steps = self.bad_method_steps + 1 if method_failed else 0
        if method_failed:
            logger.warning(
                "step %d: gradient_method %s gave numbers that are not finite; nothing moves", step, self.method
            )
        self._loss_sums = self._loss_sums + mean_losses
        self._loss_steps = self._loss_steps + is_present
        if conflict is not None:
            self._conflicts = self._conflicts + conflict
            self._compared_steps += 1

    def line(self) -> dict[str, float]:
        """What the log gets of the steps since its last line, empty without any.

        "loss_<task>" is each task's mean loss over the steps that it is in, "conflicts" the share of steps with a
        conflict.
        """
        sums, steps = self._loss_sums.tolist(), self._loss_steps.tolist()
        line = {f"loss_{task}": sums[i] / steps[i] for i, task in enumerate(self.tasks) if steps[i]}
        if self._compared_steps:
            line["conflicts"] = float(self._conflicts / self._compared_steps)
        self._begin_line()
        return line

    def most_bad_steps(self) -> int:
        """The steps in a row, up to the last one, that the worst task, or the method, was bad in."""
        return max(self.bad_method_steps, *self.bad_steps.values())

    def raise_for_bad_steps(self, most: int, step: int, output_dir: str) -> None:
        """Raise FloatingPointError for a task or a method that was bad in `most` steps in a row, or more.

        Args:
            most: the patience, in steps.
            step: at which the run stopped.
            output_dir: has the last checkpoint.
        """
        for task, steps in self.bad_steps.items():
            if steps >= most:
                raise FloatingPointError(
                    f"task {task!r}: loss or gradient not finite in {steps} steps in a row; stopped at step {step} "
                    f"with a checkpoint in {output_dir}. Lower --learning_rate, or look at the task's rows; "
                    "--max_bad_steps sets the patience"
                )
        if self.bad_method_steps >= most:
            raise FloatingPointError(
                f"gradient_method {self.method!r} gave numbers that are not finite in {self.bad_method_steps} steps in "
                f"a row; stopped at step {step} with a checkpoint in {output_dir}. Look at the method and its options; "
                "--max_bad_steps sets the patience"
            )

    def conflict_share(self, log_history: Sequence[Mapping[str, Any]]) -> float | None:
        """Share of the run's steps with a conflict; None without a step.

        Of steps between two lines of the log, only those after a resume are known; they stand for the others.

        Args:
            log_history: the run's lines, as the Trainer's state keeps them.
        """
        rows = [row for row in log_history if "conflicts" in row]
        steps = np.diff([0, *(row["step"] for row in rows)])  # each row's own; those since the last row come on top
        total = int(steps.sum()) + self._compared_steps
        conflicts = sum(row["conflicts"] * n for row, n in zip(rows, steps, strict=True)) + float(self._conflicts)
        return conflicts / total if total else None


def tokens_seen(batches: Iterable[Mapping[str, Mapping[str, Tensor]]], counted: str, device: torch.device) -> int:
    """Tokens of a step, over its micro-batches, tasks and processes.

    Args:
        batches: the micro-batches of this process.
        counted: "no", "all" or "non_padding", as `include_num_input_tokens_seen` says.
        device: on which the processes sum.
    """
    if counted == "no":
        return 0
    rows = [batch for by_task in batches for batch in by_task.values()]
    own = sum(b["input_ids"].numel() if counted == "all" else int(b["attention_mask"].sum()) for b in rows)
    total = torch.tensor(own, device=device)
    sum_over_processes([total])
    return int(total)
