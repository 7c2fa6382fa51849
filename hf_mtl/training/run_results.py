"""What a run says at its end: the closing table, and a file of predictions for every task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..tasks.kinds import kind_of
from ..tasks.metric_names import shown_score
from ..tasks.spec import TaskSpec


def closing_table(tasks: Sequence[TaskSpec], metrics: Mapping[str, float], passes: Mapping[str, float]) -> str:
    """A table of every task's scores on validation and on the training sample: per cent, errors in label units.

    Args:
        tasks: in their order.
        metrics: "eval_<task>_<metric>" and "train_<task>_<metric>" -> score.
        passes: task -> how often its rows were seen in training, which the last column says; empty without a training.
    """

    def cell(key: str, metric: str = "") -> str:
        return f"{shown_score(metric, metrics[key]) if key in metrics else '-':>12}"

    titles = {(spec.name, metric): spec.metric_title(metric) for spec in tasks for metric in spec.metrics}
    width = max([24, *(len(title) + 2 for title in titles.values())])
    seen = {(spec.name, spec.metrics[0]): f"{passes[spec.name]:.3g} times" for spec in tasks if spec.name in passes}
    last = 14 if seen else 0
    lines = [f"{'task':<16}{'metric':<{width}}{'validation':>12}{'training':>12}{'rows seen' if seen else '':>{last}}"]
    for (task, metric), title in titles.items():
        cells = [cell(f"{prefix}_{task}_{metric}", metric) for prefix in ("eval", "train")]
        lines.append(f"{task:<16}{title:<{width}}{''.join(cells)}{seen.get((task, metric), ''):>{last}}")
    average = f"{cell('eval_average')}{cell('train_average')}{'':>{last}}"
    lines.append(f"{'average':<16}{'of the main metrics':<{width}}{average}")
    rule = "-" * len(lines[0])
    return "\n".join([rule, lines[0], rule, *lines[1:-1], rule, lines[-1], rule])


def write_predictions(spec: TaskSpec, decoded: np.ndarray, path: Path) -> None:
    """Write a tsv with "index" and "prediction", such as a class name or a value, in the order of the rows.

    Args:
        spec: the task.
        decoded: what the head decoded. *Shape:* (rows, ...)
        path: of the file; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    written = kind_of(spec).write(spec, decoded)
    lines = ["index\tprediction", *(f"{index}\t{prediction}" for index, prediction in enumerate(written))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
