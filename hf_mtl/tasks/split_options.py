"""Checks of the keys that say which rows a split has: a share cut off as validation rows, and the most rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..errors import InputError, unknown_name_error
from ..validation import check_number

SAMPLED = ("train", "validation")  # predictions of "test" are numbered by row


def check_split_options(
    task: str,
    splits: Collection[str],
    validation_fraction: object,
    group_column: object,
    max_rows: object,
) -> None:
    """Raise InputError for a value that cannot be used.

    Args:
        task: its name.
        splits: those that the task names.
        validation_fraction: of the training rows.
        group_column: of the rows.
        max_rows: split -> number.
    """
    where = f"task {task!r}: "
    if validation_fraction is not None:
        wanted = "a share of the training rows, above 0 and below 1"
        check_number(f"{where}validation_fraction", validation_fraction, wanted, lambda x: 0 < x < 1)
        if "validation" in splits:
            raise InputError(
                f"{where}validation_fraction cuts validation rows off the training rows, and the task names a split "
                "'validation'; wanted one of the two"
            )
    if group_column is not None:
        if not isinstance(group_column, str) or not group_column:
            raise InputError(f"{where}group_column is {group_column!r}, wanted the name of a column")
        if validation_fraction is None:
            raise InputError(
                f"{where}group_column is {group_column!r}, and no validation_fraction is there that it would group"
            )
    if not isinstance(max_rows, Mapping):
        raise InputError(f"{where}max_rows is {max_rows!r}, wanted split: number of rows, e.g. {{train: 10000}}")
    for split, number in max_rows.items():
        if split == "test":
            raise InputError(
                f"{where}max_rows has 'test', whose predictions are numbered by row; wanted {' or '.join(SAMPLED)}"
            )
        if split not in SAMPLED:
            raise unknown_name_error(f"split in max_rows of task {task!r}:", split, SAMPLED)
        wanted = "a whole number of rows, 1 or more"
        check_number(f"{where}max_rows of {split!r}", number, wanted, lambda x: x >= 1 and x == int(x))
