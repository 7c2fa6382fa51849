"""Tasks of several labels per row, from a table to a model that answers without the package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import pipeline
from without_package import BLOCK

import run_glue_mtl
from hf_mtl import InputError, MultiTaskModel, MultiTaskTrainer, load_tasks
from hf_mtl.cli import main as cli
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.data.tokenization import tokenize
from hf_mtl.model.head_multi_label import best_threshold
from hf_mtl.tasks.demo import demo_rows
from hf_mtl.tasks.labels import read_labels

LABELS = ["praise", "blame", "long", "rare"]
TASKS = """
tasks:
  topics: {{kind: multi_label, text_columns: text, label_column: topics, labels: [praise, blame, long, rare],
            label_delimiter: ";", thresholds: fit, pooling: max,
            metrics: [micro_f1, macro_f1, subset_accuracy, average_precision],
            files: {{train: {0}/train.csv, validation: {0}/validation.csv, test: {0}/test.jsonl}}}}
  pairs: {{kind: regression, text_columns: [sentence1, sentence2], label_range: [0, 5],
           files: {{train: {0}/pairs.jsonl, validation: {0}/pairs.jsonl}}}}
"""
TEXTS = ["A dull film.", "The script is clever, and the cast never disappoints anyone who came to see it."]


def names_of(text, label):
    long = ["long"] if len(text.split()) > 8 else []
    return ["praise", *long] if label else ["blame", *long] if len(text) % 3 else []


def write_tables(folder):
    for split, number in (("train", 120), ("validation", 40), ("test", 12)):
        columns = demo_rows("reviews", split)
        texts = list(zip(columns["sentence"][:number], columns["label"][:number], strict=True))
        rows = [{"text": text, "topics": names_of(text, label)} for text, label in texts]
        if split == "test":
            rows[3]["topics"] = None
            (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        else:
            lines = [f'"{row["text"]}",{";".join(row["topics"])}' for row in rows]
            (folder / f"{split}.csv").write_text("\n".join(["text,topics", *lines]) + "\n")
    Dataset.from_dict(demo_rows("pairs", "train")).select(range(40)).to_json(folder / "pairs.jsonl")
    (folder / "tasks.yaml").write_text(TASKS.format(folder))
    return folder / "tasks.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("data"))


def run(data, out, *flags):
    common = (
        f"--task_set {data} --model_name_or_path embedded:demo --output_dir {out} --do_train --do_eval --do_predict "
    )
    common += "--max_steps 24 --learning_rate 2e-3 --unfreeze_schedule none --use_cpu --save_strategy steps "
    common += (
        "--save_steps 8 --save_total_limit 5 --per_device_train_batch_size 8 --disable_tqdm true --train_metric_rows 0"
    )
    run_glue_mtl.main([*common.split(), *flags])
    return out


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The output of a run from the command line that evaluates as it goes."""
    return run(data, tmp_path_factory.mktemp("run") / "out", "--eval_strategy", "steps", "--eval_steps", "8")


def thresholds_of(folder):
    return MultiTaskModel.from_pretrained(folder).heads["topics"].thresholds()


