"""The command line of a run: flags, and a YAML or JSON file of the same arguments that flags override."""

from __future__ import annotations

import dataclasses
import logging
import typing
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser

from ..errors import InputError, unknown_name_error
from ..plugins import load_plugins, named_by_file, split_plugins
from .argument_files import file_flags
from .arguments import DataArguments, ModelArguments, MultiTaskTrainingArguments

logger = logging.getLogger(__name__)
USAGE = "[RECIPE | FILE.yaml | FILE.json] [--flag value ...]"
SCRIPT = "accelerate launch run_glue_mtl.py"
Arguments = tuple[ModelArguments, DataArguments, MultiTaskTrainingArguments]
DATACLASSES = (ModelArguments, DataArguments, MultiTaskTrainingArguments)


class _Parser(HfArgumentParser):  # type: ignore[misc]  # transformers' base class is untyped
    def error(self, message: str) -> NoReturn:
        """What argparse would answer with a page of usage."""
        raise InputError(message)


def parse_arguments(argv: Sequence[str], *, command: str = SCRIPT) -> Arguments:
    """The arguments of `[FILE.yaml|FILE.json] [--flag value ...]`; a flag overrides the file.

    Args:
        argv: the words of the command line.
        command: what stands before them, for `--help`.

    Raises:
        InputError: for a file that cannot be read or has a key twice, an unknown key or flag, and a value that cannot
            be used.
    """
    plugins, argv = split_plugins(argv)
    load_plugins(plugins or named_by_file(argv))  # before all else: arguments may name what a plugin registers
    argv += ["--plugin", *plugins] if plugins else []
    _say_what_is_twice(argv)
    is_file = bool(argv) and not argv[0].startswith("-") and Path(argv[0]).suffix in (".yaml", ".yml", ".json")
    from_file, values = file_flags(Path(argv.pop(0)), _types()) if is_file else ([], {})
    parser = _Parser(DATACLASSES, allow_abbrev=False, usage=f"{command} {USAGE}")
    parser.set_defaults(**values)
    try:
        *parsed, rest = parser.parse_args_into_dataclasses([*from_file, *argv], return_remaining_strings=True)
    except InputError:
        raise
    except ValueError as error:  # from the checks of TrainingArguments
        raise InputError(str(error)) from error
    if rest:
        raise (
            unknown_name_error("argument", rest[0].split("=")[0], [f"--{name}" for name in _defaults()])
            if rest[0].startswith("-")
            else InputError(f"argument {rest[0]!r} belongs to no flag; a recipe, or a YAML or JSON file, comes first")
        )
    return tuple(parsed)


def _say_what_is_twice(argv: Sequence[str]) -> None:
    """Name the flags that are given more than once; the last value holds, as everywhere on a command line."""
    words = (word[2:].split("=")[0].replace("-", "_") for word in argv if word.startswith("--"))
    names = Counter(name if name in _defaults() else name.removeprefix("no_") for name in words)
    for name in (name for name, count in names.items() if count > 1):
        logger.warning("--%s is given more than once; the last value holds", name)


def _defaults() -> dict[str, Any]:
    """Argument -> its default, over the three dataclasses."""
    return {f.name: f.default for c in DATACLASSES for f in dataclasses.fields(c) if f.init}


def _types() -> dict[str, Any]:
    """Argument -> what it may be, over the three dataclasses."""
    hints = {name: hint for c in DATACLASSES for name, hint in typing.get_type_hints(c).items()}
    return {name: hints[name] for name in _defaults()}
