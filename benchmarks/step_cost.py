#!/usr/bin/env python3
"""What a training step costs beside a stock Trainer and other implementations of PCGrad, in time and memory.

    python benchmarks/step_cost.py --encoder minilm --write docs/speed.md

Rows have the token lengths of SST-2 and STS-B (`token_lengths.json`, WordPiece) and random tokens: a step's cost
depends on nothing else. Every method takes 32 + 32 rows a step, clips and steps with AdamW; dropout is on. Methods
take turns in one process, block by block; a step's time runs from the end of the step before, so that fetching and
padding count. A block's time is its mean step's; times and ratios are medians over the blocks. Memory is the peak of
a process that runs one method alone, for as many steps as a block has. The floor is what the linear layers' matrix
products over the real tokens take when they run alone, in the step's shapes, and the passes over parameters and
gradients that cannot be done without at the rate of a copy, measured between the blocks. Under `torchrun` every process
takes that many rows.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter as Counts
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from datasets import Dataset
from matplotlib.figure import Figure
from pytorch_optimizer import PCGrad
from torch.autograd import DeviceType
from torchjd.aggregation import PCGrad as TorchJDPCGrad
from torchjd.autojac import jac_to_grad, mtl_backward
from transformers import BertConfig, MPNetConfig, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from hf_mtl import MultiTaskConfig, MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, load_tasks
from hf_mtl.data.collator import TaskCollator
from hf_mtl.model.modeling import MultiTaskOutput
from hf_mtl.model.pooling import pool
from hf_mtl.tasks.demo import demo_tokenizer

ENCODERS = {
    "minilm": BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
    "mpnet-base": MPNetConfig(),
    "large": BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
}
GLUE = load_tasks("glue", tasks=["sst2", "stsb"])
TASKS = list(GLUE)
LENGTHS = json.loads((Path(__file__).parent / "token_lengths.json").read_text())
POOL = 8000  # rows of each task
WARM_UP = 4  # steps
FACTOR = 5  # more steps where rows are grouped by length: stock batches come in rounds of 50, the longest first
CUDA = torch.cuda.is_available()
PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))
COMMON: dict[str, Any] = {
    "output_dir": str(Path(tempfile.gettempdir()) / "step_cost"), "save_strategy": "no", "report_to": "none",
    "disable_tqdm": True, "learning_rate": 1e-5, "logging_steps": 10**6, "use_cpu": not CUDA, "bf16": CUDA,
    "dataloader_drop_last": True,
}  # fmt: skip


def choose_tasks(number: int) -> None:
    """That many tasks, SST-2 and STS-B in turn."""
    TASKS[:] = [dataclasses.replace(GLUE[i % 2], name=GLUE[i % 2].name + "_" * (i // 2)) for i in range(number)]


def lengths_of(task: str) -> tuple[list[int], list[float]]:
    """Tokens of a row, and how often a row has as many."""
    counts = {int(length): count for length, count in LENGTHS[task.rstrip("_")].items()}
    return list(counts), [count / sum(counts.values()) for count in counts.values()]


def make_rows() -> dict[str, Dataset]:
    """Task -> rows of random tokens with the real distribution of lengths."""
    random, rows = np.random.default_rng(0), {}
    for spec in TASKS:
        lengths, shares = lengths_of(spec.name)
        drawn = random.choice(lengths, size=POOL, p=shares)
        labels = random.uniform(0, 5, POOL) if spec.kind == "regression" else random.integers(0, 2, POOL)
        ids = [random.integers(5, 200, n).tolist() for n in drawn]
        rows[spec.name] = Dataset.from_dict({"input_ids": ids, "length": drawn, "labels": labels})
    return rows


class JointModel(MultiTaskModel):
    """Two heads on one forward over all rows, padded together: what a stock Trainer trains."""

    def forward(self, input_ids: Any, attention_mask: Any, task: Any, labels: Any) -> Any:
        losses = self.losses(input_ids, attention_mask, task, labels)
        return MultiTaskOutput(loss=torch.stack(losses).sum())

    def losses(self, input_ids: Any, attention_mask: Any, task: Any, labels: Any) -> list[torch.Tensor]:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        vectors = pool(hidden, attention_mask, "mean")
        return [head_loss(self, name, vectors[task == i], labels[task == i]) for i, name in enumerate(self.heads)]


def head_loss(model: MultiTaskModel, task: str, vectors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A task's mean loss from its rows' pooled vectors."""
    head: Any = model.heads[task]
    return model.mean_loss(task, F.linear(head.dropout(vectors), head.weight, head.bias), labels)


