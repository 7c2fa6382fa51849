"""Rows per second of `hf-mtl predict` with two tasks, against a loop over two pipelines of transformers.

    python benchmarks/predict_speed.py --encoder DIR_OR_HUB_ID --texts FILE.parquet:COLUMN --rows 100000

The two pipelines are transformers' text-classification with the same encoder, heads of the same width, the same batch
size and the same texts; each of them passes over all texts. `hf-mtl predict` runs as a command: the time of its loop is
what it reports itself, without the start of Python and the loading of the model, as the pipelines' time has neither.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import pandas as pd
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from hf_mtl import load_model
from hf_mtl.model.heads import HeadSpec

HEADS = [HeadSpec(name=name, kind="classification", labels=("no", "yes")) for name in ("first", "second")]


def main() -> None:
    """Measure both and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--texts", required=True, help="FILE.parquet:COLUMN; repeated until there are enough")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()
    file, _, column = arguments.texts.rpartition(":")
    texts = list(islice(cycle(pd.read_parquet(file)[column].tolist()), arguments.rows))
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        ours = predict_command(arguments.encoder, texts, arguments.batch_size, Path(folder))
    theirs = two_pipelines(arguments.encoder, texts, arguments.batch_size)
    threads = torch.get_num_threads()
    print(f"{len(texts):,} texts, two tasks, batches of {arguments.batch_size}, {threads} threads")
    print(f"hf-mtl predict           {ours:>10,.0f} rows/s")
    print(f"two pipelines in a loop  {theirs:>10,.0f} rows/s")
    print(f"ratio                    {ours / theirs:>10.2f}")


def predict_command(encoder: str, texts: list[str], batch_size: int, folder: Path) -> float:
    """Rows per second that the command reports."""
    load_model(encoder, HEADS).save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder / "model")
    with open(folder / "in.jsonl", "w", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    command = [sys.executable, "-m", "hf_mtl.cli", "predict", "--model", str(folder / "model"), "--input"]
    command += [str(folder / "in.jsonl"), "--output", str(folder / "out.jsonl"), "--batch-size", str(batch_size)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
    with open(folder / "out.jsonl", encoding="utf-8") as answers:
        assert sum(1 for _ in answers) == len(texts)
    (rate,) = re.findall(r", ([\d,]+) a second", done.stderr)
    return float(rate.replace(",", ""))


def two_pipelines(encoder: str, texts: list[str], batch_size: int) -> float:
    """Rows per second of both passes together; texts stream, as transformers' documentation recommends."""
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    config = AutoConfig.from_pretrained(encoder, num_labels=2)
    pipes = [
        pipeline(
            "text-classification",
            model=AutoModelForSequenceClassification.from_pretrained(encoder, config=config),
            tokenizer=tokenizer,
            truncation=True,
        )
        for _ in HEADS
    ]
    start = time.perf_counter()
    for pipe in pipes:
        assert sum(1 for _ in pipe(stream(texts), batch_size=batch_size)) == len(texts)
    return len(texts) / (time.perf_counter() - start)


def stream(texts: list[str]) -> Iterator[str]:
    """The texts as a generator, which pipelines batch without holding the results."""
    yield from texts


if __name__ == "__main__":
    main()
