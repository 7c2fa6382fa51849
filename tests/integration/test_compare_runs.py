"""`hf-mtl compare` on the demo: it goes on after a kill with the same numbers, and its runs die with it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from compare_runs import same_numbers

from hf_mtl import MultiTaskModel

ROOT = Path(__file__).parents[2]
FLAGS = ["--use_cpu", "--train_metric_rows=0", "--max_steps=3", "--eval_strategy=no", "--warmup_steps=0"]
WAIT_SECONDS = 600  # at most, on a busy machine


@pytest.fixture(scope="module")
def compare(tmp_path_factory):
    """Starts `hf-mtl compare demo` with an output folder, as a process."""
    folder = tmp_path_factory.mktemp("compare")
    cache = {"HF_DATASETS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def start(out, *flags):
        words = ["compare", "demo", "--arms", "single,sum", "--seeds", "1", "--output_dir", out, *FLAGS, *flags]
        with open(folder / f"{out}.txt", "w") as printed:
            return subprocess.Popen(
                [sys.executable, "-m", "hf_mtl.cli", *words],
                cwd=folder,
                env={**os.environ, **cache},
                stdout=printed,
                stderr=subprocess.DEVNULL,
            )

    start.folder = folder
    return start


def finished(process):
    assert process.wait(WAIT_SECONDS) == 0


def wait_for(what):
    """What a function gives once it is true."""
    end = time.monotonic() + WAIT_SECONDS
    while not (found := what()):
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)
    return found


def runs_of(pid):
    """The process ids of a comparison's runs."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for child in children if is_alive(child) and b"watched_run" in command_of(child)]


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def is_alive(pid):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def results(out):
    path = out / "compare.json"
    return json.loads(path.read_text()) if path.exists() else {"runs": []}


@pytest.fixture(scope="module")
def whole(compare):
    """What an uninterrupted comparison leaves."""
    finished(compare("whole"))
    return compare.folder / "whole"


def test_a_run_keeps_its_final_model_only_and_single_is_of_one_task(whole):
    assert [run["task"] for run in results(whole)["runs"]] == ["reviews", "pairs", None]
    assert list(MultiTaskModel.from_pretrained(whole / "single" / "seed-1" / "pairs").heads) == ["pairs"]
    assert list(MultiTaskModel.from_pretrained(whole / "sum" / "seed-1").heads) == ["reviews", "pairs"]
    assert not list(whole.rglob("checkpoint-*")) and not list(whole.rglob("predictions"))
    assert "predict: hf-mtl train --model_name_or_path whole/sum" in (whole / "sum" / "seed-1" / "run.log").read_text()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads who is whose child from /proc")
def test_a_killed_comparison_takes_its_runs_along_and_goes_on_with_the_same_numbers(compare, whole):
    out = compare.folder / "killed"
    process = compare("killed")
    wait_for(lambda: results(out)["runs"])
    (child,) = wait_for(lambda: runs_of(process.pid))
    # The second run is on its way: it has imported what it needs, and says so.
    wait_for(lambda: any(log.stat().st_size for log in out.glob("single/seed-1/pairs/run.log")))
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not is_alive(child))
    assert [run["task"] for run in results(out)["runs"]] == ["reviews"]
    shutil.rmtree(out / "single" / "seed-1" / "reviews")
    finished(compare("killed", "--parallel", "2"))
    assert same_numbers(results(out)) == same_numbers(results(whole))
    assert not (out / "single" / "seed-1" / "reviews").exists()
    assert (compare.folder / "killed.txt").read_text() == (out / "compare.md").read_text() + "\n"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads who is whose child from /proc")
def test_a_comparison_that_is_told_to_end_takes_its_runs_along(compare):
    """Also one that has only begun to import."""
    process = compare("ended")
    (child,) = wait_for(lambda: runs_of(process.pid))
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_SECONDS) == -signal.SIGTERM
    wait_for(lambda: not is_alive(child))
