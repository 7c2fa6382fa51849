"""Raw rows to rows of token ids, kept on disk for the next run with the same texts and tokenizer."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow  # type: ignore[import-untyped]
import tokenizers
import transformers
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..model.encoding import ENCODING_VERSION
from ..plugins import plugins_digest
from ..tasks.columns import table_rows
from ..tasks.kinds import TaskKind, kind_of
from ..tasks.spec import TaskSpec
from .raw_rows import SplitRows

logger = logging.getLogger(__name__)
Rows = dict[str, Any]


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
    is_known = _own_code(encode.__func__) is None and type(kind).texts is TaskKind.texts
    how = kind.head.encoding_key(spec.head) if is_known else spec.name
    return id(rows.source), spec.text_columns, kind.head.takes_words, how


def _union(places: Sequence[NDArray[np.int64] | None]) -> NDArray[np.int64] | None:
    """The places that are in one of them, in their order; None for all. *Shape:* (rows,)"""
    known = [each for each in places if each is not None]
    return np.unique(np.concatenate(known)) if len(known) == len(places) else None


def _part(rows: Dataset, chosen: NDArray[np.bool_]) -> Dataset:
    """The chosen rows, as a table of their own. *Shape:* (rows,)"""
    return table_rows(rows.with_format("arrow")[:].filter(pyarrow.array(chosen)))


def _without_cut(spec: TaskSpec, encoded: Dataset, max_length: int) -> Dataset:
    """The rows without the column that tells whether one was cut; says how many were."""
    num_cut = sum(encoded["cut"])
    if num_cut:
        logger.info("%s: %d of %d rows are longer than %d tokens, cut", spec.name, num_cut, len(encoded), max_length)
    return encoded.remove_columns("cut")


def _encoded(spec: TaskSpec, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """The tokenizer's inputs, "length" (tokens), and "cut": whether the row lost its end."""
    kind = kind_of(spec)

    def encode_batch(batch: Mapping[str, list[Any]], numbers: list[int]) -> Rows:
        rows_of_texts = kind.texts(spec, batch)
        for number, texts in zip(numbers, rows_of_texts, strict=True):
            if not all(isinstance(text, str) for text in texts):
                raise InputError(f"task {spec.name!r}: row {number} holds {texts!r}, wanted text")
        encoded = kind.head.encode(spec.head, rows_of_texts, tokenizer, max_length)
        columns = {name: [row[name] for row in encoded.rows] for name in encoded.rows[0]}
        return {**columns, "length": list(map(len, columns["input_ids"])), "cut": encoded.cut}

    texts = rows.select_columns(list(dict.fromkeys(spec.text_columns)))
    make = functools.partial(
        texts.map,
        encode_batch,
        batched=True,
        with_indices=True,
        remove_columns=texts.column_names,
        desc=f"tokenising {spec.name}",
    )
    tokenised = _kept(make, _cache_file(spec, texts, tokenizer, max_length), len(texts))
    return make(keep_in_memory=True, load_from_cache_file=False) if tokenised is None else tokenised


def _kept(make: Callable[..., Dataset], file: Path | None, num_rows: int) -> Dataset | None:
    """What `make` makes, from and into a file; None where no file can be written."""
    if file is None:
        return None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and not _is_whole(file, num_rows):
            logger.warning("%s is damaged and made anew", file)
            file.unlink()
        # The stock fingerprint knows no version of the encoding and could hand out old rows; the file's name knows it.
        return make(cache_file_name=str(file), new_fingerprint=file.stem, load_from_cache_file=True)
    except OSError as error:
        logger.warning("tokens are not kept for the next run: %s", error)
        return None


def _is_whole(file: Path, num_rows: int) -> bool:
    """Whether a file of tokens can be read and has all its rows; a machine that fails may leave less."""
    try:
        return bool(len(Dataset.from_file(str(file))) == num_rows)
    except (pyarrow.ArrowInvalid, OSError):
        return False


def _cache_file(spec: TaskSpec, texts: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Path | None:
    """The cache file, named after everything that determines the tokens; None without a cache or a tokenizer's hash.

    Those are the texts themselves, the tokenizer's state, the length, the versions, and the code of plugins and of a
    head's own encoding.
    """
    state = _state(tokenizer)
    if state is None or not datasets.is_caching_enabled():
        return None
    kind, names = type(tokenizer), tokenizer.model_input_names
    facts = [kind.__module__, kind.__qualname__, names, tokenizer.truncation_side, tokenizer.split_special_tokens]
    facts += [max_length, spec.text_columns, ENCODING_VERSION, tokenizers.__version__, transformers.__version__]
    encoding: Any = kind_of(spec).head.encode  # a head may have its own
    facts += [encoding.__func__.__module__, encoding.__func__.__qualname__, spec.pair_encoding]
    facts += [plugins_digest()] if plugins_digest() else []
    if (code := _own_code(encoding.__func__)) is not None:
        facts += [code, repr(spec.head)]
    digest = hashlib.sha256(json.dumps(facts).encode())
    digest.update(state.encode())
    for batch in texts.with_format("arrow")[:].combine_chunks().to_batches():
        digest.update(batch.serialize())
    return Path(datasets.config.HF_DATASETS_CACHE) / "hf_mtl" / "tokens" / f"{digest.hexdigest()[:32]}.arrow"


def _own_code(encode: Callable[..., Any]) -> str | None:
    """A hash of the file that a head's own encoding is in; None for hf_mtl's, of which `ENCODING_VERSION` tells."""
    if encode.__module__.startswith("hf_mtl."):
        return None
    file = Path(inspect.getsourcefile(encode) or "")
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def _state(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Vocabulary and rules of a fast tokenizer; None of a slow one, and of one with parts in Python."""
    try:
        whole: str = tokenizer.backend_tokenizer.to_str()
    except Exception:  # AttributeError, or what the Rust code raises: a bare Exception
        return None
    # What stands before the tokens, truncation and padding, changes with every call.
    return whole[whole.index('"added_tokens"') :]
