"""What tests of levers and of stopped runs share: tapes of a run, its end, what is the same."""

import os
import signal

import torch
from transformers import TrainerCallback


class GradientTape(TrainerCallback):
    """Every step's gradients, as the optimizer is about to read them; None where a parameter is frozen."""

    def __init__(self):
        self.gradients = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients.append(
            {name: None if p.grad is None else p.grad.detach().clone() for name, p in model.named_parameters()}
        )


class WeightTape(TrainerCallback):
    """The weights after every step, before anything else has looked at them."""

    def __init__(self):
        self.weights = []

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.weights.append({name: p.detach().clone() for name, p in model.named_parameters()})


class Terminate(TrainerCallback):
    """Sends SIGTERM to the own process in a step."""

    def __init__(self, step):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def end_of(trainer):
    """What two runs have to share to be called equal: weights, optimizer, schedule, log."""
    logs = [
        {k: v for k, v in row.items() if "_per_second" not in k and "runtime" not in k and k != "train_loss"}
        for row in trainer.state.log_history
    ]
    return trainer.model.state_dict(), trainer.optimizer.state_dict(), trainer.lr_scheduler.state_dict(), logs


def assert_same(found, wanted):
    """To the last bit."""
    assert type(found) is type(wanted)
    if isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted)
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in wanted:
            assert_same(found[key], wanted[key])
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    else:
        assert found == wanted
