"""Steps and scores of tags: two processes, whose words are unequal in number, do what one does with both batches."""

import pytest
import token_worker
import torch
from worker_runs import SETTINGS, command_of, finished, relative_error, train_here


def test_two_processes_equal_one_with_two_micro_batches(tmp_path):
    one = train_here(tmp_path, "one", worker=token_worker, gradient_accumulation_steps=2, **SETTINGS)
    arguments, result = {"output_dir": str(tmp_path / "two"), **SETTINGS}, tmp_path / "two.pt"
    done = finished(command_of(2, arguments, result, worker=token_worker.__file__))
    assert done.returncode == 0, done.stderr[-3000:]
    two = torch.load(result)
    assert one["update"].norm() > 0.01
    # ten steps amplify the rounding of fp32 sums taken in another order
    assert relative_error(two["update"], one["update"]) <= 1e-5
    torch.testing.assert_close(torch.tensor(two["losses"]), torch.tensor(one["losses"]), rtol=1e-5, atol=0)
    assert {"eval_ner_entity_f1", "eval_ner_token_accuracy", "eval_ner_loss", "train_ner_loss"} <= one["scores"].keys()
    timeless = [name for name in one["scores"] if name.endswith(("_f1", "_accuracy", "_loss"))]
    for name in timeless:
        assert two["scores"][name] == pytest.approx(one["scores"][name], abs=1e-5), name
    assert two["test"] == pytest.approx(one["test"], abs=1e-5)
    assert len(one["tags"]) == 21 and two["tags"] == one["tags"]
