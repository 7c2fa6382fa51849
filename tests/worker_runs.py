"""Finished runs of `train_worker.py` on one or several processes."""

import json
import subprocess
import sys
from pathlib import Path

import torch
import train_worker
from accelerate.state import GradientState

WORKER = Path(__file__).parent / "train_worker.py"


# What C++ says when an object with a running thread goes, as a half-made process group of Gloo does where two processes
# did not find each other. It was seen once in some thousand starts, on a busy machine.
ABORTED = "terminate called without an active exception"


def launched(processes, *arguments) -> list[str]:
    """The command of a script, alone or on several processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [sys.executable, *(launcher if processes > 1 else []), *map(str, arguments)]


def command_of(processes, arguments, result, worker=WORKER) -> list[str]:
    return launched(processes, worker, json.dumps(arguments), result)


def finished(command):
    """A command that has ended; begun once more where the processes were aborted before they had met."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode != 0 and ABORTED in done.stderr and "Traceback" not in done.stderr.split(ABORTED)[0]:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return done


def launch(folder, name, processes, checkpoint=None, **arguments):
    """A finished run of `train_worker.py` on that many processes."""
    arguments = {"output_dir": str(folder / name), **arguments}
    command = command_of(processes, arguments, folder / f"{name}.pt")
    command += [str(checkpoint)] if checkpoint else []
    return finished(command)


def train(folder, name, processes, checkpoint=None, **arguments):
    """The result of a run of `train_worker.py` on that many processes, and what it said."""
    done = launch(folder, name, processes, checkpoint, **arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return {**torch.load(folder / f"{name}.pt"), "said": done.stderr}


def train_here(folder, name, worker=train_worker, **arguments):
    """The result of a worker's run in this process, which saves the start of another one."""
    GradientState._reset_state()
    result = str(folder / f"{name}.pt")
    worker.main(json.dumps({"output_dir": str(folder / name), **arguments}), result)
    return torch.load(result)


def relative_error(found, wanted):
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


SETTINGS = {
    "max_steps": 10,
    "per_device_train_batch_size": 8,
    "learning_rate": 0.05,
    "optim": "sgd",
    "unfreeze_schedule": "0:0,2:1,5:all steps",
}
