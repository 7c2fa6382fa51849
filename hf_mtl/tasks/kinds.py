"""Kinds of task, the side that knows data: labels are read, checked, added to tokens, written and described.

The side that travels with a model is the kind's `Head`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from datasets import Dataset
from datasets.fingerprint import generate_random_fingerprint
from numpy.typing import NDArray

from ..errors import InputError, unknown_name_error
from ..model.heads import Head, register_head
from ..model.pipeline_inputs import Texts, Words
from ..validation import check_unregistered
from .cells import is_missing
from .columns import Columns
from .found_labels import FoundLabels
from .metric_names import set_first_metrics
from .row_errors import RowErrors
from .spec import AUTO, KIND_CHECKS, TaskSpec

DATA_OPTIONS = ("label_columns", "label_delimiter")
KindClass = TypeVar("KindClass", bound="type[TaskKind]")


class TaskKind:
    """What the rows of a kind of task are. A subclass reads labels and writes predictions.

    Attributes:
        head: the class of the kind's heads.
        metrics: names of metrics, the default first; `register_metric` adds more for a kind.
        options: of "label_columns" and "label_delimiter", those that a task of this kind may have.
        auto: of "labels" and "label_range", those that may be "auto"; `find_labels` finds them.
        why_not_auto: what is wanted instead, for the message to a task of a kind where nothing may be.
        pipeline_tag: the Hub's word for what a model does that has tasks of this kind only.
    """

    head: ClassVar[type[Head]]
    metrics: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[tuple[str, ...]] = ()
    auto: ClassVar[tuple[str, ...]] = ()
    why_not_auto: ClassVar[str] = "a list of names"
    pipeline_tag: ClassVar[str] = "text-classification"

    def check(self, spec: TaskSpec) -> None:
        """Raise InputError for what a task of this kind cannot declare of its data; called when it is declared."""
        for name in DATA_OPTIONS:
            if getattr(spec, name) and name not in self.options:
                takers = [kind for kind, each in KINDS.items() if name in each.options]
                for_whom = f"; it is for {', '.join(takers)}" if takers else ""
                raise InputError(f"task {spec.name!r}: a task of kind {spec.kind!r} has no {name}{for_whom}")
        for key in ("labels", "label_range"):
            if getattr(spec, key) == AUTO and key not in self.auto:
                for_whom = ", ".join(kind for kind, each in KINDS.items() if key in each.auto)
                raise InputError(
                    f"task {spec.name!r}: {key} is {AUTO!r}, which is for {for_whom}; wanted {self.why_not_auto}"
                )

    def list_columns(self, spec: TaskSpec) -> tuple[str, ...]:
        """The columns whose cells may be lists; those of words, unless overridden."""
        return spec.text_columns if self.head.takes_words else ()

    def texts(self, spec: TaskSpec, columns: Mapping[str, Sequence[Any]]) -> list[Texts]:
        """What the head encodes of each row.

        Args:
            spec: the task.
            columns: its text columns, of some rows.
        """
        if self.head.takes_words:
            return [Words(words) for words in columns[spec.text_columns[0]]]
        return list(zip(*(columns[column] for column in spec.text_columns), strict=True))

    def read_labels(self, spec: TaskSpec, rows: Dataset, split: str) -> NDArray[Any]:
        """The labels of raw rows, checked. *Shape:* (rows, ...)

        Args:
            spec: the task.
            rows: its raw rows; the label column is there, but in "test".
            split: "train", "validation" or "test". In "test", a row without a label has NaN.

        Raises:
            InputError: for the first label that is not one the task declares; `row_errors.raise_first` makes it.
        """
        raise NotImplementedError

    def find_labels(self, spec: TaskSpec, rows: Dataset) -> FoundLabels:
        """What "auto" of a task stands for.

        Args:
            spec: the task, whose labels or range are "auto".
            rows: its raw training rows; the label column is there.

        Raises:
            InputError: for a column that has no labels of the kind at all.
        """
        raise NotImplementedError

    def missing_labels(self, spec: TaskSpec, rows: Dataset, split: str) -> NDArray[np.bool_]:
        """Which rows have no label, for `missing_label: skip`; not those that have a wrong one. *Shape:* (rows,)

        Unless overridden, those that have nothing in a column of labels; see `cells.is_missing`.
        """
        columns = [rows[column][:] for column in spec.columns_of_labels]
        return np.array([any(map(is_missing, cells)) for cells in zip(*columns, strict=True)], dtype=bool)

    def strata(self, spec: TaskSpec, rows: Dataset) -> NDArray[np.int64] | None:
        """The class of each training row, of which a cut keeps the shares; none unless overridden. *Shape:* (rows,)

        Args:
            spec: the task.
            rows: its raw training rows; the label column is there.

        Raises:
            InputError: for the first label that is not one the task declares.
        """
        return None

    def bad_labels(self, spec: TaskSpec, rows: Dataset, split: str) -> RowErrors:
        """Row -> what is wrong with its label, for `--on_bad_row skip`; unless overridden, such rows stop the run."""
        return {}

    def check_labels(self, spec: TaskSpec, labels: Any, where: str, *, labelled: bool) -> NDArray[Any] | None:
        """The labels of tokenised rows that a user hands the trainer; None where they can stay as they are.

        Args:
            spec: the task.
            labels: an Arrow array. *Shape:* (rows,)
            where: begins the message.
            labelled: whether every row needs a label; else a row without one has NaN.

        Raises:
            InputError: for the first label that the task does not declare.
        """
        if not labels.null_count:
            return None
        if labelled:
            row = int(np.argmax(np.asarray(labels.is_null())))
            raise InputError(f"{where}: no label in row {row} (the first row is 0)")
        cells = labels.to_pylist()
        missing = np.full(np.shape(next((cell for cell in cells if cell is not None), np.nan)), np.nan)
        return np.array([missing if cell is None else cell for cell in cells], dtype=np.float64)

    def add_labels(self, spec: TaskSpec, encoded: Dataset, labels: NDArray[Any]) -> Dataset:
        """The rows that the head encoded, with the column "labels", whose first dimension is rows."""
        column: Any = labels if labels.ndim == 1 else list(labels)
        if labels.ndim == 2:  # as Arrow's own, since a list of arrays is gone through number by number
            ends = np.arange(len(labels) + 1, dtype=np.int32) * labels.shape[1]
            column = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(labels.ravel()))
        return encoded.add_column("labels", column, new_fingerprint=_fingerprint(encoded, labels))

    def write(self, spec: TaskSpec, predictions: NDArray[Any]) -> list[str]:
        """What predictions/<task>.tsv says of each row, without tabs and line ends.

        Args:
            spec: the task.
            predictions: what the head decoded. *Shape:* (rows, ...)
        """
        raise NotImplementedError

    def describe(self, spec: TaskSpec, labels: NDArray[Any]) -> dict[str, Any]:
        """What `hf-mtl tasks` tells of labels that are there, such as rows per class; ready for JSON.

        Args:
            spec: the task.
            labels: what `read_labels` gave, without the rows that have no label; at least one. *Shape:* (rows, ...)
        """
        return {}


def _fingerprint(encoded: Dataset, labels: NDArray[Any]) -> str:
    """The same for the same rows and labels, without the copy of them that `datasets` would hash."""
    if labels.dtype == object:
        return generate_random_fingerprint()
    digest = hashlib.sha256(f"{encoded._fingerprint} {labels.dtype} {labels.shape}".encode())
    digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()[:16]


KINDS: dict[str, TaskKind] = {}


def register_kind(name: str) -> Callable[[KindClass], KindClass]:
    """Add a kind of task under a name, for the key `kind` of a task file.

        @register_kind("label_set")
        class LabelSet(TaskKind):
            head = LabelSetHead
            metrics = ("label_f1",)
            ...

    Raises:
        InputError: for a name that another kind has, and for a class without a head.
    """

    def register(kind: KindClass) -> KindClass:
        if not isinstance(kind, type) or not issubclass(kind, TaskKind) or not hasattr(kind, "head"):
            raise InputError(f"kind {name!r}: {kind!r} cannot be registered, wanted a subclass of TaskKind with a head")
        check_unregistered("kind", name, type(KINDS[name]) if name in KINDS else None, kind)
        register_head(name)(kind.head)
        set_first_metrics(name, kind.metrics)
        KINDS[name] = kind()
        KIND_CHECKS[name] = KINDS[name].check
        return kind

    return register


def columns_of(spec: TaskSpec) -> Columns:
    """What a task reads in the columns of a table."""
    delimited = (spec.label_column,) if spec.label_delimiter else ()
    lists, others = kind_of(spec).list_columns(spec), (spec.group_column,) if spec.group_column else ()
    return Columns(spec.string_columns, spec.columns_of_labels, lists, delimited, others, spec.encoding)


def kind_of(spec: TaskSpec) -> TaskKind:
    """The kind of a task; InputError for one that has a head and no rows."""
    if spec.kind not in KINDS:
        raise unknown_name_error(f"kind for task {spec.name!r}:", spec.kind, KINDS)
    return KINDS[spec.kind]
