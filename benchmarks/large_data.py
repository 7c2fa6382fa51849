"""A task of many short rows: memory that it takes beside the mapped files, and the time of the data side of a step.

    python benchmarks/large_data.py --rows 10000000 --folder /tmp/large

The folder gets a parquet file of that many rows and the cache of their tokens; a second call reads both.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import threading
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_mtl import TaskSpec, load_task_data
from hf_mtl.data.batch_sampler import TaskBatchSampler
from hf_mtl.data.collator import TaskCollator
from hf_mtl.data.task_rows import TaskRows
from hf_mtl.data.task_shares import task_shares
from hf_mtl.tasks.demo import demo_tokenizer

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
    warm = [{"text": "the film", "label": 0}] * 1000
    load_task_data([task], tokenizer, splits=("train",), rows={"t": {"train": warm}})  # what every run has
    before, start = anonymous(), time.perf_counter()
    with Peak() as peak:
        data = load_task_data([task], tokenizer, splits=("train",))["train"]
    loaded = time.perf_counter() - start
    rows = TaskRows(data)
    with Peak() as at_start:
        sampler = TaskBatchSampler(
            rows.lengths,
            batch_size=PER_BATCH,
            shares=lambda epoch: task_shares("equal", rows.sizes, [1.0], PER_BATCH),
            seed=0,
        )
        batches, collator, times = iter(sampler), TaskCollator(tokenizer), []
        next(batches)  # makes the permutation
        for _ in range(steps):
            begin = time.perf_counter()
            collator(rows.__getitems__(next(batches)))
            times.append(time.perf_counter() - begin)
    return {
        "rows": num_rows,
        "seconds to load": round(loaded, 1),
        "bytes a row while loading": round((peak.most - before) / num_rows, 1),
        "bytes a row in training": round((anonymous() - before) / num_rows, 1),
        "bytes a row at most in training": round((at_start.most - before) / num_rows, 1),
        "milliseconds a step, median": round(1000 * float(np.median(times)), 2),
        "milliseconds a step, at most": round(1000 * max(times), 2),
    }


def main() -> None:
    """Measure as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    print(json.dumps(measure(arguments.folder, arguments.rows, arguments.steps), indent=1))


if __name__ == "__main__":
    main()
