"""Raw rows of a task: read from wherever they are, and checked before anything is built on them."""

from __future__ import annotations

import hashlib
import logging
import re
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import datasets
import numpy as np
import yaml
from datasets import ClassLabel, Dataset, DatasetDict
from huggingface_hub import DatasetCard, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from numpy.typing import NDArray

from ..errors import InputError
from ..hub.upload import TransportError
from ..tasks.columns import TextFaults, read_files
from ..tasks.demo import demo_rows
from ..tasks.folders import folder_splits
from ..tasks.kinds import columns_of
from ..tasks.label_column import item_feature, with_classes
from ..tasks.labels import bad_labels
from ..tasks.row_errors import RowErrors, files_of, place_of, raise_first, selected, set_files
from ..tasks.sources import file_list, find_files
from ..tasks.spec import EMBEDDED, SPLITS, TaskSpec
from ..tasks.split_names import own_splits, takes_slices
from ..tasks.tag_column import OF_LISTS
from ..tasks.text_files import about_quotes, format_of, is_packed
from .cut_rows import PARTS, check_uncut, cut_rows, sample_rows
from .memory_rows import GivenRows, memory_rows
from .slices import sliced

logger = logging.getLogger(__name__)
ON_BAD_ROW = ("error", "skip")
LISTED = 20  # bad rows whose fault is spelled out
UNREACHABLE = (ConnectionError, OfflineModeIsEnabled, TransportError)
UNREADABLE = (OSError, ValueError, RuntimeError, TypeError, KeyError, yaml.YAMLError, zipfile.BadZipFile, *UNREACHABLE)


class Files(NamedTuple):
    """Where the rows of a split are, and what their classes are called where that is declared beside them."""

    paths: list[str]
    classes: Mapping[str, ClassLabel] = MappingProxyType({})


Splits = Mapping[str, Dataset | Files]


def load_rows(spec: TaskSpec, split: str, on_bad_row: str = "error", given: GivenRows | None = None) -> Dataset | None:
    """The raw rows of one split ("train", "validation" or "test"), or None when the task has no such split.

    See `load_splits`.
    """
    return load_splits(spec, (split,), on_bad_row, given).get(split)


def load_splits(
    spec: TaskSpec, splits: Sequence[str], on_bad_row: str = "error", given: GivenRows | None = None
) -> dict[str, Dataset]:
    """Split -> its raw rows, of the splits that the task has, with what it cuts off and samples.

    Args:
        spec: the task.
        splits: some of "train", "validation" and "test".
        on_bad_row: see `own_rows`.
        given: see `own_rows`.

    Raises:
        InputError: as `own_rows`; and where validation rows cannot be cut off, such as for a bad label.
    """
    if spec.validation_fraction is not None:
        check_uncut(spec, _find_splits(spec) if given is None else given)
    whole: dict[str, Dataset | None] = {}
    parts: dict[str, NDArray[np.int64]] = {}
    found: dict[str, Dataset] = {}
    for split in splits:
        own = "train" if spec.validation_fraction is not None and split in PARTS else split
        if own not in whole:
            whole[own] = own_rows(spec, own, on_bad_row, given)
        rows = whole[own]
        if rows is None:
            continue
        if spec.validation_fraction is not None and split in PARTS:
            parts = parts or cut_rows(spec, rows)
            rows = selected(rows, parts[split])
        sample = sample_rows(spec, split, rows)
        found[split] = rows if sample is None else selected(rows, sample)
    return found


def own_rows(spec: TaskSpec, split: str, on_bad_row: str = "error", given: GivenRows | None = None) -> Dataset | None:
    """The raw rows of one split of the data, or None when the task has no such split.

    Args:
        spec: the task.
        split: of it.
        on_bad_row: what to do with a row that has no text or a label that the task does not declare: "error", or
            "skip", which counts and lists them. In "test" every row has to be sound: predictions are numbered.
        given: split -> rows in memory, of a task without dataset and files.

    Raises:
        InputError: when the data cannot be loaded, `splits` names one that is not there, the split is empty, a
            declared text column is missing or no text, or a row is bad; bad labels are left to `read_labels` unless
            rows are skipped.
    """
    assert split in SPLITS and on_bad_row in ON_BAD_ROW
    found = _load(spec, split, given)
    if found is None:
        return None
    rows, faults = found
    where = f"task {spec.name!r}, split {split!r}"
    if len(rows) == 0:
        raise InputError(f"{where}: the split is empty, wanted at least one row")
    for column in spec.text_columns:
        if column not in rows.column_names:
            columns = f"{', '.join(rows.column_names)}{about_quotes(rows.column_names)}"
            raise InputError(f"{where}: no column {column!r}; the columns are {columns}")
        if not _holds_text(rows.features[column], words=column not in spec.string_columns):
            wanted = "text" if column in spec.string_columns else f"lists of words; {OF_LISTS}"
            raise InputError(f"{where}: column {column!r} is {rows.features[column]}, wanted {wanted}")
    bad = {**_rows_without_text(spec, rows), **{row: (fault, "") for row, fault in faults.items()}}
    if on_bad_row == "skip" and split != "test":
        if set(spec.columns_of_labels) <= set(rows.column_names):
            bad = {**bad_labels(spec, rows, split), **bad}
        return _skip(spec, rows, split, bad)
    raise_first(spec, rows, split, bad)
    return rows


