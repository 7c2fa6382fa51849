"""What is odd about the rows of a task, told before it is trained: labels that nobody can learn, rows in two splits."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, islice
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from ..tasks.column_slices import AT_ONCE
from ..tasks.kinds import kind_of
from ..tasks.labels import has_label
from ..tasks.row_errors import place_of
from ..tasks.spec import TaskSpec
from .cuts import text_hashes
from .raw_rows import SplitRows

logger = logging.getLogger(__name__)
LISTED = 10  # labels in a message
LONGEST = 60  # characters of a text in a message

LabelledRows = tuple[SplitRows, NDArray[Any]]  # raw rows and their checked labels


def say_what_is_odd(tasks: Sequence[TaskSpec], rows: Mapping[str, Mapping[str, LabelledRows]]) -> None:
    """Warn of labels without a training row, and of rows that are in two splits.

    Args:
        tasks: whose rows they are.
        rows: task -> split -> raw rows and labels.
    """
    for spec in tasks:
        splits = rows[spec.name]
        if "train" in splits:
            _say_what_is_never_trained(spec, {split: labels for split, (_, labels) in splits.items()})
        for one, other in combinations(splits, 2):
            _say_what_is_shared(spec, (one, splits[one][0].rows), (other, splits[other][0].rows))


def _say_what_is_never_trained(spec: TaskSpec, labels: Mapping[str, NDArray[Any]]) -> None:
    """Name the declared labels that no training row has, and how many rows of other splits have them."""
    counts = {split: _counts(spec, found) for split, found in labels.items()}
    unseen = [name for name in spec.labels or () if counts["train"].get(name) == 0]
    if not unseen:
        return
    others = {split: sum(found.get(name, 0) for name in unseen) for split, found in counts.items() if split != "train"}
    elsewhere = ", ".join(f"{number:,} in {split!r}" for split, number in others.items() if number)
    more = f" and {len(unseen) - LISTED} more" if len(unseen) > LISTED else ""
    logger.warning(
        "task %r: no training row has the label %s%s, which cannot be learned; %s",
        spec.name,
        ", ".join(map(repr, unseen[:LISTED])),
        more,
        f"there are {elsewhere}" if elsewhere else "no other row has it either",
    )


def _counts(spec: TaskSpec, labels: NDArray[Any]) -> Mapping[str, int]:
    """Declared label -> how often it is there."""
    there = has_label(labels)
    if there.all():
        return kind_of(spec).describe(spec, labels)
    return kind_of(spec).describe(spec, labels[there]) if there.any() else {}


def _say_what_is_shared(spec: TaskSpec, one: tuple[str, Dataset], other: tuple[str, Dataset]) -> None:
    """Count the rows of the second of two splits whose texts the first has too."""
    (known, known_rows), (split, rows) = one, other
    hashes, known_texts = text_hashes(_texts(spec, rows)), _texts(spec, known_rows)
    different, common = np.unique(hashes), np.zeros(0, dtype=np.uint64)
    while len(some := text_hashes(islice(known_texts, AT_ONCE))):
        common = np.union1d(common, np.intersect1d(some, different))
    shared = np.flatnonzero(np.isin(hashes, common)).tolist()
    if not shared:
        return
    first = " | ".join(str(rows[shared[0]][column]) for column in spec.text_columns)
    source, number = place_of(spec, rows, split, shared[0])
    logger.warning(
        "task %r: %s of the %s rows of %r have texts that rows of %r have too, such as row %d (the first row is 0) of "
        "%s, %r",
        spec.name,
        f"{len(shared):,}",
        f"{len(rows):,}",
        split,
        known,
        number,
        source,
        first if len(first) <= LONGEST else f"{first[: LONGEST - 3]}...",
    )


def _texts(spec: TaskSpec, rows: Dataset) -> Iterator[tuple[str, ...]]:
    """What is read of each row."""
    for batch in rows.select_columns(list(dict.fromkeys(spec.text_columns))).iter(batch_size=1000):
        yield from map(tuple, kind_of(spec).texts(spec, batch))
