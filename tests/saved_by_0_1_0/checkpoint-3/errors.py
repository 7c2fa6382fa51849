"""The exceptions: for what a user gave, naming the value found; for a full disk; for an upload that failed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """An argument, file, column, label or folder that cannot be used; raised before anything is written."""


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written; the message names the whole ones that are there."""


class PushError(RuntimeError):
    """An upload that failed; what was to be uploaded is on disk, and the message has the command that does it later."""


def unknown(what: str, name: object, known: Iterable[str]) -> InputError:
    """The error for a name that is none of the `known` ones, with the closest of them when one is close."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return InputError(f"unknown {what} {name!r}{hint}; choose from: {', '.join(names)}")
