"""SIGTERM: a checkpoint after the step, and a run that goes on from it to the same end."""

import logging
import signal
import threading

import pytest
from lever_runs import Terminate, assert_same, end_of
from transformers import TrainerCallback

from hf_mtl.training.checkpoints import checkpoint_error, checkpoints_in

RUN = {"max_steps": 14, "gradient_accumulation_steps": 2, "unfreeze_schedule": "0:0,1:1,1.5:all", "learning_rate": 0.01}


@pytest.mark.parametrize("step", [3, 12, 14], ids=["mid-epoch", "end of an epoch", "last step"])
def test_sigterm_saves_and_the_run_goes_on_to_the_same_end(make_trainer, make_model, tmp_path, step):
    settings = {**RUN, "eval_strategy": "epoch", "gradient_method": "gradvac"}
    whole = make_trainer(make_model(dropout=0.1), output_dir=str(tmp_path / "whole"), **settings)
    whole.train()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        make_trainer(make_model(dropout=0.1), callbacks=[Terminate(step)], **settings).train()
    assert signal.getsignal(signal.SIGTERM) == before
    assert stopped.value.code == 143
    assert [p.name for p in checkpoints_in(tmp_path / "out")] == [f"checkpoint-{step}"]
    again = make_trainer(make_model(dropout=0.1, seed=3), **settings)
    again.train(resume_from_checkpoint=True)
    assert_same(end_of(again), end_of(whole))


@pytest.mark.parametrize("step", [3, 12], ids=["mid-epoch", "end of an epoch"])
def test_what_sigterm_saves_is_whole_where_checkpoints_have_the_model_only(make_trainer, tmp_path, step):
    settings = {**RUN, "save_only_model": True, "save_strategy": "steps", "save_steps": 2}
    trainer = make_trainer(callbacks=[Terminate(step)], **settings)
    with pytest.raises(SystemExit):
        trainer.train()
    assert trainer.args.save_only_model
    newest, before = checkpoints_in(tmp_path / "out")[:2]
    assert newest.name == f"checkpoint-{step}" and checkpoint_error(newest) is None
    assert "was not saved with it" in checkpoint_error(before)
    make_trainer(**settings).train(resume_from_checkpoint=True)


def test_sigterm_is_left_alone_without_the_flag_and_outside_of_training(make_trainer):
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    class Look(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            seen.append(signal.getsignal(signal.SIGTERM))

    make_trainer(callbacks=[Look()], enable_jit_checkpoint=False, max_steps=1).train()
    trainer = make_trainer(callbacks=[Look()], max_steps=1)
    assert signal.getsignal(signal.SIGTERM) == before and trainer.args.enable_jit_checkpoint
    trainer.train()
    assert seen[0] == before != seen[1]
    assert signal.getsignal(signal.SIGTERM) == before


def test_training_in_a_thread_says_that_sigterm_is_not_caught(make_trainer, caplog):
    trainer = make_trainer(max_steps=1)
    with caplog.at_level(logging.WARNING, logger="hf_mtl"):
        thread = threading.Thread(target=trainer.train)
        thread.start()
        thread.join()
    assert trainer.state.global_step == 1
    assert any("SIGTERM cannot be caught" in message for message in caplog.messages)
