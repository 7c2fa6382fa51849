"""Plugins: files of a user's own that register kinds, metrics, gradient methods and task samplings.

A plugin is imported by its path. While it is, its folder comes first in the search for modules, so that
`from my_head import MyHead` finds the file beside it. As in a script, relative imports are not possible, and what the
plugin imports has to be imported at its top.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from .errors import InputError

ARGUMENT_FILES = (".yaml", ".yml", ".json")
LOADED: dict[Path, ModuleType] = {}  # file -> what it became
_PREFIX = "hf_mtl_plugin_"  # of the names of their modules


def load_plugin(path: str | Path) -> ModuleType:
    """The module of a plugin, imported once in a process however often it is asked for.

    Raises:
        InputError: for what is no Python file, and for a file that cannot be imported, with the reason.
    """
    file = Path(path).resolve()
    if file in LOADED:
        return LOADED[file]
    if file.suffix != ".py" or not file.is_file():
        found = "is no Python file" if file.exists() else "is not there"
        place = "" if file == Path(path) else f" ({file})"
        raise InputError(f"plugin {str(path)!r}{place} {found}; wanted the path of a file such as my_kind.py")
    try:
        with _folder_first(file.parent):
            module = _already_imported(file) or _imported(file)
        _check_neighbours(file)
    except InputError as error:
        raise InputError(f"plugin {str(path)!r}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise InputError(f"plugin {str(path)!r} cannot be imported: {type(error).__name__}: {error}") from error
    LOADED[file] = module
    return module


def load_plugins(paths: Sequence[str]) -> None:
    """Import plugins, in this order."""
    for path in paths:
        load_plugin(path)


def split_plugins(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files that `--plugin` names on a command line, and the other words.

    `--plugin a.py b.py` and `--plugin a.py --plugin b.py` are the same. What follows and is no Python file belongs to
    something else. A flag without a value stays, so that the real parser tells of it.
    """
    named: list[str] = []
    rest: list[str] = []
    words = deque(argv)
    while words:
        word = words.popleft()
        if word.startswith("--plugin="):
            named.append(word.removeprefix("--plugin="))
        elif word == "--plugin" and words and not words[0].startswith("-"):
            named.append(words.popleft())
            while words and words[0].endswith(".py") and not words[0].startswith("-"):
                named.append(words.popleft())
        else:
            rest.append(word)
    return named, rest


def named_by_file(argv: Sequence[str]) -> list[str]:
    """The key `plugin` of the file of arguments that comes first; nothing where the real parser tells of the file."""
    path = Path(argv[0]) if argv and not argv[0].startswith("-") else Path()
    if path.suffix not in ARGUMENT_FILES or not path.is_file():
        return []
    try:
        text = path.read_text(encoding="utf-8")
        values: Any = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return []
    found = values.get("plugin") if isinstance(values, dict) else None
    return [found] if isinstance(found, str) else list(map(str, found)) if isinstance(found, list) else []


def plugins_digest(paths: Iterable[str | Path] | None = None) -> str:
    """A hash of the code of plugins, with the files beside them that they import; "" for none.

    Args:
        paths: of the plugins; all that are loaded unless given.
    """
    plugins = LOADED if paths is None else [Path(path).resolve() for path in paths]
    files = {file for plugin in plugins for file in (plugin, *_neighbours(plugin))}
    if not files:
        return ""
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()


@contextmanager
def _folder_first(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _already_imported(file: Path) -> ModuleType | None:
    """The module that another plugin, or the user, has imported from this file."""
    for name, module in list(sys.modules.items()):
        found = str(getattr(module, "__file__", ""))
        if found.endswith(file.name) and not name.startswith(_PREFIX) and Path(found).resolve() == file:
            return module
    return None


def _imported(file: Path) -> ModuleType:
    name = f"{_PREFIX}{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as inspect and dataclasses look there
    try:
        for neighbour in _neighbours(file):
            if neighbour in LOADED:  # else the neighbour would be imported, and register, again
                sys.modules.setdefault(neighbour.stem, LOADED[neighbour])
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _neighbours(file: Path) -> Iterator[Path]:
    """The files in a file's folder that it imports, and that these import."""
    seen, open_ends = {file}, [file]
    while open_ends:
        for name in _top_imports(open_ends.pop()):
            neighbour = file.parent / f"{name}.py"
            if neighbour.is_file() and neighbour not in seen:
                seen.add(neighbour)
                open_ends.append(neighbour)
                yield neighbour


def _top_imports(file: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(file.read_bytes())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.split(".")[0] for name in names}


def _check_neighbours(file: Path) -> None:
    """Raise InputError where another module was found under the name of a file beside the plugin."""
    for neighbour in _neighbours(file):
        found = getattr(sys.modules.get(neighbour.stem), "__file__", None)
        if found is not None and Path(found).resolve() != neighbour:
            raise InputError(f"it imports {neighbour.stem!r}, which is {found} in this process; rename {neighbour}")
