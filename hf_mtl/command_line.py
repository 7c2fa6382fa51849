"""The command line of a run: a YAML or JSON file of arguments that flags override."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from .arguments import DataArguments, ModelArguments, MultiTaskTrainingArguments
from .errors import InputError, unknown
from .tasks import UniqueKeys
from .validation import read_json

Arguments = tuple[ModelArguments, DataArguments, MultiTaskTrainingArguments]
DATACLASSES = (ModelArguments, DataArguments, MultiTaskTrainingArguments)


class _Parser(HfArgumentParser):  # type: ignore[misc]  # transformers' base class is untyped
    def error(self, message: str) -> NoReturn:
        """What argparse would answer with a page of usage."""
        raise InputError(message)


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """The arguments of `[FILE.yaml|FILE.json] [--flag value ...]`; a flag overrides the file.

    Raises:
        InputError: for a file that cannot be read, an unknown key or flag, one that is there twice, and a value that
            cannot be used.
    """
    argv = list(argv)
    _refuse_twice(argv)
    is_file = bool(argv) and not argv[0].startswith("-") and Path(argv[0]).suffix in (".yaml", ".yml", ".json")
    from_file = file_flags(Path(argv.pop(0))) if is_file else []
    parser = _Parser(DATACLASSES, allow_abbrev=False)
    try:
        *parsed, rest = parser.parse_args_into_dataclasses([*from_file, *argv], return_remaining_strings=True)
    except InputError:
        raise
    except ValueError as error:  # from the checks of TrainingArguments
        raise InputError(str(error)) from error
    if rest:
        raise (
            unknown("argument", rest[0].split("=")[0], [f"--{name}" for name in _defaults()])
            if rest[0].startswith("-")
            else InputError(f"argument {rest[0]!r} belongs to no flag; a YAML or JSON file comes first")
        )
    return tuple(parsed)


def _refuse_twice(argv: Sequence[str]) -> None:
    """Raise InputError for a flag that is given twice: argparse would take the last one without a word."""
    defaults = _defaults()
    seen: set[str] = set()
    for word in argv:
        if not word.startswith("--"):
            continue
        name = word[2:].split("=")[0].replace("-", "_")
        name = name.removeprefix("no_") if name not in defaults else name  # --no_FLAG is --FLAG=false
        if name in seen and name in defaults:
            raise InputError(f"--{name} is given twice; wanted one value")
        seen.add(name)


def _defaults() -> dict[str, Any]:
    """Argument -> its default, over the three dataclasses."""
    return {f.name: f.default for c in DATACLASSES for f in dataclasses.fields(c) if f.init}


def file_flags(path: Path) -> list[str]:
    """The flags that a YAML or JSON file of arguments stands for.

    YAML values stay the text that was written: read as YAML types, `2e-5` would be a string and `1:3` would be 63.
    Inside a nested mapping, such as optimizer_args, they are read as JSON where that is possible.
    """
    is_json = path.suffix == ".json"
    try:
        text = path.read_text(encoding="utf-8")
        values = read_json(text) if is_json else yaml.load(text, Loader=_TextLoader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"argument file {str(path)!r} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"argument file {str(path)!r} holds {type(values).__name__}, wanted name: value lines")
    defaults = _defaults()
    flags: list[str] = []
    for name, value in values.items():
        if name not in defaults:
            raise unknown(f"argument in {str(path)!r}:", name, defaults)
        if value is None or value in _NULLS:
            if defaults[name] not in (None, dataclasses.MISSING):
                raise InputError(
                    f"argument file {str(path)!r}: {name} is null, which would leave it at its default "
                    f"{defaults[name]!r}; give a value, or leave the line out"
                )
        else:
            flags += _flag(name, _typed(value) if isinstance(value, dict) and not is_json else value)
    return flags


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