def test_a_run_leaves_scores_and_predictions(trained):
    results = json.loads((trained / "all_results.json").read_text())
    for metric in ("micro_f1", "macro_f1", "subset_accuracy", "average_precision"):
        assert 0 <= results[f"eval_topics_{metric}"] <= 1 and f"test_topics_{metric}" in results
    assert results["eval_average"] == pytest.approx(
        np.mean([results["eval_topics_micro_f1"], results["eval_pairs_pearson"]])
    )
    lines = (trained / "predictions" / "topics.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction" and len(lines) == 13
    for number, line in enumerate(lines[1:]):
        index, names = line.split("\t")
        assert int(index) == number and set(names.split(";")) <= {*LABELS, ""}
    assert "head_files" not in json.loads((trained / "config.json").read_text())
    assert "| topics | multi_label | praise, blame, long, rare |" in (trained / "README.md").read_text()


def test_thresholds_of_a_saved_model_are_those_that_suit_the_validation_rows(trained, data, tokenizer):
    model = MultiTaskModel.from_pretrained(trained)
    (task,) = load_tasks(str(data), tasks=["topics"])
    rows = load_rows(task, "validation")
    labels = torch.from_numpy(read_labels(task, rows, "validation"))
    pipe = pipeline("multi-task-classification", model=str(trained))
    answers = pipe(rows["text"][:], task_name="topics", top_k=None)
    by_name = [{each["label"]: each["score"] for each in answer["labels"]} for answer in answers]
    scores = torch.tensor([[row[name] for name in LABELS] for row in by_name])
    found = model.heads["topics"].thresholds()
    # The batches of the run and of the pipeline differ in their padding, so scores do in the last bits of fp32.
    wanted = [best_threshold(*pair) for pair in zip(scores.T, labels.T, strict=True)]
    assert found.tolist() == pytest.approx(wanted, abs=1e-5)
    assert found[3] == 0.5 and (found[:3] != 0.5).all()  # no row is "rare"


def test_a_loaded_model_answers_as_the_run_predicted(trained, data):
    (task,) = load_tasks(str(data), tasks=["topics"])
    pipe = pipeline("multi-task-classification", model=str(trained))
    answers = pipe(load_rows(task, "test")["text"][:], task_name="topics")
    names = [sorted((each["label"] for each in answer["labels"]), key=LABELS.index) for answer in answers]
    written = [line.split("\t")[1] for line in (trained / "predictions" / "topics.tsv").read_text().splitlines()[1:]]
    assert [";".join(row) for row in names] == written


def test_every_checkpoint_has_the_thresholds_of_its_evaluation_and_a_resumed_run_ends_alike(trained, data, tmp_path):
    kept = {step: thresholds_of(trained / f"checkpoint-{step}") for step in (8, 16, 24)}
    assert not torch.equal(kept[8], kept[24]) and torch.equal(kept[24], thresholds_of(trained))
    out = tmp_path / "out"
    run(data, out, "--eval_strategy", "steps", "--eval_steps", "8")
    (out / "checkpoint-24" / "manifest.json").unlink()
    run(
        data,
        out,
        "--eval_strategy",
        "steps",
        "--eval_steps",
        "8",
        "--resume_from_checkpoint",
        str(out / "checkpoint-16"),
    )
    wanted = MultiTaskModel.from_pretrained(trained).state_dict()
    assert all(
        torch.equal(value, wanted[name]) for name, value in MultiTaskModel.from_pretrained(out).state_dict().items()
    )


def test_the_best_model_comes_with_its_own_thresholds(data, make_model, make_arguments, tokenizer):
    (task,) = load_tasks(str(data), tasks=["topics"])
    rows = {
        split: {"topics": tokenize(task, raw, tokenizer, 32, read_labels(task, raw, split))}
        for split in ("train", "validation")
        if (raw := load_rows(task, split)) is not None
    }
    args = make_arguments(
        eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2, max_steps=8, learning_rate=0.02,
        save_total_limit=None, load_best_model_at_end=True, metric_for_best_model="topics_loss",
        greater_is_better=False,
    )  # fmt: skip
    trainer = MultiTaskTrainer(make_model([task]), args, [task], *rows.values(), processing_class=tokenizer)
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    found = trainer.model.heads["topics"].thresholds()
    assert torch.equal(found, thresholds_of(best))
    assert any(not torch.equal(found, thresholds_of(other)) for other in best.parent.glob("checkpoint-*"))
    before = found.clone()
    trainer.evaluate()
    assert torch.equal(trainer.model.heads["topics"].thresholds(), before)
    # Rows that are not the trainer's validation rows teach nothing, nor do rows to predict.
    trainer.evaluate({"topics": rows["train"]["topics"].select(range(5))})
    trainer.predict({"topics": rows["train"]["topics"].select(range(5))})
    assert torch.equal(trainer.model.heads["topics"].thresholds(), before)


def test_a_saved_model_keeps_its_thresholds_in_an_evaluation(data, make_model, make_arguments, tokenizer):
    (task,) = load_tasks(str(data), tasks=["topics"])
    raw = load_rows(task, "validation")
    rows = {"topics": tokenize(task, raw, tokenizer, 32, read_labels(task, raw, "validation"))}
    trainer = MultiTaskTrainer(make_model([task]), make_arguments(), [task], None, rows, processing_class=tokenizer)
    trainer.evaluate()
    assert (trainer.model.heads["topics"].thresholds() == 0.5).all()


def test_a_run_that_evaluates_at_its_end_only_saves_what_it_fitted_there(data, tmp_path):
    out = run(data, tmp_path / "out", "--eval_strategy", "no")
    assert (thresholds_of(out)[:3] != 0.5).all()
    assert (thresholds_of(out / "checkpoint-24") == 0.5).all()


def test_without_validation_rows_it_is_said_that_nothing_is_fitted(data, make_model, make_arguments, tokenizer, caplog):
    (task,) = load_tasks(str(data), tasks=["topics"])
    raw = load_rows(task, "train").select(range(24))
    rows = {"topics": tokenize(task, raw, tokenizer, 32, read_labels(task, raw, "train"))}
    MultiTaskTrainer(make_model([task]), make_arguments(), [task], rows, processing_class=tokenizer)
    assert "task 'topics': no validation rows, so its thresholds stay as they are" in caplog.text
    caplog.clear()
    MultiTaskTrainer(make_model([task]), make_arguments(), [task], rows, rows, processing_class=tokenizer)
    assert "thresholds" not in caplog.text


# ---- using the model ----

USE = """
import json, sys, torch
from transformers import AutoModel, pipeline
folder, expected = sys.argv[1], json.load(open(sys.argv[2]))
pipe = pipeline("multi-task-classification", model=folder, trust_remote_code=True)
head = pipe.model.heads["topics"]
assert type(head).__module__.startswith("transformers_modules."), type(head)
assert head.thresholds().tolist() == expected["thresholds"]
assert [pipe(expected["texts"], task_name="topics", top_k=k) for k in ("best", 2, None)] == expected["answers"]
AutoModel.from_pretrained(folder, trust_remote_code=True).save_pretrained(sys.argv[3])
again = AutoModel.from_pretrained(sys.argv[3], trust_remote_code=True)
assert torch.equal(again.heads["topics"].thresholds(), head.thresholds())
print("equal")
"""


def test_a_process_without_the_package_answers_alike(trained, tmp_path):
    pipe = pipeline("multi-task-classification", model=str(trained))
    answers = [pipe(TEXTS, task_name="topics", top_k=k) for k in ("best", 2, None)]
    expected = {"texts": TEXTS, "answers": answers, "thresholds": thresholds_of(trained).tolist()}
    (tmp_path / "expected.json").write_text(json.dumps(expected))
    environment = {
        **os.environ,
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "PYTHONPATH": "",
        "OMP_NUM_THREADS": "1",
    }
    arguments = [str(trained), str(tmp_path / "expected.json"), str(tmp_path / "again")]
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + USE, *arguments],
        capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0 and "equal" in done.stdout, done.stderr[-3000:]


