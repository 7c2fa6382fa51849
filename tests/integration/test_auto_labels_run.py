"""Tasks over one table whose labels are `auto`: a run, its model, and runs that go on from it with other data."""

import json
import logging
from pathlib import Path

import pandas as pd
import pytest

import run_glue_mtl
from hf_mtl import InputError, MultiTaskConfig, load_model, load_tasks, resolve_tasks
from hf_mtl.cli import main as cli
from hf_mtl.tasks import columns
from hf_mtl.tasks.demo import demo_rows

TASKS = """
defaults: {{text_columns: text, missing_label: skip, files: {{train: train.csv, validation: dev.csv, test: test.csv}}}}
tasks:
  mood: {{kind: classification, label_column: mood, labels: auto}}
  stars: {{kind: regression, label_column: stars, label_range: auto}}
  topics: {{kind: multi_label, label_column: topics, label_delimiter: ";", labels: auto}}
  level: {{kind: classification, label_column: level, labels: auto}}
"""
FLAGS = "--model_name_or_path {model} --output_dir {out} --use_cpu --disable_tqdm true --train_metric_rows 0"
TRAIN = "--do_train --do_eval --do_predict --max_steps {steps} --per_device_train_batch_size 8 --save_steps 4 "
TRAIN += "--save_strategy steps --save_total_limit 5 --unfreeze_schedule none --eval_strategy no"
NAMES = {"mood": ("awful", "good", "meh"), "topics": ("long", "short"), "level": ("2", "10")}


