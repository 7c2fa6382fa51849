"""What one process does for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate.utils import broadcast_object_list
from transformers import TrainingArguments

from .errors import InputError

Result = TypeVar("Result")


def on_main_process(args: TrainingArguments, work: Callable[[], Result]) -> Result:
    """What `work()` returns on the main process, on every process; its InputError is raised on every process."""
    answer: list[Any] = [None, None]
    if args.process_index == 0:
        try:
            answer[0] = work()
        except InputError as error:
            answer[1] = str(error)
    if args.world_size > 1:
        broadcast_object_list(answer)
    if answer[1] is not None:
        raise InputError(answer[1])
    return answer[0]


def on_any_process(args: TrainingArguments, condition: bool) -> bool:
    """Whether `condition` holds on one of the processes, on every process."""
    if args.world_size == 1:
        return condition
    flag = torch.tensor(int(condition), device=args.device)
    dist.all_reduce(flag)
    return bool(flag.item())
