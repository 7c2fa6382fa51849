"""What a task's YAML was understood to mean, seen on its rows: sizes, labels, token lengths, a first row."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from ..model.encoding import sequences_of
from ..model.heads import OPTIONS
from ..tasks.kinds import kind_of
from ..tasks.labels import has_label, read_labels
from ..tasks.metric_names import is_of_one_class
from ..tasks.spec import SPLITS, TaskSpec
from .raw_rows import SplitRows, read_splits
from .shared_reads import SharedReads

Facts = dict[str, Any]


def describe_task(
    spec: TaskSpec,
    tokenizer: PreTrainedTokenizerBase | None,
    max_length: int,
    reads: SharedReads | None = None,
    on_bad_row: str = "error",
) -> Facts:
    """A task as declared, and each of its splits as found; ready for JSON.

    Args:
        spec: the task, whose labels are known.
        tokenizer: counts tokens; without one, there are no token lengths.
        max_length: a row counts as truncated when one of its sequences has more tokens.
        reads: of all tasks that are described.
        on_bad_row: see `load_rows`.

    Raises:
        InputError: when rows or labels are not what the task declares.
    """
    declared = {
        "name": spec.name,
        "kind": spec.kind,
        "encoding": spec.encoding,
        "validation_fraction": spec.validation_fraction,
        "group_column": spec.group_column,
        "max_rows": dict(spec.max_rows) or None,
        "source": dict(spec.files) or f"{spec.dataset}{f', {spec.config}' if spec.config else ''}",
        "text_columns": list(spec.text_columns),
        "label_column": None if spec.label_columns else spec.label_column,
        "label_columns": list(spec.label_columns) or None,
        "label_delimiter": spec.label_delimiter,
        "labels": list(spec.names) or None,
        "label_range": list(spec.label_range) if spec.label_range else None,
        "missing_label": spec.missing_label if spec.missing_label == "skip" else None,
        "metrics": list(spec.metrics),
        "main_metric": spec.main_metric,
        "positive_label": _positive_label(spec),
        **{name: list(value) if isinstance(value := getattr(spec, name), tuple) else value for name in OPTIONS},
        "loss_weight": spec.loss_weight,
        "sampling_weight": spec.sampling_weight,
    }
    splits = read_splits(spec, SPLITS, on_bad_row, reads=reads)
    return {
        **{key: value for key, value in declared.items() if value is not None},
        "splits": {name: _describe_split(spec, name, rows, tokenizer, max_length) for name, rows in splits.items()},
    }


def _positive_label(spec: TaskSpec) -> str | None:
    """The class that some of the task's metrics are of."""
    is_read = spec.positive_label is not None or any(map(is_of_one_class, spec.metrics))
    return spec.names[spec.positive_class] if is_read and spec.positive_class is not None else None


def _describe_split(
    spec: TaskSpec, split: str, found: SplitRows, tokenizer: PreTrainedTokenizerBase | None, max_length: int
) -> Facts:
    rows = found.rows
    labels = read_labels(spec, rows, split)
    facts: Facts = {"rows": len(rows), "columns": rows.column_names, "labels": _distribution(spec, labels)}
    if found.unlabelled:
        facts["rows_without_label"] = found.unlabelled
    if tokenizer is not None:
        lengths = token_lengths(spec, rows, tokenizer)
        facts["tokens"] = {
            "median": int(np.median(lengths)),
            "95 %": int(np.percentile(lengths, 95)),
            "longest": int(lengths.max()),
            "truncated_share": float((lengths > max_length).mean()),
        }
    first = rows[0]
    columns = (*spec.text_columns, *spec.columns_of_labels)
    return {**facts, "first_row": {column: _plain(first[column]) for column in columns if column in first}}


