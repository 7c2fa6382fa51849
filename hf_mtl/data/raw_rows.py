"""Raw rows of a task: read from wherever they are, and checked before anything is built on them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from ..errors import InputError
from ..tasks.column_slices import array_slices
from ..tasks.columns import Columns, TextFaults, read_files
from ..tasks.demo import demo_rows
from ..tasks.label_column import with_classes
from ..tasks.labels import bad_labels, missing_labels
from ..tasks.row_errors import (
    SKIP_MISSING,
    RowErrors,
    files_of,
    place_of,
    raise_first,
    selected,
    set_files,
    source_of,
)
from ..tasks.sources import find_files
from ..tasks.spec import EMBEDDED, SPLITS, TaskSpec
from ..tasks.split_names import takes_slices
from ..tasks.tag_column import OF_LISTS
from ..tasks.text_files import columns_but
from .cut_rows import PARTS, check_uncut, cut_rows, sample_rows
from .data_splits import Splits, find_splits
from .memory_rows import GivenRows
from .shared_reads import SharedReads
from .slices import sliced

logger = logging.getLogger(__name__)
ON_BAD_ROW = ("error", "skip")
LISTED = 20  # bad rows whose fault is spelled out


class FoundRows(NamedTuple):
    """The rows of a split as they are, bad ones too.

    Attributes:
        rows: all of them.
        without_text: row -> what is wrong with its texts.
        source: the same object for tasks that read their texts from the same table, row by row.
    """

    rows: Dataset
    without_text: RowErrors
    source: Dataset


class SplitRows(NamedTuple):
    """The rows of a split that are a task's.

    Attributes:
        rows: the task's own.
        source: see `FoundRows`.
        places: where the task's rows are among those of `source`; None where all are its own. *Shape:* (rows,)
        unlabelled: rows of `source` that `missing_label: skip` leaves to other tasks; 0 for a validation split that is
            cut off, as they are the training split's.
    """

    rows: Dataset
    source: Dataset
    places: NDArray[np.int64] | None
    unlabelled: int = 0

    def at(self, places: NDArray[np.int64]) -> SplitRows:
        """Those of the rows that are at these places among them."""
        of_source = places if self.places is None else self.places[places]
        return self._replace(rows=selected(self.rows, places), places=of_source)


def load_rows(spec: TaskSpec, split: str, on_bad_row: str = "error", given: GivenRows | None = None) -> Dataset | None:
    """The raw rows of one split ("train", "validation" or "test"), or None when the task has no such split.

    See `read_splits`. Where `missing_label` is "skip", they are those that have a label, but in "test".

    Args:
        spec: the task.
        split: of it.
        on_bad_row: what to do with a row that has no text or a label that the task does not declare: "error", or
            "skip", which counts and lists them. In "test" every row has to be sound: predictions are numbered.
        given: split -> rows in memory, of a task without dataset and files.

    Raises:
        InputError: when the data cannot be loaded, `splits` names one that is not there, the split is empty, a
            declared text column is missing or no text, a row is bad, or none has a label; bad labels are left to
            `read_labels` unless rows are skipped.
    """
    found = read_splits(spec, (split,), on_bad_row, given)
    return found[split].rows if split in found else None


def read_splits(
    spec: TaskSpec,
    splits: Sequence[str],
    on_bad_row: str = "error",
    given: GivenRows | None = None,
    reads: SharedReads | None = None,
) -> dict[str, SplitRows]:
    """Split -> its raw rows, of the splits that the task has, with what it cuts off and samples.

    Args:
        spec: see `load_rows`.
        splits: some of "train", "validation" and "test".
        on_bad_row: see `load_rows`.
        given: see `load_rows`.
        reads: of all tasks that are read; those that read alike share a table.

    Raises:
        InputError: as `load_rows`; and where validation rows cannot be cut off, such as for a bad label.
    """
    assert set(splits) <= set(SPLITS) and on_bad_row in ON_BAD_ROW
    reads, is_cut = reads or SharedReads(), spec.validation_fraction is not None
    if is_cut:
        check_uncut(spec, _splits_of(spec, reads) if given is None else given)
    whole: dict[str, SplitRows | None] = {}
    parts: dict[str, NDArray[np.int64]] = {}
    found: dict[str, SplitRows] = {}
    for split in splits:
        own = "train" if is_cut and split in PARTS else split
        if own not in whole:
            whole[own] = _read_whole(spec, own, on_bad_row, given, reads)
        rows = whole[own]
        if rows is None:
            continue
        if is_cut and split in PARTS:
            parts = parts or cut_rows(spec, rows.rows)
            rows = rows.at(parts[split])._replace(unlabelled=rows.unlabelled if split == own else 0)
        sample = sample_rows(spec, split, rows.rows)
        found[split] = rows if sample is None else rows.at(sample)
    return found


def _read_whole(
    spec: TaskSpec, split: str, on_bad_row: str, given: GivenRows | None, reads: SharedReads
) -> SplitRows | None:
    """The rows of a split of the data that are the task's, before it cuts off and samples."""
    found = find_rows(spec, split, given, reads)
    if found is None:
        return None
    rows, bad, others = found.rows, found.without_text, np.zeros(len(found.rows), dtype=bool)
    if spec.missing_label == "skip" and split != "test":
        others = _rows_of_others(spec, rows, split)
    unlabelled = int(others.sum())
    if (others.any() or on_bad_row == "skip") and split != "test":
        if set(spec.columns_of_labels) <= set(rows.column_names):
            own = np.flatnonzero(~others)  # of rows that are others', the faults would take 100 bytes each
            found_bad = bad_labels(spec, selected(rows, own) if others.any() else rows, split)
            bad = {**{int(own[row]): fault for row, fault in found_bad.items()}, **bad}
        bad = {row: fault for row, fault in bad.items() if not others[row]}
    if on_bad_row == "skip" and split != "test":
        _say_what_is_skipped(spec, rows, split, bad, int((~others).sum()))
        others[list(bad)] = True
    else:
        raise_first(spec, rows, split, bad)
    whole = SplitRows(rows, found.source, None, unlabelled)
    return whole.at(np.flatnonzero(~others)) if others.any() else whole


