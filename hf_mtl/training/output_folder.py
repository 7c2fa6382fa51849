"""The folder that a run writes to, checked before anything is loaded."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..errors import InputError
from .arguments import MultiTaskTrainingArguments
from .checkpoints import LOCK_FILE, choose_checkpoint, lock_output_folder

RUN_FILE, LOG_FILE = "arguments.json", "run.log"  # what `hf-mtl compare` puts into a run's folder before it begins


def check_output_folder(args: MultiTaskTrainingArguments) -> str | None:
    """The checkpoint to go on from, if any.

    Refuses a folder that cannot be written and, before training, one that holds something already or in which another
    run trains. A run that goes on from a checkpoint in the folder may find something there.
    """
    folder = Path(args.output_dir)
    parent = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise InputError(f"output_dir {args.output_dir!r} cannot be written: {error.strerror}") from error
    checkpoint = None
    if args.resume_from_checkpoint is not None:
        checkpoint = choose_checkpoint(args.resume_from_checkpoint, args.output_dir)
    goes_on_there = checkpoint is not None and Path(checkpoint).parent.resolve() == folder.resolve()
    if args.do_train and folder.is_dir():
        found = {path.name for path in folder.iterdir()} - {LOCK_FILE, RUN_FILE, LOG_FILE}
        if found and not goes_on_there:
            raise InputError(
                f"output_dir {args.output_dir!r} is not empty"
                + ("" if checkpoint is None else f", and {checkpoint!r}, to go on from, is not in it")
                + "; choose another, or go on from its last checkpoint with --resume_from_checkpoint latest"
            )
        if checkpoint is not None:
            lock_output_folder(folder)
    return checkpoint