def _holds_text(feature: Any, *, words: bool) -> bool:
    """Whether a column has strings, or lists of them."""
    if words:
        feature = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return getattr(feature, "dtype", None) in ("string", "large_string")


def split_names(spec: TaskSpec) -> list[str]:
    """The splits that a task's data have, under the data's own names.

    Raises:
        InputError: when the data cannot be found.
    """
    return list(_find_splits(spec))


def _rows_without_text(spec: TaskSpec, rows: Dataset) -> RowErrors:
    """Row -> what is wrong with it."""
    return {
        row: (f"column {column!r} {fault}", "")
        for column in spec.text_columns
        for row, text in enumerate(rows[column][:])
        if (fault := _fault(text))
    }


def _fault(text: str | list[str | None] | None) -> str | None:
    """What a text, or a list of words, lacks."""
    if isinstance(text, list):
        return ("has null among its words" if None in text else None) if text else "has no words"
    return "has no text" if text is None else None


def _skip(spec: TaskSpec, rows: Dataset, split: str, bad: RowErrors) -> Dataset:
    """The rows that are not bad; says which are."""
    if not bad:
        return rows
    where, files = f"task {spec.name!r}, split {split!r}", len(files_of(rows))
    source = place_of(spec, rows, split, 0)[0] if files < 2 else f"{files} files"
    listed = []
    for row in sorted(bad)[:LISTED]:
        path, number = place_of(spec, rows, split, row)
        listed.append(f"row {number}{f' of {path}' if files > 1 else ''}: {''.join(bad[row])}")
    if len(bad) == len(rows):
        raise InputError(f"{where}: none of the {len(rows)} rows of {source} can be used; {listed[0]}")
    more = f"; and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
    message = "%s: %d of %d rows of %s skipped (the first row is 0): %s%s"
    logger.warning(message, where, len(bad), len(rows), source, "; ".join(listed), more)
    return selected(rows, [row for row in range(len(rows)) if row not in bad])


def _load(spec: TaskSpec, split: str, given: GivenRows | None) -> tuple[Dataset, TextFaults] | None:
    """The rows of a split, and what is wrong with the texts of which; None where there is no such split."""
    if spec.dataset == EMBEDDED and spec.splits.get(split, split) in SPLITS:
        return Dataset.from_dict(demo_rows(str(spec.config), spec.splits.get(split, split))), {}
    own_name, splits = spec.splits.get(split, split), _find_splits(spec) if given is None else given
    if takes_slices(own_name, splits):
        return sliced(spec, split, lambda own: _load(own, split, given))
    if own_name not in splits:
        if split in spec.splits:
            raise InputError(
                f"task {spec.name!r}: splits names {own_name!r} for {split!r}, and there is none; the splits are "
                f"{', '.join(splits)}"
            )
        return None
    found = splits[own_name]
    if given is not None:
        return memory_rows(found, spec, split)
    if isinstance(found, Dataset):
        return found, {}
    try:
        paths = find_files(spec.files, own_name) if spec.files else found.paths
        rows, faults, first_rows = read_files(paths, columns_of(spec))
        if spec.label_column in found.classes.keys() & set(rows.column_names):
            rows = with_classes(rows, spec.label_column, found.classes[spec.label_column])
        return set_files(rows, first_rows), faults
    except ValueError as error:
        raise InputError(f"task {spec.name!r}: cannot load {error}") from error


def _find_splits(spec: TaskSpec) -> Splits:
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
            reason = "compressed; unzip it" if is_packed(path) else "no table; wanted csv, tsv, jsonl or parquet"
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
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(str(file.relative_to(path)).encode())
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return str(Path(datasets.config.HF_DATASETS_CACHE) / "hf_mtl" / digest.hexdigest()[:32])
