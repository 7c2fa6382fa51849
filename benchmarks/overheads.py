#!/usr/bin/env python3
"""What a run costs beside its training steps: imports, the way to the first step, batches, evaluation.

    python benchmarks/overheads.py --model DIR --data GLUE_DIR

DIR is an encoder, GLUE_DIR a folder with GLUE's SST-2 and STS-B. Imports and the way to the first step are measured in
processes of their own, and the first of these fills the caches.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import AutoTokenizer, Trainer, TrainingArguments

from hf_mtl import MultiTaskTrainer, MultiTaskTrainingArguments, load_model, load_tasks
from hf_mtl.data.collator import TaskCollator
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.data.task_rows import TaskRows
from hf_mtl.data.tokenization import tokenize
from hf_mtl.tasks.labels import read_labels

IMPORTS = """
import gc, time
start = time.perf_counter()
from transformers import Trainer
middle = time.perf_counter()
gc.collect()  # else the pass that the first import leaves due falls into whatever is imported next
ready = time.perf_counter()
import hf_mtl
print(middle - start, ready - middle, time.perf_counter() - ready)
"""
FIRST_STEP = """
import sys, time
sys.path.insert(0, {root!r})
from transformers import Trainer
start = time.perf_counter()
import hf_mtl.training.run as script
from hf_mtl import MultiTaskTrainer

class FirstStep(BaseException):
    pass

def begin_step(self):
    raise FirstStep

def load(*args, real=script.load_model_and_tokenizer):
    begin = time.perf_counter()
    result = real(*args)
    loading.append(time.perf_counter() - begin)
    return result

loading, MultiTaskTrainer.begin_step, script.load_model_and_tokenizer = [], begin_step, load
try:
    script.main(sys.argv[1:])
except FirstStep:
    print(time.perf_counter() - start - sum(loading), sum(loading))
"""


def child(code: str, *arguments: str, **environment: str) -> list[float]:
    """The numbers on the last line that a process of its own prints."""
    command, environment = [sys.executable, "-c", code, *arguments], {**os.environ, **environment}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return [float(number) for number in done.stdout.splitlines()[-1].split()]


def imports() -> None:
    """Seconds of the two imports."""
    found = [child(IMPORTS) for _ in range(6)][1:]
    trainer, collection, ours = (statistics.median(times) for times in zip(*found, strict=True))
    print(
        f"from transformers import Trainer: {trainer:.2f} s, and {collection:.2f} s for the garbage collection that it "
        f"leaves due; import hf_mtl after both: {ours:.2f} s"
    )


def first_step(model: str, data: str) -> None:
    """Seconds from the import of the Trainer to the first step, without the loading of the model."""
    code = FIRST_STEP.format(root=str(Path(__file__).parent.parent))
    flags = ["--model_name_or_path", model, "--dataset_name", data, "--do_train", "--do_eval", "--max_steps", "10"]
    with tempfile.TemporaryDirectory() as folder:
        for run, caches in enumerate(("empty", "filled", "filled", "filled")):
            output = f"{folder}/{run}"
            seconds, loading = child(code, *flags, "--output_dir", output, HF_DATASETS_CACHE=f"{folder}/cache")
            print(f"to the first step, caches {caches}: {seconds:.2f} s, and {loading:.2f} s for the model")


def batches(rows: dict[str, Any], trainer: MultiTaskTrainer) -> None:
    """Milliseconds for a batch of 32 + 32 rows from the training dataloader."""
    times = []
    iterator = iter(trainer.get_train_dataloader())
    for _ in itertools.repeat(None, 2000):  # STS-B, the smaller task, is shuffled anew several times
        start = time.perf_counter()
        next(iterator)
        times.append(time.perf_counter() - start)
    middle, mean, most = (1000 * found for found in (statistics.median(times), statistics.mean(times), max(times)))
    print(
        f"a batch of {trainer.args.train_batch_size} rows: median {middle:.3f} ms, mean {mean:.3f}, longest {most:.1f}"
    )


class StockEvaluation(Trainer):  # type: ignore[misc]
    """The stock loop over one task's rows, in their order, padded batch by batch."""

    def __init__(self, task: str, collator: TaskCollator, **kwargs: Any) -> None:
        super().__init__(data_collator=lambda rows: {"task": task, **collator(rows)[task]}, **kwargs)


