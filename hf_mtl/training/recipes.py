"""Recipes: files of arguments that come with the package, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import unknown_name_error

RECIPES = Path(__file__).parent.parent / "tasks" / "recipes"


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def with_recipe(argv: Sequence[str]) -> list[str]:
    """The arguments of a command, with the file of a recipe in place of its name.

    The first argument is a recipe's name, a file, whose name has a suffix, or a flag. A file or folder of a recipe's
    name in the current folder makes no difference.

    Raises:
        InputError: for a name that is no recipe's; it lists them.
    """
    words = list(argv)
    if not words or words[0].startswith("-") or Path(words[0]).suffix:
        return words
    if words[0] not in recipe_names():
        raise unknown_name_error("recipe", words[0], [*recipe_names(), "FILE.yaml", "FILE.json"])
    return [str(RECIPES / f"{words[0]}.yaml"), *words[1:]]
