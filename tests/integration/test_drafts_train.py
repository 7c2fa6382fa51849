"""What `hf-mtl init` writes trains as it is, whatever the tables."""

import json
import random

import pandas
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

import run_glue_mtl
from hf_mtl.cli import main

RANDOM = random.Random(0)
N = 60
TEXTS = [f"ticket {number} {RANDOM.choice(['came', 'went'])} and the screen stayed dark" for number in range(N)]
TASKS = {
    "mood": "classification",
    "stars": "ordinal",
    "comments": "multi_label",
    "pairs": "similarity",
    "saved": "classification",
    "tags": "token_classification",
    "topics": "multi_label",
}


def pick(*values):
    return [values[number % len(values)] for number in range(N)]


def write_tables(folder):
    """A csv of two label columns and another of flags; pairs, tags and topics as JSON lines; a saved dataset."""
    frame = {"id": range(N), "message": TEXTS, "mood": pick("good", "bad", None), "stars": pick(1, 2, 3)}
    pandas.DataFrame(frame).to_csv(folder / "reviews.csv", index=False)
    flags = {"text": TEXTS, "toxic": pick(0, 1), "rude": pick(0, 0, 1), "spam": pick(1, 0, 0, 0)}
    pandas.DataFrame(flags).to_csv(folder / "comments.csv.gz", index=False)
    pairs = {"sentence1": TEXTS, "sentence2": TEXTS[::-1], "score": [n / 12 for n in range(N)]}
    pandas.DataFrame(pairs).to_json(folder / "pairs_train.jsonl", orient="records", lines=True)
    pandas.DataFrame(pairs).head(20).to_json(folder / "pairs_dev.jsonl", orient="records", lines=True)
    words = [{"words": [f"w{n}", "of", "."], "tags": [["B-X", "I-X", "O"], ["O", "O", "O"]][n % 2]} for n in range(N)]
    (folder / "tags.jsonl").write_text("".join(json.dumps(row) + "\n" for row in words))
    topics = {"text": TEXTS, "topics": pick("art|war", "war", "sport|art")}
    pandas.DataFrame(topics).to_parquet(folder / "topics.parquet", index=False)
    features = Features({"text": Value("string"), "label": ClassLabel(names=["pos", "neg"])})
    rows = Dataset.from_dict({"text": TEXTS, "label": pick(0, 1)}, features=features)
    DatasetDict({"train": rows, "dev": rows.select(range(9))}).save_to_disk(folder / "saved")
    return [
        "reviews.csv",
        "comments.csv.gz",
        "pairs_train.jsonl",
        "pairs_dev.jsonl",
        "tags.jsonl",
        "topics.parquet",
        "saved",
    ]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_a_draft_of_many_tables_trains_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", *write_tables(tmp_path), "--output", "my/tasks.yaml"]) == 0
    capsys.readouterr()
    assert main(["tasks", "my/tasks.yaml", "--json"]) == 0
    told = {task["name"]: task for task in json.loads(capsys.readouterr().out)}
    assert {name: task["kind"] for name, task in told.items()} == TASKS
    assert all("validation" in task["splits"] for task in told.values())
    flags = (
        "--task_set my/tasks.yaml --model_name_or_path embedded:demo --output_dir out --do_train --do_eval --use_cpu "
    )
    flags += "--max_steps 2 --per_device_train_batch_size 16 --eval_strategy no --save_strategy no --disable_tqdm true "
    flags += "--unfreeze_schedule none --train_metric_rows 0"
    run_glue_mtl.main(flags.split())
    scores = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert all(any(key.startswith(f"eval_{name}_") for key in scores) for name in TASKS)
