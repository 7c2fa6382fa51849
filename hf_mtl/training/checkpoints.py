"""Checkpoints that can be trusted: a manifest of SHA-256 sums, which one to go on from, and the folder's lock."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import CheckpointError, InputError

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
LOCK_FILE = ".hf_mtl.lock"
# Without one of these the Trainer would go on with a fresh optimizer, scheduler or step count and not say so.
REQUIRED = ("trainer_state.json", "scheduler.pt", "optimizer")
OPTIMIZER = ("optimizer.pt", "optimizer_", "global_step")  # of one process, of FSDP, of DeepSpeed
LOCK_SECONDS = 10.0  # data loader workers outlive a killed run for up to 5 seconds, and its lock with them

_locks: dict[Path, FileLock] = {}


def sha256(file: Path) -> str:
    """The digest of a file's content, in hexadecimal."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def manifest(sums: Mapping[str, str]) -> str:
    """The manifest's text, from file name -> digest."""
    return json.dumps({"sha256": sums}, separators=(",", ":"))


def write_manifest(checkpoint: Path) -> None:
    """Seal a checkpoint: the SHA-256 of every file in it, in a file that appears whole or not at all."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != MANIFEST)
    sums = {path.relative_to(checkpoint).as_posix(): sha256(path) for path in files}
    unfinished = checkpoint / f"{MANIFEST}.tmp"
    unfinished.write_text(manifest(sums), encoding="utf-8")
    unfinished.replace(checkpoint / MANIFEST)


def checkpoint_error(checkpoint: Path) -> str | None:
    """Why a run cannot go on from this folder, or None when every file is what was saved."""
    if not checkpoint.is_dir():
        return "no checkpoint there"
    if not (checkpoint / MANIFEST).is_file():
        return f"no {MANIFEST}: the save was cut off"
    try:
        sums = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["sha256"]
        expected = {str(name): str(digest) for name, digest in sums.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    there = {*expected, *("optimizer" for name in expected if name.startswith(OPTIMIZER))}
    for name in REQUIRED:
        if name not in there:
            return f"{name} was not saved with it"
    if not any(Path(name).match("model*.safetensors") for name in expected):
        return "no weights in safetensors form"
    for name, digest in expected.items():
        try:
            if sha256(checkpoint / name) != digest:
                return f"{name} is not what was saved"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoint folders of an output folder, sound or not, the one of the latest step first."""
    steps = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in folder.glob("checkpoint-*")}
    found = {path: int(match[1]) for path, match in steps.items() if match and path.is_dir()}
    return sorted(found, key=lambda path: found[path], reverse=True)


def choose_checkpoint(wanted: str, output_dir: str) -> str:
    """The checkpoint to go on from.

    Args:
        wanted: a checkpoint's folder, or "latest": the latest one in `output_dir` whose manifest holds. Those passed
            over are named.
        output_dir: of the run.

    Raises:
        InputError: when there is none; a run never starts from scratch instead.
    """
    if wanted != "latest":
        reason = checkpoint_error(Path(wanted))
        if reason is not None:
            raise InputError(
                f"resume_from_checkpoint is {wanted!r}: {reason}; wanted a whole checkpoint, or 'latest' for the last "
                f"one in output_dir {output_dir!r}"
            )
        return wanted
    flaws: dict[str, str] = {}
    for checkpoint in checkpoints_in(Path(output_dir)):
        reason = checkpoint_error(checkpoint)
        if reason is None:
            for name, why in flaws.items():
                logger.warning("%s is passed over: %s", name, why)
            return str(checkpoint)
        flaws[str(checkpoint)] = reason
    found = "; ".join(f"{name}: {why}" for name, why in flaws.items()) or "no checkpoint there"
    raise InputError(
        f"resume_from_checkpoint is 'latest': {found}; wanted a whole checkpoint in output_dir {output_dir!r}"
    )


def say_what_is_later(checkpoint: Path, output_dir: str) -> None:
    """Warn of whole checkpoints of later steps than the one to go on from: "latest" would take them."""
    found = checkpoints_in(Path(output_dir))
    here = next((place for place, path in enumerate(found) if path.resolve() == checkpoint.resolve()), 0)
    if later := [path for path in found[:here] if checkpoint_error(path) is None]:
        logger.warning(
            "going on from %s; of later steps there is %s in %s, which --resume_from_checkpoint latest would take; "
            "move it away",
            checkpoint.name,
            ", ".join(path.name for path in later),
            output_dir,
        )


def remove_old_checkpoints(newest: Path, limit: int, kept: Iterable[str | Path | None]) -> None:
    """Keep `limit` checkpoints, among them `newest` and those named, once the newest is sealed.

    Folders without a manifest go first, else one that was cut off would take a whole one's place.
    """
    folder = newest.parent.resolve()
    named = {Path(path).resolve() for path in (newest, *kept) if path is not None}
    stay = {path for path in named if path.parent == folder and path.is_dir()}
    others = [path for path in checkpoints_in(folder) if path not in stay][::-1]  # in the order of their steps
    whole = sorted((path for path in others if (path / MANIFEST).is_file()), key=lambda path: path.stat().st_mtime)
    for path in {*others} - {*whole[max(0, len(whole) + len(stay) - limit) :]}:
        shutil.rmtree(path, ignore_errors=True)


def lock_output_folder(folder: Path) -> None:
    """Keep other processes from training into a folder until this process unlocks it or ends, however it ends.

    Raises:
        InputError: when another process has it.
    """
    path = folder.resolve() / LOCK_FILE
    if path in _locks:
        return
    lock = FileLock(path)
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout as error:
        raise InputError(
            f"output_dir {str(folder)!r}: another run is training into it; wait for its end or choose another folder"
        ) from error
    except NotImplementedError:
        logger.warning("output_dir %s is on a file system without locks: see that no other run uses it", folder)
    _locks[path] = lock


def unlock_output_folder(folder: Path) -> None:
    """Let others train into a folder that this process may have locked."""
    lock = _locks.pop(folder.resolve() / LOCK_FILE, None)
    if lock is not None:
        lock.release()


@contextmanager
def unlocking_output_folder(folder: Path) -> Iterator[None]:
    """Gives the lock of a folder back in the end, if this process has it by then."""
    try:
        yield
    finally:
        unlock_output_folder(folder)


# How the writers of a checkpoint's files say that the disk did not take them.
_WRITE_FAILED = re.compile(
    r"No space left|[Qq]uota exceeded|File too large|I/O error|Input/output error|iostream error|\. unexpected pos"
)


@contextmanager
def write_errors_named(output_dir: str) -> Iterator[None]:
    """Turns the error of a file that could not be written into one that says what is safe.

    Raises:
        CheckpointError: for a full disk, a quota, or a disk that fails.
    """
    try:
        yield
    except Exception as error:  # the tokenizers library has no type of its own for it
        if not _WRITE_FAILED.search(str(error)):
            raise
        whole = [str(path) for path in checkpoints_in(Path(output_dir)) if (path / MANIFEST).is_file()]
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"output_dir {output_dir!r}: a file could not be written: {reason}. Whole checkpoints: "
            f"{', '.join(whole) or 'none'}. Make room, then go on with --resume_from_checkpoint latest"
        ) from error
