"""Steps with the packed pass and with a pass per task, compared."""

from itertools import islice

import torch

from hf_mtl import MultiTaskConfig, MultiTaskModel
from hf_mtl.kernels import packed_pass as packing

TOLERANCE = 1e-5  # fp32 sums in another order differ by some 1e-7 of the whole, a few times that through several layers


def apart(found, wanted):
    return ((found - wanted).norm() / wanted.norm()).item()


def packs(trainer):
    """Whether the trainer's next step takes the packed pass."""
    trainer.step.begin(trainer.state.global_step)
    return trainer.step.strategy is not None and trainer.step.strategy.use_packed_pass


def batches_of(trainer, number=1):
    return list(islice(iter(trainer.get_train_dataloader()), number))


def steps(trainer, micro_batches, monkeypatch, *, packed):
    """The rows, the heads' gradients and the mean losses after a step's micro-batches, before they are combined."""
    calls, real = [], packing.packed_losses
    monkeypatch.setattr("hf_mtl.kernels.strategy.packed_losses", lambda *args: calls.append(args) or real(*args))
    monkeypatch.setattr(
        "hf_mtl.kernels.strategy.supports_packed_pass", packing.supports_packed_pass if packed else lambda *args: False
    )
    trainer.current_gradient_accumulation_steps = len(micro_batches)
    monkeypatch.setattr(trainer.step.strategy, "check", lambda *args: None)  # it would be another call
    trainer.step._combine = lambda gradients, scaler: gradients.reduce()
    trainer.step.close()  # of new ones nothing counts as zero already
    trainer.step.begin(trainer.state.global_step)
    trainer.step.gradients.buffer.values.fill_(torch.nan)  # no content yet
    for i, batch in enumerate(micro_batches):
        trainer.accelerator.gradient_state._set_sync_gradients(i == len(micro_batches) - 1)
        trainer.training_step(trainer.model, batch)
    assert len(calls) == (len(micro_batches) if packed else 0)
    heads = {name: p.grad for name, p in trainer.model.heads.named_parameters()}
    assert all(p.grad is None for p in trainer.model.shared_parameters())
    return trainer.step.gradients.buffer.values.clone(), heads, trainer.step.gradients.mean_losses()


def assert_same(trainer, micro_batches, monkeypatch):
    rows, heads, losses = steps(trainer, micro_batches, monkeypatch, packed=True)
    wanted_rows, wanted_heads, wanted_losses = steps(trainer, micro_batches, monkeypatch, packed=False)
    for row, wanted in zip(rows, wanted_rows, strict=True):
        assert apart(row, wanted) < TOLERANCE or wanted.norm() == row.norm() == 0
    for name, wanted in wanted_heads.items():
        assert (heads[name] is None) == (wanted is None), name
        assert wanted is None or apart(heads[name], wanted) < TOLERANCE, name
    torch.testing.assert_close(losses, wanted_losses, rtol=TOLERANCE, atol=0)


def of_family(family_config, specs, tokenizer, **options):
    """A model on a family's encoder, without dropout, and as far from symmetric as a trained one."""
    family_config.vocab_size = len(tokenizer)
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(family_config, name, 0.0)
    torch.manual_seed(0)
    model = MultiTaskModel(MultiTaskConfig(family_config, [spec.head for spec in specs], head_dropout=0.0, **options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    return model
