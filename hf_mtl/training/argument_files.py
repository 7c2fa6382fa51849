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


def file_flags(path: Path, types: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """The flags that a YAML or JSON file of arguments stands for, and the values that no flag can say.

    YAML values stay the text that was written: read as YAML types, `2e-5` would be a string and `1:3` would be 63.
    Inside a nested mapping, such as optimizer_args, they are read as JSON where that is possible.

    Args:
        path: of the file.
        types: every argument there is, with its type.

    Raises:
        InputError: for a file that cannot be read, an unknown argument, and a null or a list where it takes
            none.
    """
    is_json = path.suffix == ".json"
    try:
        text = path.read_text(encoding="utf-8")
        values = read_json(text) if is_json else yaml.load(text, Loader=_TextLoader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"argument file {str(path)!r} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"argument file {str(path)!r} holds {type(values).__name__}, wanted name: value lines")
    flags: list[str] = []
    others: dict[str, Any] = {}
    for name, value in values.items():
        if name not in types:
            raise unknown_name_error(f"argument in {str(path)!r}:", name, types)
        forms = {get_origin(form) or form for form in (types[name], *get_args(types[name]))}
        if value is None or value in _NULLS:
            if NoneType not in forms:
                raise InputError(f"argument file {str(path)!r}: {name} is null; give a value, or leave the line out")
            others[name] = None
        elif isinstance(value, list) and (list not in forms or not value):
            wanted = "one or more values" if list in forms else "one value"
            raise InputError(f"argument file {str(path)!r}: {name} is {value!r}, wanted {wanted}")
        elif isinstance(value, list) and str in forms:  # as a flag it takes one text
            others[name] = value
        else:
            flags += _flag(name, _typed(value) if isinstance(value, dict) and not is_json else value)
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
