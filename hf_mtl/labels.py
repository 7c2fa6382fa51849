"""Labels of a task's raw rows: read as class indices or values, and checked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset
from numpy.typing import NDArray

from .errors import InputError
from .kinds import KINDS
from .tasks import TaskSpec, file_list

_MISSING = ("", "NA", "NaN", "nan", "null")  # texts that stand for no label, unless a class is called so
RowErrors = dict[int, tuple[str, str]]  # row -> what is wrong with it, in words that go before and after where it is


def raise_first(bad: RowErrors, where: str, source: str) -> None:
    """Raise InputError for the first bad row."""
    if bad:
        row = min(bad)
        raise InputError(
            f"{where}: {bad[row][0]} in row {row} (the first row is 0) of {source}{bad[row][1]}; --on_bad_row skip "
            "leaves such training and validation rows out"
        )


def source_of(spec: TaskSpec, split: str) -> str:
    """Where the rows of a split come from, for messages."""
    if spec.files:
        return ", ".join(map(repr, file_list(spec.files.get(split, ()))))
    return f"{spec.dataset!r}, configuration {spec.config!r}"


def read_labels(spec: TaskSpec, rows: Dataset, split: str) -> NDArray[Any]:
    """The labels as class indices (int64) or values (float64), checked. *Shape:* (rows,)

    Args:
        spec: the task.
        rows: its raw rows.
        split: in "test", rows may lack a label: no column, null, NaN, or -1 where that is no label of the task. They
            come back as NaN, and all labels as floats.

    Raises:
        InputError: for the first label that is not one the task declares; it names the row and what was wanted.
    """
    column, where = spec.label_column, f"task {spec.name!r}, split {split!r}"
    unlabelled = split == "test"
    if column not in rows.column_names:
        if unlabelled:
            return np.full(len(rows), np.nan)
        raise InputError(f"{where}: no label column {column!r}; the columns are {', '.join(rows.column_names)}")
    values, bad = label_numbers(spec, rows, split)
    raise_first(bad, where, source_of(spec, split))
    return np.asarray(values, dtype=np.float64 if unlabelled or spec.kind == "regression" else np.int64)


def label_numbers(spec: TaskSpec, rows: Dataset, split: str) -> tuple[list[float | None], RowErrors]:
    """Every label as a number, NaN where a row of "test" has none; and row -> what is wrong with its label."""
    column = _without_missing(spec, rows)
    values = _as_numbers(spec, rows.features[spec.label_column], column)
    head, admits = spec.head, KINDS[spec.kind].admits
    bad: RowErrors = {}
    wanted = f"one of {list(spec.labels)}" if spec.labels else f"a number in {list(spec.label_range or ())}"
    for row, (value, found) in enumerate(zip(values, column, strict=True)):
        if value is not None and not np.isnan(value) and admits(value, head):
            continue
        if split == "test" and (found is None or value == -1 or (value is not None and np.isnan(value))):
            values[row] = np.nan
        else:
            bad[row] = f"label {found!r}", f" is not {wanted}"
    return values, bad


def _without_missing(spec: TaskSpec, rows: Dataset) -> list[Any]:
    """The labels as they are, None for texts that stand for none."""
    missing = set(_MISSING) - set(spec.labels or ())
    return [None if isinstance(v, str) and v in missing else v for v in rows[spec.label_column][:]]


def _as_numbers(spec: TaskSpec, feature: Any, values: list[Any]) -> list[float | None]:
    """Every label as a number, a class as its index; None for what is no label at all."""
    if not spec.labels:
        values = [_spelled(v) if isinstance(v, str) else v for v in values]
        return [float(v) if isinstance(v, int | float) else None for v in values]
    if isinstance(feature, ClassLabel):
        if set(feature.names) != set(spec.labels):
            return values  # other classes go by their index
        own = [spec.labels.index(name) for name in feature.names]  # the same, maybe in another order
        return [own[v] if v is not None and 0 <= v < len(own) else v for v in values]
    meanings = _spelled_by(spec.labels)
    return [_class_of(value, *meanings) for value in values]


def _class_of(
    value: Any, names: dict[str, int], numbers: dict[float, int | None], truths: dict[bool, int | None]
) -> float | None:
    """A class's index, from its name, from the number or truth value that its name spells, or from the index itself.

    Where a name spells a number, numbers are no indices, and with "true" or "false" truth values are none.
    """
    if isinstance(value, str):
        if value in names:
            return names[value]
        value = _spelled(value)
    if isinstance(value, bool) and truths:
        return truths.get(value)
    if not isinstance(value, int | float):
        return None
    if math.isnan(value) or not numbers:
        return float(value)
    return numbers.get(value, -1.0 if value == -1 else None)


def _spelled_by(labels: tuple[str, ...]) -> tuple[dict[str, int], dict[float, int | None], dict[bool, int | None]]:
    """Name -> index, number -> index, truth value -> index; None where two names spell the same."""
    numbers: dict[float, int | None] = {}
    truths: dict[bool, int | None] = {}
    for index, label in enumerate(labels):
        value = _spelled(label)
        if isinstance(value, bool):
            truths[value] = None if value in truths else index
        elif value is not None:
            numbers[value] = None if value in numbers else index
    return {label: index for index, label in enumerate(labels)}, numbers, truths


def _spelled(text: str) -> float | None:
    """The finite number or the truth value that a text spells."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
