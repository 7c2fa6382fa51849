"""The files of heads that are not hf_mtl's own: checked, and put beside a model's weights.

Such a head is in a file that imports torch, transformers and `from hf_mtl.model.X import Y` only, so that its copy
works where hf_mtl is not installed.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import InputError
from .export_code import modeling_code
from .extra_heads import EXTRA_HEADS
from .heads import HEADS, Head

EXTRA_FILE = "extra_heads.py"
WANTED = "wanted a file that imports torch, transformers and 'from hf_mtl.model.X import Y' only"
# Those that every copy of the code registers by itself.
OWN_KINDS = ("classification", "regression", "similarity", "ordinal", "multi_label", "token_classification")


def extra_heads(kinds: Iterable[str]) -> dict[str, type[Head]]:
    """Kind -> class of those among `kinds` that are not hf_mtl's own."""
    heads = {kind: HEADS[kind] for kind in dict.fromkeys(kinds)}
    return {kind: head for kind, head in heads.items() if kind in EXTRA_HEADS or kind not in OWN_KINDS}


def head_file_names(kinds: Iterable[str]) -> dict[str, str]:
    """Kind -> name of the file with its head, for the kinds that are not hf_mtl's own."""
    return {kind: f"{head.__module__.rpartition('.')[2]}.py" for kind, head in extra_heads(kinds).items()}


def check_head_files(kinds: Iterable[str]) -> None:
    """Raise InputError for a head whose file could not go with a saved model."""
    places: dict[str, Path] = {}
    classes: dict[str, type[Head]] = {}
    for kind, head in extra_heads(kinds).items():
        if classes.setdefault(head.__name__, head) is not head:
            raise InputError(f"kind {kind!r}: two heads are called {head.__name__}; rename one")
        if _is_inside(head):
            continue
        path = _source_file(kind, head)
        other = places.setdefault(path.name, path)
        if other != path:
            raise InputError(f"kind {kind!r}: its head is in {str(path)!r}, and another in {str(other)!r}; rename one")
        if path.stem in modeling_code():
            raise InputError(f"kind {kind!r}: {str(path)!r} is called as a module of hf_mtl.model is; rename it")
        _check_imports(kind, path)


def write_head_files(folder: Path, kinds: Iterable[str]) -> None:
    """Put the heads of `kinds` that are not hf_mtl's own into a folder that holds the model's code."""
    heads = extra_heads(kinds)
    if not heads:
        return
    for kind, head in heads.items():
        if not _is_inside(head):  # else the file is one of those that are copied as they are
            path = _source_file(kind, head)
            (folder / path.name).write_text(_with_relative_imports(_read(path)), encoding="utf-8")
    (folder / EXTRA_FILE).write_text(_extra_heads_code(heads), encoding="utf-8")


def _extra_heads_code(heads: dict[str, type[Head]]) -> str:
    modules = {head.__module__.rpartition(".")[2]: head for head in heads.values()}
    names = {
        module: {h.__name__ for h in heads.values() if h.__module__ == each.__module__}
        for module, each in modules.items()
    }
    lines = [f"from .{module} import {', '.join(sorted(found))}" for module, found in sorted(names.items())]
    entries = ", ".join(f"{kind!r}: {head.__name__}" for kind, head in heads.items())
    title = '"""The heads of this model\'s own kinds."""'
    return "\n".join([title, "", *lines, "", f"EXTRA_HEADS = {{{entries}}}", ""])


def _is_inside(head: type[Head]) -> bool:
    """Whether a head's file stands beside this one."""
    return head.__module__.rpartition(".")[0] == __name__.rpartition(".")[0]


def _source_file(kind: str, head: type[Head]) -> Path:
    try:
        found = inspect.getsourcefile(head)
    except TypeError:  # a class of a notebook or a prompt
        found = None
    if found is None or head.__module__ == "__main__" or "." in head.__qualname__:
        raise InputError(
            f"kind {kind!r}: its head {head.__qualname__} is not at the top of a file that can be imported, so a saved "
            f"model could not take it along; {WANTED}"
        )
    path, name = Path(found), f"{head.__module__.rpartition('.')[2]}.py"
    if path.name != name:
        raise InputError(
            f"kind {kind!r}: its head is in {str(path)!r}, which would not be found as {name} beside the weights; "
            "move the head into a file of its own, such as my_head.py, and import it from there"
        )
    return path


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig")


def _with_relative_imports(code: str) -> str:
    """Code whose imports of `hf_mtl.model.X` are from a neighbour, however they are laid out."""
    lines = code.encode().splitlines(keepends=True)
    found = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    own = [node for node in found if str(node.module).startswith("hf_mtl.model.")]
    for node in sorted(own, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        assert node.module is not None and node.end_lineno is not None  # of every node that was parsed
        start, end = node.lineno - 1, node.end_lineno - 1  # columns count bytes
        relative = ast.ImportFrom(module=node.module.removeprefix("hf_mtl.model."), names=node.names, level=1)
        text = ast.unparse(relative).encode()
        lines[start : end + 1] = [lines[start][: node.col_offset] + text + lines[end][node.end_col_offset :]]
    return b"".join(lines).decode()


def _check_imports(kind: str, path: Path) -> None:
    allowed = {"torch", "transformers", "hf_mtl", *sys.stdlib_module_names}
    for line, name in _imports(ast.parse(_read(path))):
        parts = name.split(".")
        is_own = parts[:2] == ["hf_mtl", "model"] and len(parts) == 3 and parts[2] in modeling_code()
        if parts[0] not in allowed or (parts[0] == "hf_mtl" and not is_own):
            raise InputError(
                f"kind {kind!r}: {path.name} imports {name or 'a neighbour'} in line {line}, which a saved model does "
                f"not take along; {WANTED}"
            )


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and module of every import, "" for a relative one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            # Of hf_mtl, only the form that is rewritten.
            yield from ((node.lineno, f"{a.name}." if a.name.startswith("hf_mtl") else a.name) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "" if node.level else str(node.module)
