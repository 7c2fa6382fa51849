"""Two processes do what one does with twice the micro-batches: same gradients, same weights, equal replicas."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).parent / "train_worker.py"


def train(folder, name, processes, checkpoint=None, **arguments):
    """The result of a run of `train_worker.py` on that many processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    result = folder / f"{name}.pt"
    arguments = {"output_dir": str(folder / name), **arguments}
    command = [sys.executable, *(launcher if processes > 1 else []), str(WORKER), json.dumps(arguments), str(result)]
    done = subprocess.run(
        [*command, *([str(checkpoint)] if checkpoint else [])], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
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


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    return train(tmp_path_factory.mktemp("one"), "one", 1, gradient_accumulation_steps=2, **SETTINGS)


def test_two_processes_equal_one_with_two_micro_batches(one_process, tmp_path):
    two = train(tmp_path, "two", 2, save_strategy="steps", save_steps=4, save_total_limit=None, **SETTINGS)
    assert one_process["update"].norm() > 0.01
    # ten steps amplify the rounding of fp32 sums taken in another order
    assert relative_error(two["update"], one_process["update"]) <= 1e-5
    torch.testing.assert_close(torch.tensor(two["norms"]), torch.tensor(one_process["norms"]), rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.tensor(two["losses"]), torch.tensor(one_process["losses"]), rtol=1e-5, atol=0)
    for name, value in one_process["scores"].items():
        assert two["scores"][name] == pytest.approx(value, abs=1e-5), name

    again = train(tmp_path, "again", 2, checkpoint=tmp_path / "two" / "checkpoint-4", **SETTINGS)
    assert torch.equal(again["update"], two["update"])
