"""The command line of a run: flags, and a YAML or JSON file of the same arguments that flags override."""

from __future__ import annotations

import dataclasses
import logging
import typing
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

from transformers import HfArgumentParser
from transformers.trainer_utils import SchedulerType

from ..errors import InputError, unknown_name_error
from ..plugins import load_plugins, named_by_file, split_plugins
from .argument_files import file_values, value_flags
from .arguments import DataArguments, ModelArguments, MultiTaskTrainingArguments
from .optimizers import TRAINERS_OWN
from .watched_metric import WATCHING_SCHEDULES

logger = logging.getLogger(__name__)
# What goes with a file's choice where a flag makes another one.
GOES_WITH = {
    "gradient_method": ("gradient_method_args",),
    "task_sampling": ("task_sampling_args",),
    "optimizer": ("optimizer_args", *TRAINERS_OWN),
    "optim": ("optim_args", "optimizer", "optimizer_args"),
}
USAGE = "[RECIPE | FILE.yaml | FILE.json] [--flag value ...]"
SCRIPT = "accelerate launch run_glue_mtl.py"
Arguments = tuple[ModelArguments, DataArguments, MultiTaskTrainingArguments]
DATACLASSES = (ModelArguments, DataArguments, MultiTaskTrainingArguments)


class _Parser(HfArgumentParser):  # type: ignore[misc]  # transformers' base class is untyped
    def error(self, message: str) -> NoReturn:
        """What argparse would answer with a page of usage."""
        raise InputError(message)

    def parse_known_args(self, *args: Any, **kwargs: Any) -> tuple[Namespace, list[str]]:
        """As in `argparse`; a run that does not train leaves out what would want evaluations in a training.

        With an evaluation strategy, the Trainer's arguments would turn `do_eval` on.
        """
        values, rest = super().parse_known_args(*args, **kwargs)
        if not values.do_train:
            values.eval_strategy, values.load_best_model_at_end = "no", False
            if values.lr_scheduler_type in WATCHING_SCHEDULES:
                values.lr_scheduler_type = SchedulerType.LINEAR
        return values, rest


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
    if not starts_with_file(argv):
        return _parsed(argv, {}, command)
    values, _ = file_values(Path(argv[0]))
    if not {"-h", "--help"} & set(argv):
        values = overridden(values, flag_values(argv[1:]))
    from_file, others = value_flags(values, argument_types(), f"argument file {argv[0]!r}")
    return _parsed([*from_file, *argv[1:]], others, command)


def starts_with_file(argv: Sequence[str]) -> bool:
    """Whether the first word of a command line is a file of arguments."""
    return bool(argv) and not argv[0].startswith("-") and Path(argv[0]).suffix in (".yaml", ".yml", ".json")


def parse_values(values: Mapping[str, Any], where: str) -> Arguments:
    """The arguments that a file with these values would give.

    Args:
        values: argument -> value, as `file_values` gives them.
        where: they stand, for messages.

    Raises:
        InputError: for an unknown argument, and a value that cannot be used.
    """
    plugins = values.get("plugin") or []
    load_plugins([plugins] if isinstance(plugins, str) else plugins)
    flags, others = value_flags(values, argument_types(), where)
    return _parsed(flags, others, SCRIPT)


def overridden(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """What holds of a file's values beside changes: options go with the choice that they are of, see `GOES_WITH`."""
    kept = dict(values)
    for choice, names in GOES_WITH.items():
        before = values.get(choice, _defaults()[choice])
        if changes.get(choice, before) != before:
            kept = {name: value for name, value in kept.items() if name not in names}
    return kept


def flag_values(argv: Sequence[str]) -> dict[str, Any]:
    """Argument -> value, of the flags of a command line, as a file would say it; the last one of each holds.

    Raises:
        InputError: for a word that belongs to no flag, and an unknown flag.
    """
    _say_what_is_twice(argv)
    types = argument_types()
    words: dict[str, list[str]] = {}
    current: list[str] | None = None
    for word in argv:
        if word.startswith("--"):
            flag, is_given, value = word[2:].partition("=")
            name = flag.replace("-", "_")
            off = name not in types and name.removeprefix("no_") in types
            if not off and name not in types:
                raise _unknown_flag(word)
            current = words[name.removeprefix("no_") if off else name] = [value] if is_given else []
            current += ["false"] if off else []
        elif current is None:
            raise _stray_word(word)
        else:
            current.append(word)
    forms = {name: {get_origin(form) or form for form in (types[name], *get_args(types[name]))} for name in words}
    return {
        name: given if list in forms[name] or len(given) > 1 else given[0] if given else "true"
        for name, given in words.items()
    }


def _parsed(argv: Sequence[str], others: Mapping[str, Any], command: str) -> Arguments:
    """The arguments that flags give; `others` are those that no flag can say."""
    parser = _Parser(DATACLASSES, allow_abbrev=False, usage=f"{command} {USAGE}")
    parser.set_defaults(**others)
    try:
        *parsed, rest = parser.parse_args_into_dataclasses(list(argv), return_remaining_strings=True)
    except InputError:
        raise
    except ValueError as error:  # from the checks of TrainingArguments
        raise InputError(str(error)) from error
    if rest:
        raise _unknown_flag(rest[0]) if rest[0].startswith("-") else _stray_word(rest[0])
    return tuple(parsed)


def _unknown_flag(word: str) -> InputError:
    return unknown_name_error("argument", word.split("=")[0], [f"--{name}" for name in _defaults()])


def _stray_word(word: str) -> InputError:
    return InputError(f"argument {word!r} belongs to no flag; a recipe, or a YAML or JSON file, comes first")


def _say_what_is_twice(argv: Sequence[str]) -> None:
    """Name the flags that are given more than once; the last value holds, as everywhere on a command line."""
    words = (word[2:].split("=")[0].replace("-", "_") for word in argv if word.startswith("--"))
    names = Counter(name if name in _defaults() else name.removeprefix("no_") for name in words)
    for name in (name for name, count in names.items() if count > 1):
        logger.warning("--%s is given more than once; the last value holds", name)


def _defaults() -> dict[str, Any]:
    """Argument -> its default, over the three dataclasses."""
    return {f.name: f.default for c in DATACLASSES for f in dataclasses.fields(c) if f.init}


def argument_types() -> dict[str, Any]:
    """Argument -> what it may be, over the three dataclasses."""
    hints = {name: hint for c in DATACLASSES for name, hint in typing.get_type_hints(c).items()}
    return {name: hints[name] for name in _defaults()}
