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


def test_the_batch_size_that_was_found_is_told_and_gone_on_with(make_trainer, tmp_path, monkeypatch):
    settings = {"auto_find_batch_size": True, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 0}
    trainer = make_trainer(**settings)
    step = trainer.training_step

    def too_large(model, inputs, *args):
        if sum(len(batch["labels"]) for batch in inputs.values()) > 6:
            raise RuntimeError("CUDA out of memory.")
        return step(model, inputs, *args)

    monkeypatch.setattr(trainer, "training_step", too_large)
    trainer.train()
    assert trainer.state.global_step == 4
    checkpoint = tmp_path / "out" / "checkpoint-2"
    assert json.loads((checkpoint / "settings.json").read_text())["settings"]["per_device_train_batch_size"] == 6
    assert trainer.publisher.card_facts(trainer.record()).setup["rows per step, over all tasks"] == "6"
    again = make_trainer(**settings)
    again.train(resume_from_checkpoint=str(checkpoint))
    setup = again.publisher.card_facts(again.record()).setup
    assert setup["rows per step, over all tasks"] == "6" and not any(name.startswith("changed") for name in setup)
