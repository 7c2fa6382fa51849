"""Predicting over files of any size: rows come in one by one, JSON lines go out, and a stopped run goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet  # type: ignore[import-untyped]

from ..errors import InputError
from ..model.pipeline import MultiTaskPipeline
from ..model.pipeline_inputs import BEST, Texts, TopK
from ..tasks.tables import Record, read_records, text_fault
from ..tasks.text_files import FORMATS, about_quotes, format_of

USUAL_COLUMNS = (("text", "text_pair"), ("sentence1", "sentence2"), ("text",), ("sentence",))
STATE_EVERY = 4096


def file_format(path: str, named: str | None) -> str:
    """The format of an input: the one named, or that of its name; standard input is JSON lines unless named."""
    found = named or ("jsonl" if path == "-" else format_of(path))
    if found not in FORMATS:
        raise InputError(f"input {path!r} is none of {', '.join(FORMATS)}; name its format with --format")
    if path == "-" and found == "parquet":
        raise InputError("parquet cannot be read from standard input; wanted a file")
    return found


def count_rows(path: str, form: str) -> int | None:
    """The rows of a parquet file; None for what would have to be read through."""
    return int(pyarrow.parquet.read_metadata(path).num_rows) if form == "parquet" else None


def read_texts(path: str, form: str, columns: Sequence[str] | None) -> Generator[Texts]:
    """The texts or pairs of an input, one at a time.

    Args:
        path: of a file, or "-" for standard input.
        form: one of `FORMATS`.
        columns: of the text, or of the two texts; unless given, one of `USUAL_COLUMNS` that are there, or the only one.

    Raises:
        InputError: when there are no rows, or the columns are not there or hold no text; it names the row.
    """
    chosen, number = tuple(columns or ()), -1
    try:
        with closing(read_records(path, form, (chosen,) if chosen else USUAL_COLUMNS)) as records:
            for number, record in enumerate(records):
                chosen = chosen or _usual_columns(path, list(record))
                if number == 0 and (absent := [column for column in chosen if column not in record]):
                    raise InputError(
                        f"{path!r}: no column {absent[0]!r}; the columns are {', '.join(record)}{about_quotes(record)}"
                    )
                if not columns and (second := _second_text(chosen, record)):
                    raise InputError(
                        f"{path!r}: row {number} (the first row is 0) has the column {second!r}, and row 0 has not; "
                        "name one column, or two for a pair, with --columns"
                    )
                for column in chosen:
                    if fault := text_fault(record.get(column)):
                        raise InputError(f"{path!r}: column {column!r} {fault} in row {number} (the first row is 0)")
                yield tuple(record[column] for column in chosen)
        if number < 0:
            raise InputError(f"{path!r} has no rows")
    except InputError as error:
        raise InputError(f"input {error}") from error


def _usual_columns(path: str, there: list[str]) -> tuple[str, ...]:
    for columns in USUAL_COLUMNS:
        if set(columns) <= set(there):
            return columns
    if len(there) == 1:
        return (there[0],)
    raise InputError(
        f"{path!r} has the columns {', '.join(there)}; name one, or two for a pair, with --columns{about_quotes(there)}"
    )


def _second_text(chosen: Sequence[str], record: Record) -> str | None:
    """The column of a row that makes a pair with the single text that was chosen."""
    pairs = (columns for columns in USUAL_COLUMNS if columns[:1] == chosen and len(columns) == 2)
    return next((second for _, second in pairs if record.get(second) is not None), None)


@dataclass
class Progress:
    """How far an output has come.

    Attributes:
        call: what was asked for; another call cannot go on with this output.
        rows: answers written.
        size: bytes written.
        digest: of the texts that were answered, so that other texts are noticed.
    """

    call: dict[str, Any]
    rows: int = 0
    size: int = 0
    digest: str = ""


class ResumableOutput:
    """A file of JSON lines that appears under its name once it is whole; until then its parts wait beside it.

    Args:
        path: of the file. `<path>.part` holds what is written so far, `<path>.part.json` how far it has come.
        call: what was asked for.

    Raises:
        InputError: when the file is there already, or its parts belong to another call.
    """

    def __init__(self, path: Path, call: dict[str, Any]) -> None:
        self.path, self.part, self.state = path, Path(f"{path}.part"), Path(f"{path}.part.json")
        if path.exists():
            raise InputError(f"output {str(path)!r} is there already; remove it or name another")
        self.progress = Progress(call)
        if self.state.exists() and self.part.exists():
            self.progress = Progress(**json.loads(self.state.read_text(encoding="utf-8")))
            if self.progress.rows and self.progress.call != call:
                raise InputError(
                    f"output {str(self.part)!r} is the beginning of another call: {self.progress.call}; remove it, or "
                    "name another output"
                )
        try:
            self.stream = open(self.part, "ab")  # noqa: SIM115  (closed on leaving the context)
        except OSError as error:
            raise InputError(f"output {str(path)!r} cannot be written: {error.strerror}") from error
        self.progress.call = call
        self.stream.truncate(self.progress.size)
        self.digest: Any = None  # until `skip` has seen that these are the same texts

    def skip(self, rows: Iterator[Texts]) -> Iterator[Texts]:
        """The rows that are not answered yet; InputError when those before them are not the ones that were answered."""
        digest = hashlib.sha256()
        for texts in islice(rows, self.progress.rows):
            digest.update(_as_bytes(texts))
        if self.progress.rows and digest.hexdigest() != self.progress.digest:
            raise InputError(
                f"output {str(self.part)!r} answers other texts than the first {self.progress.rows} of this input; "
                "remove it, or name another output"
            )
        self.digest = digest
        return rows

    def write(self, texts: Texts, line: str) -> None:
        """Add a row's answer."""
        self.progress.size += self.stream.write(line.encode())
        self.digest.update(_as_bytes(texts))
        self.progress.rows += 1
        if self.progress.rows % STATE_EVERY == 0:
            self.save()

    def __enter__(self) -> ResumableOutput:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if self.digest is not None:
                self.save()
        finally:
            self.stream.close()

    def save(self) -> None:
        """Make what is written so far the place to go on from."""
        self.stream.flush()
        self.progress.digest = self.digest.hexdigest()
        new = Path(f"{self.state}.new")
        new.write_text(json.dumps(vars(self.progress)), encoding="utf-8")
        os.replace(new, self.state)

    def finish(self) -> None:
        """Give the file its name; after the context."""
        os.replace(self.part, self.path)
        self.state.unlink(missing_ok=True)


def _as_bytes(texts: Texts) -> bytes:
    return json.dumps(texts).encode() + b"\n"


def answer_lines(
    pipe: MultiTaskPipeline,
    rows: Iterator[Texts],
    tasks: Sequence[str] | None,
    *,
    first: int = 0,
    batch_size: int = 32,
    top_k: TopK = BEST,
) -> Iterator[tuple[Texts, str, bool]]:
    """For each row: its texts, its JSON line, and whether its end was cut off.

    Args:
        pipe: answers.
        rows: texts or pairs.
        tasks: as `task_name` of `MultiTaskPipeline.stream`.
        first: number of the first row.
        batch_size: as in `MultiTaskPipeline.stream`.
        top_k: as in `MultiTaskPipeline.stream`.
    """
    waiting: deque[Texts] = deque()

    def noting() -> Iterator[Texts]:
        for texts in rows:
            waiting.append(texts)
            yield texts

    for number, (answer, cut) in enumerate(
        pipe.stream(noting(), tasks, batch_size=batch_size, top_k=top_k), start=first
    ):
        record = {"index": number, **answer, **({"truncated": True} if cut else {})}
        yield waiting.popleft(), json.dumps(record, ensure_ascii=False) + "\n", cut