def make_model(encoder: str, cls: type[MultiTaskModel] = MultiTaskModel) -> Any:
    """A model on one of `ENCODERS`, with seeded weights."""
    torch.manual_seed(0)
    config = MultiTaskConfig(ENCODERS[encoder], [spec.head for spec in TASKS])
    if cls is JointModel and config.encoder_config.model_type == "mpnet":
        config._attn_implementation = "eager"  # all that transformers has
    return cls(config)


class Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds of the steps after those in which the process gets its memory, each from one step's end to the next."""

    def __init__(self, counter: Counter) -> None:
        self.ends: list[float] = []
        self.counter = counter

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if CUDA:
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def seconds(self) -> float:
        """Of a step with an average number of real tokens: methods draw different rows, some of them short ones."""
        tokens = self.counter.tokens[WARM_UP : len(self.ends)]
        return (self.ends[-1] - self.ends[WARM_UP - 1]) / sum(tokens) * self.counter.average


def pad(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The stock way: all rows of a batch to the longest of them."""
    columns = {k: [row[k] for row in rows] for k in ("task", "labels")}
    padded = TOKENIZER.pad({"input_ids": [row["input_ids"] for row in rows]}, return_tensors="pt")
    return {**padded, "task": torch.tensor(columns["task"]), "labels": torch.tensor(columns["labels"]).float()}


TOKENIZER = demo_tokenizer()


def joint_rows(rows: dict[str, Dataset]) -> list[dict[str, Any]]:
    """All tasks' rows in one list, as a stock Trainer wants them."""
    return [{**row, "task": i} for i, task in enumerate(rows.values()) for row in task]


def stock_joint(rows: dict[str, Dataset], encoder: str, rows_per_task: int, sampling: str) -> Callable[[int, int], Any]:
    """A stock Trainer on the summed loss over joint batches."""
    joint = joint_rows(rows)

    def run(block: int, steps: int) -> tuple[float, float]:
        args = TrainingArguments(
            max_steps=steps + WARM_UP, per_device_train_batch_size=len(TASKS) * rows_per_task, seed=block,
            train_sampling_strategy=sampling, remove_unused_columns=False, **COMMON,
        )  # fmt: skip
        counter = Counter(pad, rows_per_task)
        clock = Clock(counter)
        trainer = Trainer(make_model(encoder, JointModel), args, counter, Joint(joint), callbacks=[clock])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return clock.seconds(), counter.ratio()

    return run


class Joint(torch.utils.data.Dataset[Any]):
    """A list of rows with the column that the stock length grouping reads."""

    column_names = ["input_ids", "length", "labels", "task"]

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | str) -> Any:
        return [row[index] for row in self.rows] if isinstance(index, str) else self.rows[index]


class Counter:
    """A collator that counts padded and real tokens.

    Args:
        collate: makes a step's batch.
        rows_per_task: of a step.
    """

    def __init__(self, collate: Callable[[Any], Any], rows_per_task: int) -> None:
        self.collate, self.padded = collate, 0
        self.tokens: list[int] = []  # real ones of each step
        self.average = rows_per_task * sum(float(np.dot(*lengths_of(spec.name))) for spec in TASKS)

    def __call__(self, rows: Any) -> Any:
        batch = self.collate(rows)
        parts = batch if isinstance(batch, list) else [batch] if "input_ids" in batch else batch.values()
        masks = [part["attention_mask"] for part in parts]
        self.padded += sum(mask.numel() for mask in masks)
        self.tokens.append(sum(int(mask.sum()) for mask in masks))
        return batch

    def ratio(self) -> float:
        return self.padded / sum(self.tokens)


class PlainForward(MultiTaskTrainer):
    """This project's step with a pass per task in torch's own kernels: without `hf_mtl.kernels`."""

    def _takes_kernels(self) -> bool:
        return False


class SummedLoss(PlainForward):
    """This project's batches, and the stock Trainer's own step on the sum of the tasks' losses."""

    def begin_step(self) -> None:
        pass

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return Trainer.training_step(self, *args, **kwargs)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return torch.stack(list(model(batches=inputs).loss.values())).sum()