def _plain(value: Any) -> Any:
    """A cell as JSON can hold it: one that is no text and no finite number as text, nothing as null."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def _distribution(spec: TaskSpec, labels: NDArray[Any]) -> Facts:
    """What the kind tells of the labels, such as rows per class; and the rows without a label, if any."""
    there = has_label(labels)
    described = kind_of(spec).describe(spec, labels[there]) if there.any() else {}
    return described if there.all() else {**described, "without_label": int((~there).sum())}


def token_lengths(spec: TaskSpec, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """Tokens of every row's longest sequence, special ones included, before anything is cut. *Shape:* (rows,).

    A row is one sequence, or several where its texts go through the encoder apart.
    """
    lengths: list[int] = []
    for batch in rows.select_columns(list(dict.fromkeys(spec.text_columns))).iter(batch_size=1000):
        kind = kind_of(spec)
        encoded = kind.head.encode(spec.head, kind.texts(spec, batch), tokenizer, sys.maxsize)
        lengths += [max(len(sequence["input_ids"]) for sequence in sequences_of(row)) for row in encoded.rows]
    return np.asarray(lengths, dtype=np.int64)


def format_task(task: Mapping[str, Any]) -> str:
    """What `describe_task` gave, for people."""
    bounds = "{} to {}".format(*task["label_range"]) if "label_range" in task else "-"
    labels = ", ".join(task["labels"]) if "labels" in task else bounds
    positive = f"; the positive class is {task['positive_label']}" if "positive_label" in task else ""
    lines = [
        f"{task['name']}: {task['kind']}, {labels}",
        f"  from {task['source']}",
        f"  reads {' and '.join(task['text_columns'])}; {_place_of_labels(task)}",
        *_chosen_rows(task),
        f"  scored by {', '.join(task['metrics'])}; {task['main_metric']} enters the average{positive}",
        f"  loss_weight {task['loss_weight']:g}, sampling_weight {task['sampling_weight']:g}",
    ]
    if options := [f"{name} {task[name]}" for name in OPTIONS if name in task]:
        lines.append(f"  head: {', '.join(options)}")
    for split, facts in task["splits"].items():
        others = f", and {facts['rows_without_label']:,} without a label" if "rows_without_label" in facts else ""
        lines.append(f"  {split}: {facts['rows']:,} rows{others}; columns {', '.join(facts['columns'])}")
        lines.append(f"    labels: {_pairs(facts['labels'])}")
        if "tokens" in facts:
            tokens = {key: value for key, value in facts["tokens"].items() if key != "truncated_share"}
            lines.append(f"    tokens: {_pairs(tokens)}; {facts['tokens']['truncated_share']:.1%} of the rows are cut")
        lines.append(f"    first row: {facts['first_row']}")
    return "\n".join(lines)


def _chosen_rows(task: Mapping[str, Any]) -> list[str]:
    """A line about the rows that are cut off and sampled, where some are."""
    told = []
    if "validation_fraction" in task:
        by = f", by {task['group_column']}" if "group_column" in task else ""
        told.append(f"{task['validation_fraction']:.1%} of the training rows are for validation{by}")
    told += [f"at most {number:,} rows of {split}" for split, number in task.get("max_rows", {}).items()]
    return [f"  {'; '.join(told)}"] if told else []


def _place_of_labels(task: Mapping[str, Any]) -> str:
    if "label_columns" in task:
        return f"a column for each label: {', '.join(task['label_columns'])}"
    parted = f", parted by {task['label_delimiter']!r}" if "label_delimiter" in task else ""
    return f"label in {task['label_column']}{parted}"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value:{',' if isinstance(value, int) else '.4g'}}" for key, value in values.items())


def format_task_sets(sets: Mapping[str, Sequence[TaskSpec]]) -> str:
    """A line per task of the sets that come with the package, for people."""
    lines = [f"{'set':<8}{'task':<10}{'kind':<16}{'texts':<24}metrics"]
    for name, specs in sets.items():
        lines += [
            f"{name:<8}{spec.name:<10}{spec.kind:<16}{', '.join(spec.text_columns):<24}{', '.join(spec.metrics)}"
            for spec in specs
        ]
    return "\n".join(lines)
