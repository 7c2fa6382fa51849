"""The batches of a run: each task's share of them, their order, the loaders that give them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader

from ..data.batch_sampler import GROUPED_BATCHES, OneTaskBatches, TaskBatchSampler, epoch_batches
from ..data.collator import TaskCollator
from ..data.given_rows import checked_rows, rows_by_task
from ..data.task_rows import TaskRows
from ..data.task_shares import Floats, task_shares
from ..errors import InputError
from ..model.modeling import MultiTaskModel
from ..tasks.spec import TaskSpec
from .arguments import MultiTaskTrainingArguments
from .unfreezing import steps_per_epoch

TrainSampler = TaskBatchSampler | OneTaskBatches


def given_rows(
    given: Mapping[str, Dataset] | Dataset,
    argument: str,
    tasks: Mapping[str, TaskSpec],
    model: MultiTaskModel,
    collator: object,
    *,
    others: bool = False,
    labelled: bool = True,
) -> dict[str, Dataset]:
    """Task -> its rows, checked.

    Args:
        given: `{task: rows}`, or the rows of the only task.
        argument: what the user calls it, for messages.
        tasks: task -> its declaration.
        model: will read the rows.
        collator: will make batches of them.
        others: pass over rows of tasks that are not among `tasks`.
        labelled: whether every row needs a label.

    Raises:
        InputError: for what cannot be batched and scored.
    """
    check = functools.partial(
        checked_rows,
        vocab_size=getattr(model.get_input_embeddings(), "num_embeddings", None),
        positions=_num_positions(model.encoder),
        inputs=collator.tokenizer.model_input_names if type(collator) is TaskCollator else (),
        labelled=labelled,
    )
    by_task = rows_by_task(given, list(tasks), argument, others=others)
    return {task: check(rows, tasks[task], argument) for task, rows in by_task.items()}


def _num_positions(encoder: nn.Module) -> int | None:
    """The most tokens that an encoder has positions for; None where positions are relative, without end."""
    table = getattr(getattr(encoder, "embeddings", None), "position_embeddings", None)
    if not isinstance(table, nn.Embedding):
        return None
    # Where padding has a position, those of tokens begin behind it.
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


def training_rows(given: Mapping[str, Dataset], tasks: Iterable[str]) -> TaskRows:
    """The rows of all tasks; InputError for a task without any."""
    for task in tasks:
        if task not in given:
            raise InputError(f"task {task!r}: train_dataset has no rows of it, only of {', '.join(given)}")
    return TaskRows(dict(given))


def shares_by_epoch(
    tasks: Sequence[TaskSpec], rows: TaskRows, args: MultiTaskTrainingArguments, batch_size: int
) -> Callable[[int], Floats]:
    """Epoch -> each task's share of a batch; InputError for arguments that give none."""
    sizes = {spec.name: rows.sizes[spec.name] for spec in tasks}
    weights = [spec.sampling_weight for spec in tasks]
    shares = functools.partial(
        task_shares, args.task_sampling, sizes, weights, batch_size, options=args.options("task_sampling_args")
    )
    num_batches = epoch_batches(list(sizes.values()), shares(), args.world_size) // args.world_size
    epochs = args.max_steps / steps_per_epoch(args, num_batches) if args.max_steps > 0 else args.num_train_epochs
    return lambda epoch: shares(progress=min(1.0, epoch / max(1, math.ceil(epochs) - 1)))


def train_sampler(
    tasks: Sequence[TaskSpec], rows: TaskRows, args: MultiTaskTrainingArguments, batch_size: int
) -> TaskBatchSampler:
    """Deals the training rows, each task's exact quota to every batch."""
    return TaskBatchSampler(
        rows.lengths,
        batch_size=batch_size,
        shares=shares_by_epoch(tasks, rows, args, batch_size),
        seed=args.seed if args.data_seed is None else args.data_seed,
        num_processes=args.world_size,
        grouped=args.train_sampling_strategy == "group_by_length",
    )


def data_order(
    sampler: TrainSampler, tasks: Iterable[str], args: MultiTaskTrainingArguments, batch_size: int
) -> dict[str, Any]:
    """What the batches of a run follow from, beside its data."""
    return {
        "processes": args.world_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "per_device_train_batch_size": batch_size,
        "batches_per_epoch": len(sampler),
        "rows_per_epoch": [sampler.quotas(epoch).sum(axis=0).tolist() for epoch in (0, 1)],
        "rows": dict(zip(tasks, sampler.sizes, strict=True)),
        "seed": sampler.seed,
        "train_sampling_strategy": str(args.train_sampling_strategy),
        "batches_sorted_together": GROUPED_BATCHES,
    }


def make_loader(
    rows: TaskRows, collator: Callable[..., Any], args: MultiTaskTrainingArguments, **batches: Any
) -> DataLoader[Any]:
    """A loader of rows; `batches` says how they are dealt, as `DataLoader` takes it."""
    return DataLoader(
        rows,
        collate_fn=collator,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
        # transformers 5.17 has no dataloader_multiprocessing_context and no dataloader_in_order
        multiprocessing_context=getattr(args, "dataloader_multiprocessing_context", None),
        prefetch_factor=args.dataloader_prefetch_factor,
        **batches,
    )


def check_batch(batches: object, tasks: Iterable[str]) -> None:
    """Raise InputError unless a batch is by task; a collator of the user's may have made something else."""
    if not isinstance(batches, Mapping) or not batches.keys() <= set(tasks):
        found = ", ".join(map(str, batches)) if isinstance(batches, Mapping) else type(batches).__name__
        raise InputError(f"data_collator gave a batch of {found}, wanted {{task: batch}} as TaskCollator gives it")
