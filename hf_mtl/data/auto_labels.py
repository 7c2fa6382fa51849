"""`labels: auto` and `label_range: auto`: tasks whose labels are those of a saved model, or of the training rows."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError
from ..model.heads import HeadSpec
from ..tasks.cells import listed
from ..tasks.found_labels import FoundLabels, doubts
from ..tasks.labels import find_labels
from ..tasks.row_errors import selected, source_of
from ..tasks.spec import AUTO, TaskSpec
from ..tasks.task_list import check_tasks
from .data_splits import split_names
from .memory_rows import GivenRows, rows_of_tasks
from .raw_rows import find_rows
from .shared_reads import SharedReads

logger = logging.getLogger(__name__)


def resolve_tasks(
    tasks: Sequence[TaskSpec],
    *,
    rows: Mapping[str, GivenRows] | None = None,
    heads: Mapping[str, HeadSpec] | None = None,
    reads: SharedReads | None = None,
) -> list[TaskSpec]:
    """The tasks with names, or a range, in place of "auto"; the log says which, and where from.

    A task that a saved model has a head for keeps the labels of this head: a name never changes its index. Else
    they are those of the training rows: the names of a `ClassLabel` in its order, or the different names, sorted; for a
    range, the smallest and the largest value. Tasks without "auto" come back as they are, and their rows are not read.

    Args:
        tasks: from `load_tasks` or made in Python.
        rows: as in `load_task_data`.
        heads: task -> head of the model that is trained on, resumed or evaluated, such as `model.config.heads`.
        reads: keeps what is read for `load_task_data`, which takes the same one.

    Raises:
        InputError: for "auto" without training rows and without a saved head, and where the rows have too few labels.
    """
    tasks = check_tasks(tasks, resolved=False)
    given = rows_of_tasks(rows, tasks)
    reads = reads or SharedReads(tasks, given)
    return [_resolved(spec, given.get(spec.name), heads or {}, reads) if spec.is_auto else spec for spec in tasks]


def _resolved(spec: TaskSpec, given: GivenRows | None, heads: Mapping[str, HeadSpec], reads: SharedReads) -> TaskSpec:
    key, head = "labels" if spec.labels == AUTO else "label_range", heads.get(spec.name)
    is_written = False  # in cells, rather than declared
    if head is not None and head.kind == spec.kind and getattr(head, key) is not None:
        value, origin = tuple(getattr(head, key)), "the saved model"
    else:
        source = spec if given is None else without_source(spec)
        found = _found(source, key, given, reads)
        value, origin = getattr(found, key), f"the training rows of {source_of(source, 'train')}"
        is_written = not found.of_class_label
        if found.of_class_label:
            origin = f"the ClassLabel of column {spec.label_column!r} in {origin}"
    values: dict[str, Any] = {key: value}
    try:
        known = dataclasses.replace(spec, **values)
    except InputError as error:
        columns = ", ".join(map(repr, spec.columns_of_labels))
        raise InputError(f"{error}; {key} is {AUTO!r}, and this is from column {columns} of {origin}") from error
    what = "labels are" if key == "labels" else "label_range is"
    logger.info("task %s: %s %s, from %s", spec.name, what, listed(value), origin)
    for doubt in doubts(known.names) if is_written else ():
        logger.warning("task %s: %s", spec.name, doubt)
    return known


def _found(spec: TaskSpec, key: str, given: GivenRows | None, reads: SharedReads) -> FoundLabels:
    """What the training rows have whose texts can be used; InputError where there are no training rows."""
    train = find_rows(spec, "train", given, reads)
    if train is None:
        there = ", ".join(map(repr, split_names(spec) if given is None else given)) or "none"
        raise InputError(
            f"task {spec.name!r}: {key} is {AUTO!r}, which the training rows tell, and there is no split 'train', only "
            f"{there}; write {key} into the task, or name a saved model that has its head"
        )
    rows = train.rows
    if train.without_text:
        rows = selected(rows, [row for row in range(len(rows)) if row not in train.without_text])
    return find_labels(spec, rows)


def without_source(spec: TaskSpec) -> TaskSpec:
    """A task whose rows were given, without the dataset or the files that are not read."""
    return dataclasses.replace(spec, dataset=None, config=None, files={})
