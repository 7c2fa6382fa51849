"""When the CPU's kernels are taken, that the packed pass is checked first, and what is said of it."""

import logging

import pytest
import torch
from packed_steps import packs
from plain_steps import flat

from hf_mtl import InputError
from hf_mtl.kernels import packed_pass
from hf_mtl.kernels.strategy import has_bf16_instructions

STRATEGY = "hf_mtl.kernels.strategy"


def trained(trainer):
    trainer.train()
    return flat(trainer.model.parameters())


def break_packed_pass(monkeypatch, factor=1.001):
    """As an operation would that a newer layer has and the packed pass has not."""
    real = packed_pass.packed_losses
    monkeypatch.setattr(
        f"{STRATEGY}.packed_losses",
        lambda *args: {task: loss * factor for task, loss in real(*args).items()},
    )


def test_off_takes_torchs_own_functions(make_trainer, caplog):
    with caplog.at_level(logging.INFO, logger="hf_mtl"):
        assert make_trainer(cpu_kernels="off").step.strategy is None
    assert "CPU kernels: off, as cpu_kernels is off" in caplog.text


def test_a_processor_that_was_not_measured_takes_torchs_own(make_trainer, monkeypatch, caplog):
    monkeypatch.setattr(f"{STRATEGY}.has_measured_processor", lambda: False)
    with caplog.at_level(logging.INFO, logger="hf_mtl"):
        assert make_trainer().step.strategy is None
    assert caplog.text.count("CPU kernels: off, as they were measured on") == 1


def test_another_choice_is_refused(make_arguments):
    with pytest.raises(InputError, match=r"unknown cpu_kernels 'on'.*choose from: auto, off"):
        make_arguments(cpu_kernels="on")


def test_a_packed_pass_that_gives_other_gradients_is_not_taken(make_trainer, monkeypatch, caplog):
    wanted = trained(make_trainer(max_steps=3, cpu_kernels="off"))
    break_packed_pass(monkeypatch)
    trainer = make_trainer(max_steps=3)
    found = trained(trainer)
    assert caplog.text.count("the packed pass over all tasks gives gradients that differ") == 1
    assert not packs(trainer)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_one_that_is_no_number_is_not_taken(make_trainer, monkeypatch, caplog):
    break_packed_pass(monkeypatch, torch.nan)
    trained(make_trainer(max_steps=1))
    assert "differ from those of a pass per task by inf" in caplog.text


def test_the_check_changes_nothing(make_trainer, make_model, monkeypatch):
    """Neither random numbers, with dropout, nor gradients, nor which modules train."""
    checked = make_trainer(make_model(dropout=0.2), max_steps=3)
    checked.model.encoder.embeddings.eval()
    found = trained(checked)
    monkeypatch.setattr(f"{STRATEGY}.StepStrategy.check", lambda *args: None)
    assert torch.equal(found, trained(make_trainer(make_model(dropout=0.2), max_steps=3)))


@pytest.mark.parametrize(("schedule", "checks"), [("none", 1), ("0:0,2:1,4:2 steps", 2)])
def test_it_is_made_when_other_layers_train(make_trainer, monkeypatch, schedule, checks):
    """Not where none does: then there is no shared gradient to compare."""
    made = []
    real = packed_pass.packed_losses
    monkeypatch.setattr(
        f"{STRATEGY}.packed_losses",
        lambda model, *args: made.append(model.encoder.training) or real(model, *args),
    )
    make_trainer(max_steps=6, unfreeze_schedule=schedule).train()
    assert made.count(False) == checks and made.count(True) == 6


def test_it_waits_for_a_step_that_begins_with_packable_rows(make_trainer, monkeypatch):
    """A check in mid-step would clear the gradient of the micro-batches before."""
    trainer = make_trainer(gradient_accumulation_steps=2)
    trainer.current_gradient_accumulation_steps = 2
    batches = list(trainer.get_train_dataloader())[:2]
    gradients = []
    for kernels in (True, False):
        takes = iter([False, False, kernels, kernels])  # of two tasks
        monkeypatch.setattr(f"{STRATEGY}.has_only_packable_inputs", lambda batch, takes=takes: next(takes))
        trainer.step.begin(0)
        for number, batch in enumerate(batches):
            trainer.accelerator.gradient_state._set_sync_gradients(number == 1)
            trainer.training_step(trainer.model, batch)
        gradients.append(flat([p.grad for p in trainer.model.shared_parameters()]).clone())
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_a_resumed_run_checks_again(make_trainer, monkeypatch):
    made, real = [], packed_pass.packed_losses
    monkeypatch.setattr(
        f"{STRATEGY}.packed_losses",
        lambda model, *args: made.append(model.encoder.training) or real(model, *args),
    )
    trainer = make_trainer(max_steps=2, save_strategy="steps", save_steps=2)
    trainer.train()
    trainer.args.max_steps = 4
    trainer.train("latest")
    assert made == [False, True, True] * 2


@pytest.mark.parametrize(("flags", "said"), [("fpu avx512f avx512_bf16", True), ("fpu avx512f", False)])
def test_a_processor_that_computes_in_bf16_is_named_once(make_trainer, monkeypatch, caplog, tmp_path, flags, said):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"flags\t\t: {flags}\n")
    assert has_bf16_instructions(cpuinfo) == said
    assert not has_bf16_instructions(tmp_path / "none")
    monkeypatch.setattr(f"{STRATEGY}.has_bf16_instructions", lambda: said)
    with caplog.at_level(logging.INFO, logger="hf_mtl"):
        trainer = make_trainer(max_steps=1)
        trainer.train()
        make_trainer(bf16=True)
    assert caplog.text.count("--bf16 took 0.8 of") == int(said)
