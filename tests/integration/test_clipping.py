"""Clipping of the combined gradient gives torch's norm and torch's gradients."""

import pytest
import torch
from plain_steps import flat

from hf_mtl import MultiTaskTrainer


def clipped_by_torch(trainer, max_norm):
    """Copies of the parameters, in fp64, with clipped copies of their gradients; and the norm before."""
    parameters = list(trainer.model.parameters())
    copies = [torch.nn.Parameter(torch.zeros_like(p, dtype=torch.float64)) for p in parameters]
    for copy, parameter in zip(copies, parameters, strict=True):
        copy.grad = None if parameter.grad is None else parameter.grad.double()
    return copies, torch.nn.utils.clip_grad_norm_(copies, max_norm)


def take_step(trainer, batch=None):
    trainer.current_gradient_accumulation_steps = 1
    trainer.begin_step()
    trainer.training_step(trainer.model, batch or next(iter(trainer.get_train_dataloader())))


@pytest.mark.parametrize("left_out", [False, True])
@pytest.mark.parametrize("max_norm", [0.1, 1e6])
def test_clipping_is_torchs(make_trainer, monkeypatch, max_norm, left_out):
    """With vectors of the word embeddings left out, and without a call of torch's; with and without the first task."""
    trainer = make_trainer(max_grad_norm=max_norm)
    batch = next(iter(trainer.get_train_dataloader()))
    if left_out:
        with torch.no_grad():
            trainer.model.heads["reviews"].bias.fill_(torch.nan)
    take_step(trainer, batch)
    assert trainer.gradients.finite_tasks == ([1] if left_out else [0, 1])
    copies, wanted = clipped_by_torch(trainer, max_norm)
    assert 0.1 < wanted < 1e6
    with monkeypatch.context() as without:
        without.setattr(trainer.accelerator, "clip_grad_norm_", None)
        found = trainer._clip_grad_norm(trainer.model)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    for copy, parameter in zip(copies, trainer.model.parameters(), strict=True):
        assert (parameter.grad is None) == (copy.grad is None)
        if copy.grad is not None:  # torch adds 1e-6 to the norm that it divides by
            torch.testing.assert_close(parameter.grad, copy.grad.float(), rtol=2e-5, atol=0)


class Noisy(MultiTaskTrainer):
    """Changes gradients in a way that leaves no trace."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        for parameter in model.parameters():
            parameter.grad.data.add_(1)
        return loss


def test_gradients_that_a_subclass_changed_are_clipped_by_torch(make_trainer):
    trainer = make_trainer()
    trainer.__class__ = Noisy
    take_step(trainer)
    _, wanted = clipped_by_torch(trainer, 1.0)
    assert trainer._clip_grad_norm(trainer.model).item() == pytest.approx(wanted.item(), rel=1e-5)
    assert flat([p.grad for p in trainer.model.parameters()]).norm().item() == pytest.approx(1.0, rel=1e-5)


def test_without_a_gradient_nothing_is_clipped(make_trainer):
    trainer = make_trainer()
    trainer.begin_step()
    assert trainer.gradients.clip(1.0) is None
    assert trainer._clip_grad_norm(trainer.model) == 0
