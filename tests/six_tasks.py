"""Rows and a task file of six tasks of as many kinds, each of which can be learned.

SST-2 and STS-B are the real ones where HF_MTL_GLUE names their folder, else the demo's; the others are generated.
"""

import json
import os
import random
from pathlib import Path

import datasets

from hf_mtl.tasks.demo import demo_rows

COLOURS, ANIMALS, CITIES = ["red", "blue", "green"], ["dog", "cat", "horse"], ["Rome", "Oslo", "Lima", "Bonn"]
NAMES = ["Ada", "Bob", "Eva", "Max", "Zoe"]
STEPS = ["terrible", "weak", "decent", "good", "superb"]
THINGS = ["film", "meal", "book", "song", "hotel"]
TAGS = ["O", "B-PER", "B-LOC", "I-LOC"]
# What a model that has learned nothing reaches: the more frequent class, no correlation, every label, no entity.
BASELINES = {
    "sst2": ("accuracy", 0.51),
    "stsb": ("pearson", 0.0),
    "topics": ("micro_f1", 0.67),
    "names": ("entity_f1", 0.0),
    "stars": ("quadratic_kappa", 0.0),
    "length": ("pearson", 0.0),
}
TASKS = """
tasks:
  sst2: {{kind: classification, text_columns: [sentence], labels: [negative, positive],
          files: {{train: {0}/sst2-train.jsonl, validation: {0}/sst2-validation.jsonl}}}}
  stsb: {{kind: similarity, text_columns: [sentence1, sentence2], label_range: [0, 5], metrics: [pearson, spearman],
          files: {{train: {0}/stsb-train.jsonl, validation: {0}/stsb-validation.jsonl}}}}
  topics: {{kind: multi_label, text_columns: [text], label_column: topics, labels: [colour, animal],
            metrics: [micro_f1, subset_accuracy, average_precision], thresholds: fit,
            files: {{train: {0}/topics-train.jsonl, validation: {0}/topics-validation.jsonl}}}}
  names: {{kind: token_classification, text_columns: [words], label_column: tags, labels: [O, B-PER, B-LOC, I-LOC],
           metrics: [entity_f1, token_accuracy],
           files: {{train: {0}/names-train.jsonl, validation: {0}/names-validation.jsonl}}}}
  stars: {{kind: ordinal, text_columns: [text], label_column: stars, labels: [terrible, weak, decent, good, superb],
           metrics: [quadratic_kappa, mae], class_weights: balanced,
           files: {{train: {0}/stars-train.jsonl, validation: {0}/stars-validation.jsonl}}}}
  length: {{kind: regression, text_columns: [text], label_column: words, label_range: [1, 12], loss: huber,
            files: {{train: {0}/length-train.jsonl, validation: {0}/length-validation.jsonl}}}}
"""


def topics(draw):
    parts = [draw.choice(COLOURS)] * draw.randint(0, 1) + [draw.choice(ANIMALS)] * draw.randint(0, 1)
    found = [name for name, words in (("colour", COLOURS), ("animal", ANIMALS)) if set(parts) & set(words)]
    draw.shuffle(parts)
    return {"text": " ".join(["a", *parts, draw.choice(THINGS)]), "topics": found}


def names(draw):
    city = ["New", draw.choice(CITIES)] if draw.random() < 0.3 else [draw.choice(CITIES)]
    words = [draw.choice(NAMES), "went", "to", *city, "with", draw.choice([draw.choice(NAMES), "friends"])]
    tags = ["B-PER", "O", "O", "B-LOC", *["I-LOC"] * (len(city) - 1), "O", "B-PER" if words[-1] in NAMES else "O"]
    return {"words": words, "tags": tags}


def stars(draw):
    step = draw.choice(STEPS)
    return {"text": f"the {draw.choice(THINGS)} is {step} for a {draw.choice(THINGS)}", "stars": step}


def length(draw):
    words = draw.randint(1, 12)
    return {"text": " ".join(draw.choice(THINGS) for _ in range(words)), "words": float(words)}


def glue(task, demo_task, split, number):
    """The first rows of a real task, or of the demo's task of that form."""
    folder = os.environ.get("HF_MTL_GLUE")
    if folder:
        rows = datasets.Dataset.from_parquet(f"{folder}/{task}/{split}-00000-of-00001.parquet").select(range(number))
        return list(rows.remove_columns([name for name in rows.column_names if name == "idx"]))
    columns = demo_rows(demo_task, split)
    rows = datasets.Dataset.from_dict({name: values[:number] for name, values in columns.items()})
    return list(rows)


def write_tasks(folder: Path, number: int) -> Path:
    """Files of `number` training rows a task and 200 for validation, and the task file that names them."""
    for split, size in (("train", number), ("validation", min(200, number))):
        draw = random.Random(split)
        rows = {"sst2": glue("sst2", "reviews", split, size), "stsb": glue("stsb", "pairs", split, size)}
        rows |= {make.__name__: [make(draw) for _ in range(size)] for make in (topics, names, stars, length)}
        for task, own in rows.items():
            (folder / f"{task}-{split}.jsonl").write_text("\n".join(map(json.dumps, own)) + "\n", encoding="utf-8")
    (folder / "tasks.yaml").write_text(TASKS.format(folder), encoding="utf-8")
    return folder / "tasks.yaml"
