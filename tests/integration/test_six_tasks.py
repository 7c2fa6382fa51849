"""Six tasks of six kinds in one run: each is learned, saved, answered elsewhere; a killed run ends as a whole one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from six_tasks import BASELINES, TAGS, write_tasks
from without_package import BLOCK

from hf_mtl.cli import main as cli

REPOSITORY = Path(__file__).parents[2]
ENCODER = os.environ.get("HF_MTL_ENCODER")
ROWS = {
    "sst2": "the cast is superb and the film never disappoints",
    "stsb": ("A man is cooking.", "A man bakes bread."),
    "topics": "a red dog film",
    "names": "Ada went to New Rome with Bob",
    "stars": "the meal is superb for a hotel",
    "length": "film film song",
}


def command(folder, output, *, encoder, steps, rate, **flags):
    options = {
        "task_set": folder / "tasks.yaml",
        "model_name_or_path": encoder,
        "output_dir": output,
        "max_steps": steps,
        "learning_rate": rate,
        "per_device_train_batch_size": 48,
        "task_sampling": "equal",
        "unfreeze_schedule": "none",
        "warmup_steps": 5,
        "max_seq_length": 64,
        "eval_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": "true",
        "logging_steps": 1,
        **flags,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, str(REPOSITORY / "run_glue_mtl.py"), "--do_train", "--do_eval", "--use_cpu", *words]


def run(words):
    done = subprocess.run(words, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def answers_without_the_package(folder, rows):
    code = (
        f"{BLOCK}\nimport json\nfrom transformers import pipeline\n"
        f"pipe = pipeline('multi-task-classification', model={str(folder)!r}, trust_remote_code=True)\n"
        f"print(json.dumps({{task: pipe(row, task_name=task) for task, row in {rows!r}.items()}}))"
    )
    return json.loads(run([sys.executable, "-c", code]).stdout.splitlines()[-1])


def close(found, wanted):
    """Equal but for the rounding of numbers."""
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(close(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(close, found, wanted))
    return found == pytest.approx(wanted, abs=1e-5) if isinstance(wanted, float) else found == wanted


def test_a_run_of_six_kinds_that_is_killed_ends_as_one_that_is_not(tmp_path, capsys, transformers_speaks_again):
    write_tasks(tmp_path, 96)
    flags = {"encoder": "embedded:demo", "steps": 12, "rate": 1e-3, "save_strategy": "steps", "save_steps": 4}
    flags |= {"eval_strategy": "steps", "eval_steps": 4, "save_total_limit": 9}
    run(command(tmp_path, tmp_path / "whole", **flags))
    killed = command(tmp_path, tmp_path / "killed", **flags)
    with subprocess.Popen(killed, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            if "step 7/" in line or (tmp_path / "killed" / "checkpoint-8").exists():
                process.send_signal(signal.SIGKILL)
                break
    assert not (tmp_path / "killed" / "all_results.json").exists()
    run([*killed, "--resume_from_checkpoint", "latest"])
    ends = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed")]
    assert ends[0].keys() == ends[1].keys()
    assert all(ends[0][name].equal(ends[1][name]) for name in ends[0])
    assert any(name.endswith("thresholds") for name in ends[0])

    found = answers_without_the_package(tmp_path / "whole", ROWS)
    assert set(found) == set(ROWS)
    assert {tag.split("-")[-1] for tag in TAGS} >= {entity["label"] for entity in found["names"]["entities"]}
    for task, row in ROWS.items():
        texts = [row] if isinstance(row, str) else row
        words = ["--text", texts[0], *(["--text-pair", texts[1]] if len(texts) > 1 else [])]
        assert cli(["predict", "--model", str(tmp_path / "whole"), "--task", task, *words, "--json"]) == 0
        assert close(json.loads(capsys.readouterr().out)[task], found[task]), task


@pytest.mark.slow
@pytest.mark.skipif(ENCODER is None, reason="HF_MTL_ENCODER names no encoder")
def test_each_of_six_kinds_beats_a_model_that_learned_nothing(tmp_path):
    write_tasks(tmp_path, 2000)
    run(command(tmp_path, tmp_path / "out", encoder=ENCODER, steps=200, rate=1e-4))
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    scores = {task: results[f"eval_{task}_{metric}"] for task, (metric, _) in BASELINES.items()}
    print(scores)
    for task, (_, baseline) in BASELINES.items():
        assert scores[task] > baseline + 0.1, scores
