"""Which files of a folder are which split of its data set, by the names that `datasets` goes by."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from datasets.data_files import FILES_TO_IGNORE, SPLIT_KEYWORDS

from .errors import InputError
from .text_files import format_of

SEPARATOR = "[-._ 0-9]"
SHARD = re.compile(r"data/([^/]+)-\d{5}-of-\d{5}[^/]*\.[^/]*")
KEYWORDS = {str(split): "|".join(sorted(words, key=len, reverse=True)) for split, words in SPLIT_KEYWORDS.items()}
IN_FOLDER = {k: re.compile(rf"((?:.*{SEPARATOR})?)(?:{v})(?:{SEPARATOR}.*)?", re.I) for k, v in KEYWORDS.items()}
IN_FILE = {k: re.compile(rf"((?:.*{SEPARATOR})?)(?:{v}){SEPARATOR}.*", re.I) for k, v in KEYWORDS.items()}


class _Found(NamedTuple):
    """A file of a split: its path in the folder, and what it shares with the files of the same data set."""

    split: str
    path: Path
    place: Path
    prefix: str = ""


def folder_splits(folder: Path) -> dict[str, list[str]]:
    """Split -> the files of tables that are its rows, in the order of their names; none where there are no tables.

    Files named data/NAME-00000-of-00001 are the split NAME. Else a folder's name with "train", "valid", "test" or the
    like in it names the split, else a file's, and else all files are "train".

    Raises:
        InputError: for the files of more than one data set, and for more than one file of the same rows.
    """
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    paths = [path for path in paths if _is_data(path)]
    found = _by_shard(paths) or _by_folder(paths) or _by_file(paths) or [_Found("train", p, p.parent) for p in paths]
    _check_one_data_set(folder, found)
    splits: dict[str, list[str]] = {}
    for file in found:
        splits.setdefault(file.split, []).append(str(folder / file.path))
    return splits


def _is_data(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts) or any(p.startswith("__") for p in path.parts[:-1])
    return not hidden and path.name not in FILES_TO_IGNORE and format_of(path.name) not in (None, "txt")


def _by_shard(paths: Iterable[Path]) -> list[_Found]:
    matches = [(path, SHARD.fullmatch(path.as_posix())) for path in paths]
    return [_Found(match[1], path, path.parent) for path, match in matches if match]


def _by_folder(paths: Iterable[Path]) -> list[_Found]:
    """The files below a folder that names a split; `place` has that name left out."""
    found = []
    for path in paths:
        for split, pattern in IN_FOLDER.items():
            named = [n for n, part in enumerate(path.parts[:-1]) if pattern.fullmatch(part)]
            if named:
                match = pattern.fullmatch(path.parts[named[0]])
                assert match is not None
                parts = list(path.parts[:-1])
                parts[named[0]] = f"{match[1]}*"
                found.append(_Found(split, path, Path(*parts)))
    return found


def _by_file(paths: Iterable[Path]) -> list[_Found]:
    return [
        _Found(split, path, path.parent, match[1])
        for path in paths
        for split, pattern in IN_FILE.items()
        if (match := pattern.fullmatch(path.name))
    ]


def _check_one_data_set(folder: Path, found: list[_Found]) -> None:
    """Raise InputError where the files of several data sets, or several files of the same rows, would be joined."""
    what_to_do = "name the folder of one of them as dataset, or the files of each split under files"
    places = {file.place: file for file in found}
    if len(places) > 1:
        raise InputError(f"the folder {str(folder)!r} holds several data sets: {_list(places.values())}; {what_to_do}")
    for split in {file.split for file in found}:
        files = [file for file in found if file.split == split]
        prefixes = {file.prefix: file for file in files}
        if len(prefixes) > 1:
            raise InputError(
                f"the folder {str(folder)!r} holds several data sets: {_list(prefixes.values())}; {what_to_do}"
            )
        formats = {str(format_of(file.path.name)).removesuffix("l"): file for file in files}
        stems = {re.sub(r"\.[a-z]+(\.gz)?$", "", file.path.name, flags=re.I): file for file in files}
        if len(formats) > 1 or len(stems) < len(files):
            raise InputError(
                f"the folder {str(folder)!r} holds files of split {split!r} in several formats: {_list(files)}; "
                "keep one format, or name the files of each split under files"
            )
    paths = [file.path for file in found]
    if twice := [path for path in paths if paths.count(path) > 1]:
        splits = " or ".join(file.split for file in found if file.path == twice[0])
        raise InputError(
            f"the folder {str(folder)!r}: {str(twice[0])!r} may be of the split {splits}; name the files of each split "
            "under files"
        )


def _list(files: Iterable[_Found]) -> str:
    return ", ".join(str(file.path) for file in files)
