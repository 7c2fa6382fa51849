"""A resumed run says whether its batches are those of a run that never stopped."""

import json
import re

import pytest

from hf_mtl.training.checkpoint_callbacks import say_if_order_differs

ORDER = {"processes": 1, "gradient_accumulation_steps": 4, "batches_per_epoch": 8}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({}, None),
        (
            {"processes": 2, "gradient_accumulation_steps": 2},
            "the same batches in every step.*processes was 1 and is 2",
        ),
        ({"processes": 2}, "other batches than the run before.*processes was 1 and is 2"),
        ({"processes": 4, "gradient_accumulation_steps": 1, "batches_per_epoch": 12}, "other batches.*was 8 and is 12"),
    ],
)
def test_a_resumed_run_says_whether_its_batches_are_the_same(tmp_path, caplog, now, said):
    (tmp_path / "data_order.json").write_text(json.dumps(ORDER))
    with caplog.at_level("WARNING", logger="hf_mtl"):
        say_if_order_differs(tmp_path, {**ORDER, **now})
    if said is None:
        assert not caplog.messages
    else:
        (line,) = caplog.messages
        assert re.search(said, line)


def test_rows_sorted_in_stretches_of_another_length_are_other_batches(make_trainer, tmp_path, monkeypatch, caplog):
    trainer = make_trainer()
    trainer.get_train_dataloader()
    (tmp_path / "data_order.json").write_text(json.dumps(trainer.data_order()))
    monkeypatch.setattr("hf_mtl.training.batches.GROUPED_BATCHES", 7)
    with caplog.at_level("WARNING", logger="hf_mtl"):
        say_if_order_differs(tmp_path, trainer.data_order())
    (line,) = caplog.messages
    assert re.search("other batches than the run before.*is 7", line)
