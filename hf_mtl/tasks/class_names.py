"""The names of a task's classes: which can be used, and which class a cell of a table means."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, TypeVar

from ..errors import InputError
from .cells import Number, number_of, truth_of

Key = TypeVar("Key", bound=Hashable)

_WORDS = {"yes": True, "no": False}  # as names of classes, beside "true" and "false"
_LINE_BREAKING = ("Cc", "Zl", "Zp")  # Unicode's categories of control characters, line and paragraph separators
_SURROGATE = "Cs"


def check_class_names(task: str, labels: Sequence[str]) -> None:
    """Raise InputError for names that a line of a file cannot hold, or that cannot be told apart."""
    if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
        raise InputError(f"task {task!r}: labels is {labels!r}, wanted a list of texts")
    for label in labels:
        if not label.strip():
            raise InputError(f"task {task!r}: labels has the name {label!r}, wanted one that can be seen")
        if any(unicodedata.category(character) in (*_LINE_BREAKING, _SURROGATE) for character in label):
            raise InputError(
                f"task {task!r}: labels has the name {label!r}; a tab, a line end or another control character cannot "
                "be part of a class's name, which stands in a line of predictions"
            )
    if len(set(map(_trimmed, labels))) < len(labels):
        raise InputError(f"task {task!r}: labels is {list(labels)}, wanted names that look different from each other")


class ClassNames:
    """Which class a cell means.

    It means the class whose name it is; failing that, the one whose name it is but for blanks around it or Unicode's
    forms; failing that, the one whose name it is but for these or case; failing that, the one whose name spells the
    same number or truth value. Where two are meant by the same step, the cell means none. Where no name spells a
    number, a number is an index, and a truth value is one of two classes.

    Args:
        labels: the names, in the order of their indices.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels
        truths = ((truth_of_name(label), index) for index, label in enumerate(labels))
        numbers = ((number_of(label), index) for index, label in enumerate(labels))
        # What each step finds; None where it finds two.
        self._exact = {label: index for index, label in enumerate(labels)}
        self._same = _unless_two((_trimmed(label), index) for index, label in enumerate(labels))
        self._loose = _unless_two((_loose(label), index) for index, label in enumerate(labels))
        self._truths = _unless_two((truth, index) for truth, index in truths if truth is not None)
        self._numbers = _unless_two((number, index) for number, index in numbers if number is not None)

    def by_name(self, cell: Any) -> int | None:
        """The index of the class that a cell names, None where it names none."""
        if isinstance(cell, str):
            if cell in self._exact:
                return self._exact[cell]
            if (same := self._same.get(_trimmed(cell))) is not None:
                return same
            if _loose(cell) in self._loose:
                return self._loose[_loose(cell)]
        truth = truth_of(cell)
        if truth is not None and self._truths:
            return self._truths.get(truth)
        number = number_of(cell) if truth is None else int(truth)
        return None if number is None else self._numbers.get(number)

    def nearest(self, cell: Any) -> str | None:
        """The name that a text may have been meant for, None where none is like it."""
        return nearest(cell, self.labels) if isinstance(cell, str) else None

    def by_index(self, cell: Any) -> Number | None:
        """The index that a cell is, in range or not, None where it is none."""
        if self._numbers:
            return None
        truth = truth_of(cell)
        if truth is None:
            return number_of(cell)
        return None if self._truths or len(self.labels) != 2 else int(truth)


def nearest(text: str, names: Iterable[str]) -> str | None:
    """The name that a text may have been meant for, None where none is like it."""
    loose = {_loose(name): name for name in names}
    close = difflib.get_close_matches(_loose(text), loose, n=1)
    return loose[close[0]] if close else None


def _trimmed(name: str) -> str:
    """A name without what people do not see: blanks around it, Unicode's forms."""
    return unicodedata.normalize("NFC", name.strip())


def _loose(name: str) -> str:
    """What is left of a name without what people do not see or mean: case, blanks around it, Unicode's forms."""
    return unicodedata.normalize("NFC", _trimmed(name).casefold())


def truth_of_name(label: str) -> bool | None:
    """The truth value that a class is called by: true, false, yes or no; None where it is none."""
    return _WORDS.get(label.strip().lower(), truth_of(label))


def _unless_two(pairs: Iterable[tuple[Key, int]]) -> dict[Key, int | None]:
    """Key -> index; None of a key that is there twice."""
    found: dict[Key, int | None] = {}
    for key, index in pairs:
        found[key] = None if key in found else index
    return found
