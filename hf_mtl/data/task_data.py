"""From tasks and a tokenizer to the rows that the trainer takes, in one call."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..errors import InputError, unknown_name_error
from ..tasks.kinds import kind_of
from ..tasks.labels import read_labels
from ..tasks.spec import SPLITS, TaskSpec
from ..tasks.task_list import check_tasks
from ..validation import check_number
from .auto_labels import without_source
from .data_checks import LabelledRows, say_what_is_odd
from .data_splits import split_names
from .memory_rows import GivenRows, rows_of_tasks
from .raw_rows import ON_BAD_ROW, read_splits
from .shared_reads import SharedReads
from .tokenization import tokenize_alike

logger = logging.getLogger(__name__)
DEFAULT_LENGTH = 512  # tokens
TaskData = dict[str, dict[str, Dataset]]


def load_task_data(
    tasks: Sequence[TaskSpec],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int = DEFAULT_LENGTH,
    splits: Sequence[str] = ("train", "validation"),
    rows: Mapping[str, GivenRows] | None = None,
    on_bad_row: str = "error",
    reads: SharedReads | None = None,
) -> TaskData:
    """Split -> task -> the rows that `MultiTaskTrainer` takes: token ids and checked labels.

    Every task needs a split "train" where that is asked for. A task without "validation" or "test" is left out there.
    Rows of "test" may be without labels. Files that several tasks name are read once, and texts that they share are
    tokenised once.

    Args:
        tasks: what to load, from `load_tasks`, `resolve_tasks` or made in Python.
        tokenizer: the encoder's own.
        max_length: longer inputs lose their end, in tokens, special ones included; at most what the tokenizer allows.
        splits: some of "train", "validation" and "test".
        rows: task -> split -> a `datasets.Dataset`, a pandas DataFrame or a list of dicts. They stand for all splits of
            the task, whose dataset or files are not read.
        on_bad_row: what to do with a row of "train" or "validation" that has no text or a label that its task does not
            declare: "error", or "skip", which counts and lists them.
        reads: that of `resolve_tasks`, where it got one, for these tasks and rows.

    Raises:
        InputError: for what cannot be used, with the task, the split and the row.
    """
    tasks = check_tasks(tasks)
    limit = _check_options(tokenizer, max_length, splits, on_bad_row)
    given = rows_of_tasks(rows, tasks)
    # All rows are read and checked before any are tokenised, which takes longer.
    reads = reads or SharedReads(tasks, given)
    raw = {spec.name: _raw_splits(spec, splits, given.get(spec.name), on_bad_row, reads) for spec in tasks}
    _say_what_is_not_scored(tasks, raw, given)
    say_what_is_odd(tasks, raw)
    return {split: _tokenised(split, tasks, raw, tokenizer, limit) for split in splits}


def _check_options(tokenizer: PreTrainedTokenizerBase, max_length: int, splits: Sequence[str], on_bad_row: str) -> int:
    """The most tokens of an input: what was asked for, or what the tokenizer allows; InputError for a wrong option."""
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise InputError(f"tokenizer is a {type(tokenizer).__name__}, wanted the encoder's own from AutoTokenizer")
    check_number("max_length", max_length, "a whole number of tokens, 8 or more", lambda x: x >= 8 and x == int(x))
    if isinstance(splits, str) or not splits:
        raise InputError(f"splits is {splits!r}, wanted a list of one or more of {', '.join(SPLITS)}")
    for split in splits:
        if split not in SPLITS:
            raise unknown_name_error("split in splits:", split, SPLITS)
    if on_bad_row not in ON_BAD_ROW:
        raise unknown_name_error("on_bad_row", on_bad_row, ON_BAD_ROW)
    return int(min(max_length, tokenizer.model_max_length))


def _raw_splits(
    spec: TaskSpec, splits: Sequence[str], given: GivenRows | None, on_bad_row: str, reads: SharedReads
) -> dict[str, LabelledRows]:
    """Split -> raw rows and checked labels, for the splits that the task has.

    Raises:
        InputError: for a task without "train" where that is asked for, and for a bad row.
    """
    if given is not None:
        spec = without_source(spec)
    found: dict[str, LabelledRows] = {}
    there = read_splits(spec, splits, on_bad_row, given, reads)
    for split in splits:
        if split in there:
            found[split] = there[split], read_labels(spec, there[split].rows, split)
        elif split == "test":
            logger.warning("task %s has no test split: no predictions for it", spec.name)
        elif split == "train":
            raise InputError(f"task {spec.name!r} has no split 'train'; {splits_there(spec, given)}")
    return found


def splits_there(spec: TaskSpec, given: GivenRows | None = None) -> str:
    """The splits that a task's data has, for a message."""
    names = ", ".join(map(repr, split_names(spec) if given is None else given)) or "none"
    hint = "; the key 'splits' of a task file says which is which" if given is None else ""
    return f"it has {names}{hint}"


def _say_what_is_not_scored(
    tasks: Sequence[TaskSpec], raw: Mapping[str, Mapping[str, LabelledRows]], given: Mapping[str, GivenRows]
) -> None:
    """Name the tasks without a validation split where others have one."""
    if not any("validation" in found for found in raw.values()):
        return
    for spec in tasks:
        if "validation" not in raw[spec.name]:
            there = splits_there(spec, given.get(spec.name))
            logger.warning("task %s has no validation split, so it is not scored; %s", spec.name, there)


def _tokenised(
    split: str,
    tasks: Sequence[TaskSpec],
    raw: Mapping[str, Mapping[str, LabelledRows]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> dict[str, Dataset]:
    """Task -> the split's rows as token ids, with their labels."""
    found = [(spec, *raw[spec.name][split]) for spec in tasks if split in raw[spec.name]]
    rows = tokenize_alike([(spec, rows) for spec, rows, _ in found], tokenizer, max_length)
    return {
        spec.name: kind_of(spec).add_labels(spec, tokens, labels)
        for (spec, _, labels), tokens in zip(found, rows, strict=True)
    }