def own_trainer(
    rows: dict[str, Dataset], encoder: str, rows_per_task: int, *, cls: type[MultiTaskTrainer] = MultiTaskTrainer,
    arguments: dict[str, Any] | None = None, **options: Any,
) -> MultiTaskTrainer:  # fmt: skip
    """This project's Trainer on a fresh model, nothing frozen; PCGrad unless the arguments say otherwise."""
    args = MultiTaskTrainingArguments(
        do_train=True, per_device_train_batch_size=len(TASKS) * rows_per_task, unfreeze_schedule="none",
        eval_strategy="no", **COMMON, **(arguments or {}),
    )  # fmt: skip
    return cls(make_model(encoder), args, TASKS, rows, None, TOKENIZER, **options)


def ready(trainer: Any) -> Any:
    """A Trainer that takes single steps, outside `train()`."""
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def ours(rows: dict[str, Dataset], encoder: str, rows_per_task: int, method: str) -> Callable[[int, int], Any]:
    """This project's Trainer with a gradient method, or with the stock step on its batches."""

    def run(block: int, steps: int) -> tuple[float, float]:
        counter = Counter(TaskCollator(TOKENIZER), rows_per_task)
        clock = Clock(counter)
        own_trainer(
            rows, encoder, rows_per_task, cls=SummedLoss if method == "stock" else MultiTaskTrainer,
            arguments={
                "gradient_method": "sum" if method == "stock" else method, "max_steps": steps + WARM_UP, "seed": block,
            },
            callbacks=[clock], data_collator=counter,
        ).train()  # fmt: skip
        return clock.seconds(), counter.ratio()

    return run


def peer(rows: dict[str, Dataset], encoder: str, rows_per_task: int, how: str) -> Callable[[int, int], Any]:
    """A plain loop over random batches: PCGrad on a joint one as the library's README writes it, or a plain sum."""
    joint = joint_rows(rows)

    def batches(block: int, counter: Counter) -> Iterator[list[Any]]:
        """The batches that each have a forward: one of all tasks, or one of each."""
        random = np.random.default_rng(block)
        while True:
            picked = [random.integers(0, POOL, rows_per_task) + i * POOL for i in range(len(rows))]
            together = picked if how == "sum per task" else [np.concatenate(picked)]
            yield counter([[joint[i] for i in indices] for indices in together])

    def run(block: int, steps: int) -> tuple[float, float]:
        counter = Counter(lambda parts: [pad(part) for part in parts], rows_per_task)
        model = make_model(encoder, JointModel).train()
        clock = Clock(counter)
        device = torch.device("cuda" if CUDA else "cpu")
        model.to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        surgeon = PCGrad(optimizer, reduction="sum")
        for _, parts in zip(range(steps + WARM_UP), batches(block, counter), strict=False):
            for batch in parts:
                inputs = {name: value.to(device) for name, value in batch.items()}
                with torch.autocast(device.type, torch.bfloat16, enabled=CUDA):
                    losses, features = losses_and_features(model, **inputs)
                if how == "torchjd":
                    mtl_backward(losses, features=features, parallel_chunk_size=1)
                    jac_to_grad(list(model.encoder.parameters()), TorchJDPCGrad())
                elif how == "pytorch_optimizer":
                    surgeon.pc_backward(losses)
                else:
                    torch.stack(losses).sum().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            clock.on_step_end()
        return clock.seconds(), counter.ratio()

    return run


def losses_and_features(model: Any, input_ids: Any, attention_mask: Any, task: Any, labels: Any) -> tuple[Any, Any]:
    """The losses of the tasks that are in the batch, and the vectors between the shared part and the heads."""
    hidden = model.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    features, losses = [], []
    for i, name in enumerate(model.heads):
        mine = task == i
        if not mine.any():
            continue
        features.append(pool(hidden, attention_mask, "mean")[mine])
        losses.append(head_loss(model, name, features[-1], labels[mine]))
    return losses, features


def beside_another_step(
    rows: dict[str, Dataset], encoder: str, rows_per_task: int, num_batches: int, other: type[MultiTaskTrainer]
) -> list[tuple[float, float]]:
    """Seconds of another step and of PCGrad's, batch by batch, each taken by both in turn."""
    trainers = [ready(own_trainer(rows, encoder, rows_per_task, cls=cls)) for cls in (other, MultiTaskTrainer)]
    steps, trainer = [functools.partial(one_step, each) for each in trainers], trainers[1]
    pairs = []
    for number, batch in zip(range(num_batches + WARM_UP), trainer.get_train_dataloader(), strict=False):
        order = (0, 1) if number % 2 else (1, 0)
        seconds = {i: steps[i](batch) for i in order}
        pairs.append((seconds[0], seconds[1]))
    return pairs[WARM_UP:]


