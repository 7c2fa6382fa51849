"""What a run on GLUE's tasks predicts for the board."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from numpy.typing import NDArray

from ..errors import InputError
from ..tasks.glue_board import BOARD, BoardFile, board_lines, write_submission
from ..tasks.spec import TaskSpec
from .trainer import MultiTaskTrainer

logger = logging.getLogger(__name__)


def submit(
    trainer: MultiTaskTrainer, decoded: Mapping[str, NDArray[Any]], load: Callable[[TaskSpec], Dataset | None]
) -> None:
    """Write predictions/submission.zip, with further rows that a head answers for the board.

    Args:
        trainer: of the tasks.
        decoded: task -> the answers for its test split, on the main process. *Shape:* (rows,)
        load: gives the test rows of a task, tokenised; every process calls it.
    """
    is_main, files = trainer.is_world_process_zero(), {}
    for file in BOARD:
        if file.task not in trainer.tasks:
            continue
        task = trainer.tasks[file.task]
        spec = file.spec(task)
        if (spec.config, spec.splits) == (task.config, task.splits):
            answers = decoded.get(task.name)
        else:
            answers = _answers(trainer, file, spec, load)
        if is_main and answers is not None:
            files[file.name] = board_lines(spec, answers)
    if is_main:
        for warning in write_submission(Path(trainer.args.output_dir) / "predictions", files):
            logger.warning("%s", warning)


def _answers(
    trainer: MultiTaskTrainer, file: BoardFile, spec: TaskSpec, load: Callable[[TaskSpec], Dataset | None]
) -> NDArray[Any] | None:
    """The answers for other rows than the task's own test split; None where there are no such rows."""
    try:
        rows = load(spec)
    except InputError as error:
        logger.warning("no rows for %s: %s", file.name, error)
        return None
    if rows is None:
        return None
    return trainer.evaluator.decoded(spec.name, trainer.predict({spec.name: rows})[spec.name].predictions)
