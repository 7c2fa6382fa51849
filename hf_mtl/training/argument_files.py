"""Files of arguments, in YAML or JSON, as the flags that they stand for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

import yaml

from ..errors import InputError, unknown_name_error
from ..tasks.task_file import UniqueKeys
from ..validation import read_json

ARMS = "arms"  # the key for `hf-mtl compare`


def file_values(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The arguments in a YAML or JSON file, and what its key `arms` says for `hf-mtl compare`.

    YAML values stay the text that was written: read as YAML types, `2e-5` would be a string and `1:3` would be 63.
    Inside a nested mapping, such as optimizer_args, they are read as JSON where that is possible.

    Returns:
        Argument -> value, and arm -> its changes.

    Raises:
        InputError: for a file that cannot be read, and for `arms` that are no mapping of mappings.
    """
    is_json = path.suffix == ".json"
    try:
        text = path.read_text(encoding="utf-8")
        values = read_json(text) if is_json else yaml.load(text, Loader=_TextLoader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"argument file {str(path)!r} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"argument file {str(path)!r} holds {type(values).__name__}, wanted name: value lines")
    arms = values.pop(ARMS, None) or {}
    if not isinstance(arms, dict) or not all(isinstance(changes, dict) for changes in arms.values()):
        raise InputError(
            f"argument file {str(path)!r}: arms is {arms!r:.80}, wanted {{name: {{argument: value}}}}, as in "
            "arms: {slow: {learning_rate: 1.0e-5}}"
        )
    if is_json:
        return values, arms
    return _typed_options(values), {name: _typed_options(changes) for name, changes in arms.items()}


def value_flags(values: Mapping[str, Any], types: Mapping[str, Any], where: str) -> tuple[list[str], dict[str, Any]]:
    """The flags that arguments of a file stand for, and the values that no flag can say.

    Args:
        values: argument -> value, from `file_values`.
        types: every argument there is, with its type.
        where: they stand, for messages, such as "argument file 'my.yaml'".

    Raises:
        InputError: for an unknown argument, and a null or a list where it takes none.
    """
    flags: list[str] = []
    others: dict[str, Any] = {}
    for name, value in values.items():
        if name not in types:
            raise unknown_name_error(f"argument in {where.removeprefix('argument file ')}:", name, types)
        forms = {get_origin(form) or form for form in (types[name], *get_args(types[name]))}
        if value is None or value in _NULLS:
            if NoneType not in forms:
                raise InputError(f"{where}: {name} is null; give a value, or leave the line out")
            others[name] = None
        elif isinstance(value, list) and (list not in forms or not value):
            wanted = "one or more values" if list in forms else "one value"
            raise InputError(f"{where}: {name} is {value!r}, wanted {wanted}")
        elif isinstance(value, list) and str in forms:  # as a flag it takes one text
            others[name] = value
        else:
            flags += _flag(name, value)
    return flags, others


class _TextLoader(UniqueKeys, yaml.BaseLoader):
    """Every value as the text that was written, and no key twice."""


_NULLS = ("null", "Null", "NULL", "~", "")


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    if isinstance(value, dict):
        return [f"--{name}={json.dumps(value)}"]
    return [f"--{name}={str(value).lower() if isinstance(value, bool) else value}"]


def _typed_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a YAML file, nested ones with their types."""
    return {name: _typed(value) if isinstance(value, dict) else value for name, value in values.items()}


def _typed(value: Any) -> Any:
    """A nested YAML value that was read as text, with numbers, true, false and null as what they are."""
    if isinstance(value, dict):
        return {name: _typed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    try:
        return json.loads(value.lower() if value in ("True", "False", "Null") else value)
    except json.JSONDecodeError:
        return value
