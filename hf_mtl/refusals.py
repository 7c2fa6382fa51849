"""Set-ups in which the tasks' gradients would be wrong: refused when the trainer is built, with what to use instead."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from transformers.trainer_utils import HubStrategy

from .arguments import MultiTaskTrainingArguments
from .errors import InputError
from .modeling import MultiTaskModel
from .tasks import TaskSpec


def refuse_unsupported(model: MultiTaskModel, args: MultiTaskTrainingArguments, tasks: Sequence[TaskSpec]) -> None:
    """Raise InputError for a set-up in which the gradients would be wrong, with what to use instead."""
    if args.n_gpu > 1:
        raise InputError(
            f"{args.n_gpu} GPUs in one process would use nn.DataParallel, which mixes the tasks' gradients; start with "
            f"accelerate launch --multi_gpu --num_processes {args.n_gpu} run_glue_mtl.py ..."
        )
    if (
        args.deepspeed
        or args.fsdp
        or os.environ.get("ACCELERATE_USE_DEEPSPEED")
        or os.environ.get("ACCELERATE_USE_FSDP")
    ):
        raise InputError(
            "DeepSpeed and FSDP shard the gradients that a gradient method has to compare; use plain data parallelism: "
            "accelerate launch --multi_gpu --num_processes N run_glue_mtl.py ..."
        )
    if args.accelerator_config.split_batches:
        raise InputError("split_batches would deal the tasks of one batch to different processes; leave it off")
    if args.train_sampling_strategy not in ("group_by_length", "random"):
        raise InputError(
            f"train_sampling_strategy is {args.train_sampling_strategy!r}, wanted 'group_by_length' or 'random'"
        )
    if args.push_to_hub and args.hub_strategy == HubStrategy.ALL_CHECKPOINTS:
        raise InputError(
            "hub_strategy is 'all_checkpoints', wanted 'end', 'every_save' or 'checkpoint': an optimizer's state is "
            "pickled, and goes into last-checkpoint/ only"
        )
    if model.dtype != torch.float32:
        raise InputError(
            f"the model's parameters are {model.dtype}, wanted torch.float32: small updates would be lost; load it "
            "with dtype=torch.float32 and use --bf16 or --fp16, which compute in half precision"
        )
    for spec in tasks:
        if model.task_heads.get(spec.name) != spec.head:
            raise InputError(
                f"task {spec.name!r}: the model's head is {model.task_heads.get(spec.name)}, wanted {spec.head}"
            )
