"""A training of one task alone, step by step on the rows of it that a training of several tasks has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from ..data.batch_sampler import OneTaskBatches
from ..data.task_rows import TaskRows
from ..errors import InputError, unknown_name_error
from ..tasks.spec import TaskSpec, with_loss_weights
from .arguments import DataArguments, MultiTaskTrainingArguments
from .batches import train_sampler, training_rows
from .trainer import MultiTaskTrainer


class AloneTrainer(MultiTaskTrainer):
    """Trains one task in as many steps as a training of `all_tasks` has, each on the task's part of the joint batch.

    Args:
        all_tasks: those of the joint training, in its order.
        train_dataset: every one of these tasks -> its rows, in the order of `all_tasks`.
        kwargs: of `MultiTaskTrainer`; its `tasks` are the one.
    """

    def __init__(
        self, *, all_tasks: Sequence[TaskSpec], train_dataset: Mapping[str, Dataset] | None, **kwargs: Any
    ) -> None:
        self._all_tasks = list(all_tasks)
        names = [spec.name for spec in all_tasks]
        self._all_rows = training_rows(train_dataset, names) if train_dataset else None
        super().__init__(train_dataset=train_dataset, **kwargs)

    def make_batch_sampler(self, rows: TaskRows, args: MultiTaskTrainingArguments, batch_size: int) -> OneTaskBatches:
        """Deals the rows that the only task has in the batches of all tasks."""
        assert self._all_rows is not None
        (task,) = self.tasks
        joint = train_sampler(self._all_tasks, self._all_rows, args, batch_size)
        return OneTaskBatches(joint, self.joint_tasks().index(task))

    def joint_tasks(self) -> list[str]:
        return [spec.name for spec in self._all_tasks]


def chosen_tasks(
    all_tasks: Sequence[TaskSpec], data_args: DataArguments, args: MultiTaskTrainingArguments
) -> list[TaskSpec]:
    """The tasks that a run trains and scores: all of them, or the one of `--alone`.

    Of loss weights and teachers that of this task alone is kept.

    Raises:
        InputError: where that is none of them, and on several processes.
    """
    alone = data_args.alone
    if alone is None:
        return list(all_tasks)
    if alone not in [spec.name for spec in all_tasks]:
        raise unknown_name_error("task in alone:", alone, [spec.name for spec in all_tasks])
    if args.world_size > 1:  # accelerate deals batches of one size only
        raise InputError(f"alone is {alone!r} on {args.world_size} processes, wanted one process")
    with_loss_weights(all_tasks, args.options("loss_weights"))  # refuses those of other tasks
    for task in args.options("teachers"):
        if task not in [spec.name for spec in all_tasks]:
            raise unknown_name_error("task in teachers:", task, [spec.name for spec in all_tasks])
    for name in ("loss_weights", "teachers"):
        own = {task: value for task, value in args.options(name).items() if task == alone}
        setattr(args, name, own or None)
    return [spec for spec in all_tasks if spec.name == alone]
