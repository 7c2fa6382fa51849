"""The publishing half of the trainer: what is saved for use, the curves, the card, and the way to the Hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..data.batch_sampler import TaskBatchSampler
from ..errors import InputError
from ..gradients.joint_loss import JointLoss
from ..hub.model_card import CardFacts
from ..hub.upload import (
    CURVES,
    PUSH_FAILURES,
    check_write_access,
    failure_named,
    make_branch,
    publish,
    reason_of,
    write_local_card,
)
from ..model.encoding import padded_right
from .arguments import describe_setup
from .checkpoints import write_errors_named
from .evaluation import TaskEvaluation
from .hub_sync import PushCheckpoints
from .resuming import changes_in_words
from .schedule import UnfreezeSchedule
from .unfreezing import stage_starts, steps_per_epoch


class TaskPublishing(TaskEvaluation):
    """A Trainer that saves and publishes a multi-task model; `MultiTaskTrainer` adds the training.

    Attributes:
        joint: given under an engine that shards, where a model's weights lie on all processes.
        unfreeze_schedule: given when layers are unfrozen in the course of the training.
        batch_sampler: deals the training rows.
        push_checkpoints: pushes them while the training goes on.
        changes: of settings, where the run was resumed with others.
        conflict_share: gives the share of the run's steps in which two tasks' gradients conflicted.
    """

    joint: JointLoss | None
    unfreeze_schedule: UnfreezeSchedule | None
    batch_sampler: TaskBatchSampler
    push_checkpoints: PushCheckpoints
    conflict_share: Callable[[], float | None]
    changes: list[list[Any]]

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository on the Hub when the trainer is built, so that a wrong token stops a run at once."""
        if private is not None:
            self.args.hub_private_repo = private  # transformers 5.17 asks there only
        try:
            super().init_hf_repo(token=token)
            if self.is_world_process_zero():
                check_write_access(token or self.args.hub_token)
                make_branch(self.repo_id, self.args.hub_revision, token or self.args.hub_token)
        except PUSH_FAILURES as error:
            raise InputError(f"hub_model_id {self.repo_id!r} cannot be pushed to: {reason_of(error)}") from error
        self.push_checkpoints.repo_id = self.hub_model_id

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Put the model and the tokenizer into a folder, the output folder unless given.

        The Trainer's own also pickles the arguments, and with them the hub's token and folders of this machine.
        """
        folder, main = output_dir or self.args.output_dir, self.args.should_save
        if self.joint is not None:  # the shards are gathered, which takes every process
            engine = self.is_deepspeed_enabled or self.is_fsdp_enabled
            weights = self.accelerator.get_state_dict(self.model_wrapped) if engine else None
            self.model.save_pretrained(folder, state_dict=weights, is_main_process=main)
        elif main:
            self.model.save_pretrained(folder)
        if main and self.processing_class is not None:
            padded_right(self.processing_class).save_pretrained(folder)

    def save_final(self) -> None:
        """Put the model and the tokenizer into the output folder, where `from_pretrained` finds them."""
        with write_errors_named(self.args.output_dir):
            self.save_model()

    def draw_curves(self) -> None:
        """Put training_curves.png into the output folder, with a line where layers were unfrozen."""
        from .training_curves import plot_curves  # late: matplotlib is slow to import, and not needed to train

        marks: dict[float, str] = {}
        if self.unfreeze_schedule is not None:
            num_batches = len(self.batch_sampler) // self.args.world_size
            num_layers = self.model.encoder.config.num_hidden_layers
            marks = stage_starts(self.unfreeze_schedule, steps_per_epoch(self.args, num_batches), num_layers)
        marks = {step: words for step, words in marks.items() if step <= self.state.global_step}
        plot_curves(self.state.log_history, list(self.tasks.values()), marks, Path(self.args.output_dir) / CURVES)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> str | None:
        """Upload model, tokenizer, card and curves to `args.hub_model_id`; files that may hold secrets stay here.

        Returns:
            The commit's address on the main process, None elsewhere.

        Raises:
            PushError: when the Hub does not take it; the message has the command that uploads it later.
        """
        folder, revision = Path(self.args.output_dir), revision or self.args.hub_revision
        self.save_final()
        if not self.is_world_process_zero():
            return None
        self.push_checkpoints.wait()
        if any("loss" in row for row in self.state.log_history):
            self.draw_curves()
        if self.hub_model_id is None:
            self.create_model_card()
            wanted = bool(self.args.hub_private_repo if private is None else private)
            with failure_named(folder, self.repo_id, revision, private=wanted):
                self.init_hf_repo(token=token, private=private)
        token, message = token or self.args.hub_token, commit_message or "End of training"
        return publish(folder, self.card_facts(), message=message, token=token, revision=revision)

    def create_model_card(self) -> None:
        """Put the model card into the output folder; what a person wrote into one that is there stays."""
        if self.is_world_process_zero():
            with write_errors_named(self.args.output_dir):
                write_local_card(Path(self.args.output_dir), self.card_facts())

    @property
    def repo_id(self) -> str:
        """The model's name on the Hub, as far as it is known."""
        return self.hub_model_id or self.args.hub_model_id or Path(self.args.output_dir).absolute().name

    def card_facts(self) -> CardFacts:
        """What the model card tells of this run."""
        setup = describe_setup(self.args, self.model.config, steps) if (steps := self.state.global_step) else {}
        splits = {"train": self.train_dataset.tasks if self.train_dataset else None, "validation": self.eval_dataset}
        return CardFacts(
            repo_id=self.repo_id,
            tasks=list(self.tasks.values()),
            metrics=self._current_scores(),
            sizes={split: {name: len(rows[name]) for name in rows} for split, rows in splits.items() if rows},
            conflicts=self.conflict_share(),
            setup={**setup, **changes_in_words(self.changes)},
            base_model=self.model.config.base_model,
            licence=self.args.hub_license,
        )

    def _current_scores(self) -> Mapping[str, float]:
        """The last evaluation of the weights that the model has now; empty when there was none."""
        history, step = self.state.log_history, self.state.global_step
        trained = max((place for place, row in enumerate(history) if "train_runtime" in row), default=-1)
        again = any("eval_average" in row for row in history[trained + 1 :])
        # Without a checkpoint of the best step, as after going on from the Hub's last one, none was loaded.
        if trained >= 0 and self.args.load_best_model_at_end and self.state.best_model_checkpoint and not again:
            step = self.state.best_global_step
        scored = [row for row in history if "eval_average" in row and row["step"] == step]
        return scored[-1] if scored else {}