def _rows_of_others(spec: TaskSpec, rows: Dataset, split: str) -> NDArray[np.bool_]:
    """Which rows have no label, and are left to other tasks by `missing_label: skip`; says how many have one.

    *Shape:* (rows,)

    Raises:
        InputError: where no row has a label.
    """
    missing = missing_labels(spec, rows, split)
    where, num_labelled = f"task {spec.name!r}, split {split!r}", len(rows) - int(missing.sum())
    if not num_labelled:
        columns = ", ".join(map(repr, spec.columns_of_labels))
        raise InputError(
            f"{where}: none of the {len(rows)} rows of {source_of(spec, split)} has a label in column {columns}, and "
            "missing_label is 'skip'; wanted one with a label"
        )
    logger.info("%s: %d of %d rows have a label", where, num_labelled, len(rows))
    return missing


def find_rows(spec: TaskSpec, split: str, given: GivenRows | None, reads: SharedReads) -> FoundRows | None:
    """The rows of a split with their texts checked; None where the task has no such split.

    Raises:
        InputError: see `load_rows`; not for bad rows.
    """
    found = _load(spec, split, given, reads)
    if found is None:
        return None
    rows, faults, source = found
    where = f"task {spec.name!r}, split {split!r}"
    if len(rows) == 0:
        raise InputError(f"{where}: the split is empty, wanted at least one row")
    for column in spec.text_columns:
        if column not in rows.column_names:
            raise InputError(f"{where}: no column {column!r}; {columns_but(column, rows.column_names)}")
        if not _holds_text(rows.features[column], words=column not in spec.string_columns):
            wanted = "text" if column in spec.string_columns else f"lists of words; {OF_LISTS}"
            raise InputError(f"{where}: column {column!r} is {rows.features[column]}, wanted {wanted}")
    no_strings = {row: (fault, "") for (row, column), fault in faults.items() if column in spec.text_columns}
    return FoundRows(rows, {**_rows_without_text(spec, rows), **no_strings}, source)


def _holds_text(feature: Any, *, words: bool) -> bool:
    """Whether a column has strings, or lists of them."""
    if words:
        feature = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return getattr(feature, "dtype", None) in ("string", "large_string")


