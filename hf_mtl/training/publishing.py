"""What a run leaves for others: curves, model card, upload. It reads a record of the run, not the trainer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.trainer_utils import SchedulerType

from ..hub.model_card import CardFacts
from ..hub.upload import CURVES, failure_named, publish, write_local_card
from ..model.configuration import MultiTaskConfig
from ..tasks.spec import TaskSpec
from .arguments import MultiTaskTrainingArguments
from .checkpoints import write_errors_named
from .learning_rates import levers_in_words
from .resuming import changes_in_words
from .watched_metric import WATCHING_SCHEDULES

# In the line of the log that ends a training, and in no other.
END_OF_TRAINING = "total_flos"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What is known of a run when it is published.

    Attributes:
        repo_id: the model's name on the Hub, as far as it is known.
        log_history: the lines of the log.
        step: optimizer steps that were taken.
        batch_size: rows per device that were trained with, which `auto_find_batch_size` chooses.
        weights_step: the step whose weights the model has.
        sizes: split -> task -> number of rows.
        conflicts: share of the steps in which two tasks' gradients conflicted; None without a step.
        passes: task -> how often its rows were seen.
        changes: of settings when the run was resumed, as [step, setting, before, now].
        unfreezing: step -> what trains from there on, in words.
        joint_tasks: those that the rows of a batch are shared among, also where one of them trains alone.
    """

    repo_id: str
    log_history: Sequence[Mapping[str, Any]]
    step: int
    batch_size: int
    weights_step: int
    sizes: Mapping[str, Mapping[str, int]]
    conflicts: float | None
    passes: Mapping[str, float]
    changes: Sequence[Sequence[Any]]
    unfreezing: Mapping[float, str]
    joint_tasks: Sequence[str]


class Publisher:
    """Writes and uploads what a run leaves.

    Args:
        args: of the run.
        config: of its model.
        tasks: in their order.
    """

    def __init__(self, args: MultiTaskTrainingArguments, config: MultiTaskConfig, tasks: Sequence[TaskSpec]) -> None:
        self.args, self.config, self.tasks = args, config, list(tasks)
        self._can_draw = True

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path(self.args.output_dir)

    def draw_curves(self, record: RunRecord) -> None:
        """Put training_curves.png into the output folder, with a line where layers were unfrozen.

        Where it cannot be drawn, that is said once.
        """
        if not self._can_draw:
            return
        from .training_curves import plot_curves  # late: matplotlib is slow to import, and not needed to train

        marks = {step: words for step, words in record.unfreezing.items() if step <= record.step}
        self._can_draw = plot_curves(record.log_history, self.tasks, marks, self.folder / CURVES)

    def write_card(self, record: RunRecord) -> None:
        """Put the model card into the output folder; what a person wrote into one that is there stays."""
        with write_errors_named(self.args.output_dir):
            write_local_card(self.folder, self.card_facts(record))

    def push(
        self,
        record: Callable[[], RunRecord],
        make_repository: Callable[[], None] | None,
        *,
        message: str,
        token: str | None,
        revision: str | None,
        private: bool,
    ) -> str:
        """Upload model, tokenizer, card and curves of the output folder; gives the commit's address.

        Args:
            record: gives what is known of the run; asked again once there is a repository, which names the model.
            make_repository: makes the one on the Hub, where there is none yet. The card is in the folder before.
            message: of the commit.
            token: of the Hub; the one that is logged in unless given.
            revision: branch to commit to.
            private: whether the repository is, for the command that pushes later.

        Raises:
            PushError: when the Hub does not take it.
        """
        known = record()
        if any("loss" in row for row in known.log_history):
            self.draw_curves(known)
        if make_repository is not None:
            self.write_card(known)
            with failure_named(self.folder, known.repo_id, revision, private=private):
                make_repository()
        return publish(self.folder, self.card_facts(record()), message=message, token=token, revision=revision)

    def card_facts(self, record: RunRecord) -> CardFacts:
        """What the model card tells of a run."""
        setup = describe_setup(self.args, self.config, record.step, record.batch_size) if record.step else {}
        if record.passes:
            seen = ", ".join(f"{task} {passes:.3g}" for task, passes in record.passes.items())
            setup["how often each row was seen"] = seen
        if setup and len(record.joint_tasks) > len(self.tasks):
            setup["trained alone"] = f"on its rows of batches over {', '.join(record.joint_tasks)}"
        return CardFacts(
            repo_id=record.repo_id,
            tasks=self.tasks,
            metrics=scores_at(record.log_history, record.weights_step),
            sizes={split: dict(sizes) for split, sizes in record.sizes.items()},
            conflicts=record.conflicts,
            setup={**setup, **changes_in_words(record.changes)},
            base_model=self.config.base_model,
            licence=self.args.hub_license,
        )


