"""Raw rows to rows of token ids, kept on disk for the next run with the same texts and tokenizer."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from datasets import Dataset
from datasets.utils import tqdm
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..tasks.kinds import TaskKind, kind_of
from ..tasks.spec import TaskSpec
from .parallel import in_processes, num_processes
from .raw_rows import SplitRows
from .token_cache import Tables, kept_rows, own_code, token_file

logger = logging.getLogger(__name__)
AT_ONCE = 4096  # rows
MANY = 65_536  # rows that are worth several processes


def tokenize(
    spec: TaskSpec,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    labels: NDArray[Any] | None = None,
) -> Dataset:
    """Token ids of every row, without padding; kept on disk for the next run with the same texts and tokenizer.

    Args:
        spec: the task; a pair of text columns becomes one input of two segments.
        rows: the raw rows.
        tokenizer: any fast or slow tokenizer.
        max_length: longer inputs lose their end (of the longer text first), in tokens, special ones included. How many
            they are is logged.
        labels: what `read_labels` gave; left out unless given.

    Returns:
        Columns: the tokenizer's inputs, "length" (tokens) and, with labels, "labels".
    """
    tokenised = _without_cut(spec, _encoded(spec, rows, tokenizer, max_length), max_length)
    return tokenised if labels is None else kind_of(spec).add_labels(spec, tokenised, labels)


def tokenize_alike(
    tasks: Sequence[tuple[TaskSpec, SplitRows]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[Dataset]:
    """What `tokenize` gives each task, without labels; texts that several tasks encode alike are tokenised once.

    Args:
        tasks: tasks, each with its rows of a split.
        tokenizer: as in `tokenize`.
        max_length: as in `tokenize`.
    """
    groups: dict[Hashable, list[int]] = {}
    for number, (spec, rows) in enumerate(tasks):
        groups.setdefault(_encoding_of(spec, rows), []).append(number)
    found: dict[int, Dataset] = {}
    for numbers in groups.values():
        members = [tasks[number] for number in numbers]
        places = _union([rows.places for _, rows in members])
        source = members[0][1].source
        # Alone, the rows are as they are: those of a part of the table have a cache file of their own.
        texts = members[0][1].rows if len(members) == 1 else source if places is None else source.select(places)
        encoded = _encoded(members[0][0], texts, tokenizer, max_length)
        for number, (spec, rows) in zip(numbers, members, strict=True):
            own = encoded
            if rows.places is not None and len(rows.places) < len(encoded):
                own = _part(encoded, np.isin(np.arange(len(source)) if places is None else places, rows.places))
            found[number] = _without_cut(spec, own, max_length)
    return [found[number] for number in range(len(tasks))]


def _encoding_of(spec: TaskSpec, rows: SplitRows) -> Hashable:
    """The same for tasks whose rows, of the same table, become the same tokens."""
    kind = kind_of(spec)
    # What other code than hf_mtl's makes of a row may depend on the whole task.
    encode: Any = kind.head.encode
    is_known = own_code(encode.__func__) is None and type(kind).texts is TaskKind.texts
    how = kind.head.encoding_key(spec.head) if is_known else spec.name
    return id(rows.source), spec.text_columns, kind.head.takes_words, how


def _union(places: Sequence[NDArray[np.int64] | None]) -> NDArray[np.int64] | None:
    """The places that are in one of them, in their order; None for all. *Shape:* (rows,)"""
    known = [each for each in places if each is not None]
    return np.unique(np.concatenate(known)) if len(known) == len(places) else None


def _part(rows: Dataset, chosen: NDArray[np.bool_]) -> Dataset:
    """The chosen rows, in a file of their own where `rows` are in one. *Shape:* (rows,)"""
    files = [Path(each["filename"]) for each in rows.cache_files]
    name = hashlib.sha256(np.packbits(chosen).tobytes()).hexdigest()[:16]
    cells = rows.with_format("arrow")

    def tables() -> Tables:
        for start in range(0, len(rows), AT_ONCE):
            yield cells[start : start + AT_ONCE].filter(pa.array(chosen[start : start + AT_ONCE])).combine_chunks()

    file = files[0].with_stem(f"{files[0].stem}-{name}") if files else None
    return kept_rows(file, int(chosen.sum()), tables)


def _without_cut(spec: TaskSpec, encoded: Dataset, max_length: int) -> Dataset:
    """The rows without the column that tells whether one was cut; says how many were."""
    num_cut = pc.sum(encoded.data["cut"]).as_py()
    if num_cut:
        logger.info("%s: %d of %d rows are longer than %d tokens, cut", spec.name, num_cut, len(encoded), max_length)
    return encoded.remove_columns("cut")


def _encoded(spec: TaskSpec, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """The tokenizer's inputs, "length" (tokens), and "cut": whether the row lost its end."""
    kind, texts = kind_of(spec), rows.select_columns(list(dict.fromkeys(spec.text_columns))).with_format(None)

    def encode_slice(start: int) -> pa.Table:
        rows_of_texts = kind.texts(spec, texts[start : start + AT_ONCE])
        for number, row in enumerate(rows_of_texts, start):
            if not all(isinstance(text, str) for text in row):
                raise InputError(f"task {spec.name!r}: row {number} holds {row!r}, wanted text")
        encoded = kind.head.encode(spec.head, rows_of_texts, tokenizer, max_length)
        columns = {name: [row[name] for row in encoded.rows] for name in encoded.rows[0]}
        lengths = [len(ids) for ids in columns["input_ids"]]
        return Dataset.from_dict({**columns, "length": lengths, "cut": encoded.cut}).data.table.combine_chunks()

    def tables() -> Tables:
        starts = range(0, len(texts), AT_ONCE)
        processes = num_processes(len(starts)) if len(texts) > MANY else 1
        with tqdm(total=len(texts), unit=" rows", desc=f"tokenising {spec.name}") as bar:
            for table in in_processes(encode_slice, starts, processes):
                yield table
                bar.update(len(table))

    return kept_rows(token_file(spec, texts, tokenizer, max_length), len(texts), tables)
