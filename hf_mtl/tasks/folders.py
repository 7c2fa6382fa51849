"""Which files of a folder are which split of its data set, by the names that `datasets` goes by."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.data_files import FILES_TO_IGNORE, SPLIT_KEYWORDS

from ..errors import InputError
from .text_files import format_of, is_packed

SEPARATOR = "[-._ 0-9]"
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5}).*")
SAVED = ("state.json", "dataset_dict.json")  # of `save_to_disk`
KEYWORDS = {str(split): "|".join(sorted(words, key=len, reverse=True)) for split, words in SPLIT_KEYWORDS.items()}
IN_FOLDER = {k: re.compile(rf"((?:.*{SEPARATOR})?)(?:{v})(?:{SEPARATOR}.*)?", re.I) for k, v in KEYWORDS.items()}
IN_FILE = {k: re.compile(rf"((?:.*{SEPARATOR})?)(?:{v}){SEPARATOR}.*", re.I) for k, v in KEYWORDS.items()}


class _Found(NamedTuple):
    """A file of a split: its path in the folder, and what it shares with the files of the same data set.

    `place` is the folder, `prefix` what is before the split's name, and `series` the name but for a part's number.
    """

    split: str
    path: Path
    place: Path
    prefix: str = ""
    series: str = ""


def folder_splits(folder: Path, chosen: Collection[str] = ()) -> dict[str, list[str]]:
    """Split -> the files of tables that are its rows, in the order of their names; none where there are no tables.

    Files named data/NAME-00000-of-00001 are the split NAME. Else a folder's name with "train", "valid", "test" or the
    like in it names the split, else a file's, and else all files are "train". Names in `chosen` that are
    those of files, but for a number at their end, are splits too, and stand for others that would be the same split.

    Raises:
        InputError: for the files of more than one data set, for more than one file of the same rows, for parts that
            are missing, and for files that would be left out though they seem to hold rows.
    """
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    paths = [path for path in paths if not is_hidden(path)]
    check_all_readable(folder, paths)
    paths = [path for path in paths if is_data(path)]
    found = (
        _by_shard(paths)
        or _by_folder(paths)
        or _chosen(_by_file(paths) or [_Found("train", p, p.parent, series=_series(p)) for p in paths], chosen)
    )
    _check_one_data_set(folder, found)
    splits: dict[str, list[str]] = {}
    for file in found:
        splits.setdefault(file.split, []).append(str(folder / file.path))
    return splits


def splits_of(paths: Sequence[Path]) -> list[str]:
    """The splits that names of files and folders of a folder tell; none where they tell none."""
    found = _by_shard(paths) or _by_folder(paths) or _by_file(paths)
    return sorted({file.split for file in found})


def is_hidden(path: Path) -> bool:
    """Whether a file, by its path in a folder, is none that a person put there to be read."""
    return any(part.startswith(".") for part in path.parts) or any(p.startswith("__") for p in path.parts[:-1])


def is_data(path: Path) -> bool:
    """Whether a file is a table by its name."""
    return path.name not in FILES_TO_IGNORE and format_of(path.name) not in (None, "txt")


def check_all_readable(folder: Path, paths: list[Path]) -> None:
    """Raise InputError for compressed files, for saved datasets further down, and for texts where there is no table."""
    tables = any(map(is_data, paths))
    if packed := [path for path in paths if is_packed(path.name) and (not tables or _is_packed_table(path))]:
        raise InputError(f"the folder {str(folder)!r} has {str(packed[0])!r}, which is compressed; decompress it")
    if saved := [path for path in paths if path.name in SAVED]:
        raise InputError(
            f"the folder {str(folder)!r} has a saved dataset in {str(saved[0].parent)!r}; wanted dataset: "
            f"{str(folder / saved[0].parent)!r}, or a folder of saved splits such as train and test"
        )
    texts = [path for path in paths if format_of(path.name) == "txt"]
    if texts and not tables:
        raise InputError(
            f"the folder {str(folder)!r} has {str(texts[0])!r}, which is no table; wanted csv, tsv, jsonl or parquet "
            "with a column of texts and one of labels"
        )


def _is_packed_table(path: Path) -> bool:
    return format_of(path.stem) is not None or any(pattern.fullmatch(path.name) for pattern in IN_FILE.values())


def _series(path: Path) -> str:
    """A file's name without its format and the number of a part: "train" of train-00000-of-00002.csv and train_1.csv.

    Files that have a number and those that have none are told apart.
    """
    stem = _stem(path)
    if shard := SHARD.fullmatch(stem):
        return f"{shard[1]}-#"
    return re.sub(r"(?i)(?<![-_. ]v)[-_.]?\d+$", "-#", stem)


def _stem(path: Path) -> str:
    return re.sub(r"\.[a-z]+(\.gz)?$", "", path.name, flags=re.I)


def _chosen(found: list[_Found], names: Collection[str]) -> list[_Found]:
    """The files, where those of a split that is named as the task chose it are alone in it."""
    own = {file.path: file.series.removesuffix("-#") for file in found}
    replaced = {file.split for file in found if own[file.path] in names}
    return [
        file._replace(split=own[file.path]) if own[file.path] in names else file
        for file in found
        if own[file.path] in names or file.split not in replaced
    ]


def _by_shard(paths: Iterable[Path]) -> list[_Found]:
    """The files of the folder "data" that have a split's name and the number of a part."""
    matches = [(path, SHARD.fullmatch(_stem(path))) for path in paths if path.parent == Path("data")]
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
        _Found(split, path, path.parent, match[1], _series(path))
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
        stems = {_stem(file.path) for file in files}
        if len(formats) > 1 or len(stems) < len(files):
            raise InputError(
                f"the folder {str(folder)!r} holds files of split {split!r} in several formats: {_list(files)}; "
                "keep one format, or name the files of each split under files"
            )
        series = {file.series.lower(): file for file in files}
        if len(series) > 1:
            raise InputError(
                f"the folder {str(folder)!r} holds several data sets of split {split!r}: {_list(series.values())}; "
                f"{what_to_do}"
            )
        check_parts(folder, split, [file.path for file in files])
    paths = [file.path for file in found]
    if twice := [path for path in paths if paths.count(path) > 1]:
        splits = " or ".join(file.split for file in found if file.path == twice[0])
        raise InputError(
            f"the folder {str(folder)!r}: {str(twice[0])!r} may be of the split {splits}; name the files of each split "
            "under files"
        )


def check_parts(folder: Path, split: str, paths: Sequence[Path]) -> None:
    """Raise InputError where files are numbered as parts of a whole, and are not each of its parts once."""
    parts: dict[tuple[Path, str], list[tuple[int, int]]] = {}
    for path in paths:
        if match := SHARD.fullmatch(_stem(path)):
            parts.setdefault((path.parent, match[1]), []).append((int(match[2]), int(match[3])))
    for found in parts.values():
        wholes = sorted({whole for _, whole in found})
        if len(wholes) > 1 or sorted(number for number, _ in found) != list(range(wholes[0])):
            raise InputError(
                f"the folder {str(folder)!r} holds not each part of split {split!r} once: "
                f"{', '.join(map(str, paths))}; get the missing parts and remove others, or name the files of each "
                "split under files"
            )


def _list(files: Iterable[_Found]) -> str:
    return ", ".join(str(file.path) for file in files)


def split_of_file(path: Path) -> tuple[str, str]:
    """The split that a file's name tells, "train" where it tells none; and what of the name is before that."""
    for split, pattern in IN_FILE.items():
        if match := pattern.fullmatch(path.name):
            return split, match[1]
    return "train", _stem(path)
