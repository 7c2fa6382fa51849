"""All tasks' rows in one pass: every task's row of gradients is what a pass of its own gives."""

import gc

import families
import pytest
import torch
from packed_steps import apart, assert_same, batches_of, of_family, steps
from torch import nn
from transformers import BertConfig, CamembertConfig, TrainerCallback

from hf_mtl.kernels import cpu_functions as cpu
from hf_mtl.kernels import packed_encoder_layer as packed_layers
from hf_mtl.kernels import packed_pass as packing
from hf_mtl.kernels.packed_pass import FAMILIES
from hf_mtl.training.unfreezing import train_last_layers


@pytest.fixture(autouse=True, params=["oneDNN", "MKL"])
def library(request, monkeypatch):
    """Products by either library; on a machine without oneDNN by the same twice."""
    monkeypatch.setattr(cpu, "_is_intels", lambda: request.param == "MKL")


def test_every_familys_gradients(family_config, specs, tokenizer, make_trainer, monkeypatch):
    """Those that are packed, and that the others are not."""
    trainer = make_trainer(of_family(family_config, specs, tokenizer))
    batch = batches_of(trainer)[0]
    assert any((inputs["attention_mask"] == 0).any() for inputs in batch.values())
    if family_config.model_type in FAMILIES:
        assert_same(trainer, [batch], monkeypatch)
    else:
        steps(trainer, [batch], monkeypatch, packed=False)
        assert not packing.supports_packed_pass(trainer.model)


def test_every_family_that_is_packed_has_a_test():
    assert set(FAMILIES) - set(families.FAMILIES) == {"camembert"}  # which is below


def test_camembert(specs, tokenizer, make_trainer, monkeypatch):
    config = CamembertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, pad_token_id=1,
        max_position_embeddings=66,
    )  # fmt: skip
    trainer = make_trainer(of_family(config, specs, tokenizer))
    assert_same(trainer, batches_of(trainer), monkeypatch)


@pytest.mark.parametrize("pooling", ["cls", "max"])
def test_other_poolings(make_model, make_trainer, monkeypatch, pooling):
    trainer = make_trainer(make_model(pooling=pooling))
    assert_same(trainer, batches_of(trainer), monkeypatch)


def test_dropout(make_trainer, tokenizer, specs, monkeypatch):
    """A probability of its own for every dropout, and for every probability a mask of its own.

    The masks depend on the last dimension otherwise, in which packed and other tensors are alike.
    """

    def mask(shape, p, dropout_rng):
        return (((torch.arange(shape[-1]) * 7) % 20 >= 20 * p) / (1 - p)).expand(shape).clone()

    for module in (cpu, packed_layers):
        monkeypatch.setattr(module, "scaled_mask", mask)
    family_config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, max_position_embeddings=64
    )
    model = of_family(family_config, specs, tokenizer)
    dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assert len(dropouts) == 9  # after the embeddings, three in each layer, in each head
    for i, dropout in enumerate(dropouts, 1):
        dropout.p = i / 20
    trainer = make_trainer(model)
    assert_same(trainer, batches_of(trainer), monkeypatch)


def test_dropout_is_not_lost(make_model, make_trainer, monkeypatch):
    """Packed steps with other seeds differ, with the same they do not; only attention's dropout suffices for that."""
    model = make_model()
    for layer in model.encoder.encoder.layer:
        layer.attention.self.dropout.p = 0.3
    trainer = make_trainer(model)
    batch = batches_of(trainer)
    rows = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        rows.append(steps(trainer, batch, monkeypatch, packed=True)[0])
    assert torch.equal(rows[0], rows[2]) and apart(rows[0], rows[1]) > 0.001


def test_micro_batches_add_up(make_trainer, monkeypatch):
    trainer = make_trainer()
    assert_same(trainer, batches_of(trainer, 3), monkeypatch)


