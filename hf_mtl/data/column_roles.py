"""What the columns of a table seem to be: texts, classes, numbers, lists of labels, or nothing to learn from."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel

from ..tasks.cells import is_missing, number_of, spells_list
from ..tasks.label_column import item_feature
from ..tasks.label_sets import OF_LISTS

SAMPLE = 2000  # rows that tell what a column's texts are like
MOST_CLASSES = 50
MOST_NUMBERED_CLASSES = 20
MARKS = "|;,"  # between several labels in one cell
IDENTIFIER = re.compile(
    r"(?i)(.*[_ ])?(id|idx|index|guid|uuid|key|row|url|link|path|file|filename)|unnamed.*|__index.*"
)
DECIMAL_COMMA = re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?")
TIME = re.compile(r"\d{4}-\d\d?-\d\d?\b.*|\d\d?[/.]\d\d?[/.]\d{2,4}\b.*")


@dataclass(frozen=True)
class Column:
    """A column and what it seems to be.

    Attributes:
        name: of the column.
        role: "text", "classes", "numbers", "labels" (lists of them), "delimited" (labels in a text), "words" (lists of
            strings, of many kinds), or "other".
        reason: why, for people.
        names: of classes or labels, in their order.
        numbered: whether these are whole numbers.
        bounds: lowest and highest of numbers.
        mark: what stands between the labels of a text.
        num_missing: cells that say nothing.
        num_words: on average, of a text.
    """

    name: str
    role: str
    reason: str
    names: tuple[str, ...] = ()
    numbered: bool = False
    bounds: tuple[float, float] | None = None
    mark: str | None = None
    num_missing: int = 0
    num_words: float = 0.0


def role_of(name: str, feature: Any, cells: Sequence[Any]) -> Column:
    """What a column seems to be, judged by its name, its type and its cells."""
    if isinstance(cells[0] if cells else None, dict):
        return Column(name, "other", "its cells have parts of their own")
    there = [cell for cell in cells if not _says_nothing(cell)]
    missing = len(cells) - len(there)
    if not there:
        return Column(name, "other", "it is empty", num_missing=missing)
    if isinstance(there[0], list):
        return _of_lists(name, item_feature(feature), there, missing)
    if isinstance(feature, ClassLabel):
        missing = len(cells) - sum(cell >= 0 for cell in there)
        if missing == len(cells):
            return Column(name, "other", "no row has one of its classes", num_missing=missing)
        return Column(name, "classes", "the data names its classes", tuple(feature.names), num_missing=missing)
    if all(isinstance(cell, bool) for cell in there):
        return Column(name, "classes", "true or false", ("false", "true"), num_missing=missing)
    numbers = [number_of(cell) for cell in there]
    found = [number for number in numbers if number is not None]
    if len(found) == len(numbers):
        return _of_numbers(name, found, missing)
    if all(isinstance(cell, str) for cell in there):
        return _of_texts(name, there, missing)
    return Column(name, "other", f"its cells are {feature}", num_missing=missing)


def _says_nothing(cell: Any) -> bool:
    return cell is None if isinstance(cell, list) else is_missing(cell)


def _of_numbers(name: str, values: Sequence[float], missing: int) -> Column:
    whole, counts = all(value == int(value) for value in values), Counter(values)
    low, high = min(counts), max(counts)
    if whole and len(counts) == len(values) > 2 and (IDENTIFIER.fullmatch(name) or high - low == len(counts) - 1):
        return Column(name, "other", "it numbers the rows", num_missing=missing)
    if len(counts) == 1:
        return Column(name, "other", f"all rows have {low:g}", num_missing=missing)
    are_classes = whole and len(counts) <= MOST_NUMBERED_CLASSES and len(counts) <= max(2, len(values) // 3)
    if are_classes and not IDENTIFIER.fullmatch(name):
        names = tuple(str(int(value)) for value in sorted(counts))
        reason = f"{len(names)} whole numbers"
        return Column(name, "classes", reason, names, numbered=True, bounds=(low, high), num_missing=missing)
    if IDENTIFIER.fullmatch(name):
        return Column(name, "other", "its name is that of an identifier", num_missing=missing)
    return Column(name, "numbers", f"numbers from {low:g} to {high:g}", bounds=(low, high), num_missing=missing)


def _of_texts(name: str, cells: Sequence[str], missing: int) -> Column:
    counts, sample = Counter(map(_class_name, cells)), cells[:: max(1, len(cells) // SAMPLE)]
    num_words = sum(len(cell.split()) for cell in sample) / len(sample)
    most = max(2, len(cells) // 3)
    if len(counts) == 1:
        return Column(name, "other", "all rows have the same", num_missing=missing)
    if all(TIME.fullmatch(cell.strip()) for cell in sample):
        return Column(name, "other", "dates or times", num_missing=missing)
    if all(map(DECIMAL_COMMA.fullmatch, counts)) and any("," in cell for cell in counts):
        return Column(name, "other", "numbers with a decimal comma; wanted a point, as in 2.5", num_missing=missing)
    if all(cell[0] == "[" and cell[-1] == "]" for cell in counts) and any(spells_list(c, (str, int)) for c in counts):
        return Column(name, "other", f"it has texts of lists{OF_LISTS}", num_missing=missing)
    if (mark := _mark(counts, most)) is not None:
        pieces = sorted({piece.strip() for cell in counts for piece in cell.split(mark) if piece.strip()})
        reason = f"{len(pieces)} different texts with {mark!r} between"
        return Column(name, "delimited", reason, tuple(pieces), mark=mark, num_missing=missing)
    if len(counts) <= min(MOST_CLASSES, most) and num_words <= 4:
        reason = f"{len(counts)} different texts in {len(cells):,} rows"
        return Column(name, "classes", reason, tuple(sorted(counts)), num_missing=missing)
    if IDENTIFIER.fullmatch(name) and num_words < 1.5:
        return Column(name, "other", "its name is that of an identifier", num_missing=missing)
    return Column(name, "text", f"{num_words:.0f} words on average", num_missing=missing, num_words=num_words)


def _class_name(cell: Any) -> Any:
    """What the class is called that a cell names; see `found_names`."""
    return unicodedata.normalize("NFC", cell.strip()) if isinstance(cell, str) else cell


def _mark(cells: Counter[str], most: int) -> str | None:
    """What stands between the labels in the cells of a column; None where they are no lists of labels."""
    for mark in MARKS:
        parted = [[piece.strip() for piece in cell.split(mark)] for cell in cells]
        pieces = Counter(piece for part in parted for piece in set(part) if piece)
        is_short = all(len(piece.split()) <= 3 for piece in pieces)
        come_again = max(pieces.values(), default=0) > 1 and len(pieces) <= min(len(cells), MOST_CLASSES, most)
        if is_short and come_again and any(len(part) > 1 for part in parted):
            return mark
    return None


def _of_lists(name: str, item: Any, cells: Sequence[list[Any]], missing: int) -> Column:
    flat = [each for cell in cells for each in cell]
    if isinstance(item, ClassLabel):
        return Column(name, "labels", "lists of classes that the data names", tuple(item.names), num_missing=missing)
    if not flat or not all(isinstance(each, str | int) and not isinstance(each, bool) for each in flat):
        return Column(name, "other", "its lists are neither of texts nor of indices", num_missing=missing)
    counts = Counter(each for each in map(_class_name, flat) if each != "")
    if len(counts) <= MOST_CLASSES and len(counts) <= max(2, len(flat) // 3):
        numbered = all(isinstance(each, int) for each in counts)
        names = tuple(map(str, range(max(counts) + 1) if numbered and min(counts) >= 0 else sorted(counts, key=str)))
        reason = f"lists of {len(names)} different labels"
        return Column(name, "labels", reason, names, numbered=numbered, num_missing=missing)
    if all(isinstance(each, str) for each in flat):
        return Column(name, "words", "lists of words", num_missing=missing, num_words=len(flat) / len(cells))
    return Column(name, "other", "its lists are of too many different numbers", num_missing=missing)
