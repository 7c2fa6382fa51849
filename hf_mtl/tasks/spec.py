"""`TaskSpec`: one task as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import InputError, unknown_name_error
from ..model.heads import HEADS, OPTIONS, HeadOptions, HeadSpec
from ..validation import check_number, check_task_name
from .class_names import check_class_names
from .metric_names import check_metrics, check_names_differ, is_of_one_class, metric_names, unit_of
from .sources import check_entries, file_list
from .split_names import check_slices
from .split_options import check_split_options
from .text_encoding import check_encoding

EMBEDDED = "embedded:demo"
SPLITS = ("train", "validation", "test")
AUTO = "auto"  # labels, or a label_range, that the training rows tell; see `resolve_tasks`
MISSING_LABEL = ("error", "skip")
KIND_CHECKS: dict[str, Callable[[TaskSpec], None]] = {}  # kind -> what its tasks' declarations are checked by


@dataclass(frozen=True, kw_only=True)
class TaskSpec(HeadOptions):
    """One task: where its rows are, what its head is, how it is scored and how much it counts.

    Args:
        name: the task's name, in flags, logs, metrics and files.
        kind: "classification", "regression", "similarity", "multi_label", "token_classification" or "ordinal"; a plugin
            adds others, see docs/extending.md.
        text_columns: one column for single texts, two for pairs.
        dataset: a Hub id or a folder for `datasets.load_dataset`. A task has `dataset`, or `files`, or neither of them:
            then `load_task_data` is given its rows.
        config: the dataset's configuration, the second argument of `load_dataset`.
        files: split -> a csv, tsv, json, jsonl, parquet or arrow file, gzipped or not, a pattern such as "data/*.csv",
            a folder, what `save_to_disk` wrote, or several of these, whose rows follow one another. Patterns and
            folders stand for their files in the order of their names.
        splits: the data's own names of the splits "train", "validation" and "test", where they differ, or slices of
            them in the syntax of `datasets`, such as "train[:90%]".
        encoding: of files of text, the name of a Python codec such as "cp1252"; UTF-8 unless given.
        validation_fraction: the share of the training rows that is cut off as the split "validation", of a task whose
            data has none, see docs/data.md#splits.
        group_column: column of what must not be on both sides of that cut, such as an author.
        max_rows: "train" or "validation" -> the most rows of it; a random sample of those there are, in their order.
        label_column: column of the label.
        label_columns: columns of 0 and 1, one for each of `labels`, in place of `label_column` (multi_label).
        label_delimiter: what stands between the names in a cell of `label_column` (multi_label).
        labels: class names in the order of their indices, of all kinds but regression and similarity. Data may write
            them in another case where that is unambiguous, or have the indices instead; but where names spell numbers
            or truth values, such as "-1" or "true", these in the data mean the names. The names of `label_columns`
            unless given. "auto" for those of the training rows, see docs/tasks.md#labels-that-the-data-tells.
        label_range: lowest and highest label (regression, similarity); "auto" for those of the training rows.
        missing_label: what a training or validation row without a label is: "error", a bad row, or "skip", none of
            this task's rows.
        metrics: names of the metrics to report, one or more of the kind's; its default unless given.
        main_metric: the one that enters `eval_average`; the first of `metrics` unless given. More of it is better.
        positive_label: the one of two classes that f1, precision and recall are of; the second unless given.
        pooling, pair_encoding, loss, class_weights, label_smoothing, thresholds: see `HeadOptions`.
        loss_weight: factor on the task's loss and gradient.
        sampling_weight: factor on the task's share of every batch.

    Raises:
        InputError: when a value cannot be used; the message names the task and the key.
    """

    name: str
    kind: str
    text_columns: tuple[str, ...]
    dataset: str | None = None
    config: str | None = None
    files: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=dict)
    encoding: str | None = None
    validation_fraction: float | None = None
    group_column: str | None = None
    max_rows: Mapping[str, int] = field(default_factory=dict)
    label_column: str = "label"
    label_columns: tuple[str, ...] = ()
    label_delimiter: str | None = None
    labels: tuple[str, ...] | str | None = None
    label_range: tuple[float, float] | str | None = None
    missing_label: str = "error"
    metrics: tuple[str, ...] = ()
    main_metric: str = ""
    positive_label: str | None = None
    loss_weight: float = 1.0
    sampling_weight: float = 1.0

    def __post_init__(self) -> None:
        check_task_name(self.name)
        for key in ("text_columns", "label_columns", "metrics"):
            if isinstance(getattr(self, key), str):
                raise InputError(f"task {self.name!r}: {key} is {getattr(self, key)!r}, wanted a list of texts")
        for key in ("text_columns", "label_columns", "label_range", "class_weights", "thresholds"):
            if isinstance(getattr(self, key), list):
                object.__setattr__(self, key, tuple(getattr(self, key)))
        if both := [column for column in self.text_columns if column in self.columns_of_labels]:
            raise InputError(
                f"task {self.name!r}: column {both[0]!r} is among text_columns and holds the labels too, which the "
                "model would read; wanted another column for one of them"
            )
        if self.labels in (None, AUTO) and self.label_range is None and self.label_columns:
            object.__setattr__(self, "labels", self.label_columns)
        if self.labels is not None and self.labels != AUTO:
            check_class_names(self.name, self.labels)
            object.__setattr__(self, "labels", tuple(self.labels))
        if self.missing_label not in MISSING_LABEL:
            raise unknown_name_error(f"missing_label of task {self.name!r}:", self.missing_label, MISSING_LABEL)
        self._head_of(*self._stand_ins())  # checks name, kind, labels, range and number of texts
        object.__setattr__(self, "metrics", tuple(dict.fromkeys(self.metrics)) or metric_names(self.kind)[:1])
        object.__setattr__(self, "main_metric", self.main_metric or self.metrics[0])
        check_metrics(self.name, self.kind, self.names or None, self.metrics, self.main_metric)
        labels = list(self.names)
        is_known = self.labels != AUTO
        if self.positive_label is not None and is_known and (len(labels) != 2 or self.positive_label not in labels):
            raise InputError(
                f"task {self.name!r}: positive_label is {self.positive_label!r}, wanted one of two labels; they "
                f"are {labels}"
            )
        if self.kind in KIND_CHECKS:  # else the task has a head and no rows
            KIND_CHECKS[self.kind](self)
        if self.dataset is not None and self.files:
            raise InputError(f"task {self.name!r}: wanted either dataset or files, found both")
        for key in (*self.files, *self.splits):
            if key not in SPLITS:
                raise unknown_name_error(f"split of task {self.name!r}:", key, SPLITS)
        for split, paths in self.files.items():
            check_entries(self.name, split, file_list(paths))
        check_slices(self.name, self.splits)
        if self.encoding is not None:
            check_encoding(self.encoding, f"task {self.name!r}: ")
        check_split_options(
            self.name, {*self.files, *self.splits}, self.validation_fraction, self.group_column, self.max_rows
        )
        for key in ("loss_weight", "sampling_weight"):
            if not 0 < getattr(self, key) < float("inf"):
                raise InputError(f"task {self.name!r}: {key} is {getattr(self, key)!r}, wanted a number above 0")

    @property
    def head(self) -> HeadSpec:
        """The part of the task that a model saves; InputError where its labels are still "auto"."""
        self.check_resolved()
        assert not isinstance(self.labels, str) and not isinstance(self.label_range, str)
        return self._head_of(self.labels, self.label_range)

    @property
    def is_auto(self) -> bool:
        """Whether its labels, or their range, are still those that the training rows have."""
        return AUTO in (self.labels, self.label_range)

    def check_resolved(self) -> None:
        """Raise InputError where the labels, or their range, are not known yet."""
        if self.is_auto:
            key = "labels" if self.labels == AUTO else "label_range"
            raise InputError(
                f"task {self.name!r}: {key} is still {AUTO!r}; tasks = hf_mtl.resolve_tasks(tasks) takes them from the "
                "training rows, or with heads= from a saved model; call it before a model is made or rows are loaded"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The class names; none where the task has no such, or they are still "auto"."""
        return () if self.labels is None or isinstance(self.labels, str) else self.labels

    def _stand_ins(self) -> tuple[tuple[str, ...] | None, tuple[float, float] | None]:
        """Labels and range; where they are "auto", some that suit the other keys."""
        labels, bounds = self.labels, self.label_range
        numbers = [each for each in (self.class_weights, self.thresholds) if isinstance(each, tuple)]
        if isinstance(labels, str):
            labels = tuple(f"label{place}" for place in range(len(numbers[0]) if numbers else 2))
        return labels, (0.0, 1.0) if isinstance(bounds, str) and bounds == AUTO else bounds  # type: ignore[return-value]

    def _head_of(self, labels: tuple[str, ...] | None, label_range: tuple[float, float] | None) -> HeadSpec:
        return HeadSpec(
            name=self.name,
            kind=self.kind,
            labels=labels,
            label_range=label_range,
            num_texts=len(self.text_columns),
            **{name: getattr(self, name) for name in OPTIONS},
        )

    @property
    def string_columns(self) -> tuple[str, ...]:
        """The text columns whose cells are strings: none of a kind whose rows are lists of words."""
        return () if HEADS[self.kind].takes_words else self.text_columns

    @property
    def columns_of_labels(self) -> tuple[str, ...]:
        """The columns that hold the labels: several of a task with `label_columns`, else one."""
        return self.label_columns or (self.label_column,)

    @property
    def positive_class(self) -> int | None:
        """Index of the class that f1, precision and recall are of; None unless there are two classes."""
        if len(self.names) != 2:
            return None
        return 1 if self.positive_label is None else self.names.index(self.positive_label)

    def metric_title(self, metric: str) -> str:
        """A metric for people, with the class that it is of, or its unit where it is no fraction."""
        if is_of_one_class(metric) and self.positive_class is not None:
            return f"{metric} of {self.names[self.positive_class]}"
        # Of classes in an order, the unit of the label is a step from one to the next.
        unit = "steps" if self.names and unit_of(metric) == "label unit" else unit_of(metric)
        return f"{metric} ({unit})" if unit else metric

    @property
    def labels_in_words(self) -> str:
        """The declared labels for people: names, a range, or a dash where the kind declares neither."""
        if self.is_auto:
            return AUTO
        if self.names:
            return ", ".join(self.names)
        return "-" if self.label_range is None else "{:g} to {:g}".format(*self.label_range)


def check_metric_names(tasks: Sequence[TaskSpec]) -> None:
    """Raise InputError where scores of two tasks have one name."""
    check_names_differ({spec.name: spec.metrics for spec in tasks})


def with_loss_weights(tasks: Sequence[TaskSpec], weights: Mapping[str, Any]) -> list[TaskSpec]:
    """The tasks with another `loss_weight` where one is given; InputError for a task or a weight that is none."""
    for name, weight in weights.items():
        if name not in [spec.name for spec in tasks]:
            raise unknown_name_error("task in loss_weights:", name, [spec.name for spec in tasks])
        check_number(f"loss_weights of task {name!r}", weight, "a number above 0", lambda x: x > 0)
    return [replace(spec, loss_weight=weights.get(spec.name, spec.loss_weight)) for spec in tasks]
