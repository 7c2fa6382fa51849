"""Checkpoints on the Hub: pushed while the training goes on, without what belongs to this machine."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from concurrent.futures import Future
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from ..hub.upload import PUSH_FAILURES, published, reason_of
from .checkpoints import MANIFEST, manifest, sha256

logger = logging.getLogger(__name__)
LAST = "last-checkpoint"
# What training goes on from, beside what is published. training_args.bin is not needed for that, and holds folders of
# this machine.
RAW_FILE = "ema_raw.safetensors"  # the weights that training goes on from, where what is published is their average
RESUMABLE = ["*.json", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth", RAW_FILE]


class CheckpointPusher:
    """Pushes checkpoints in the background, one at a time, while the training goes on.

    It stands in for the Trainer's own push, which comes before a checkpoint is complete and takes training_args.bin
    along. `args.hub_strategy` says what is pushed: "every_save" puts the model where `from_pretrained` finds it;
    "checkpoint" also puts all that training goes on from into last-checkpoint/; "end" pushes nothing here.

    Attributes:
        repo_id: the repository, once it is known that it can be written.
    """

    def __init__(self) -> None:
        self.repo_id: str | None = None
        self._push: Future[Any] | None = None
        self._checkpoint: Path | None = None  # of the last push

    def push(self, checkpoint: Path, args: TrainingArguments) -> None:
        """Begin to push a checkpoint, if that is asked for; a push that fails is a warning, and training goes on.

        While the last push is under way this checkpoint is left out, unless `args.hub_always_push`.
        """
        if self.repo_id is None or not args.push_to_hub or args.hub_strategy == HubStrategy.END:
            return
        if self._push is not None and not self._push.done() and not args.hub_always_push:
            return
        self.wait()
        self._checkpoint = checkpoint
        self._push = HfApi().create_commit(
            repo_id=self.repo_id,
            operations=list(additions(checkpoint, with_state=args.hub_strategy == HubStrategy.CHECKPOINT)),
            commit_message=f"Training in progress, {checkpoint.name}",
            token=args.hub_token,
            revision=args.hub_revision,
            run_as_future=True,
        )

    def in_use(self) -> Path | None:
        """The checkpoint whose files are being read."""
        return None if self._push is None or self._push.done() else self._checkpoint

    def wait(self) -> None:
        """Wait for the push that is under way."""
        if self._push is None:
            return
        try:
            self._push.result()
        except PUSH_FAILURES as error:
            logger.warning("a checkpoint was not pushed, and training goes on: %s", reason_of(error))
        self._push = None


def additions(checkpoint: Path, *, with_state: bool) -> Iterator[CommitOperationAdd]:
    """The model's files for the top of the repository and, with the state, all to resume from for last-checkpoint/."""
    files = [file for file in sorted(checkpoint.iterdir()) if file.name != MANIFEST]
    public = published(checkpoint)
    for file in files:
        if any(fnmatch(file.name, pattern) for pattern in public):
            yield CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file)
    if not with_state:
        return
    sums = {}
    for file in files:
        if any(fnmatch(file.name, pattern) for pattern in (*public, *RESUMABLE)):
            content = _without_folders(file)
            sums[file.name] = sha256(file) if content is None else hashlib.sha256(content).hexdigest()
            yield CommitOperationAdd(path_in_repo=f"{LAST}/{file.name}", path_or_fileobj=content or file)
    yield CommitOperationAdd(path_in_repo=f"{LAST}/{MANIFEST}", path_or_fileobj=manifest(sums).encode())


def _without_folders(file: Path) -> bytes | None:
    """trainer_state.json without the local path of its best checkpoint; None for every other file."""
    if file.name != "trainer_state.json":
        return None
    state = {**json.loads(file.read_text(encoding="utf-8")), "best_model_checkpoint": None}
    return json.dumps(state, indent=2).encode()
