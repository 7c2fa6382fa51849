"""Seconds and memory of `tokenize` on pairs of long texts: random words of the tokenizer's vocabulary, nothing kept."""

import argparse
import random
import resource
import time

import datasets
from datasets import Dataset
from transformers import AutoTokenizer

from hf_mtl import TaskSpec
from hf_mtl.data.tokenization import tokenize


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder or Hub id of the tokenizer")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--words", type=int, default=1000, help="of each text")
    parser.add_argument("--max-length", type=int, default=128, help="tokens")
    args = parser.parse_args()
    datasets.disable_caching()
    datasets.disable_progress_bars()
    tokenizer, rng = AutoTokenizer.from_pretrained(args.model), random.Random(0)
    words = [word for word in sorted(tokenizer.get_vocab()) if word.isalpha()][:5000]
    texts = [" ".join(rng.choices(words, k=args.words)) for _ in range(2 * args.pairs)]
    rows = Dataset.from_dict({"one": texts[: args.pairs], "two": texts[args.pairs :]})
    spec = TaskSpec(
        name="long", kind="regression", text_columns=("one", "two"), label_range=(0, 1), files={"train": "none.csv"}
    )
    before, start, start_cpu = _peak(), time.perf_counter(), time.process_time()
    tokenize(spec, rows, tokenizer, args.max_length)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    print(f"{seconds:.1f} s, {cpu:.1f} of CPU; peak memory {_peak():.2f} GB, {before:.2f} of it before")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
