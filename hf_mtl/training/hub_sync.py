"""Checkpoints on the Hub: pushed while the training goes on, without what belongs to this machine."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import HubStrategy

from ..hub.upload import PUSH_FAILURES, published, reason_of
from .checkpoints import MANIFEST, manifest, sha256

logger = logging.getLogger(__name__)
LAST = "last-checkpoint"
# What training goes on from, beside what is published. training_args.bin is not needed for that, and holds folders of
# this machine.
RESUMABLE = ["*.json", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth"]


class PushCheckpoints(TrainerCallback):  # type: ignore[misc]  # transformers' base class is untyped
    """Pushes checkpoints in the background, one at a time, while the training goes on.

    It stands in for the Trainer's own push, which comes before a checkpoint is complete and takes training_args.bin
    along; it has to come after the callback that seals a checkpoint.

    Args:
        strategy: "every_save" puts the model where `from_pretrained` finds it; "checkpoint" also puts all that training
            goes on from into last-checkpoint/; "end" does nothing.
        always: push even if the last push is still under way, instead of leaving this checkpoint out.
    """

    def __init__(self, strategy: HubStrategy, *, always: bool) -> None:
        self.strategy, self.always = strategy, always
        self.repo_id: str | None = None  # once it is known that it can be written
        self._push: Future[Any] | None = None
        self._checkpoint: Path | None = None  # of the last push

    @contextmanager
    def takes_over_upload(self, args: TrainingArguments) -> Iterator[None]:
        """Keeps the Trainer from pushing checkpoints itself."""
        self.strategy, args.hub_strategy = args.hub_strategy, HubStrategy.END
        try:
            yield
        finally:
            args.hub_strategy = self.strategy

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.repo_id is not None and args.push_to_hub and state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self.push(checkpoint, self.repo_id, token=args.hub_token, revision=args.hub_revision)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.wait()

    def push(self, checkpoint: Path, repo_id: str, *, token: str | None, revision: str | None) -> None:
        """Begin to push a checkpoint; a push that fails is told by a warning, and training goes on."""
        if self.strategy == HubStrategy.END or (self._push is not None and not self._push.done() and not self.always):
            return
        self.wait()
        self._checkpoint = checkpoint
        self._push = HfApi().create_commit(
            repo_id=repo_id,
            operations=list(additions(checkpoint, with_state=self.strategy == HubStrategy.CHECKPOINT)),
            commit_message=f"Training in progress, {checkpoint.name}",
            token=token,
            revision=revision,
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
