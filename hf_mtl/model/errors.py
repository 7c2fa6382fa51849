"""The error for what a user gave. Imports the standard library only: it travels with a saved model's code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """An argument, file, column, label or folder that cannot be used; raised before anything is written."""


def unknown_name_error(what: str, name: object, known: Iterable[str]) -> InputError:
    """The error for a name that is none of the `known` ones, with the closest of them when one is close."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return InputError(f"unknown {what} {name!r}{hint}; choose from: {', '.join(names)}")
