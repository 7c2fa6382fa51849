"""Ordered classes from the command line: trained, evaluated, predicted, saved, and opened without the package."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import pipeline
from without_package import BLOCK

import run_glue_mtl
from hf_mtl import MultiTaskModel, MultiTaskTrainer, TaskSpec, load_task_data, load_tasks
from hf_mtl.cli import main as cli

STARS = ["bad", "poor", "fair", "good", "great"]
LADDER = ["tedious", "clumsy", "crude", "messy", "script", "cast", "story", "graceful", "shines", "delights"]
LADDER += ["brilliant"]
SHUFFLED = ["fair", "great", "bad", "good", "poor"]
# Of labels in proportions like these, guesses have a kappa of 0 and a standard error of 1 / sqrt(rows), about 0.1.
CHANCE = 0.3


def stars(rows, seed):
    """Texts of ten words, each with a place on the ladder; the class is by their mean place, and some noise."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(1, 9, rows)
    places = np.clip(np.round(centres[:, None] + rng.normal(0, 2, (rows, 10))), 0, 10).astype(int)
    latent = places.mean(axis=1) + rng.normal(0, 0.4, rows)
    classes = np.digitize(latent, [2.8, 4.4, 5.6, 7.2])
    texts = [" ".join(LADDER[place] for place in row) for row in places]
    return [{"text": text, "stars": STARS[c]} for text, c in zip(texts, classes, strict=True)]


def task(**options):
    values = {"name": "stars", "kind": "ordinal", "text_columns": ("text",), "label_column": "stars", "labels": STARS}
    return TaskSpec(**{**values, "metrics": ("quadratic_kappa", "mae", "accuracy"), **options})


def trained_scores(make_model, make_arguments, tokenizer, spec):
    splits = {"train": stars(400, 0), "validation": stars(100, 1)}
    data = load_task_data([spec], tokenizer, max_length=32, rows={"stars": splits})
    args = make_arguments(max_steps=60, learning_rate=3e-3, per_device_train_batch_size=32)
    trainer = MultiTaskTrainer(
        make_model([spec]), args, [spec], data["train"], data["validation"], processing_class=tokenizer
    )
    trainer.train()
    return trainer.evaluate()


def test_it_learns_and_the_order_of_the_labels_matters(make_model, make_arguments, tokenizer):
    scores = trained_scores(make_model, make_arguments, tokenizer, task())
    assert scores["eval_stars_quadratic_kappa"] > 0.6 > CHANCE
    assert scores["eval_stars_mae"] < 0.8 and scores["eval_stars_accuracy"] > 0.4
    shuffled = trained_scores(make_model, make_arguments, tokenizer, task(labels=SHUFFLED))
    assert shuffled["eval_stars_loss"] > scores["eval_stars_loss"] + 0.1
    assert shuffled["eval_stars_accuracy"] < scores["eval_stars_accuracy"]


TASKS = """
tasks:
  stars: {{kind: ordinal, text_columns: text, label_column: stars, labels: [bad, poor, fair, good, great],
           class_weights: balanced, metrics: [quadratic_kappa, mae, accuracy],
           files: {{train: {0}/train.csv, validation: {0}/validation.csv, test: {0}/test.csv}}}}
"""
USE = """
import json, sys, torch
from transformers import AutoModel, pipeline
folder, expected = sys.argv[1], json.load(open(sys.argv[2]))
pipe = pipeline("multi-task-classification", model=folder, trust_remote_code=True)
assert pipe(expected["texts"], task_name="stars", top_k=None) == expected["answers"]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
assert type(model.heads["stars"]).__module__.startswith("transformers_modules."), type(model.heads["stars"])
assert model.heads["stars"].class_weights.tolist() == expected["weights"]
print("equal")
"""
TEXTS = ["crude messy tedious clumsy", "delights shines brilliant graceful cast"]


