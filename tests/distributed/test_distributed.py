"""Two processes do what one does with twice the micro-batches: same gradients, same weights, equal replicas."""

import subprocess

import pytest
import torch
from worker_runs import SETTINGS, command_of, relative_error, train, train_here

from hf_mtl.training.checkpoints import checkpoint_error


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    saves = {"save_strategy": "steps", "save_steps": 4, "save_total_limit": None}
    result = train_here(folder, "one", gradient_accumulation_steps=2, **saves, **SETTINGS)
    return {**result, "folder": folder / "one"}


def test_two_processes_equal_one_with_two_micro_batches(one_process, tmp_path):
    two = train(tmp_path, "two", 2, save_strategy="steps", save_steps=4, save_total_limit=None, **SETTINGS)
    assert one_process["update"].norm() > 0.01
    # ten steps amplify the rounding of fp32 sums taken in another order
    assert relative_error(two["update"], one_process["update"]) <= 1e-5
    torch.testing.assert_close(torch.tensor(two["norms"]), torch.tensor(one_process["norms"]), rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.tensor(two["losses"]), torch.tensor(one_process["losses"]), rtol=1e-5, atol=0)
    for name, value in one_process["scores"].items():
        assert two["scores"][name] == pytest.approx(value, abs=1e-5), name

    for run in (one_process, two):  # predictions come back in the order of the rows; fp32, other padding
        torch.testing.assert_close(run["predictions"], run["predictions_alone"], rtol=1e-5, atol=1e-6)
        assert run["labels_of_predictions"]
    assert not torch.equal(two["predictions"], two["predictions"].sort(dim=0).values)

    assert checkpoint_error(tmp_path / "two" / "checkpoint-4") is None
    assert {path.name for path in (tmp_path / "two" / "checkpoint-4").glob("rng*")} == {
        "rng_state_0.pth",
        "rng_state_1.pth",
    }
    again = train(tmp_path, "again", 2, checkpoint=tmp_path / "two" / "checkpoint-4", **SETTINGS)
    assert torch.equal(again["update"], two["update"])


@pytest.mark.parametrize(
    "pairs",
    [
        {"kind": "similarity"},
        pytest.param({"pair_encoding": "separate", "loss": "huber"}, marks=pytest.mark.slow),
    ],
    ids=lambda changes: "-".join(changes.values()),
)
def test_two_processes_equal_one_for_pairs_that_are_read_apart(tmp_path, pairs):
    settings = {**SETTINGS, "max_steps": 4, "changes": {"pairs": pairs}}
    one = train_here(tmp_path, "one", gradient_accumulation_steps=2, **settings)
    two = train(tmp_path, "two", 2, **settings)
    assert relative_error(two["update"], one["update"]) <= 1e-5  # fp32 sums in another order
    for name, value in one["scores"].items():
        assert two["scores"][name] == pytest.approx(value, abs=1e-5), name
    torch.testing.assert_close(two["predictions"], two["predictions_alone"], rtol=1e-5, atol=1e-6)


def test_a_run_goes_on_with_the_same_batches_on_another_number_of_processes(one_process, tmp_path):
    two = train(tmp_path, "two", 2, checkpoint=one_process["folder"] / "checkpoint-4", **SETTINGS)
    assert "resumed with the same batches in every step" in two["said"]
    assert relative_error(two["update"], one_process["update"]) <= 1e-5  # of the sums' order, as above


@pytest.mark.slow
def test_sigterm_to_the_launcher_saves_one_checkpoint_of_all_processes(one_process, tmp_path):
    arguments = {"output_dir": str(tmp_path / "two"), **SETTINGS, "max_steps": 100_000}
    with subprocess.Popen(
        command_of(2, arguments, tmp_path / "two.pt"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        for line in run.stdout:
            if "step 3/" in line:
                run.terminate()
                break
        output = run.communicate(timeout=60)[0]
    (checkpoint,) = (tmp_path / "two").glob("checkpoint-*")
    assert checkpoint_error(checkpoint) is None and f"SIGTERM: stopped after step {checkpoint.name[11:]};" in output
    assert len(list(checkpoint.glob("rng_state_*.pth"))) == 2
