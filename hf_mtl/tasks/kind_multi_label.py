"""Multi-label classification: every row has any number of the labels that the task declares."""

from __future__ import annotations

import json
import logging
import unicodedata
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute  # type: ignore[import-untyped]
from datasets import Dataset
from numpy.typing import NDArray

from ..errors import InputError
from ..model.head_multi_label import MultiLabelHead
from .kinds import TaskKind, register_kind
from .label_sets import read_sets, wanted_names
from .metrics import micro_f1
from .row_errors import RowErrors, raise_first
from .spec import TaskSpec

logger = logging.getLogger(__name__)
BAR = "|"  # between the names in a file of predictions, unless the task has another delimiter


@register_kind("multi_label")
class MultiLabel(TaskKind):
    """Labels are 0 or 1 for each declared name. *Shape:* (rows, labels)

    In YAML, with lists of names or indices in a column of jsonl or parquet:

        topics: {kind: multi_label, text_columns: [text], label_column: topics, labels: [sport, politics, weather]}

    A row of it is `{"text": "Rain stopped the final.", "topics": ["sport", "weather"]}`. A text such as
    "sport|weather" is parted by `label_delimiter: "|"`. `label_columns: [sport, politics, weather]` names columns of 0
    and 1 instead, one for each label. An empty list or text is a row without labels; null is a missing label.

    An answer is `{"labels": [{"label": "sport", "score": 0.97}, {"label": "weather", "score": 0.81}]}`.
    """

    head = MultiLabelHead
    metrics = (micro_f1.__name__,)
    options = ("label_columns", "label_delimiter")

    def check(self, spec: TaskSpec) -> None:
        """Raise InputError for columns that are not one for each label, and for a delimiter that parts a name."""
        super().check(spec)
        labels, columns, mark = spec.labels or (), spec.label_columns, spec.label_delimiter
        if columns and (len(columns) != len(labels) or len(set(columns)) < len(columns)):
            raise InputError(
                f"task {spec.name!r}: label_columns is {list(columns)}, wanted a column for each of {list(labels)}"
            )
        if mark is None:
            return
        if columns:
            raise InputError(f"task {spec.name!r}: wanted either label_columns or label_delimiter, found both")
        if not isinstance(mark, str) or not mark:
            raise InputError(f"task {spec.name!r}: label_delimiter is {mark!r}, wanted a text such as '|'")
        if parted := [label for label in labels if mark in label.strip()]:
            raise InputError(
                f"task {spec.name!r}: label_delimiter {mark!r} is part of the label {parted[0]!r}; wanted another"
            )

    def list_columns(self, spec: TaskSpec) -> tuple[str, ...]:
        """That of the labels, unless there is one for each."""
        return () if spec.label_columns else (spec.label_column,)

    def read_labels(self, spec: TaskSpec, rows: Dataset, split: str) -> NDArray[Any]:
        """See `TaskKind`; says what numbers mean. *Shape:* (rows, labels)"""
        absent = [column for column in spec.columns_of_labels if column not in rows.column_names]
        if split == "test" and len(absent) == len(spec.columns_of_labels):
            return np.full((len(rows), len(spec.labels or ())), np.nan)
        if absent:
            raise InputError(
                f"task {spec.name!r}, split {split!r}: no label column {absent[0]!r}, and there is "
                f"{', '.join(repr(c) for c in spec.columns_of_labels if c not in absent)}; wanted all of them"
            )
        sets, bad, column = read_sets(spec, rows, split)
        raise_first(spec, rows, split, bad)
        if column is not None and column.by_index:
            where, pairs = f"task {spec.name!r}, split {split!r}", ", ".join(column.by_index)
            if column.has_names:
                logger.warning("%s: none of the data's labels is declared; they go by their indices: %s", where, pairs)
            else:
                logger.info("%s: numbers in column %r are indices: %s", where, spec.label_column, pairs)
        return sets if split == "test" else sets.astype(np.int64)

    def bad_labels(self, spec: TaskSpec, rows: Dataset, split: str) -> RowErrors:
        """Row -> what is wrong with its labels."""
        return read_sets(spec, rows, split)[1]

    def check_labels(self, spec: TaskSpec, labels: Any, where: str, *, labelled: bool) -> NDArray[Any] | None:
        """0 or 1 for each label, NaN where a row has none; None where they are that already. *Shape:* (rows, labels)"""
        width, wanted = len(spec.labels or ()), f"wanted 0 or 1 for each of {wanted_names(spec.labels or ())}"
        found = _matrix(labels, width)
        if found is None:
            raise InputError(
                f"{where}: column 'labels' holds {labels.type}, {wanted}; read_labels(task, raw_rows, split) makes them"
            )
        values, right_width = found
        missing = np.isnan(values).all(axis=1) & (right_width | np.asarray(labels.is_null()))
        fits = np.isin(values, (0, 1)).all(axis=1) & right_width
        bad = ~fits if labelled else ~fits & ~missing
        if bad.any():
            row = int(np.argmax(bad))
            told = "no label" if missing[row] else f"label {labels[row].as_py()!r:.80}"
            hint = "; trainer.predict takes rows without labels" if missing[row] else ""
            raise InputError(f"{where}: {told} in row {row} (the first row is 0), {wanted}{hint}")
        return values if labels.null_count or (missing.any() and not labelled) else None

    def write(self, spec: TaskSpec, predictions: NDArray[Any]) -> list[str]:
        """The names of the predicted labels, with the task's delimiter between; "|" for one that no line can hold.

        Where they could not be told apart again, as that is part of a name, each row is a JSON list of names.
        """
        names, mark = spec.labels or (), spec.label_delimiter or BAR
        mark = BAR if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in mark) else mark
        rows = ([name for name, there in zip(names, row, strict=True) if there] for row in predictions)
        if any((name + mark).index(mark) < len(name) for name in names):  # as "a:" and "::" have it, too
            return [json.dumps(row, ensure_ascii=False) for row in rows]
        return list(map(mark.join, rows))

    def describe(self, spec: TaskSpec, labels: NDArray[Any]) -> dict[str, Any]:
        """Rows per label, and rows that have none of them."""
        counts = dict(zip(spec.labels or (), map(int, labels.sum(axis=0)), strict=True))
        return {**counts, "without_any": int((labels.sum(axis=1) == 0).sum())}


def _matrix(labels: Any, width: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]] | None:
    """Lists of numbers as rows, NaN where one is missing or of another width; and which are of this width.

    None for an array that holds no such lists. *Shapes:* (rows, width), (rows,)
    """
    types = pa.types
    if types.is_null(labels.type):
        return np.full((len(labels), width), np.nan), np.zeros(len(labels), dtype=bool)
    is_list = types.is_list(labels.type) or types.is_large_list(labels.type) or types.is_fixed_size_list(labels.type)
    item = labels.type.value_type if is_list else None
    is_number = is_list and (types.is_integer(item) or types.is_floating(item) or types.is_boolean(item))
    if not is_number and not (is_list and types.is_null(item)):
        return None
    right_width = np.asarray(pyarrow.compute.list_value_length(labels).fill_null(-1)) == width
    values = np.full((len(labels), width), np.nan)
    flat = labels.filter(pa.array(right_width)).flatten()
    flat = flat.cast(pa.int8()) if types.is_boolean(flat.type) else flat
    numbers = flat.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    values[right_width] = numbers.reshape(-1, width)
    return values, right_width
