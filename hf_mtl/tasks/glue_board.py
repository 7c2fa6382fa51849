"""The files that GLUE's board takes: their names, rows, header and words (Wang et al. 2018, gluebenchmark.com)."""

from __future__ import annotations

import dataclasses
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .spec import TaskSpec

SUBMISSION = "submission.zip"
OF_NAMES = ("mnli", "qnli", "rte")  # tasks whose labels the board knows by name, not by index
EARLIEST = (1980, 1, 1, 0, 0, 0)  # what a zip file can say of a time; so that equal predictions are equal files


@dataclasses.dataclass(frozen=True)
class BoardFile:
    """One file of a submission.

    Attributes:
        name: of the file, without its suffix.
        task: whose head answers.
        num_rows: what the board expects.
        config: another configuration of the data that the rows are from; the task's own unless given.
        split: the data's name of the split that the rows are from; the task's own "test" unless given.
    """

    name: str
    task: str
    num_rows: int
    config: str | None = None
    split: str | None = None

    def spec(self, task: TaskSpec) -> TaskSpec:
        """The task with this file's rows as its test split."""
        if self.config is not None:
            return dataclasses.replace(task, config=self.config, splits={})
        return task if self.split is None else dataclasses.replace(task, splits={**task.splits, "test": self.split})


BOARD = (
    BoardFile("CoLA", "cola", 1063),
    BoardFile("SST-2", "sst2", 1821),
    BoardFile("MRPC", "mrpc", 1725),
    BoardFile("STS-B", "stsb", 1379),
    BoardFile("QQP", "qqp", 390965),
    BoardFile("MNLI-m", "mnli", 9796, split="test_matched"),
    BoardFile("MNLI-mm", "mnli", 9847, split="test_mismatched"),
    BoardFile("QNLI", "qnli", 5463),
    BoardFile("RTE", "rte", 3000),
    BoardFile("WNLI", "wnli", 146),
    BoardFile("AX", "mnli", 1104, config="ax"),
)


def board_lines(spec: TaskSpec, predictions: NDArray[Any]) -> list[str]:
    """A file's lines: the header, then the number of each row and its answer in the board's words.

    Args:
        spec: the task.
        predictions: indices of classes, or values, which are clipped to the label's range. *Shape:* (rows,)
    """
    if spec.label_range is not None:
        words = [f"{value:.3f}" for value in np.clip(predictions, *spec.label_range)]
    else:
        names = spec.labels or ()
        words = [names[int(index)] if spec.name in OF_NAMES else str(int(index)) for index in predictions]
    return ["index\tprediction", *(f"{index}\t{word}" for index, word in enumerate(words))]


def write_submission(folder: Path, files: Mapping[str, Sequence[str]]) -> list[str]:
    """Write `SUBMISSION` into a folder, and say what the board would not take.

    Args:
        folder: is made.
        files: a file's name in `BOARD` -> its lines.

    Returns:
        Warnings: files that are missing, and those with another number of rows than the board expects.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{SUBMISSION}.part"
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, lines in files.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.tsv", EARLIEST), "".join(f"{line}\n" for line in lines))
    os.replace(unfinished, folder / SUBMISSION)
    told = [
        f"{SUBMISSION}: {file.name}.tsv has {len(files[file.name]) - 1:,} rows, the board expects {file.num_rows:,}"
        for file in BOARD
        if file.name in files and len(files[file.name]) - 1 != file.num_rows
    ]
    if missing := [file.name for file in BOARD if file.name not in files]:
        told.append(
            f"{SUBMISSION} has {len(files)} of {len(BOARD)} files; the board wants the others too: {', '.join(missing)}"
        )
    return told
