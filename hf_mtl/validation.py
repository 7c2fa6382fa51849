"""Checks of options and numbers that a user gives, and JSON without a key that is there twice."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .errors import InputError, unknown_name_error

PREDICT_KEYS = ("index", "truncated")  # in every line of `hf-mtl predict`, beside the names of tasks


def check_task_name(name: object) -> None:
    """Raise InputError for a task that the lines of `hf-mtl predict` could not name."""
    if name in PREDICT_KEYS:
        raise InputError(
            f"task {name!r}: in a line of hf-mtl predict, {name!r} is something else; wanted another name than "
            f"{' and '.join(map(repr, PREDICT_KEYS))}"
        )


def check_options(
    name: str, function: Callable[..., object], options: Mapping[str, object], *, kind: str = "gradient_method"
) -> None:
    """Raise InputError unless `options` are keyword-only arguments of `function`, with all that have no default."""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    known = [parameter.name for parameter in parameters]
    for option in options:
        if option not in known and not known:
            raise InputError(f"{kind} {name!r} takes no options, found {option!r}")
        if option not in known:
            raise unknown_name_error(f"option of {kind} {name!r}:", option, known)
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise InputError(f"{kind} {name!r} needs {parameter.name!r} in {kind}_args")


def check_signature(what: str, function: Callable[..., object], arguments: Sequence[str]) -> None:
    """Raise InputError unless `function` is called with these arguments by place, and with all others by keyword."""
    try:
        signature = inspect.signature(function)
        options = {p.name: None for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
        signature.bind(*arguments, **options)
    except (TypeError, ValueError) as error:
        wanted = f"({', '.join(arguments)})"
        raise InputError(f"{what} cannot be called with {wanted}: {error}; options have to be keyword-only") from error


def check_number(option: str, value: object, wanted: str, holds: Callable[[float], bool]) -> None:
    """Raise InputError unless `value` is a finite number for which `holds`, e.g. wanted="a number > 0"."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not holds(value):
        raise InputError(f"{option} is {value!r}, wanted {wanted}")


def read_json(text: str) -> Any:
    """What a text of JSON holds.

    Raises:
        ValueError: where it is none, and where a key is there twice: `json` would keep the last one without a word.
    """
    return json.loads(text, object_pairs_hook=_unique_keys)


def _unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{name!r} is there twice")
        values[name] = value
    return values


def check_unregistered(what: str, name: str, there: Callable[..., Any] | None, new: Callable[..., Any]) -> None:
    """Raise InputError where a name of a registry belongs to something else; a file imported twice is the same."""
    places = [f"{getattr(each, '__module__', '?')}.{getattr(each, '__qualname__', '?')}" for each in (there, new)]
    if there is not None and places[0] != places[1]:
        raise InputError(f"{what} {name!r} is registered already, by {places[0]}; choose another name")