def all_splits(spec: TaskSpec) -> dict[str, Dataset]:
    """The rows of every split under the data's own name, whatever columns they have.

    Raises:
        InputError: when the data cannot be loaded.
    """
    found = {}
    for split, rows in find_splits(spec).items():
        try:
            if not isinstance(rows, Dataset):
                paths = find_files(spec.files, split) if spec.files else rows.paths
                rows, *_ = read_files(paths, Columns(()))
            found[split] = rows
        except ValueError as error:
            raise InputError(f"cannot load {error}") from error
    return found


def _rows_without_text(spec: TaskSpec, rows: Dataset) -> RowErrors:
    """Row -> what is wrong with it."""
    return {
        start + row: (f"column {column!r} {fault}", "")
        for column in spec.text_columns
        for start, cells in array_slices(rows, column)
        if cells.null_count or column not in spec.string_columns
        for row, text in enumerate(cells.to_pylist())
        if (fault := _fault(text))
    }


def _fault(text: str | list[str | None] | None) -> str | None:
    """What a text, or a list of words, lacks."""
    if isinstance(text, list):
        return ("has null among its words" if None in text else None) if text else "has no words"
    return "has no text" if text is None else None


def _say_what_is_skipped(spec: TaskSpec, rows: Dataset, split: str, bad: RowErrors, num_rows: int) -> None:
    """Say which of the rows are bad; InputError where all `num_rows` of the task are."""
    if not bad:
        return
    where, files = f"task {spec.name!r}, split {split!r}", len(files_of(rows))
    source = place_of(spec, rows, split, 0)[0] if files < 2 else f"{files} files"
    listed = []
    for row in sorted(bad)[:LISTED]:
        path, number = place_of(spec, rows, split, row)
        listed.append(
            f"row {number}{f' of {path}' if files > 1 else ''}: {''.join(bad[row]).removesuffix(SKIP_MISSING)}"
        )
    if len(bad) == num_rows:
        raise InputError(f"{where}: none of the {num_rows} rows of {source} can be used; {listed[0]}")
    more = f"; and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
    message = "%s: %d of %d rows of %s skipped (the first row is 0): %s%s"
    logger.warning(message, where, len(bad), num_rows, source, "; ".join(listed), more)


def _load(
    spec: TaskSpec, split: str, given: GivenRows | None, reads: SharedReads
) -> tuple[Dataset, TextFaults, Dataset] | None:
    """The rows of a split, what is wrong with the texts of which, and `FoundRows.source`; None without such a split."""
    own_name = spec.splits.get(split, split)
    if spec.dataset == EMBEDDED and own_name in SPLITS:
        rows = Dataset.from_dict(demo_rows(str(spec.config), own_name))
        return rows, {}, rows
    splits = _splits_of(spec, reads) if given is None else given
    if takes_slices(own_name, splits):
        rows, faults = sliced(spec, split, lambda own: _load(own, split, given, reads))
        return rows, faults, rows
    if own_name not in splits:
        if split in spec.splits:
            raise InputError(
                f"task {spec.name!r}: splits names {own_name!r} for {split!r}, and there is none; the splits are "
                f"{', '.join(splits)}"
            )
        return None
    found = splits[own_name]
    if given is not None:
        try:
            rows, faults, _ = reads.memory(spec, found)
        except InputError as error:
            raise InputError(f"task {spec.name!r}, split {split!r}: {error}") from error
        return rows, faults, rows
    if isinstance(found, Dataset):
        return found, {}, found
    try:
        paths = find_files(spec.files, own_name) if spec.files else found.paths
        source, faults, first_rows = reads.files(spec, paths)
        rows = source
        if spec.label_column in found.classes.keys() & set(rows.column_names):
            rows = with_classes(rows, spec.label_column, found.classes[spec.label_column])
        return set_files(rows, first_rows), faults, source
    except ValueError as error:
        raise InputError(f"task {spec.name!r}: cannot load {error}") from error


def _splits_of(spec: TaskSpec, reads: SharedReads) -> Splits:
    """What `find_splits` gives, found once for all tasks of one dataset."""
    if spec.dataset is None:
        return find_splits(spec)
    return reads.once(("splits", spec.dataset, spec.config, *sorted(spec.splits.items())), lambda: find_splits(spec))
