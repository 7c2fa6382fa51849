"""What the key `splits` of a task names: a split of the data, or slices of splits as `datasets` writes them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from datasets import ReadInstruction

from ..errors import InputError

Slice = tuple[str, int, int]  # a split of the data, its first row, and the row after its last one
EXAMPLE = "train[:90%], train[-1000:] or train+extra"


def check_slices(task: str, splits: Mapping[str, str]) -> None:
    """Raise InputError for what has the brackets of a slice and is none."""
    for split, name in splits.items():
        if "[" in name:
            try:
                ReadInstruction.from_spec(name)
            except ValueError as error:
                reason = "" if str(error).startswith("Unrecognized") else f": {error}"
                raise InputError(
                    f"task {task!r}: splits has {name!r} for {split!r}, which is no slice of a split{reason}; wanted "
                    f"one such as {EXAMPLE}"
                ) from error


def own_splits(name: str) -> list[str]:
    """The splits of the data that a value of `splits` takes slices of; itself where it takes none."""
    try:
        ReadInstruction.from_spec(name)
    except ValueError:
        return [name]
    return [re.split(r"[\[(]", part)[0].strip() for part in name.split("+")]


def takes_slices(name: str, there: Collection[str]) -> bool:
    """Whether a value of `splits` takes slices of splits that are there, and is the name of none."""
    return name not in there and set(own_splits(name)) <= set(there)


def slices_of(name: str, num_rows: Mapping[str, int]) -> list[Slice]:
    """The slices that a value of `splits` is, one after the other, rounded as `datasets` rounds.

    Args:
        name: the value.
        num_rows: of every split of the data that it takes a slice of.

    Raises:
        ValueError: where `datasets` refuses it, such as for too few rows.
    """
    parts = ReadInstruction.from_spec(name).to_absolute(dict(num_rows))
    return [(part.splitname, part.from_, max(part.from_, part.to)) for part in parts]
