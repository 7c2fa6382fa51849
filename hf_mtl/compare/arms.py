"""What an arm is: a recipe's arguments with a few changes. Pure functions of names and mappings."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..errors import InputError, unknown_name_error
from ..gradients.method import GRADIENT_METHODS
from ..training.argument_parser import argument_types, overridden

Arguments = dict[str, Any]  # argument -> value, as a file of arguments has it
SINGLE = "single"
MOST_SEEDS = 1000
# What compare sets itself, and what has no place in runs that nobody watches.
NOT_THE_RECIPES = (
    "output_dir",
    "seed",
    "do_train",
    "do_eval",
    "do_predict",
    "disable_tqdm",
    "enable_jit_checkpoint",
    "push_to_hub",
    "hub_model_id",
    "hub_token",
    "report_to",
    "run_name",
    "resume_from_checkpoint",
)
_SEEDS = re.compile(r"(\d+)(?:-(\d+))?")
_FOLDER = re.compile(r"\w[\w.+-]*")


def parse_arms(text: str) -> list[str]:
    """The names in "single,sum,pcgrad".

    Raises:
        InputError: for fewer than two, a name that is there twice, and one that cannot be a folder's.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if not _FOLDER.fullmatch(name) or name.startswith("compare."):
            raise InputError(
                f"--arms {text!r} has the arm {name!r}, wanted a name of letters, digits, '_', '-', '+' and '.', as a "
                "folder is named after it"
            )
        if names.count(name) > 1:
            raise InputError(f"--arms {text!r} has {name!r} twice; name every arm once")
    if len(names) < 2:
        raise InputError(f"--arms is {text!r}, wanted two arms or more, as in --arms single,sum")
    return names


def parse_seeds(text: str) -> list[int]:
    """The numbers in "1-5", "1,2,7" or "1-3,7", each once.

    Raises:
        InputError: for anything else.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        match = _SEEDS.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < 2**32 or last - first >= MOST_SEEDS:
            raise InputError(
                f"--seeds is {text!r}, wanted numbers from 0 to 4294967295, or ranges of at most {MOST_SEEDS:,} of "
                "them, as in 1-5 or 1,2,7"
            )
        seeds.update(dict.fromkeys(range(first, last + 1)))
    return list(seeds)


def check_arm_names(arms: Sequence[str], blocks: Mapping[str, Any]) -> None:
    """Raise InputError for an arm that is neither `single`, a gradient method, nor a name of the file's `arms`."""
    for arm in arms:
        if arm != SINGLE and arm not in GRADIENT_METHODS and arm not in blocks:
            raise unknown_name_error("arm", arm, {SINGLE, *GRADIENT_METHODS, *blocks})


def joint_arguments(arm: str, recipe: Mapping[str, Any], blocks: Mapping[str, Mapping[str, Any]]) -> Arguments:
    """The arguments of an arm that trains all tasks.

    Args:
        arm: a gradient method, or a name of the file's `arms`; a name that is both has the method and the changes.
        recipe: argument -> value.
        blocks: the file's `arms`: arm -> its changes.
    """
    method = {"gradient_method": arm} if arm in GRADIENT_METHODS else {}
    return _changed(recipe, {**method, **blocks.get(arm, {})})


def single_arguments(
    task: str, recipe: Mapping[str, Any], block: Mapping[str, Any], tasks: Collection[str]
) -> Arguments:
    """The arguments with which one task trains alone.

    Args:
        task: the one.
        recipe: argument -> value.
        block: what the file's `arms` say of `single`: changes of every run, and under a task's name those of its run.
        tasks: the names of all.
    """
    common, own = split_single(block, tasks)
    given = _changed(recipe, {"gradient_method": "sum", **common, **own.get(task, {}), "alone": task})
    watched = str(given.get("metric_for_best_model", "")).removeprefix("eval_")
    # Where one name begins another, the metric is that of the longer one.
    if max((name for name in tasks if watched.startswith(f"{name}_")), key=len, default=task) != task:
        given["metric_for_best_model"] = "eval_average"  # of the one task that is scored
        given.pop("greater_is_better", None)
    return given


def split_single(block: Mapping[str, Any], tasks: Collection[str]) -> tuple[Arguments, dict[str, Arguments]]:
    """What `arms: {single: ...}` says of every run, and of the run of each task that it names.

    Raises:
        InputError: for a key that is neither a task nor an argument.
    """
    own = {name: dict(value) for name, value in block.items() if name in tasks and isinstance(value, Mapping)}
    common = {name: value for name, value in block.items() if name not in own}
    for name, value in common.items():
        if isinstance(value, Mapping) and name not in argument_types():
            raise unknown_name_error("task in arms, single:", name, tasks)
    return common, own


def _changed(recipe: Mapping[str, Any], changes: Mapping[str, Any]) -> Arguments:
    """The recipe with changes; options go with the gradient method, the sampling or the optimizer that they are of.

    Raises:
        InputError: for a change of what compare sets itself.
    """
    for name in NOT_THE_RECIPES:
        if name in changes:
            raise InputError(f"arms has {name} {changes[name]!r}, which compare sets for every run; leave it out")
    return {**overridden(recipe, changes), **changes}


def settings_of(arguments: Mapping[str, Any]) -> Arguments:
    """The arguments that say what an arm is: those that compare sets itself are left out."""
    return {name: value for name, value in sorted(arguments.items()) if name not in NOT_THE_RECIPES}


def child_arguments(settings: Mapping[str, Any], *, seed: int, folder: str, with_test: bool, saves: bool) -> Arguments:
    """The arguments of the process that does a run.

    Args:
        settings: of the arm.
        seed: of the run.
        folder: of the run.
        with_test: whether test splits are scored.
        saves: whether the recipe's checkpoints are needed to make the final model.
    """
    return {
        **settings,
        **({} if saves else {"save_strategy": "no"}),
        "seed": seed,
        "output_dir": folder,
        "do_train": True,
        "do_eval": True,
        "do_predict": with_test,
        "push_to_hub": False,
        "report_to": "none",
        "enable_jit_checkpoint": False,
        "disable_tqdm": True,
    }