def test_a_task_without_rows(make_trainer, monkeypatch):
    trainer = make_trainer()
    first, second = batches_of(trainer, 2)
    assert_same(trainer, [{"pairs": first["pairs"]}], monkeypatch)
    assert_same(trainer, [{"pairs": first["pairs"]}, second, {"reviews": first["reviews"]}], monkeypatch)


@pytest.mark.parametrize("layers", [0, 1, 2, None])
def test_frozen_layers(make_model, make_trainer, monkeypatch, layers):
    model = make_model(layers=3)
    train_last_layers(model.encoder, layers)
    trainer = make_trainer(model)
    assert_same(trainer, batches_of(trainer), monkeypatch)


@pytest.mark.parametrize("layers", [0, 1])
def test_below_the_layers_that_train_no_graph_is_kept(make_model, make_trainer, monkeypatch, layers):
    model = make_model(layers=3)
    train_last_layers(model.encoder, layers)
    trainer = make_trainer(model)
    trainer.step.begin(trainer.state.global_step)
    outputs, real = [], packed_layers.EncoderLayerWeights.__call__
    monkeypatch.setattr(
        packed_layers.EncoderLayerWeights, "__call__", lambda *args: outputs.append(real(*args)) or outputs[-1]
    )
    losses = packing.packed_losses(model, batches_of(trainer)[0], trainer.step.gradients)
    assert [output.requires_grad for output in outputs] == [False, False, layers == 1]
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None for p in model.heads.parameters())


def test_only_some_parameters_of_a_layer_train(make_model, make_trainer, monkeypatch):
    model = make_model()
    for name, parameter in model.encoder.named_parameters():
        parameter.requires_grad_(name.endswith(".bias") or "query" in name)
    trainer = make_trainer(model)
    assert_same(trainer, batches_of(trainer), monkeypatch)


def count_tensors():
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())


def test_nothing_of_a_step_waits_for_the_garbage_collector(make_trainer):
    trainer = make_trainer()
    trainer.current_gradient_accumulation_steps = 1
    batch = batches_of(trainer)[0]
    trainer.step.begin(trainer.state.global_step)
    trainer.training_step(trainer.model, batch)
    gc.collect()
    gc.disable()
    try:
        before = count_tensors()
        for _ in range(3):
            trainer.step.begin(trainer.state.global_step)
            trainer.training_step(trainer.model, batch)
        assert count_tensors() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("spoilt", ["loss", "gradient"])
def test_a_task_that_is_not_finite_spoils_no_other(make_trainer, monkeypatch, spoilt):
    trainer = make_trainer()
    batch = batches_of(trainer)[0]
    _, heads, _ = steps(trainer, [batch], monkeypatch, packed=True)
    wanted = trainer.step.gradients.buffer.values[0].clone()
    if spoilt == "loss":
        batch["pairs"]["labels"][0] = torch.nan
    else:
        trainer.model.heads["pairs"].register_full_backward_hook(
            lambda module, before, after: (before[0] * torch.inf, None)
        )
        monkeypatch.setattr(packing, "_is_watched", lambda module: False)
    rows, found, _ = steps(trainer, [batch], monkeypatch, packed=True)
    assert not rows[1].isfinite().all()
    assert torch.equal(rows[0], wanted)
    assert torch.equal(found["reviews.weight"], heads["reviews.weight"])


def test_a_run_takes_it(make_trainer, monkeypatch):
    calls, real = [], packing.packed_losses
    monkeypatch.setattr("hf_mtl.kernels.strategy.packed_losses", lambda *args: calls.append(args) or real(*args))
    make_trainer(max_steps=3).train()
    assert len(calls) == 3 + 1  # one checks the pass


def test_a_hook_that_comes_after_the_first_step_is_called(make_trainer):
    seen = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            if state.global_step == 1:
                model.encoder.encoder.layer[0].register_forward_hook(lambda *args: seen.append(state.global_step))

    make_trainer(max_steps=3, eval_strategy="no", callbacks=[Watch()]).train()
    assert seen == [1, 1, 2, 2]  # of two tasks, in the second and the third step
