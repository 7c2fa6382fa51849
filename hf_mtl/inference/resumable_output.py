"""A file of answers that a stopped command goes on with."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..model.pipeline_inputs import Texts

STATE_EVERY = 4096  # rows between two places to go on from


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
