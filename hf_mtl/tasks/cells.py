"""Cells of a table: the numbers and truth values that they are or spell, what is missing, and words for messages."""

from __future__ import annotations

import ast
import datetime
import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

Number = int | float

MISSING = ("", "NA", "NaN", "nan", "null")
_INTEGER = re.compile(r"[+-]?[0-9]{1,300}")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_TRUTHS = {"true": True, "false": False}
LONGEST = 80  # characters of a cell in a message
LISTED = 20  # names in a message


def is_missing(cell: Any) -> bool:
    """Whether a cell says that there is nothing: null, NaN, or one of the texts in `MISSING`."""
    if isinstance(cell, str):
        return cell.strip() in MISSING
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def number_of(cell: Any) -> Number | None:
    """The finite number that a cell is or spells; None where it is none, as a truth value, a date or a list.

    A text spells a number with the digits 0 to 9, a point and an exponent: "3.5", " 1e3 ", but not "2,5", "1_000",
    "50%" or "inf". Whole numbers are exact, up to 300 digits.
    """
    if isinstance(cell, str):
        return _spelled(cell.strip())
    if isinstance(cell, Decimal) and cell.is_finite():
        return int(cell) if cell == cell.to_integral_value() else float(cell)
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return None
    return cell if math.isfinite(cell) else None


def _spelled(text: str) -> Number | None:
    if _INTEGER.fullmatch(text):
        return int(text)
    value = float(text) if _DECIMAL.fullmatch(text) else math.inf
    return value if math.isfinite(value) else None


def truth_of(cell: Any) -> bool | None:
    """The truth value that a cell is or spells; None where it is none."""
    if isinstance(cell, str):
        return _TRUTHS.get(cell.strip().lower())
    return cell if isinstance(cell, bool) else None


def spells_list(value: Any, of: type | tuple[type, ...] = str) -> bool:
    """Whether a cell is a text that Python or JSON would read as a list, as pandas writes one into csv.

    Args:
        value: the cell.
        of: what is in the list.
    """
    if not isinstance(value, str) or not (value.startswith("[") and value.endswith("]")):
        return False
    try:
        items = ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return bool(items) and all(isinstance(item, of) for item in items)


def shown(cell: Any) -> str:
    """A cell for a message, as it was written."""
    text = str(cell) if isinstance(cell, Decimal | datetime.date | datetime.time) else repr(cell)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def listed(values: Sequence[Any]) -> str:
    """The first of some values for a message, and how many more there are."""
    more = f" and {len(values) - LISTED} more" if len(values) > LISTED else ""
    return f"{', '.join(map(repr, values[:LISTED]))}{more}"
