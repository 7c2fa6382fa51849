"""Sentences that name people and places, and the tags of their words, in which one word tells its tag."""

import random

from hf_mtl import TaskSpec

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
NAMES = {"PER": (["clever", "dull"], ["moving", "long"]), "LOC": (["kitchen", "river"], ["garden", "house"])}
OTHERS = ["the", "plot", "is", "and", "never", "a", "film", "cast", ".", "works", "drags"]


def task(name="ner", **options):
    given = {"text_columns": ("words",), "label_column": "tags", "labels": TAGS, **options}
    return TaskSpec(name=name, kind="token_classification", **given)


def tagged_rows(number, seed=0, longest=12):
    """Rows of one to `longest` words, each with its tag by name."""
    rng, rows = random.Random(seed), []
    for _ in range(number):
        words, tags = [], []
        length = rng.randrange(1, longest + 1)
        while len(words) < length:
            if rng.random() < 0.6:
                words, tags = [*words, rng.choice(OTHERS)], [*tags, "O"]
                continue
            label = rng.choice(list(NAMES))
            first, second = map(rng.choice, NAMES[label])
            words, tags = [*words, first, second], [*tags, f"B-{label}", f"I-{label}"]
        rows.append({"words": words, "tags": tags})
    return rows
