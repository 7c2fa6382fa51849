"""One run at a time trains into an output folder."""

import subprocess
import sys

import pytest

from hf_mtl import InputError
from hf_mtl.training import checkpoints

HOLD = (
    "import sys, time, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); "
    "print('held', flush=True); time.sleep(60)"
)


def test_a_second_run_is_refused_until_the_first_one_ends_however_it_ends(tmp_path, make_trainer, monkeypatch):
    monkeypatch.setattr(checkpoints, "LOCK_SECONDS", 0.2)
    trainer = make_trainer()
    lock = tmp_path / "out" / checkpoints.LOCK_FILE
    holder = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(holder, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        try:
            with pytest.raises(InputError, match="another run is training into it"):
                trainer.train()
        finally:
            first.kill()
    trainer.train()
    with subprocess.Popen(
        holder, stdout=subprocess.PIPE, text=True
    ) as next_one:  # training is over, if not the process
        assert next_one.stdout.readline() == "held\n"
        next_one.kill()
