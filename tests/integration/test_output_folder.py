"""One run at a time trains into an output folder."""

import subprocess
import sys

import pytest

from hf_mtl import InputError
from hf_mtl.training import checkpoints
from hf_mtl.training.output_folder import check_output_folder

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


@pytest.fixture
def checkpoint(tmp_path):
    """A whole one in a folder of its run."""
    folder = tmp_path / "a" / "checkpoint-4"
    folder.mkdir(parents=True)
    for name in ("trainer_state.json", "scheduler.pt", "optimizer.pt", "model.safetensors"):
        (folder / name).write_text("{}")
    checkpoints.write_manifest(folder)
    return folder


def test_a_run_that_goes_on_elsewhere_wants_an_empty_folder(tmp_path, make_arguments, checkpoint):
    other = tmp_path / "b"
    given = {"output_dir": str(other), "resume_from_checkpoint": str(checkpoint)}
    assert check_output_folder(make_arguments(**given)) == str(checkpoint)
    other.mkdir()
    assert check_output_folder(make_arguments(**given)) == str(checkpoint)
    (other / "model.safetensors").write_text("of another run")
    with pytest.raises(InputError, match=r"b' is not empty, and '.*checkpoint-4', to go on from, is not in it; choose"):
        check_output_folder(make_arguments(**given))
    checkpoints.unlock_output_folder(other)


def test_a_run_that_goes_on_in_its_own_folder_finds_something_there(tmp_path, make_arguments, checkpoint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for wanted in ("latest", "a/checkpoint-4", str(checkpoint)):
        found = check_output_folder(make_arguments(output_dir="a", resume_from_checkpoint=wanted))
        assert found in ("a/checkpoint-4", str(checkpoint))
    checkpoints.unlock_output_folder(checkpoint.parent)
