"""What a person sees while a run goes on: progress bars, a line of losses, a line of scores per evaluation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

from ..tasks.metric_names import shown_score
from ..tasks.spec import TaskSpec


def score_text(tasks: Sequence[TaskSpec], metrics: Mapping[str, float], prefix: str) -> str:
    """Every task's scores, fractions in per cent, e.g. "sst2 accuracy 92.32 | stsb pearson 84.71, spearman 84.50"."""
    parts = []
    for spec in tasks:
        keys = [(metric, f"{prefix}_{spec.name}_{metric}") for metric in spec.metrics]
        scores = ", ".join(f"{metric} {shown_score(metric, metrics[key])}" for metric, key in keys if key in metrics)
        if scores:
            parts.append(f"{spec.name} {scores}")
    return " | ".join(parts)


class BarHandler(logging.Handler):
    """Writes log messages above the progress bars instead of into them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        tqdm.write(self.format(record))


class TaskBars(ProgressCallback):  # type: ignore[misc]  # transformers' base class is untyped
    """The stock training bar, and a bar for each task's evaluation; lines are left to `TaskLines`."""

    prediction_bar: Any

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Nothing."""

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        if self.prediction_bar is not None and self.prediction_bar.n >= self.prediction_bar.total:
            self.prediction_bar.close()
            self.prediction_bar = None
        super().on_prediction_step(args, state, control, eval_dataloader=eval_dataloader, **kwargs)


class TaskLines(TrainerCallback):  # type: ignore[misc]  # transformers' base class is untyped
    """Readable lines on the main process.

    Args:
        tasks: in the order in which they are listed.
    """

    def __init__(self, tasks: Sequence[TaskSpec]) -> None:
        self.tasks = list(tasks)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        epoch = f"epoch {logs.get('epoch', 0):.2f}"
        if "loss" in logs:
            losses = ", ".join(f"{t.name} {logs.get(f'loss_{t.name}', float('nan')):.4f}" for t in self.tasks)
            rate, norm = logs.get("learning_rate", 0.0), logs.get("grad_norm", 0.0)
            conflicts = f" | conflicts {logs['conflicts']:.0%}" if "conflicts" in logs else ""
            tqdm.write(
                f"{epoch} | step {state.global_step}/{state.max_steps} | loss {logs['loss']:.4f} ({losses}) "
                f"| rate {rate:.1e} | gradient norm {norm:.2f}{conflicts}"
            )
        for prefix, name in (("eval", "validation"), ("train", "training sample")):
            if f"{prefix}_average" in logs:
                scores = score_text(self.tasks, logs, prefix)
                tqdm.write(f"{epoch} | {name}: {scores} | average {100 * logs[f'{prefix}_average']:.2f}")
