"""A task of many short rows: memory that it takes beside the mapped files, and the time of the data side of a step.

    python benchmarks/large_data.py --rows 10000000 --folder /tmp/large

The folder gets a parquet file of that many rows and the cache of their tokens; a second call reads both. A small model
trains on them, and before that on 10,000 rows: the memory that both need counts for nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoModel, PreTrainedTokenizerBase

from hf_mtl import MultiTaskTrainer, MultiTaskTrainingArguments, TaskSpec, load_model, load_task_data
from hf_mtl.tasks.demo import demo_encoder_config, demo_tokenizer

WORDS = (
    "the",
    "film",
    "plot",
    "cast",
    "is",
    "was",
    "never",
    "always",
    "dull",
    "great",
    "clever",
    "slow",
    "warm",
    "script",
)
PER_BATCH = 64


def sentence(generator: random.Random) -> str:
    """4 to 12 words."""
    return " ".join(generator.choices(WORDS, k=generator.randint(4, 12)))


def write_rows(path: Path, num_rows: int) -> None:
    """Texts with one of two labels."""
    generator = random.Random(0)
    schema = pa.schema([("text", pa.string()), ("label", pa.int64())])
    unfinished = path.with_suffix(".part")
    with pq.ParquetWriter(unfinished, schema) as writer:
        for start in range(0, num_rows, 100_000):
            number = min(100_000, num_rows - start)
            texts = [f"{sentence(generator)} {start + row}" for row in range(number)]
            writer.write_table(pa.table({"text": texts, "label": [row % 2 for row in range(number)]}, schema=schema))
    unfinished.replace(path)


def anonymous() -> int:
    """Bytes of this process that are not backed by a file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise SystemExit("the kernel does not tell RssAnon")


class Peak:
    """The most anonymous memory inside a `with`."""

    def __enter__(self) -> Peak:
        self.most, self._over = anonymous(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.most = max(self.most, anonymous())

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()


def train(
    folder: Path, task: TaskSpec, rows: Any, tokenizer: PreTrainedTokenizerBase, steps: int
) -> tuple[list[float], int]:
    """Train on rows; seconds that each batch took, and the most anonymous memory."""
    model = load_model(folder / "encoder", [task.head])
    args = MultiTaskTrainingArguments(
        output_dir=str(folder / "out"),
        do_train=True,
        max_steps=steps,
        per_device_train_batch_size=PER_BATCH,
        unfreeze_schedule="none",
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        train_metric_rows=0,
        use_cpu=True,
    )
    with Peak() as peak:
        trainer = MultiTaskTrainer(model, args, [task], {"t": rows}, processing_class=tokenizer)
        times = time_batches(trainer)
        trainer.train()
    return times, peak.most


def time_batches(trainer: MultiTaskTrainer) -> list[float]:
    """The list that gets the seconds that the trainer waits for each batch of its training."""
    times: list[float] = []
    make = trainer.get_train_dataloader

    class Timed:
        def __init__(self, loader: Any) -> None:
            self.loader = loader

        def __getattr__(self, name: str) -> Any:
            return getattr(self.loader, name)

        def __len__(self) -> int:
            return len(self.loader)

        def __iter__(self) -> Any:
            batches = iter(self.loader)
            while True:
                begin = time.perf_counter()
                batch = next(batches, None)
                if batch is None:
                    return
                times.append(time.perf_counter() - begin)
                yield batch

    trainer.get_train_dataloader = lambda: Timed(make())  # type: ignore[method-assign]
    return times


def measure(folder: Path, num_rows: int, steps: int) -> dict[str, float]:
    """Bytes a row and milliseconds a step."""
    path = folder / f"rows-{num_rows}.parquet"
    if not path.exists():
        write_rows(path, num_rows)
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    task = TaskSpec(
        name="t", kind="classification", text_columns=("text",), labels=("a", "b"), files={"train": str(path)}
    )
    tokenizer = demo_tokenizer()
    torch.manual_seed(0)
    AutoModel.from_config(demo_encoder_config(len(tokenizer))).save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    generator = random.Random(1)
    few = [{"text": f"{sentence(generator)} {num_rows - row}", "label": row % 2} for row in range(10_000)]
    data = load_task_data([task], tokenizer, splits=("train",), rows={"t": {"train": few}})["train"]
    _, of_few = train(folder, task, data["t"], tokenizer, steps)
    before, start = anonymous(), time.perf_counter()
    with Peak() as peak:
        data = load_task_data([task], tokenizer, splits=("train",))["train"]
    loaded = time.perf_counter() - start
    times, of_many = train(folder, task, data["t"], tokenizer, steps)
    return {
        "rows": num_rows,
        "seconds to load": round(loaded, 1),
        "bytes a row while loading": round((peak.most - before) / num_rows, 1),
        "bytes a row at most in training": round((of_many - of_few) / num_rows, 1),
        "milliseconds to a batch, first": round(1000 * times[0], 2),
        "milliseconds to a batch, median": round(1000 * float(np.median(times)), 2),
        "milliseconds to a batch, at most after the first": round(1000 * max(times[1:]), 2),
    }


def main() -> None:
    """Measure as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print(json.dumps(measure(arguments.folder, arguments.rows, arguments.steps), indent=1))


if __name__ == "__main__":
    main()