def write_tables(folder, *, rename=None):
    """Three files of 60, 20 and 12 rows, with empty cells; `rename` gives a mood in the training file another name."""
    for name, split, number in (("train", "train", 60), ("dev", "validation", 20), ("test", "test", 12)):
        texts = demo_rows("reviews", split)["sentence"][:number]
        moods = ["good", "meh", "awful", None] * number
        frame = pd.DataFrame(
            {
                "text": texts,
                "mood": moods[:number],
                "stars": [len(text) % 5 + 0.5 if row > 2 else None for row, text in enumerate(texts)],
                "topics": ["long" if len(text) > 70 else "short" for text in texts],
                "level": ["10", "2"] * (number // 2),
            }
        )
        if rename and split == "train":
            frame = frame.replace({"mood": rename})
        frame.to_csv(folder / f"{name}.csv", index=False)
    (folder / "tasks.yaml").write_text(TASKS.format())
    return folder / "tasks.yaml"


def run(data, out, *flags, model="embedded:demo", steps=8):
    common = f"--task_set {data} {FLAGS} {TRAIN}".format(model=model, out=out, steps=steps)
    run_glue_mtl.main([*common.split(), *flags])
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def reads():
    """The files that the first run read, in their order."""
    return []


@pytest.fixture(scope="module")
def trained(data, reads, tmp_path_factory):
    def count(path, *args, real=columns.read_records):
        reads.append(Path(path).name)
        return real(path, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "read_records", count)
        return run(data, tmp_path_factory.mktemp("run") / "out")


def labels_of(folder):
    heads = MultiTaskConfig.from_pretrained(folder).heads
    return {name: head.labels for name, head in heads.items() if head.labels}


def test_a_run_reads_each_file_once(trained, reads):
    assert reads == ["train.csv", "dev.csv", "test.csv"]


def test_the_names_are_in_the_model_its_card_and_the_predictions(trained):
    assert labels_of(trained) == labels_of(trained / "checkpoint-4") == NAMES
    assert MultiTaskConfig.from_pretrained(trained).heads["stars"].label_range == (0.5, 4.5)
    card = (trained / "README.md").read_text()
    assert "| mood | classification | awful, good, meh |" in card and "| stars | regression | 0.5 to 4.5 |" in card
    assert "| level | classification | 2, 10 |" in card
    for task, names in NAMES.items():
        lines = (trained / "predictions" / f"{task}.tsv").read_text().splitlines()[1:]
        assert len(lines) == 12  # of "test", no row is left out
        assert {name for line in lines for name in line.split("\t")[1].split(";") if name} <= set(names)
    results = json.loads((trained / "all_results.json").read_text())
    assert {"eval_mood_accuracy", "eval_stars_pearson", "test_level_accuracy"} <= results.keys()


def test_what_the_file_was_understood_to_mean(data, trained, capsys, tmp_path):
    assert cli(["tasks", str(data), "--model", str(trained), "--json"]) == 0
    told = {task["name"]: task for task in json.loads(capsys.readouterr().out)}
    assert {name: tuple(told[name]["labels"]) for name in NAMES} == NAMES
    assert told["stars"]["label_range"] == [0.5, 4.5]
    assert told["mood"]["splits"]["train"]["labels"] == {"awful": 15, "good": 15, "meh": 15}
    assert told["mood"]["splits"]["train"]["rows_without_label"] == 15
    other = write_tables(tmp_path, rename={"awful": "zzz"})
    for model, names in ((), ["good", "meh", "zzz"]), (("--model", str(trained)), None):
        code = cli(["tasks", str(other), "--task", "mood", "--json", *model])
        err = capsys.readouterr().err
        if names is None:  # the saved model's names are kept, and the data has another
            assert code == 2 and "label 'zzz' in row 2" in err and "is not one of ['awful', 'good', 'meh']" in err
        else:
            assert code == 2 and "split 'validation': label 'awful' in row 2" in err and f"{names}" in err


def test_a_resumed_run_keeps_the_names_of_its_checkpoint(trained, data, tmp_path, caplog):
    for out in (tmp_path / "out", tmp_path / "other"):
        out.mkdir()
        (out / "checkpoint-4").symlink_to(trained / "checkpoint-4")
    resume = ("--resume_from_checkpoint", "latest")
    # Without "awful", the other names would have lower indices.
    fewer = write_tables(tmp_path, rename={"awful": "meh"})
    with caplog.at_level(logging.INFO, logger="hf_mtl"):
        run(fewer, tmp_path / "out", *resume)
    assert "task mood: labels are 'awful', 'good', 'meh', from the saved model" in caplog.text
    assert labels_of(tmp_path / "out") == NAMES
    more = write_tables(tmp_path, rename={"awful": "a new one"})
    with pytest.raises(InputError, match=r"label 'a new one' in row 2 .* is not one of \['awful', 'good', 'meh'\]"):
        run(more, tmp_path / "other", *resume)


def test_a_saved_model_goes_on_with_its_names_and_finds_those_of_fresh_heads(trained, tmp_path):
    data = write_tables(tmp_path, rename={"awful": "meh"})
    data.write_text(TASKS.format() + "  second: {kind: classification, label_column: mood, labels: auto}\n")
    with pytest.raises(InputError, match=r"task 'second', split 'validation': label 'awful' .*\['good', 'meh'\]"):
        run(data, tmp_path / "out", model=trained)
    dev = pd.read_csv(tmp_path / "dev.csv").replace({"mood": {"awful": None}})
    dev.to_csv(tmp_path / "dev.csv", index=False)
    dev.iloc[:12].to_csv(tmp_path / "test.csv", index=False)
    run(data, tmp_path / "out", model=trained, steps=2)
    assert labels_of(tmp_path / "out") == {**NAMES, "second": ("good", "meh")}
    # To answer, a saved model needs no training rows.
    (tmp_path / "train.csv").unlink()
    flags = f"--task_set {data} --do_predict {FLAGS}".format(model=trained, out=tmp_path / "answers")
    run_glue_mtl.main([*flags.split(), "--tasks", *NAMES])
    assert len((tmp_path / "answers" / "predictions" / "mood.tsv").read_text().splitlines()) == 13


def test_in_python_a_saved_model_refuses_names_in_another_order(trained, tmp_path):
    data = write_tables(tmp_path, rename={"awful": "meh"})
    tasks = load_tasks(str(data), tasks=["mood", "level"])
    with pytest.raises(InputError, match=r"task 'mood' is saved in .* and is declared as"):
        load_model(trained, [task.head for task in resolve_tasks(tasks)])
    known = resolve_tasks(tasks, heads=MultiTaskConfig.from_pretrained(trained).heads)
    model = load_model(trained, [task.head for task in known])
    assert {name: head.spec.labels for name, head in model.heads.items()} == {k: NAMES[k] for k in ("mood", "level")}