@pytest.fixture
def task_file(tmp_path):
    for seed, (split, number) in enumerate((("train", 200), ("validation", 40), ("test", 12))):
        rows = stars(number, seed)
        if split == "test":
            rows[3]["stars"] = ""
        lines = [f"{row['text']},{row['stars']}" for row in rows]
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,stars", *lines]) + "\n")
    (tmp_path / "tasks.yaml").write_text(TASKS.format(tmp_path))
    return tmp_path / "tasks.yaml"


def test_from_training_to_a_process_without_the_package(task_file, tmp_path, capsys):
    out = tmp_path / "out"
    flags = f"--task_set {task_file} --model_name_or_path embedded:demo --output_dir {out} --do_train --do_eval "
    flags += "--do_predict --max_steps 20 --learning_rate 1e-3 --unfreeze_schedule none --use_cpu --eval_strategy no "
    flags += "--save_strategy steps --save_steps 10 --disable_tqdm true"
    run_glue_mtl.main(flags.split())
    assert "mae (steps)" in capsys.readouterr().out
    results = json.loads((out / "all_results.json").read_text())
    assert results["eval_average"] == results["eval_stars_quadratic_kappa"]
    assert {"eval_stars_mae", "eval_stars_accuracy", "test_stars_quadratic_kappa"} <= results.keys()
    header, *written = (out / "predictions" / "stars.tsv").read_text().splitlines()
    assert header == "index\tprediction" and len(written) == 12
    assert {line.split("\t")[1] for line in written} <= set(STARS)
    assert "head_files" not in json.loads((out / "config.json").read_text())

    # A resumed run ends with the same bits, class weights among them.
    wanted = MultiTaskModel.from_pretrained(out).state_dict()
    counts = np.unique([row["stars"] for row in stars(200, 0)], return_counts=True)
    balanced = {name: 200 / (5 * count) for name, count in zip(*counts, strict=True)}
    weights = wanted["heads.stars.class_weights"].tolist()
    assert weights == pytest.approx([balanced[name] for name in STARS])
    (out / "model.safetensors").unlink()
    run_glue_mtl.main([*flags.split(), "--resume_from_checkpoint", str(out / "checkpoint-10")])
    again = MultiTaskModel.from_pretrained(out).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in wanted.items())

    pipe = pipeline("multi-task-classification", model=str(out))
    answers = pipe(TEXTS, task_name="stars", top_k=None)
    assert all({each["label"] for each in row} == set(STARS) for row in answers)
    assert all(sum(each["score"] for each in row) == pytest.approx(1, abs=1e-6) for row in answers)
    assert pipe(TEXTS, task_name="stars") == [row[0] for row in answers]

    (tmp_path / "expected.json").write_text(json.dumps({"texts": TEXTS, "answers": answers, "weights": weights}))
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""}
    command = [sys.executable, "-c", BLOCK + USE, str(out), str(tmp_path / "expected.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=600)
    assert done.returncode == 0 and "equal" in done.stdout, done.stderr[-3000:]

    capsys.readouterr()
    assert cli(["predict", "--model", str(out), "--text", TEXTS[1], "--task", "stars", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stars"] == answers[1][0]
    assert cli(["tasks", str(task_file), "--json", "--task", "stars"]) == 0
    (described,) = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(described["splits"]["train"]["labels"]) == STARS
    assert described["splits"]["test"]["labels"]["without_label"] == 1
    assert cli(["tasks", str(task_file)]) == 0
    assert "stars: ordinal, bad, poor, fair, good, great" in capsys.readouterr().out


def test_a_row_that_is_no_label_stops_a_run_or_is_skipped(task_file, tmp_path, tokenizer):
    with (tmp_path / "train.csv").open("a") as file:
        file.write("a story,superb\n")
    (spec,) = load_tasks(str(task_file))
    with pytest.raises(ValueError, match=r"'stars', split 'train': label 'superb' in row 200 .*is not one of \['bad'"):
        load_task_data([spec], tokenizer, max_length=32)
    data = load_task_data([spec], tokenizer, max_length=32, on_bad_row="skip")
    assert len(data["train"]["stars"]) == 200
