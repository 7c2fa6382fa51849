"""What `labels: auto` and `label_range: auto` stand for: the names, or the borders, that training rows have."""

from __future__ import annotations

import datetime
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from datasets import ClassLabel, Dataset

from .cells import is_missing, listed, number_of
from .label_column import read_values

NO_LABELS = ("None", "NULL", "N/A", "<NA>", "#N/A")  # as tools write them; some people call a class so


class FoundLabels(NamedTuple):
    """What was found in the rows of a task.

    Attributes:
        labels: the names in the order of their indices; None of a kind that has values.
        label_range: the lowest and the highest value; None of a kind that has names, and where there is no value.
        of_class_label: whether the data declares the names, in their order.
    """

    labels: tuple[str, ...] | None = None
    label_range: tuple[float, float] | None = None
    of_class_label: bool = False


def found_names(feature: Any, cells: Iterable[Any]) -> FoundLabels:
    """Those of a `ClassLabel`, in its order; else the different ones that cells have, sorted.

    They are sorted by number where each of them spells one, else as texts, by code points.

    Args:
        feature: of each cell.
        cells: any. What is missing, or can be no name, such as a list, is passed over.
    """
    if isinstance(feature, ClassLabel):
        return FoundLabels(tuple(feature.names), of_class_label=True)
    different = {name for cell in cells if (name := _name_of(cell)) is not None}
    # Of names that look alike, the one that is first in the order of texts.
    seen: dict[str, str] = {}
    for name in sorted(different):
        seen.setdefault(unicodedata.normalize("NFC", name), name)
    numbers = {name: number for name in seen.values() if (number := number_of(name)) is not None}
    if len(numbers) < len(seen):
        return FoundLabels(tuple(sorted(seen.values())))
    return FoundLabels(tuple(sorted(numbers, key=lambda name: (numbers[name], name))))


def doubts(names: Sequence[str]) -> list[str]:
    """What is odd about names that cells have: those that are probably one class, or none."""
    alike: dict[str, Callable[[str], Hashable]] = {
        "differ in case alone": str.casefold,
        "spell the same number": number_of,
        "differ in characters alone that nobody sees": _visible,
    }
    found = []
    for what, key in alike.items():
        counts = Counter(map(key, names))
        if twice := [name for name in names if key(name) is not None and counts[key(name)] > 1]:
            found.append(f"these labels {what}, and are classes of their own: {listed(twice)}")
    if missing := [name for name in names if name in NO_LABELS]:
        found.append(
            f"these labels are classes: {listed(missing)}; where they mean that there is no label, empty their cells "
            "and write missing_label: skip, or write labels without them and train with --on_bad_row skip"
        )
    return found


def _visible(name: str) -> str:
    """A name without characters of no width, such as a zero-width space or a byte order mark."""
    return "".join(character for character in name if unicodedata.category(character) != "Cf")


def found_range(rows: Dataset, column: str) -> FoundLabels:
    """The smallest and the largest number in a column."""
    values = read_values(rows, column, (-math.inf, math.inf)).values
    if np.isnan(values).all():
        return FoundLabels()
    return FoundLabels(label_range=(float(np.nanmin(values)), float(np.nanmax(values))))


def _name_of(cell: Any) -> str | None:
    """The class that a cell names: a text without the blanks around it, a number or a truth value as JSON has it."""
    if is_missing(cell):
        return None
    if isinstance(cell, bytes):
        try:
            cell = cell.decode()
        except UnicodeDecodeError:
            return None
    if isinstance(cell, str):
        return cell.strip()
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, datetime.date | datetime.time):
        return str(cell)
    number = number_of(cell)
    return None if number is None else str(int(number)) if number == int(number) else repr(float(number))
