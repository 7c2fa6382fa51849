"""Labels of a task's raw rows, read and checked as its kind does."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from ..errors import InputError
from .found_labels import FoundLabels
from .kind_classification import Classification
from .kind_multi_label import MultiLabel
from .kind_ordinal import Ordinal
from .kind_regression import Regression
from .kind_similarity import Similarity
from .kind_token_classification import TokenClassification
from .kinds import kind_of
from .row_errors import RowErrors
from .spec import TaskSpec
from .text_files import columns_but

BUILT_IN_KINDS = (Classification, Regression, Similarity, Ordinal, MultiLabel, TokenClassification)


def read_labels(spec: TaskSpec, rows: Dataset, split: str) -> NDArray[Any]:
    """The labels, checked, such as class indices (int64) or values (float64); says what numbers mean.

    Args:
        spec: the task.
        rows: its raw rows.
        split: in "test", rows may lack a label and then have NaN; see `NumberKind`.

    Returns:
        *Shape:* (rows,), or what the task's kind has behind that.

    Raises:
        InputError: for the first label that is not one the task declares; it names the row and what was wanted.
    """
    spec.check_resolved()
    if split != "test":
        _check_columns(spec, rows, split)
    return kind_of(spec).read_labels(spec, rows, split)


def read_strata(spec: TaskSpec, rows: Dataset) -> NDArray[np.int64] | None:
    """The class of each training row, of which a cut keeps the shares; None for labels that are no classes.

    *Shape:* (rows,)

    Args:
        spec: the task.
        rows: its raw training rows.

    Raises:
        InputError: as `read_labels`.
    """
    _check_columns(spec, rows, "train")
    return kind_of(spec).strata(spec, rows)


def _check_columns(spec: TaskSpec, rows: Dataset, split: str) -> None:
    """Raise InputError unless every column of labels is there."""
    absent = [column for column in spec.columns_of_labels if column not in rows.column_names]
    if absent:
        columns = columns_but(absent[0], rows.column_names)
        raise InputError(f"task {spec.name!r}, split {split!r}: no label column {absent[0]!r}; {columns}")


def find_labels(spec: TaskSpec, rows: Dataset) -> FoundLabels:
    """What "auto" of a task stands for, in its raw training rows; InputError where they have no label column."""
    _check_columns(spec, rows, "train")
    return kind_of(spec).find_labels(spec, rows)


def missing_labels(spec: TaskSpec, rows: Dataset, split: str) -> NDArray[np.bool_]:
    """Which rows have no label, not even a wrong one. *Shape:* (rows,)"""
    _check_columns(spec, rows, split)
    return kind_of(spec).missing_labels(spec, rows, split)


def bad_labels(spec: TaskSpec, rows: Dataset, split: str) -> RowErrors:
    """Row -> what is wrong with its label; InputError where not some labels are wrong but all."""
    return kind_of(spec).bad_labels(spec, rows, split)


def has_label(labels: Any) -> NDArray[np.bool_]:
    """True where a row has a label, of which no number is NaN. *Shape:* (rows, ...) -> (rows,)

    A row may have a list of them, of any length: a label for each of its words, or tokens.
    """
    kind = getattr(labels, "dtype", np.dtype(object)).kind
    if kind in "biu":
        return np.ones(len(labels), dtype=bool)
    if kind != "f" and len(labels) and np.ndim(labels[0]) == 1:
        there, rows = np.ones(len(labels), dtype=bool), np.repeat(np.arange(len(labels)), list(map(len, labels)))
        there[rows[np.isnan(np.concatenate(list(labels)).astype(np.float64))]] = False
        return there
    numbers = labels if kind == "f" else np.asarray(labels, dtype=np.float64)
    return np.asarray(~np.isnan(numbers.reshape(len(numbers), -1)).any(axis=1))