def test_the_command_line_prints_a_line_for_each_label_and_a_dash_for_none(trained, tmp_path, capsys):
    model = MultiTaskModel.from_pretrained(trained)
    flags = ["--text", TEXTS[1], "--task", "topics"]

    def printed(thresholds, *more):
        model.heads["topics"].fitted_thresholds.fill_(thresholds)
        model.save_pretrained(tmp_path / "out")
        for file in trained.glob("tokenizer*"):
            (tmp_path / "out" / file.name).write_bytes(file.read_bytes())
        capsys.readouterr()
        assert cli(["predict", "--model", str(tmp_path / "out"), *flags, *more]) == 0
        return capsys.readouterr().out.splitlines()

    lines = printed(0.0)
    assert len(lines) == 5 and {line.split()[1] for line in lines[1:]} == set(LABELS)
    assert all(line.split()[0] == "topics" and 0 < float(line.split()[2]) < 1 for line in lines[1:])
    scores = [float(line.split()[2]) for line in lines[1:]]
    assert scores == sorted(scores, reverse=True)
    assert len(printed(0.0, "--top-k", "2")) == 3
    assert printed(1.0)[1].split() == ["topics", "-"]
    assert json.loads(printed(1.0, "--json")[0]) == {"topics": {"labels": []}}
    (tmp_path / "rows.txt").write_text("\n".join(TEXTS))
    assert cli(["predict", "--model", str(trained), "--task", "topics", "--input", str(tmp_path / "rows.txt")]) == 0
    records = list(map(json.loads, capsys.readouterr().out.splitlines()))
    assert [record["index"] for record in records] == [0, 1] and all("labels" in record["topics"] for record in records)


