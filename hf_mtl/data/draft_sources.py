"""Where the data of a drafted task file is: files that belong together, folders, and names on the Hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset

from ..errors import InputError
from ..tasks.folders import split_of_file
from ..tasks.spec import TaskSpec
from ..tasks.text_files import format_of
from .data_splits import UNREADABLE
from .raw_rows import all_splits
from .task_draft import Draft, Entry, draft_tasks, task_file

DEFAULT_CONFIG = "default"  # of a data set that has no other


@dataclass(frozen=True)
class Source:
    """One data set.

    Attributes:
        name: for people, and of a task that has no better one.
        keys: what a task file says of it: "files", or "dataset" and "config". Paths are as the user gave them.
    """

    name: str
    keys: dict[str, Any]

    def splits(self) -> dict[str, Dataset]:
        """The rows of each of its splits; InputError where they cannot be loaded."""
        spec = TaskSpec(name="draft", kind="classification", text_columns=("text",), labels=("0", "1"), **self.keys)
        try:
            return all_splits(spec)
        except InputError as error:
            place, reason = self.keys.get("dataset"), str(error).removeprefix(f"task {spec.name!r}: ")
            if place is not None and not Path(place).exists():
                reason = f"there is no file or folder {place!r}, and on the Hub: {reason}"
            raise InputError(reason) from error

    def entries(self, folder: Path) -> dict[str, Entry]:
        """The keys for a task file in a folder, to which relative paths are relative then."""
        if "files" in self.keys:
            return {"files": ({split: _moved(path, folder) for split, path in self.keys["files"].items()}, "")}
        place = self.keys["dataset"]
        if Path(place).exists():
            moved = _moved(place, folder)
            place = moved if os.path.isabs(moved) or moved.startswith(".") else f"./{moved}"
        return {"dataset": (place, ""), **({"config": (self.keys["config"], "")} if "config" in self.keys else {})}


def draft_file(places: Sequence[str], folder: Path) -> str:
    """A task file for the data in files, folders and data sets of the Hub.

    Args:
        places: files of one data set that are named after their splits belong together; others stand for themselves.
        folder: that the file will be in.

    Raises:
        InputError: for data that cannot be loaded, and that has no column of texts or none of labels.
    """
    drafts: list[Draft] = []
    remarks: list[str] = []
    for source in find_sources(places):
        found, left_out = draft_tasks(source.name, source.splits(), [draft.name for draft in drafts])
        for draft in found:
            draft.keys = {**source.entries(folder), **draft.keys}
        drafts += found
        remarks += [f"{source.name}: {remark}" for remark in left_out]
    return task_file(drafts, remarks)


def find_sources(places: Sequence[str]) -> list[Source]:
    """The data sets that files, folders and names on the Hub hold."""
    sources: list[Source] = []
    files: dict[tuple[str, str, str], dict[str, str]] = {}
    for place in places:
        path = Path(place)
        if path.is_file():
            split, prefix = split_of_file(path)
            known = files.setdefault((str(path.parent), prefix, str(format_of(path.name))), {})
            if split in known:
                raise InputError(
                    f"{known[split]!r} and {place!r} may both be the rows of {split!r} of one data set; call hf-mtl "
                    "init for each"
                )
            known[split] = place
        elif path.is_dir() or not _seems_path(place):
            sources += _of_data_set(place)
        else:
            raise InputError(f"there is no file or folder {place!r}")
    return [*(_of_files(key[1], found) for key, found in files.items()), *sources]


def _seems_path(place: str) -> bool:
    return place.count("/") > 1 or place.startswith((".", "/", "~")) or format_of(place) is not None


def _of_files(prefix: str, files: dict[str, str]) -> Source:
    if "train" not in files and len(files) == 1:
        files = {"train": next(iter(files.values()))}
    name = prefix.strip("-._ ") or Path(next(iter(files.values()))).name.split(".")[0]
    order = [split for split in ("train", "validation", "test") if split in files]
    return Source(name, {"files": {split: files[split] for split in order}})


def _of_data_set(place: str) -> list[Source]:
    name = Path(place).resolve().name if Path(place).exists() else place.split("/")[-1]
    try:
        configs = datasets.get_dataset_config_names(place)
    except (*UNREADABLE, datasets.exceptions.DatasetsError):
        configs = []  # such as a saved data set; the rest is told when it is loaded
    if len(configs) <= 1 or not _declares_configs(place, configs):
        return [Source(name, {"dataset": place})]
    return [Source(config, {"dataset": place, "config": config}) for config in configs]


def _declares_configs(place: str, configs: Sequence[str]) -> bool:
    return list(configs) != [DEFAULT_CONFIG] and (not Path(place).exists() or (Path(place) / "README.md").is_file())


def _moved(path: str, folder: Path) -> str:
    """A path relative to a folder; an absolute one as it is."""
    return path if os.path.isabs(path) else os.path.relpath(path, folder)
