#!/usr/bin/env python3
"""What PCGrad costs in time and memory, beside a stock Trainer and two other implementations, on real data.

    python benchmarks/pcgrad_cost.py --encoder DIR_OR_HUB_ID --dataset_name FOLDER_OR_HUB_ID

All methods see the same 32 + 32 rows per step of SST-2 and STS-B, padded task by task, in the same order: the first
batches of a run with length grouping. Time is the median over blocks of steps taken in turn in one process, as a ratio
to the stock Trainer on the sum of the tasks' losses. Memory is the peak of a process of its own per method.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from pytorch_optimizer import PCGrad
from torchjd.aggregation import PCGrad as TorchJDPCGrad
from torchjd.autojac import jac_to_grad, mtl_backward
from transformers import AutoTokenizer, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging as transformers_logging

from hf_mtl import MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, load_model, load_tasks
from hf_mtl.data import tokenise
from hf_mtl.loading import load_rows, read_labels
from hf_mtl.modeling import pool

Batch = dict[str, dict[str, torch.Tensor]]
METHODS = ("stock Trainer, summed losses", "hf_mtl sum", "hf_mtl pcgrad", "pytorch_optimizer PCGrad", "torchjd PCGrad")


class SummedLoss(Trainer):
    """The stock training step on the sum of the tasks' losses, over given batches."""

    loss_is_scaled_for_ga = False
    batches: list[Batch]

    def get_train_dataloader(self) -> Any:
        return self.batches

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        return sum(model(task=task, **batch).loss for task, batch in inputs.items())


class GivenBatches(MultiTaskTrainer):
    """The product's trainer over given batches."""

    batches: list[Batch]

    def get_train_dataloader(self) -> Any:
        super().get_train_dataloader()
        return self.batches


class Seconds(TrainerCallback):
    """Wall seconds of each step, from its begin to its end."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(time.perf_counter() - self.start)


def prepare(encoder: str, dataset: str, steps: int) -> tuple[list[Any], dict[str, Any], Any, list[Batch]]:
    """Tasks, tokenised rows, tokenizer and the first batches of a run."""
    tasks = load_tasks("glue", tasks=["sst2", "stsb"], dataset=dataset)
    tokenizer, data = AutoTokenizer.from_pretrained(encoder), {}
    for task in tasks:
        rows = load_rows(task, "train")
        rows = rows.select(range(min(len(rows), 8000)))
        data[task.name] = tokenise(task, rows, tokenizer, 512, read_labels(task, rows, "train"))
    trainer = MultiTaskTrainer(
        load_model(encoder, [t.head for t in tasks]), arguments("sum"), tasks, data, None, tokenizer
    )
    batches = iter(trainer.get_train_dataloader())
    return tasks, data, tokenizer, [next(batches) for _ in range(steps)]


COMMON = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "learning_rate": 1e-5, "use_cpu": True}


def arguments(method: str) -> MultiTaskTrainingArguments:
    return MultiTaskTrainingArguments(
        output_dir=tempfile.gettempdir(), do_train=True, gradient_method=method, unfreeze_schedule="none",
        eval_strategy="no", logging_steps=10**6, **COMMON,
    )  # fmt: skip


def peer_step(method: str, model: MultiTaskModel) -> Callable[[Batch], None]:
    """A training step as the README of the library has it: clip and fused AdamW included."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    surgeon = PCGrad(optimizer, reduction="sum")

    def losses_of(batch: Batch) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        features, losses = [], []
        for task, inputs in batch.items():
            labels = inputs["labels"]
            hidden = model.encoder(**{k: v for k, v in inputs.items() if k != "labels"}).last_hidden_state
            features.append(pool(hidden, inputs["attention_mask"], "mean"))
            logits = model.heads[task](model.dropout(features[-1]))
            head = model.task_heads[task]
            losses.append(model_loss(head, logits, labels))
        return losses, features

    def step(batch: Batch) -> None:
        model.train()
        losses, features = losses_of(batch)
        if method == "torchjd PCGrad":
            mtl_backward(losses, features=features, parallel_chunk_size=1)
            jac_to_grad(model.encoder.parameters(), TorchJDPCGrad())
        else:
            surgeon.pc_backward(losses)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def model_loss(head: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    from hf_mtl.kinds import KINDS

    return KINDS[head.kind].loss(logits, labels, head)


def runner(method: str, encoder: str, prepared: Any) -> Callable[[int, int], list[float]]:
    """`(first, last) -> seconds of each step` over a stretch of the batches."""
    tasks, data, tokenizer, batches = prepared
    torch.manual_seed(0)
    model = load_model(encoder, [task.head for task in tasks])
    if method in METHODS[3:]:
        step = peer_step(method, model)

        def run_peer(first: int, last: int) -> list[float]:
            seconds = []
            for batch in batches[first:last]:
                start = time.perf_counter()
                step(batch)
                seconds.append(time.perf_counter() - start)
            return seconds

        return run_peer

    def run_trainer(first: int, last: int) -> list[float]:
        watch, given = Seconds(), batches[first:last]
        if method == METHODS[0]:
            args = TrainingArguments(
                output_dir=tempfile.gettempdir(), max_steps=len(given), logging_steps=10**6, **COMMON
            )
            trainer: Any = SummedLoss(model=model, args=args, train_dataset=given, callbacks=[watch])
        else:
            args = arguments(method.split()[1])
            args.max_steps = len(given)
            trainer = GivenBatches(model, args, tasks, data, None, tokenizer, callbacks=[watch])
        trainer.batches = given
        trainer.train()
        return watch.steps[1:]  # the first one makes the optimizer's state

    return run_trainer


def peak_gib(method: str, options: argparse.Namespace) -> float:
    """Peak resident memory of a process that runs this method alone."""
    command = [sys.executable, __file__, "--encoder", options.encoder, "--dataset_name", options.dataset_name]
    done = subprocess.run([*command, "--memory", method], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="per method and block; each method takes the same ones")
    parser.add_argument("--memory", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    transformers_logging.set_verbosity_error()
    prepared = prepare(options.encoder, options.dataset_name, options.blocks * options.steps)
    if options.memory:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        runner(options.memory, options.encoder, prepared)(0, 8)
        print(json.dumps([before / 2**20, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))
        return
    runners = {method: runner(method, options.encoder, prepared) for method in METHODS}
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for block in range(options.blocks):
        for method in METHODS if block % 2 else reversed(METHODS):
            steps = runners[method](block * options.steps, (block + 1) * options.steps)
            seconds[method].append(sum(steps[-(options.steps - 1) :]))
    print("| method | s per step | to the stock Trainer | peak memory, GiB |")
    print("|---|---|---|---|")
    for method in METHODS:
        per_step = statistics.median(seconds[method]) / (options.steps - 1)
        pairs = zip(seconds[method], seconds[METHODS[0]], strict=True)
        ratio = statistics.median(mine / stock for mine, stock in pairs)
        before, peak = peak_gib(method, options)
        print(f"| {method} | {per_step:.3f} | {ratio:.2f} | {peak:.2f} ({before:.2f} before the model) |")


if __name__ == "__main__":
    main()