def test_a_task_is_described(data, capsys):
    assert cli(["tasks", str(data), "--json", "--task", "topics"]) == 0
    (described,) = json.loads(capsys.readouterr().out.splitlines()[-1])
    labels = described["splits"]["train"]["labels"]
    assert list(labels) == [*LABELS, "without_any"] and labels["rare"] == 0 and labels["without_any"] > 0
    assert described["splits"]["test"]["labels"]["without_label"] == 1 and described["label_delimiter"] == ";"
    assert cli(["tasks", str(data), "--task", "topics"]) == 0
    found = capsys.readouterr().out
    assert "topics: multi_label, praise, blame, long, rare" in found and "label in topics, parted by ';'" in found
    assert "rare 0, without_any" in found


def test_a_task_of_columns_is_described(tmp_path, capsys):
    (tmp_path / "rows.csv").write_text("text,toxic,insult\nx,1,0\ny,0,0\n")
    task = {"kind": "multi_label", "text_columns": ["text"], "label_columns": ["toxic", "insult"]}
    text = json.dumps({"tasks": {"t": {**task, "files": {"train": "rows.csv"}}}})
    (tmp_path / "tasks.yaml").write_text(text)
    assert cli(["tasks", str(tmp_path / "tasks.yaml")]) == 0
    found = capsys.readouterr().out
    assert "t: multi_label, toxic, insult" in found and "a column for each label: toxic, insult" in found
    assert "labels: toxic 1, insult 0, without_any 1" in found


# ---- rows that are handed to the trainer ----


@pytest.mark.parametrize("label, found", [([1, 0], r"\[1, 0\]"), ([1, 0, 0, 7], r"\[1, 0, 0, 7\]")])
def test_rows_with_other_labels_are_refused(data, make_model, make_arguments, tokenizer, label, found):
    (task,) = load_tasks(str(data), tasks=["topics"])
    raw = load_rows(task, "train").select(range(8))
    rows = tokenize(task, raw, tokenizer, 32).add_column("labels", [label] * 8)
    with pytest.raises(
        InputError, match=rf"'topics': train_dataset: label {found} in row 0 .*wanted 0 or 1 for each of"
    ):
        MultiTaskTrainer(make_model([task]), make_arguments(), [task], {"topics": rows}, processing_class=tokenizer)


def test_rows_without_labels_are_predicted_and_the_others_scored(data, make_model, make_arguments, tokenizer):
    (task,) = load_tasks(str(data), tasks=["topics"])
    train, test = ((load_rows(task, split), split) for split in ("train", "test"))
    rows = [tokenize(task, raw, tokenizer, 32, read_labels(task, raw, split)) for raw, split in (train, test)]
    trainer = MultiTaskTrainer(make_model([task]), make_arguments(), [task], rows[0], processing_class=tokenizer)
    output = trainer.predict(rows[1])
    assert output.predictions.shape == (12, 4) and "test_topics_average_precision" in output.metrics
    some = rows[1].select([row for row in range(12) if row != 3])
    scores = trainer.predict(some).metrics
    assert scores["test_topics_micro_f1"] == output.metrics["test_topics_micro_f1"]
    assert scores["test_topics_average_precision"] == pytest.approx(output.metrics["test_topics_average_precision"])


def test_a_run_without_any_evaluation_says_that_nothing_was_fitted(data, tmp_path, caplog):
    flags = (
        f"--task_set {data} --tasks topics --model_name_or_path embedded:demo --output_dir {tmp_path}/out --do_train"
    )
    flags += (
        " --max_steps 2 --unfreeze_schedule none --use_cpu --eval_strategy no --save_strategy no --disable_tqdm true"
    )
    run_glue_mtl.main(flags.split())
    assert "task 'topics': no evaluation took place, so its thresholds stay as they are; --do_eval" in caplog.text
