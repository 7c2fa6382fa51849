#!/usr/bin/env python3
"""How far the gradients of every set-up are from a plain loop's: prints the table of docs/gradients.md.

    python benchmarks/gradient_table.py                  # the table; exit status 1 when a bound is broken
    python benchmarks/gradient_table.py --write FILE.md  # also put it between the markers in FILE.md

Set-ups are {1, 2 processes} x {1, 2, 4 micro-batches} x {fp32, bf16} x {clipping} x {unfreezing}, on three tasks of
which two contradict each other, dropout 0, 48 rows in every step. The oracle is a loop of thirty lines that shares
no code with the trainer: `torch.autograd.grad` per task on all rows of a step at once, PCGrad's algorithm 1 in fp64,
clipping, SGD.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor
from transformers import BertConfig
from transformers.utils import logging as transformers_logging

from hf_mtl import (
    MultiTaskConfig,
    MultiTaskModel,
    MultiTaskTrainer,
    MultiTaskTrainingArguments,
    TaskSpec,
    load_tasks,
)
from hf_mtl.data.batch_sampler import TaskBatchSampler
from hf_mtl.data.collator import TaskCollator
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.data.task_rows import TaskRows
from hf_mtl.data.tokenization import tokenize
from hf_mtl.gradients.solvers import projection_orders
from hf_mtl.seeding import seeded_generator
from hf_mtl.tasks.demo import demo_tokenizer
from hf_mtl.tasks.labels import read_labels
from hf_mtl.training import step as training_step
from hf_mtl.training.unfreezing import train_last_layers

STEPS, ROWS, RATE, LAYERS, SEED = 8, 48, 0.01, 3, 7
STAGES = {0: 1, 2: 2, 4: None}  # step -> last layers that train, when unfreezing is on
BOUNDS = {"gradient": 1e-6, "heads": 1e-6, "norm": 1e-6, "update": 1e-5}
Cell = tuple[int, str, bool, bool]  # micro-batches, dtype, clipping, unfreezing
CELLS: list[Cell] = list(itertools.product((1, 2, 4), ("fp32", "bf16"), (True, False), (True, False)))


def make_tasks() -> tuple[list[TaskSpec], dict[str, Dataset], object]:
    """The demo's two tasks, and one that has the reviews' labels turned round."""
    tokenizer, (reviews, pairs) = demo_tokenizer(), load_tasks("demo")
    contrary = TaskSpec(**{**{f: getattr(reviews, f) for f in ("kind", "text_columns", "dataset", "config", "labels")},
                           "name": "contrary"})  # fmt: skip
    data = {}
    for offset, spec in enumerate((reviews, pairs, contrary)):
        rows = load_rows(spec, "train").select(range(200 * offset, 200 * offset + 200))
        labels = read_labels(spec, rows, "train")
        data[spec.name] = tokenize(spec, rows, tokenizer, 64, 1 - labels if spec is contrary else labels)
    return [reviews, pairs, contrary], data, tokenizer


def make_model(tasks: list[TaskSpec], vocabulary: int) -> MultiTaskModel:
    """A small BERT with seeded weights and a head per task."""
    torch.manual_seed(0)
    encoder = BertConfig(
        vocab_size=vocabulary, hidden_size=64, num_hidden_layers=LAYERS, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return MultiTaskModel(MultiTaskConfig(encoder, [task.head for task in tasks], head_dropout=0.0))


def flat(tensors: list[Tensor]) -> Tensor:
    """The tensors in one vector, in fp64."""
    return torch.cat([t.detach().double().flatten() for t in tensors]) if tensors else torch.zeros(0).double()


def plain_run(tasks: list[TaskSpec], data: dict[str, Dataset], tokenizer: object, cell: Cell) -> dict[str, Tensor]:
    """The oracle: the same rows in the same order, nothing else in common with the trainer."""
    _, dtype, clipping, unfreezing = cell
    model, rows = make_model(tasks, len(tokenizer)), TaskRows(data)
    shares = torch.full((len(tasks),), ROWS / len(tasks)).numpy()
    batches = iter(TaskBatchSampler(rows.lengths, batch_size=ROWS, shares=lambda _: shares, seed=SEED, grouped=False))
    start, result, norms = flat(list(model.parameters())), {}, []
    for step in range(STEPS):
        if unfreezing and step in STAGES:
            train_last_layers(model.encoder, STAGES[step])
        shared = [p for p in model.encoder.parameters() if p.requires_grad]
        batch = TaskCollator(tokenizer)(rows.__getitems__(next(batches)))
        gradients = []
        for task in tasks:
            head = list(model.heads[task.name].parameters())
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
                loss = model.train()(task=task.name, **batch[task.name]).loss
            own = torch.autograd.grad(loss, [*shared, *head])
            gradients.append(flat(list(own[: len(shared)])))
            for parameter, gradient in zip(head, own[len(shared) :], strict=True):
                parameter.grad = gradient
        combined = torch.zeros_like(gradients[0])
        for order, gradient in zip(
            projection_orders(len(tasks), seeded_generator(SEED, step)), list(gradients), strict=True
        ):
            projected = gradient.clone()
            for j in order.tolist():
                if (inner := projected @ gradients[j]) < 0:
                    projected -= inner / (gradients[j] @ gradients[j]) * gradients[j]
            combined += projected
        pieces = combined.float().split([p.numel() for p in shared])
        for parameter, piece in zip(shared, pieces, strict=True):
            parameter.grad = piece.view_as(parameter)
        trained = [p for p in model.parameters() if p.grad is not None]
        if step == 0:
            result["heads"] = flat([p.grad for head in model.heads.values() for p in head.parameters()])
            result["gradient"] = flat([p.grad for p in shared])
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0 if clipping else float("inf"))
        norms.append(norm.double())
        with torch.no_grad():
            for parameter in trained:
                parameter -= RATE * (1 - step / STEPS) * parameter.grad
                parameter.grad = None
    return {**result, "norm": torch.stack(norms), "update": flat(list(model.parameters())) - start}


def trainer_run(
    tasks: list[TaskSpec], data: dict[str, Dataset], tokenizer: object, cell: Cell, processes: int
) -> dict[str, Tensor]:
    """The same numbers from the product's trainer."""
    micro_batches, dtype, clipping, unfreezing = cell
    model = make_model(tasks, len(tokenizer))
    start, result = flat(list(model.parameters())), {}
    stages = ",".join(f"{step}:{'all' if layers is None else layers}" for step, layers in STAGES.items())
    args = MultiTaskTrainingArguments(
        output_dir=tempfile.mkdtemp(prefix="gradient_table_"), do_train=True, use_cpu=True, seed=SEED,
        max_steps=STEPS, per_device_train_batch_size=ROWS // processes // micro_batches, optim="sgd",
        gradient_accumulation_steps=micro_batches, learning_rate=RATE, warmup_steps=0, bf16=dtype == "bf16",
        max_grad_norm=1.0 if clipping else 0.0, unfreeze_schedule=f"{stages} steps" if unfreezing else "none",
        train_sampling_strategy="random", eval_strategy="no", save_strategy="no", logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    trainer = MultiTaskTrainer(model, args, tasks, data, None, tokenizer)
    combine = training_step.combine_gradients

    def watched(gradients, method, seed, step):
        combine(gradients, method, seed, step)
        if step == 0:
            result["heads"] = flat([p.grad for head in model.heads.values() for p in head.parameters()])
            result["gradient"] = flat([p.grad for p in gradients.shared])

    training_step.combine_gradients = watched
    try:
        trainer.train()
    finally:
        training_step.combine_gradients = combine
    norms = [row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row]
    return {**result, "norm": torch.tensor(norms).double(), "update": flat(list(model.parameters())) - start}


def errors(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    """Relative 2-norm errors; of the norms, the largest relative error of one."""
    result = {key: float((found[key] - wanted[key]).norm() / wanted[key].norm()) for key in wanted}
    result["norm"] = float(((found["norm"] - wanted["norm"]) / wanted["norm"]).abs().max())
    return result


def measure(processes: int) -> list[dict]:
    """One row per cell for this number of processes."""
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(1)
    tasks, data, tokenizer = make_tasks()
    rows = []
    for cell in CELLS:
        _, dtype, clipping, unfreezing = cell
        exact = plain_run(tasks, data, tokenizer, (1, "fp32", clipping, unfreezing))
        settings: dict = dict(zip(("micro-batches", "dtype", "clipping", "unfreezing"), cell, strict=True))
        row = {"processes": processes, **settings}
        row.update(errors(trainer_run(tasks, data, tokenizer, cell, processes), exact))
        plain = errors(plain_run(tasks, data, tokenizer, cell), exact) if dtype == "bf16" else None
        row["bounds"] = {key: 2 * plain[key] for key in BOUNDS} if plain else BOUNDS
        rows.append(row)
    return rows


def broken(rows: list[dict]) -> list[str]:
    """What exceeds its bound, in words."""
    return [
        f"{row['processes']} processes, {row['micro-batches']} micro-batches, {row['dtype']}, clipping "
        f"{row['clipping']}, unfreezing {row['unfreezing']}: {key} {row[key]:.1e} > {bound:.1e}"
        for row in rows
        for key, bound in row["bounds"].items()
        if not row[key] <= bound
    ]


def table(rows: list[dict]) -> str:
    """The rows in Markdown; a bf16 error is given with its bound, twice that of the plain bf16 loop."""
    settings = ("processes", "micro-batches", "dtype", "clipping", "unfreezing")
    results = {"gradient": "shared gradient", "heads": "head gradients", "norm": "norm", "update": "update"}
    lines = ["| " + " | ".join((*settings, *results.values())) + " |", "|---" * (len(settings) + len(results)) + "|"]
    for row in rows:
        words = [{True: "on", False: "off"}[row[k]] if isinstance(row[k], bool) else str(row[k]) for k in settings]
        for key in results:
            bound = f" of {row['bounds'][key]:.1e}" if row["dtype"] == "bf16" else ""
            words.append(f"{row[key]:.1e}{bound}")
        lines.append("| " + " | ".join(words) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure the table, or a cell of it as one of several processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE.md")
    parser.add_argument("--measure", type=int, metavar="PROCESSES", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:  # one of the processes that the command below starts
        rows = measure(args.measure)
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            args.result.write_text(json.dumps(rows))
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        return
    rows = []
    for processes in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if processes == 2 else []
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "rows.json"
            command = [sys.executable, *launcher, __file__, "--measure", str(processes), "--result", str(result)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            rows += json.loads(result.read_text())
    print(table(rows))
    if args.write:
        before, _, rest = args.write.read_text().partition("<!-- table -->")
        args.write.write_text(f"{before}<!-- table -->\n{table(rows)}\n<!-- end -->{rest.partition('<!-- end -->')[2]}")
    if found := broken(rows):
        sys.exit("\n".join(["bounds broken:", *found]))


if __name__ == "__main__":
    main()
