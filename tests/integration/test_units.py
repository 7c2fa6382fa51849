"""A kind whose loss is no mean over rows: the step divides once, by what all micro-batches counted."""

import pytest
import torch
import torch.nn.functional as F
from plain_steps import flat, relative_error

from hf_mtl.model.head_classification import ClassificationHead


@pytest.mark.parametrize("kernels", ["auto", "off"])
def test_micro_batches_weigh_by_their_units(make_trainer, monkeypatch, kernels):
    """Units of a row: its label + 1, so that micro-batches of equal rows have unequal units."""

    def loss(self, logits, labels):
        each = F.cross_entropy(logits.float(), labels.to(self.label_dtype), reduction="none")
        return (each * (labels + 1)).sum(), self.num_units(labels)

    monkeypatch.setattr(ClassificationHead, "num_units", lambda self, labels: (labels + 1).sum())
    monkeypatch.setattr(ClassificationHead, "loss", loss)
    trainer = make_trainer(gradient_method="sum", gradient_accumulation_steps=2, cpu_kernels=kernels)
    trainer.current_gradient_accumulation_steps = 2
    by_units = {int((b["reviews"]["labels"] + 1).sum()): b for b in trainer.get_train_dataloader()}
    batches = list(by_units.values())[:2]
    trainer.step.begin(0)
    for number, batch in enumerate(batches):
        trainer.accelerator.gradient_state._set_sync_gradients(number == 1)
        trainer.training_step(trainer.model, batch)
    model = trainer.model
    found = flat([p.grad for p in model.shared_parameters()])
    model.zero_grad()
    for task in trainer.tasks:
        sums = [model(task=task, **batch[task]) for batch in batches]
        total = sum(output.loss * output.units for output in sums) / sum(output.units for output in sums)
        (total * trainer.tasks[task].loss_weight).backward()
    assert relative_error(found, flat([p.grad for p in model.shared_parameters()])) < 1e-5
    assert torch.isfinite(found).all()