def scores_at(log_history: Sequence[Mapping[str, Any]], step: int) -> Mapping[str, float]:
    """The last evaluation of the weights of a step; empty when there was none."""
    scored = [row for row in log_history if "eval_average" in row and row["step"] == step]
    return scored[-1] if scored else {}


def step_of_weights(
    log_history: Sequence[Mapping[str, Any]], step: int, best_step: int | None, *, best_is_loaded: bool
) -> int:
    """The step whose weights a model has.

    Args:
        log_history: the run's lines.
        step: the last one.
        best_step: the best one.
        best_is_loaded: whether the best checkpoint is loaded at the end of a training.
    """
    trained = max((place for place, row in enumerate(log_history) if END_OF_TRAINING in row), default=-1)
    evaluated_since = any("eval_average" in row for row in log_history[trained + 1 :])
    if trained >= 0 and best_is_loaded and best_step is not None and not evaluated_since:
        return best_step
    return step


def describe_setup(
    args: MultiTaskTrainingArguments, config: MultiTaskConfig, steps: int, batch_size: int
) -> dict[str, str]:
    """The settings that make a run what it is, for people. None of them names a folder.

    Args:
        args: of the run.
        config: of its model.
        steps: trained.
        batch_size: rows per device that were trained with.
    """
    half = "bf16" if args.bf16 else "fp16" if args.fp16 and args.device.type != "cpu" else None  # CPUs ignore fp16
    rows = batch_size * args.gradient_accumulation_steps * args.world_size
    setup = {
        "gradients combined by": " ".join([args.gradient_method, *_as_json(args.gradient_method_args)]),
        "loss weights": " ".join(_as_json(args.loss_weights)) or "the task set's",
        "optimizer steps": f"{steps:,}",
        "rows per step, over all tasks": f"{rows:,}",
        "task sampling": args.task_sampling,
        "learning rate": ", ".join(filter(None, (f"{args.learning_rate:g}", _schedule(args), levers_in_words(args)))),
        "optimizer, weight decay": f"{args.optimizer or args.optim.value}, {args.weight_decay:g}",
        "trainable encoder layers (unit: number)": args.unfreeze_schedule,
        "pooling, head dropout": f"{config.pooling}, {config.head_dropout:g}",
        "longest input, tokens": "the encoder's limit" if config.max_seq_length is None else str(config.max_seq_length),
        "precision, seed": f"{half or 'fp32'}, {args.seed}",
    }
    if teachers := args.options("teachers"):
        setup["taught by saved models"] = ", ".join(teachers)
    if args.ema_decay:
        setup["weights"] = f"their exponential moving average, decay {args.ema_decay:g}"
    if args.soup:
        setup["final model"] = f"a greedy soup of the {args.soup} best checkpoints on eval_average"
    return setup


def _as_json(options: object) -> list[str]:
    return [json.dumps(options)] if options else []


def _schedule(args: MultiTaskTrainingArguments) -> str:
    """The schedule in words, with the warm-up where it has one."""
    kind = args.lr_scheduler_type
    warms_up = kind not in (SchedulerType.CONSTANT, *WATCHING_SCHEDULES)
    return f"{args.warmup_steps:g} warm-up steps, {kind.value}" if warms_up else kind.value
