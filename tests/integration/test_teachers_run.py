"""`hf-mtl train` with teachers: single-task runs of the demo, then a joint one that is resumed; files of arguments."""

import json
import re
import shutil

import pytest
import torch
import yaml
from hub_server import TOKEN, run, serve
from safetensors.torch import load_file

from hf_mtl.cli import main
from hf_mtl.training import run as training_run
from hf_mtl.training.argument_parser import parse_arguments

pytestmark = pytest.mark.usefixtures("transformers_speaks_again")
SHORT = [
    "--use_cpu",
    "--disable_tqdm=false",
    "--train_metric_rows=16",
    "--max_steps=8",
    "--do_eval=false",
    "--do_predict=false",
]
TASKS = """
defaults: {dataset: "embedded:demo", splits: {train: "train[:400]", validation: "validation[:40]"}}
tasks:
  reviews: {kind: classification, config: reviews, text_columns: [sentence], labels: [negative, positive]}
  pairs: {kind: regression, config: pairs, text_columns: [sentence1, sentence2], label_range: [0, 5]}
"""
SAVES = ["--save_steps=4", "--eval_strategy=no", "--save_total_limit=0"]


@pytest.fixture(scope="module")
def singles(tmp_path_factory):
    """A model for each task of the demo, trained by itself."""
    folder = tmp_path_factory.mktemp("singles")
    (folder / "small.yaml").write_text(TASKS, encoding="utf-8")
    for task in ("reviews", "pairs"):
        assert main([*command(folder, folder / task), "--tasks", task]) == 0
    return folder


def command(singles, folder, teachers=None):
    """A run of the demo on some of its rows."""
    taught = ["--teachers", json.dumps(teachers)] if teachers else []
    return ["train", "demo", "--task_set", str(singles / "small.yaml"), *SHORT, "--output_dir", str(folder), *taught]


def test_the_demo_learns_from_its_single_tasks_and_goes_on_bit_equal(singles, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    teachers = {task: str(singles / task) for task in ("reviews", "pairs")}
    assert main([*command(singles, tmp_path / "joint", teachers), *SAVES]) == 0
    shown = capfd.readouterr().err
    for task in teachers:
        assert re.search(rf"teacher of {task}: 100%.* rows/s", shown)
    kept = sorted((tmp_path / "cache" / "hf_mtl" / "teachers").iterdir())
    assert len(kept) == 2
    whole = load_file(tmp_path / "joint" / "model.safetensors")

    (tmp_path / "again").mkdir()
    shutil.copytree(tmp_path / "joint" / "checkpoint-4", tmp_path / "again" / "checkpoint-4")
    again = [*command(singles, tmp_path / "again", teachers), *SAVES, "--resume_from_checkpoint", "latest"]
    assert main(again) == 0
    resumed = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert "teacher of" not in capfd.readouterr().err  # the answers were read

    assert main([*command(singles, tmp_path / "plain"), *SAVES]) == 0
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    assert not all(torch.equal(value, plain[name]) for name, value in whole.items())
    for file in (tmp_path / "joint").iterdir():
        assert file.is_dir() or str(singles).encode() not in file.read_bytes(), file


def test_a_teacher_that_cannot_teach_stops_the_run_before_rows_are_tokenised(singles, tmp_path, monkeypatch, capsys):
    def never(*args, **kwargs):
        raise AssertionError("rows were read")

    monkeypatch.setattr(training_run, "load_data", never)
    assert main(command(singles, tmp_path / "out", {"reviews": str(singles / "pairs")})) == 2
    assert "unknown head of" in capsys.readouterr().err
    assert main(command(singles, tmp_path / "out", {"reviews": str(singles / "review")})) == 2
    assert "task 'reviews': the teacher" in capsys.readouterr().err
    shorter = [*command(singles, tmp_path / "out", {"reviews": str(singles / "reviews")}), "--max_seq_length", "64"]
    assert main(shorter) == 2
    assert re.search("max_seq_length: [0-9]+ with the teacher, 64 with the student", capsys.readouterr().err)


def test_in_a_file_of_arguments_they_are_a_mapping(tmp_path):
    teachers = {"sst2": "out-sst2", "stsb": "user/out-stsb"}
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump({"output_dir": "out", "use_cpu": True, "teachers": teachers}), encoding="utf-8")
    *_, args = parse_arguments([str(file)])
    assert args.teachers == teachers
    *_, args = parse_arguments([str(file), "--teachers", '{"sst2": "other"}'])
    assert args.teachers == {"sst2": "other"}
    file.with_suffix(".json").write_text(json.dumps({"output_dir": "out", "use_cpu": True, "teachers": teachers}))
    *_, args = parse_arguments([str(file.with_suffix(".json"))])
    assert args.teachers == teachers


def test_a_teacher_may_be_on_the_hub(singles, tmp_path):
    with serve(tmp_path / "hub", tmp_path) as environment:
        code, said = run(["-m", "hf_mtl.cli", "push", str(singles / "reviews"), "user/reviews"], environment)
        assert code == 0, said
        environment = {**environment, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "HF_TOKEN": TOKEN}
        taught = command(singles, tmp_path / "out", {"reviews": "user/reviews"})
        code, said = run(["-m", "hf_mtl.cli", *taught], environment)
        assert code == 0 and "teacher of reviews: 100%" in said, said