def evaluation(rows: dict[str, Any], trainer: MultiTaskTrainer, what: str) -> None:
    """Rows per second of the stock loop and of `predict`, taken in turns, for the same model and batch size."""
    args = TrainingArguments(
        output_dir=trainer.args.output_dir, per_device_eval_batch_size=trainer.args.per_device_eval_batch_size,
        use_cpu=trainer.args.use_cpu, bf16=trainer.args.bf16, remove_unused_columns=False, disable_tqdm=True,
        report_to="none",
    )  # fmt: skip
    total, tokens = np.zeros(2), np.zeros(3, dtype=np.int64)
    for task, split in rows.items():
        one = TaskRows({task: split})
        stock = StockEvaluation(task, trainer.data_collator, model=trainer.model, args=args)
        seconds = []
        for turn in range(4):
            times, answers = {}, {}
            for who in (stock, trainer) if turn % 2 else (trainer, stock):
                start = time.perf_counter()
                answers[who] = who.predict(one).predictions
                times[who] = time.perf_counter() - start
            seconds.append((times[stock], times[trainer]))
        theirs, ours = np.median(seconds, axis=0)
        total += theirs, ours
        lengths, size = one.lengths[task], args.per_device_eval_batch_size
        found = np.array([padded(lengths, size), padded(np.sort(lengths)[::-1], size), lengths.sum()])
        tokens += found
        print(
            f"prediction, {what} of {task}: stock loop {len(one) / theirs:.0f} rows/s, hf_mtl {len(one) / ours:.0f}, "
            f"ratio {theirs / ours:.2f}; padded tokens for a real one {found[0] / found[2]:.2f} and "
            f"{found[1] / found[2]:.2f}; logits differ by {abs(answers[stock] - answers[trainer]).max():.1e} at most"
        )
    print(
        f"prediction, {what} of both: ratio {total[0] / total[1]:.2f}; padded tokens for a real one "
        f"{tokens[0] / tokens[2]:.2f} and {tokens[1] / tokens[2]:.2f}"
    )


def padded(lengths: NDArray[np.int64], size: int) -> int:
    """Tokens with padding of rows in batches of a size."""
    batches = (lengths[i : i + size] for i in range(0, len(lengths), size))
    return sum(int(batch.max()) * len(batch) for batch in batches)


def main() -> None:
    """Print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads")
    imports()
    first_step(options.model, options.data)
    tasks = load_tasks("glue", tasks=["sst2", "stsb"], dataset=options.data)
    tokenizer, rows = AutoTokenizer.from_pretrained(options.model), {}
    for split in ("train", "validation"):
        raw = {spec.name: load_rows(spec, split) for spec in tasks}
        labels = {spec.name: read_labels(spec, raw[spec.name], split) for spec in tasks}
        rows[split] = {s.name: tokenize(s, raw[s.name], tokenizer, 128, labels[s.name]) for s in tasks}
    with tempfile.TemporaryDirectory() as folder:
        cuda = torch.cuda.is_available()
        args = MultiTaskTrainingArguments(
            output_dir=folder, do_train=True, use_cpu=not cuda, bf16=cuda, disable_tqdm=True, report_to="none"
        )
        model = load_model(options.model, [spec.head for spec in tasks])
        trainer = MultiTaskTrainer(model, args, tasks, rows["train"], rows["validation"], tokenizer)
        batches(rows["train"], trainer)
        evaluation(rows["validation"], trainer, "the validation split")
        drawn = {name: split.shuffle(seed=0).select(range(2000)) for name, split in rows["train"].items()}
        evaluation(drawn, trainer, "2,000 training rows")


if __name__ == "__main__":
    main()
