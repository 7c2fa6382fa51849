"""Killed runs: whenever a run is killed, going on from its newest whole checkpoint ends as if it had not been.

Minutes long: python -m pytest -m slow tests/distributed/test_faults.py
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hf_mtl.model.export_code import modeling_code
from hf_mtl.training.checkpoints import checkpoint_error

pytestmark = pytest.mark.slow
WORKER = Path(__file__).parents[1] / "fault_worker.py"
ROOT = Path(__file__).parents[2]
FILES = 12 + len(modeling_code())  # of a checkpoint
LAST_STEP = 22


class Run:
    """A run in a process of its own.

    Args:
        server: `fault_worker.py`.
        folder: of the output.
        checkpoint: to go on from.
    """

    def __init__(self, server, folder, checkpoint=""):
        self.server, self.log = server, Path(f"{folder}.log")
        self.pid = int(self._ask(f"start {folder} {checkpoint}"))
        self.skipped = len(self.output())

    def _ask(self, line) -> str:
        self.server.stdin.write(f"{line}\n")
        self.server.stdin.flush()
        return self.server.stdout.readline()

    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def wait(self) -> int:
        """The exit status."""
        return int(self._ask(f"wait {self.pid}"))

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL, self.output()[-3000:]

    def end(self) -> None:
        assert self.wait() == 0, self.output()[-3000:]

    def watch(self, happened) -> None:
        """Return as soon as `happened()`, which has to be before the run's end."""
        stop = time.monotonic() + 120
        while not happened():
            assert time.monotonic() < stop, self.output()[-3000:]

    def reach(self, step) -> None:
        """Return as soon as the run has logged a step."""
        self.watch(lambda: f"step {step}/" in self.output())


@pytest.fixture(scope="module")
def server():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, str(WORKER)], env=environment, text=True, **pipes) as process:
        while process.stdout.readline() != "ready\n":
            assert process.poll() is None
        yield process
        process.stdin.close()


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory):
    """The end of a run that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    Run(server, folder).end()
    return torch.load(f"{folder}.pt")


def assert_same(found, wanted, where=""):
    if isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted), where
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        for key in wanted:
            assert_same(found[key], wanted[key], f"{where}.{key}")
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted), where
        for place, (one, other) in enumerate(zip(found, wanted, strict=True)):
            assert_same(one, other, f"{where}[{place}]")
    else:
        assert found == wanted, where


def files_in(checkpoint: Path) -> int:
    try:
        return len(os.listdir(checkpoint))
    except FileNotFoundError:
        return 0


def go_on(server, folder, whole) -> str:
    """Resume, compare the end with that of the whole run; the output."""
    log = Path(f"{folder}.log")
    log.unlink()
    Run(server, folder, "latest").end()
    assert_same(torch.load(f"{folder}.pt"), whole)
    return log.read_text()


@pytest.mark.parametrize("step", [10, LAST_STEP])
@pytest.mark.parametrize("number", range(1, FILES + 1))
def test_killed_when_a_file_appears_in_a_checkpoint(server, whole, tmp_path, step, number):
    folder = tmp_path / "out"
    run = Run(server, folder)
    run.watch(lambda: files_in(folder / f"checkpoint-{step}") >= number)
    run.kill()
    sealed = (folder / f"checkpoint-{step}" / "manifest.json").exists()
    # The checkpoint before stays until the new one is whole, also with save_total_limit=1.
    assert sealed or any(path.name != f"checkpoint-{step}" for path in folder.glob("checkpoint-*"))
    output = go_on(server, folder, whole)
    assert ("is passed over" in output) == (not sealed)


@pytest.mark.parametrize("draw", range(5))
def test_killed_at_a_random_moment(server, whole, tmp_path, draw):
    folder, seed = tmp_path / "out", random.Random(draw)
    run = Run(server, folder)
    run.reach(seed.randrange(6, LAST_STEP - 1))
    time.sleep(seed.uniform(0, 0.05))
    run.kill()
    go_on(server, folder, whole)


@pytest.mark.parametrize("draw", range(5))
def test_stopped_by_sigterm_at_a_random_moment(server, whole, tmp_path, draw):
    folder, seed = tmp_path / "out", random.Random(100 + draw)
    run = Run(server, folder)
    step = seed.randrange(1, LAST_STEP - 4)
    run.reach(step)
    time.sleep(seed.uniform(0, 0.05))
    os.kill(run.pid, signal.SIGTERM)
    assert run.wait() == 143, run.output()[-3000:]
    newest = max(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))
    assert step <= newest and f"SIGTERM: stopped after step {newest}" in run.output()
    assert "is passed over" not in go_on(server, folder, whole)


def test_a_second_run_in_the_folder_is_refused_and_the_first_one_unharmed(server, whole, tmp_path):
    folder = tmp_path / "out"
    first = Run(server, folder)
    first.watch(lambda: checkpoint_error(folder / "checkpoint-5") is None)  # its last file is there, and whole
    os.kill(first.pid, signal.SIGSTOP)
    second = Run(server, folder, "latest")
    assert second.wait() == 1
    assert "another run is training into it" in second.output()
    os.kill(first.pid, signal.SIGCONT)
    first.end()
    assert_same(torch.load(f"{folder}.pt"), whole)


DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "flipped": lambda content: content[:-9] + bytes([content[-9] ^ 4]) + content[-8:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_no_damaged_file_is_trained_on(make_trainer, make_model, tmp_path, damage):
    """Every file of the newest checkpoint in turn: the run goes on from the one before, to the same end."""
    settings = {"gradient_method": "gradvac", "save_strategy": "steps", "save_steps": 2, "save_total_limit": None}
    first = make_trainer(make_model(dropout=0.1), **settings)
    first.train()
    files = sorted((tmp_path / "out" / "checkpoint-4").iterdir())
    assert len(files) == FILES
    for file in files:
        copy = tmp_path / f"without_{file.name}"
        shutil.copytree(tmp_path / "out", copy)
        damaged = copy / "checkpoint-4" / file.name
        damaged.write_bytes(DAMAGE[damage](damaged.read_bytes()))
        again = make_trainer(make_model(dropout=0.1, seed=5), output_dir=str(copy), **settings)
        again.train(resume_from_checkpoint=True)
        assert again.checkpoints.resumed_from == copy / "checkpoint-2"
        assert_same(dict(again.model.state_dict()), dict(first.model.state_dict()), file.name)
