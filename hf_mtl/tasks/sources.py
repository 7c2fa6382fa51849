"""The entries of the key `files`: files, patterns, folders and saved datasets, and the files that they stand for."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import InputError
from .folders import SAVED, check_all_readable, check_parts, is_data, is_hidden, splits_of
from .text_files import format_of, is_packed

FILE_FORMATS = ("csv", "tsv", "json", "jsonl", "parquet", "arrow")
FEW = 5  # files that a message lists


def file_list(entries: str | Sequence[str]) -> list[str]:
    """The entries of a split, of which `TaskSpec.files` has one or several."""
    return [entries] if isinstance(entries, str) else list(entries)


def check_entries(task: str, split: str, entries: Sequence[str]) -> None:
    """Raise InputError for an entry that can be neither a file of rows, nor a pattern, nor a folder."""
    if not entries:
        raise InputError(f"task {task!r}: files has no file for {split!r}")
    for entry in entries:
        if "\0" in entry:
            raise InputError(f"task {task!r}: file {entry!r} has a NUL character, which no file's name has")
        is_other = format_of(entry) not in FILE_FORMATS and not os.path.isdir(entry)
        if is_other and (is_packed(entry) or not glob.has_magic(entry)):
            what_to_do = "; decompress it" if is_packed(entry) else ", and no folder"
            raise InputError(f"task {task!r}: file {entry!r} is none of .{', .'.join(FILE_FORMATS)}{what_to_do}")
    if twice := _twice(entries):
        raise InputError(f"task {task!r}: files names {entries[twice[0]]!r} twice for {split!r}; wanted it once")


def find_files(files: Mapping[str, str | Sequence[str]], split: str) -> list[str]:
    """The files and saved datasets that hold a split's rows, in the order of the entries.

    What a pattern or a folder stands for comes in the order of its names, on every machine.

    Args:
        files: split -> entries, as of `TaskSpec.files`.
        split: one of them.

    Raises:
        InputError: for an entry that stands for no file or for files of several formats, for a file that is there
            twice, and for one that a pattern or a folder shares with another split.
    """
    found = [(path, entry) for entry in file_list(files[split]) for path in _expanded(entry, split)]
    paths = [path for path, _ in found]
    if twice := _twice(paths):
        by = " and ".join(repr(found[place][1]) for place in twice)
        raise InputError(f"{paths[twice[0]]!r}: it is there twice for {split!r}, by {by}; wanted it once")
    _check_splits_differ(files, split, paths)
    return paths


def _twice(paths: Sequence[str]) -> list[int]:
    """The places of the first file that is there more than once, if any is."""
    places: dict[str, list[int]] = {}
    for place, path in enumerate(paths):
        places.setdefault(os.path.realpath(path), []).append(place)
    return next((found for found in places.values() if len(found) > 1), [])


def _check_splits_differ(files: Mapping[str, str | Sequence[str]], split: str, paths: Sequence[str]) -> None:
    """Raise InputError where a pattern or a folder takes a file that is of another split too.

    The same entries for two splits, and a file that is named for both, are meant.
    """
    entries = file_list(files[split])
    for other, others in files.items():
        if other == split or file_list(others) == entries:
            continue
        shared = {os.path.realpath(path) for path in _expanded_or_none(file_list(others), other)}
        named = {os.path.realpath(entry) for entry in entries} & {os.path.realpath(o) for o in file_list(others)}
        for path in paths:
            if os.path.realpath(path) in shared - named:
                raise InputError(
                    f"{path!r}: it is of the splits {split!r} and {other!r}, by {', '.join(map(repr, entries))} and "
                    f"{', '.join(map(repr, file_list(others)))}; wanted each file in one of them"
                )


def _expanded_or_none(entries: Sequence[str], split: str) -> list[str]:
    """The files of another split, which need not be there yet."""
    try:
        return [path for entry in entries for path in _expanded(entry, split)]
    except InputError:
        return []


def _expanded(entry: str, split: str) -> list[str]:
    try:
        if os.path.isdir(entry):
            return _of_folder(Path(entry), split)
        root, pattern = _pattern_in(Path(entry))
        return [entry] if pattern is None or os.path.exists(entry) else _of_pattern(root, pattern)
    except InputError as error:
        raise InputError(f"{entry!r}: {error}") from error


def _pattern_in(path: Path) -> tuple[Path, str | None]:
    """The folder before a pattern, and the pattern in it; None where there is none.

    A folder that is there under its name is no pattern, whatever characters that has.
    """
    for place, part in enumerate(path.parts):
        if glob.has_magic(part) and not Path(*path.parts[: place + 1]).is_dir():
            return Path(*path.parts[:place]), str(Path(*path.parts[place:]))
    return path, None


def _of_pattern(root: Path, pattern: str) -> list[str]:
    """The tables and saved datasets that a pattern finds in a folder."""
    names = sorted(glob.glob(pattern, root_dir=root, recursive=True), key=_in_order)
    paths = [Path(name) for name in names]
    found = [path for path in paths if ((root / path).is_file() and is_data(path)) or _is_saved(root / path)]
    check_all_readable(root, [path for path in paths if (root / path).is_file()])
    if not found:
        there = sorted(path.name for path in root.iterdir() if not path.name.startswith(".")) if root.is_dir() else []
        few = f"{', '.join(there[:FEW])}{f' and {len(there) - FEW} more' if len(there) > FEW else ''}"
        what = f"finds {str(paths[0])!r}, which is no table" if paths else "finds nothing"
        where = f"there is no folder {str(root)!r}" if not root.is_dir() else f"{str(root)!r} has {few or 'no file'}"
        raise InputError(f"the pattern {what}; {where}; wanted files of .{', .'.join(FILE_FORMATS)}")
    _check_one_format("the pattern", root, found)
    return [str(root / path) for path in found]


def _in_order(name: str) -> list[str]:
    """What names of files are sorted by: folder by folder, whatever the machine."""
    return list(Path(name).parts)


def _is_saved(folder: Path) -> bool:
    return (folder / "state.json").is_file()


def _of_folder(folder: Path, split: str) -> list[str]:
    """The tables of a folder, or the saved dataset that it is or has for the split."""
    if _is_saved(folder):
        return [str(folder)]
    saved = sorted(path.parent.name for path in folder.glob("[!.]*/state.json"))
    if saved or any((folder / name).is_file() for name in SAVED):
        if split not in saved:
            raise InputError(
                f"the saved dataset {str(folder)!r} has no split {split!r}; it has {', '.join(saved) or 'none'}; "
                f"wanted one of them, such as {str(folder / (saved[0] if saved else split))!r}"
            )
        return [str(folder / split)]
    names = sorted(
        (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()),
        key=_in_order,
    )
    paths = [path for path in map(Path, names) if not is_hidden(path)]
    check_all_readable(folder, paths)
    found = [path for path in paths if is_data(path)]
    where = f"the folder {str(folder)!r}"
    if not found:
        raise InputError(f"{where} has no table in it; wanted files of .{', .'.join(FILE_FORMATS)}")
    if len(splits := splits_of(found)) > 1:
        raise InputError(
            f"{where} has files of the splits {', '.join(splits)}, and files names all of it for {split!r}; wanted "
            f"dataset: {folder}, or the files of each split"
        )
    _check_one_format(where, folder, found)
    check_parts(folder, split, found)
    return [str(folder / path) for path in found]


def _check_one_format(where: str, root: Path, paths: Sequence[Path]) -> None:
    """Raise InputError for files of several formats, and for a file beside itself gzipped."""
    forms = {"a saved dataset" if _is_saved(root / path) else _form(path): path for path in paths}
    if len(forms) > 1:
        raise InputError(
            f"{where} stands for files of several formats: {', '.join(map(str, forms.values()))}; keep one format, or "
            "name the files one by one"
        )
    first: dict[str, Path] = {}
    for path in paths:
        other = first.setdefault(re.sub(r"(?i)\.gz$", "", str(path)), path)
        if other is not path:
            raise InputError(f"{where} stands for {str(other)!r} and {str(path)!r}; keep one of them")


def _form(path: Path) -> str:
    """The format of a file; JSON lines are JSON."""
    return str(format_of(path.name)).removesuffix("l")