def beside_group_by_length(
    rows: dict[str, Dataset], encoder: str, rows_per_task: int, num_batches: int
) -> list[tuple[float, float]]:
    """Seconds, of a step with an average number of tokens, of the stock Trainer with group_by_length and of PCGrad.

    One pair for each half of the batches. Both take their own batches, one after the other in turns.
    """
    args = TrainingArguments(
        per_device_train_batch_size=len(TASKS) * rows_per_task, train_sampling_strategy="group_by_length",
        remove_unused_columns=False, **COMMON,
    )  # fmt: skip
    stock = Trainer(make_model(encoder, JointModel), args, Counter(pad, rows_per_task), Joint(joint_rows(rows)))
    collator = Counter(TaskCollator(TOKENIZER), rows_per_task)
    mine = own_trainer(rows, encoder, rows_per_task, data_collator=collator)
    sides = [(ready(trainer), iter(trainer.get_train_dataloader())) for trainer in (stock, mine)]
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(num_batches):
        for side in (0, 1) if number % 2 else (1, 0):
            trainer, batches = sides[side]
            times[side].append(one_step(trainer, next(batches)))
    halves = (slice(0, num_batches // 2), slice(num_batches // 2, None))
    return [
        tuple(
            sum(seconds[half]) / sum(trainer.data_collator.tokens[: len(seconds)][half]) * collator.average
            for seconds, (trainer, _) in zip(times, sides, strict=True)
        )
        for half in halves
    ]


def profile(rows: dict[str, Dataset], encoder: str, rows_per_task: int, num_steps: int) -> str:
    """Where a PCGrad step's time goes, in Markdown: the operations that took most of it by themselves."""
    trainer = ready(own_trainer(rows, encoder, rows_per_task))
    batches = iter(trainer.get_train_dataloader())
    for _ in range(WARM_UP):
        one_step(trainer, next(batches))
    with torch.profiler.profile() as profiler:
        for _ in range(num_steps):
            one_step(trainer, next(batches))
    device, clock = (DeviceType.CUDA, "self_device_time_total") if CUDA else (DeviceType.CPU, "self_cpu_time_total")
    events = [event for event in profiler.key_averages() if event.device_type == device]
    took = {event.key: getattr(event, clock) / 1000 for event in events}
    total = sum(took.values())
    most = sorted(took, key=took.__getitem__, reverse=True)[:12]
    lines = [f"| {name} | {took[name] / num_steps:.0f} | {took[name] / total:.0%} |" for name in most]
    return "\n".join(["| operation | ms a step | share |", "|---|---|---|", *lines])


def one_step(trainer: Trainer, batch: Any) -> float:
    """Seconds of one step as the Trainer takes it."""
    start = time.perf_counter()
    if isinstance(trainer, MultiTaskTrainer):
        trainer.step.begin(trainer.state.global_step)
    trainer.training_step(trainer.model, batch)
    trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
    trainer.optimizer.step()
    trainer.model.zero_grad()
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter() - start


STOCK, MINE = "stock step on hf_mtl's batches", "hf_mtl pcgrad"
METHODS: dict[str, Callable[..., Callable[[int, int], Any]]] = {
    "plain sum, joint random batches": lambda *shape: peer(*shape, "sum"),
    "plain sum, a random batch per task": lambda *shape: peer(*shape, "sum per task"),
    "stock Trainer, joint random batches": lambda *shape: stock_joint(*shape, "random"),
    "stock Trainer, joint group_by_length": lambda *shape: stock_joint(*shape, "group_by_length"),
    "pytorch_optimizer PCGrad, joint random batches": lambda *shape: peer(*shape, "pytorch_optimizer"),
    "torchjd PCGrad, joint random batches": lambda *shape: peer(*shape, "torchjd"),
    STOCK: lambda *shape: ours(*shape, "stock"),
    "hf_mtl sum": lambda *shape: ours(*shape, "sum"),
    MINE: lambda *shape: ours(*shape, "pcgrad"),
}


def resident_gib(*, peak: bool = False) -> float:
    """Memory of this process; `getrusage` would give the parent's peak to a child."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:" if peak else "VmRSS:")[1].split()[0]) / 2**20


def peak_memory(method: str, encoder: str, rows_per_task: int, steps: int) -> float:
    """GiB at the peak of a process that runs a block of this method alone, above what it had before the model."""
    shape = ["--encoder", encoder, "--rows", str(rows_per_task), "--tasks", str(len(TASKS)), "--steps", str(steps)]
    command = [sys.executable, __file__, *shape, "--memory", method]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


def rate(work: Callable[[], Any], amount: float) -> float:
    """Amount done per second, by the fastest of ten runs."""
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        work()
        if CUDA:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return amount / min(seconds)


def product_seconds(weight: torch.Tensor, tokens: int) -> float:
    """Of a linear layer's three matrix products over that many tokens: outputs, and both gradients."""
    rows_out, width = weight.shape
    weight = torch.randn_like(weight)
    inputs, outputs = weight.new_ones(tokens, width), weight.new_ones(tokens, rows_out)
    to_inputs, to_outputs, to_weight = torch.empty_like(inputs), torch.empty_like(outputs), torch.empty_like(weight)

    def work() -> None:
        torch.mm(inputs, weight.T, out=to_outputs)
        torch.mm(outputs, weight, out=to_inputs)
        torch.mm(outputs.T, inputs, out=to_weight)

    return 1 / rate(work, 1)


def floor(encoder: str, rows_per_task: int) -> dict[str, float]:
    """Seconds that a PCGrad step's linear layers, and its passes over parameters and gradients, take by themselves."""
    model, device = make_model(encoder), "cuda" if CUDA else "cpu"
    dtype = torch.bfloat16 if CUDA else torch.float32
    means = [np.dot(*lengths_of(spec.name)) for spec in TASKS]
    linear = [m.weight.detach().to(device, dtype) for m in model.encoder.modules() if isinstance(m, torch.nn.Linear)]
    shapes = Counts((tuple(weight.shape), round(rows_per_task * mean)) for weight in linear for mean in means)
    products = sum(
        times * product_seconds(torch.empty(shape, device=device, dtype=dtype), tokens)
        for (shape, tokens), times in shapes.items()
    )
    operations = 6 * sum(weight.numel() for weight in linear) * rows_per_task * sum(means)
    source = torch.randn(1 << 25, device=device)
    target = torch.empty_like(source)
    bandwidth = rate(lambda: target.copy_(source), 8 * source.numel())
    numbers = sum(p.numel() for p in model.encoder.parameters())
    # Each task's row is written, read for the inner products and read for the sum, which is written; the norm reads it;
    # AdamW reads gradient, parameter and two moments and writes three of them.
    passes = 3 * len(TASKS) + 1 + 1 + 7
    return {
        "products_seconds": products, "passes_seconds": 4 * passes * numbers / bandwidth,
        "gflops": operations / products / 1e9, "gb_per_second": bandwidth / 1e9,
    }  # fmt: skip


def measure(options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """One row per method, and the floor: the lowest of those measured between the blocks."""
    rows = make_rows()
    runs = {name: METHODS[name](rows, options.encoder, options.rows) for name in options.methods}
    seconds: dict[str, list[float]] = {name: [] for name in options.methods}
    padding: dict[str, float] = {}
    floors = []
    for block in range(options.blocks):
        floors.append(floor(options.encoder, options.rows))
        for name in options.methods[:: 1 if block % 2 else -1]:
            one, padding[name] = runs[name](block, steps_of(name, options.steps))
            seconds[name].append(one)
            print(f"block {block + 1}/{options.blocks}: {name}: {seconds[name][-1]:.3f} s a step", file=sys.stderr)
    mine, stock = seconds[MINE], seconds[STOCK]
    table_rows = [
        {
            "method": name,
            "seconds": statistics.median(seconds[name]),
            "rows_per_second": len(TASKS) * options.rows * PROCESSES / statistics.median(seconds[name]),
            "padded_per_real": padding[name],
            "to_stock_step": statistics.median(a / b for a, b in zip(seconds[name], stock, strict=True)),
            "hf_mtl_is_faster": statistics.median(a / b for a, b in zip(seconds[name], mine, strict=True)),
            "peak_gib": peak_memory(name, options.encoder, options.rows, options.steps) if PROCESSES == 1 else None,
        }
        for name in options.methods
    ]
    return table_rows, min(floors, key=lambda found: found["products_seconds"] + found["passes_seconds"])


def steps_of(name: str, steps: int) -> int:
    """How many a block of a method has."""
    return steps if "random" in name else FACTOR * steps


def table(result: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| method | ms a step | rows a second | padded per real token | to the stock step | "
        "hf_mtl's PCGrad is faster by | peak memory, GiB |",
        "|---" * 7 + "|",
    ]
    for row in result:
        lines.append(
            f"| {row['method']} | {1000 * row['seconds']:.0f} | {row['rows_per_second']:.0f} | "
            f"{row['padded_per_real']:.2f} | {row['to_stock_step']:.2f} | {row['hf_mtl_is_faster']:.2f} | "
            f"{'-' if row['peak_gib'] is None else format(row['peak_gib'], '.2f')} |"
        )
    return "\n".join(lines)


def describe_floor(found: dict[str, float]) -> str:
    """The floor in a sentence."""
    return (
        f"By themselves, the linear layers' matrix products over the real tokens take "
        f"{1000 * found['products_seconds']:.0f} ms ({found['gflops']:.0f} GFLOP/s), and PCGrad's passes over "
        f"parameters and gradients {1000 * found['passes_seconds']:.0f} ms (at {found['gb_per_second']:.0f} GB/s)."
    )


def plot(result: list[dict[str, Any]], found: dict[str, float], title: str, path: Path) -> None:
    """Bars of milliseconds, one per method, and a line at the floor."""
    figure = Figure(figsize=(9, 0.5 * len(result) + 1.2), layout="constrained")
    axes = figure.subplots()
    names = [row["method"] for row in result][::-1]
    times = [1000 * row["seconds"] for row in result][::-1]
    bars = axes.barh(names, times, color=["C0" if name.startswith("hf_mtl") else "0.7" for name in names])
    axes.bar_label(bars, fmt="%.0f", padding=3)
    alone = 1000 * (found["products_seconds"] + found["passes_seconds"])
    axes.axvline(alone, color="C3", ls=":", label="products and passes alone")
    axes.set(title=title, xlabel="milliseconds per step", xlim=(0, 1.1 * max(times)))
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=ENCODERS, default="minilm")
    parser.add_argument("--rows", type=int, default=32, help="of each task in a step")
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10, help=f"of each method in a block, {FACTOR} times that grouped")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--cost", type=int, metavar="BATCHES", help="only PCGrad's cost to the stock step, in turns")
    parser.add_argument("--kernels", type=int, metavar="BATCHES", help="only what the packed pass saves, in turns")
    parser.add_argument("--beside", type=int, metavar="BATCHES", help="only the stock group_by_length, in turns")
    parser.add_argument("--profile", type=int, metavar="STEPS", help="only where the time of PCGrad's steps goes")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="replace the table in this file")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--memory", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    choose_tasks(options.tasks)
    if options.memory:
        run = METHODS[options.memory](make_rows(), options.encoder, options.rows)
        before = resident_gib()
        run(0, steps_of(options.memory, options.steps))
        print(torch.cuda.max_memory_allocated() / 2**30 if CUDA else resident_gib(peak=True) - before)
        return
    device = torch.cuda.get_device_name() if CUDA else f"CPU, {torch.get_num_threads()} threads"
    shape = f"{options.encoder}, {options.tasks} tasks, {options.rows} rows of each, {PROCESSES} process(es), {device}"
    main_process = os.environ.get("RANK", "0") == "0"
    if options.beside:
        for stock, mine in beside_group_by_length(make_rows(), options.encoder, options.rows, options.beside):
            print(f"stock group_by_length {1000 * stock:.0f} ms, PCGrad {1000 * mine:.0f} ms, ratio {stock / mine:.2f}")
        return
    if options.profile:
        print(profile(make_rows(), options.encoder, options.rows, options.profile))
        return
    for other, name, batches in (
        (SummedLoss, "the stock step", options.cost), (PlainForward, "a plain pass per task", options.kernels)
    ):  # fmt: skip
        if batches:
            pairs = beside_another_step(make_rows(), options.encoder, options.rows, batches, other)
            low, middle, high = statistics.quantiles(mine / theirs for theirs, mine in pairs)
            print(f"PCGrad to {name}: median {middle:.3f}, quartiles {low:.3f} and {high:.3f}")
            return
    options.methods = list(dict.fromkeys([*options.methods, STOCK, MINE]))  # the ratios are to these
    result, lowest = measure(options)
    if not main_process:
        return
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    text = f"{shape}; {versions}.\n\n{table(result)}\n\n{describe_floor(lowest)}"
    print(json.dumps({"shape": shape, "methods": result, "floor": lowest}) if options.json else text)
    if options.plot:
        plot(result, lowest, shape, options.plot)
    if options.write:
        mark = f"<!-- {options.encoder} {options.rows} {'cuda' if CUDA else 'cpu'} -->"
        before, _, rest = options.write.read_text().partition(mark)
        options.write.write_text(f"{before}{mark}\n{text}\n<!-- end -->{rest.partition('<!-- end -->')[2]}")


if __name__ == "__main__":
    main()
