"""Where a task's rows are: the splits that a data set of the Hub, a folder or the key `files` has."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import datasets
import yaml
from datasets import ClassLabel, Dataset, DatasetDict
from huggingface_hub import DatasetCard, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from ..errors import InputError
from ..hub.upload import TransportError
from ..tasks.folders import folder_splits, is_hidden
from ..tasks.label_column import item_feature
from ..tasks.sources import file_list, find_files
from ..tasks.spec import EMBEDDED, SPLITS, TaskSpec
from ..tasks.split_names import own_splits
from ..tasks.text_files import format_of, is_packed

UNREACHABLE = (ConnectionError, OfflineModeIsEnabled, TransportError)
UNREADABLE = (OSError, ValueError, RuntimeError, TypeError, KeyError, yaml.YAMLError, zipfile.BadZipFile, *UNREACHABLE)


class Files(NamedTuple):
    """Where the rows of a split are, and what their classes are called where that is declared beside them."""

    paths: list[str]
    classes: Mapping[str, ClassLabel] = MappingProxyType({})


Splits = Mapping[str, Dataset | Files]


def split_names(spec: TaskSpec) -> list[str]:
    """The splits that a task's data have, under the data's own names.

    Raises:
        InputError: when the data cannot be found.
    """
    return list(find_splits(spec))


def find_splits(spec: TaskSpec) -> Splits:
    """Every split there is, under the data's own name."""
    if spec.dataset == EMBEDDED:
        return dict.fromkeys(SPLITS, Files([]))
    if spec.files:
        return {split: Files(file_list(files)) for split, files in spec.files.items()}
    if spec.dataset is None:
        raise InputError(
            f"task {spec.name!r} has neither dataset nor files, and no rows were given: load_task_data(tasks, "
            f"tokenizer, rows={{{spec.name!r}: {{'train': dataset}}}}) takes them"
        )
    named = [own for name in spec.splits.values() for own in (name, *own_splits(name))]
    source = f"task {spec.name!r}: cannot load {spec.dataset!r}, configuration {spec.config!r}"
    try:
        if not Path(spec.dataset).exists():
            return _hub_splits(spec.dataset, spec.config, named)
        return _local_splits(Path(spec.dataset), spec.config, named)
    except (*UNREADABLE, datasets.exceptions.DatasetsError) as error:
        known = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
        reason = (str(known or error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{source}: {reason}") from error


def _local_splits(folder: Path, config: str | None, chosen: Collection[str]) -> Splits:
    """Of a folder that a dataset was saved to, that has configurations in its README.md, or that has files only."""
    if not folder.is_dir():
        raise InputError("it is a file; wanted a folder, or files: {train: ...}")
    if (folder / "dataset_dict.json").is_file():
        saved = DatasetDict.load_from_disk(str(folder))
        return {split: rows.with_format(None) for split, rows in saved.items()}
    if (folder / "state.json").is_file():
        return {"train": Dataset.load_from_disk(str(folder)).with_format(None)}
    if saved := sorted(path.parent for path in folder.glob("*/state.json")):
        return {path.name: Dataset.load_from_disk(str(path)).with_format(None) for path in saved}
    declared = _declared(folder)
    splits = {} if "configs" in declared else folder_splits(folder, chosen)
    if declared or not splits:
        return _declared_splits(str(folder), config)
    if config is not None:
        raise InputError(f"it has no README.md with the configuration; wanted one, or dataset: {folder / config}")
    return {split: Files(paths) for split, paths in splits.items()}


def _declared(folder: Path) -> set[str]:
    """Which of "configs" and "dataset_info" a folder declares in its README.md, as repositories on the Hub do."""
    card = DatasetCard.load(folder / "README.md").data.to_dict() if (folder / "README.md").is_file() else {}
    own = folder / datasets.config.REPOYAML_FILENAME
    more = yaml.safe_load(own.read_text(encoding="utf-8")) if own.is_file() else {}
    return {"configs", "dataset_info"} & {*card, *(more or {})}


def _hub_splits(name: str, config: str | None, chosen: Collection[str]) -> Splits:
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise InputError("there is no such folder")
    try:
        return _declared_splits(name, config)
    except UNREACHABLE as error:
        # Files of tables that were read before are in the cache, in the layout of the repository.
        try:
            folder = snapshot_download(name, repo_type="dataset", local_files_only=True)
        except LocalEntryNotFoundError:
            raise error from None
    return _local_splits(Path(folder), config, chosen)


def _declared_splits(name: str, config: str | None) -> Splits:
    """What `datasets` finds; its own readers of csv and JSON, which guess types, are left out."""
    builder = datasets.load_dataset_builder(name, config, cache_dir=_content_cache(name))
    files = builder.config.data_files or {}
    forms = {format_of(str(path)) for paths in files.values() for path in paths}
    for path in (str(path) for paths in files.values() for path in paths):
        if is_packed(path) or format_of(path) == "txt":
            reason = "compressed; decompress it" if is_packed(path) else "no table; wanted csv, tsv, jsonl or parquet"
            raise InputError(f"{path!r} is {reason}")
    if not forms or forms & {None, "parquet"}:
        builder.download_and_prepare()
        return dict(builder.as_dataset())
    features = builder.info.features or {}
    items = {column: item_feature(feature) for column, feature in features.items()}
    classes = {column: feature for column, feature in items.items() if isinstance(feature, ClassLabel)}
    local = datasets.DownloadManager().download({split: list(paths) for split, paths in files.items()})
    return {str(split): Files(list(map(str, paths)), classes) for split, paths in local.items()}


def _content_cache(source: str) -> str | None:
    """A cache folder named after the content of a local file or folder; None (the usual cache) for a Hub id.

    `load_dataset` recognises a local folder by its name, and would hand out the old rows of one that was rewritten.
    """
    path = Path(source)
    if not path.exists():
        return None
    return str(Path(datasets.config.HF_DATASETS_CACHE) / "hf_mtl" / content_digest(path)[:32])


def content_digest(source: Path) -> str:
    """A digest of a file, or of the files of a folder with their names in it; hidden ones hold no rows."""
    digest = hashlib.sha256()
    for file in [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file()):
        name = file.relative_to(source)
        if not is_hidden(name):
            digest.update(str(name).encode())
            with open(file, "rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def rows_digest(spec: TaskSpec) -> str | None:
    """A digest of the files that a task's rows are in; None where they are not here, as those of the Hub."""
    try:
        if spec.files:
            found = {
                split: [content_digest(Path(path)) for path in find_files(spec.files, split)] for split in spec.files
            }
        elif spec.dataset is not None and Path(spec.dataset).exists():
            found = {"": [content_digest(Path(spec.dataset))]}
        else:
            return None
    except (InputError, OSError):  # who reads them tells of it
        return None
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:32]
