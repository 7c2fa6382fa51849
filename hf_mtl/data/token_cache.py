"""Tokens on disk, for the next run with the same texts and tokenizer, and mapped into memory by this one."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa  # type: ignore[import-untyped]
import tokenizers
import transformers
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..model.encoding import ENCODING_VERSION
from ..plugins import plugins_digest
from ..tasks.column_slices import add_to_digest
from ..tasks.columns import table_rows
from ..tasks.kinds import kind_of
from ..tasks.spec import TaskSpec

logger = logging.getLogger(__name__)
Tables = Iterator[pa.Table]


def kept_rows(file: Path | None, num_rows: int, make: Callable[[], Tables]) -> Dataset:
    """The rows of a file or, where it is not there or damaged, those of the tables that `make` makes, kept in it.

    Where no file can be written, they are in memory.

    Args:
        file: None where there is none to be.
        num_rows: of all tables, of which there is one or more.
        make: makes tables of the same columns.
    """
    if file is not None:
        try:
            if file.exists() and not _is_whole(file, num_rows):
                logger.warning("%s is damaged and made anew", file)
                file.unlink()
            if not file.exists():
                _write(file, make())
            return Dataset.from_file(str(file))
        except OSError as error:
            logger.warning("tokens are not kept for the next run: %s", error)
    tables = list(make())
    return table_rows(pa.concat_tables([table.cast(tables[0].schema) for table in tables]))


def _write(file: Path, tables: Tables) -> None:
    """Write tables one after the other; the file is there when all of it is."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(f".{uuid.uuid4().hex}")  # machines that share a cache may have equal process numbers
    try:
        first = next(tables)
        with pa.OSFile(str(unfinished), "wb") as sink, pa.ipc.new_stream(sink, first.schema) as writer:
            writer.write_table(first)
            for table in tables:
                writer.write_table(table.cast(first.schema))
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def _is_whole(file: Path, num_rows: int) -> bool:
    """Whether a file of tokens can be read and has all its rows; a machine that fails may leave less."""
    try:
        return bool(len(Dataset.from_file(str(file))) == num_rows)
    except (pa.ArrowInvalid, OSError):
        return False


def token_file(spec: TaskSpec, texts: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Path | None:
    """The file, named after everything that determines the tokens; None without a cache or a tokenizer's hash.

    Those are the texts themselves, the tokenizer's state, the length, the versions, and the code of plugins and of a
    head's own encoding.
    """
    state = tokenizer_state(tokenizer)
    if state is None or not datasets.is_caching_enabled():
        return None
    kind, names = type(tokenizer), tokenizer.model_input_names
    facts = [kind.__module__, kind.__qualname__, names, tokenizer.truncation_side, tokenizer.split_special_tokens]
    facts += [max_length, spec.text_columns, ENCODING_VERSION, tokenizers.__version__, transformers.__version__]
    encoding: Any = kind_of(spec).head.encode  # a head may have its own
    facts += [encoding.__func__.__module__, encoding.__func__.__qualname__, spec.pair_encoding]
    facts += [plugins_digest()] if plugins_digest() else []
    if (code := own_code(encoding.__func__)) is not None:
        facts += [code, repr(spec.head)]
    digest = hashlib.sha256(json.dumps(facts).encode())
    digest.update(state.encode())
    add_to_digest(digest, texts)
    return Path(datasets.config.HF_DATASETS_CACHE) / "hf_mtl" / "tokens" / f"{digest.hexdigest()[:32]}.arrow"


def own_code(encode: Callable[..., Any]) -> str | None:
    """A hash of the file that a head's own encoding is in; None for hf_mtl's, of which `ENCODING_VERSION` tells."""
    if encode.__module__.startswith("hf_mtl."):
        return None
    file = Path(inspect.getsourcefile(encode) or "")
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Vocabulary and rules of a fast tokenizer; None of a slow one, and of one with parts in Python."""
    try:
        whole: str = tokenizer.backend_tokenizer.to_str()
    except Exception:  # AttributeError, or what the Rust code raises: a bare Exception
        return None
    # What stands before the tokens, truncation and padding, changes with every call.
    return whole[whole.index('"added_tokens"') :]
