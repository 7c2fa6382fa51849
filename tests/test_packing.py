"""All tasks' rows in one pass: every task's row of gradients is what a pass of its own gives."""

import gc
from itertools import islice

import conftest
import pytest
import torch
from torch import nn
from transformers import AutoConfig, BertConfig, CamembertConfig, TrainerCallback

from hf_mtl import MultiTaskConfig, MultiTaskModel, MultiTaskTrainer
from hf_mtl.kernels import cpu_functions as cpu
from hf_mtl.kernels import packed_encoder_layer as packed_layers
from hf_mtl.kernels import packed_pass as packing
from hf_mtl.kernels.packed_pass import FAMILIES
from hf_mtl.training.unfreezing import train_last_layers

TOLERANCE = 1e-5  # fp32 sums in another order differ by some 1e-7 of the whole, a few times that through several layers


@pytest.fixture(autouse=True, params=["oneDNN", "MKL"])
def library(request, monkeypatch):
    """Products by either library; on a machine without oneDNN by the same twice."""
    monkeypatch.setattr(cpu, "_is_intels", lambda: request.param == "MKL")


def apart(found, wanted):
    return ((found - wanted).norm() / wanted.norm()).item()


def batches_of(trainer, number=1):
    return list(islice(iter(trainer.get_train_dataloader()), number))


def steps(trainer, micro_batches, monkeypatch, *, packed):
    """The rows, the heads' gradients and the mean losses after a step's micro-batches, before they are combined."""
    calls, real = [], packing.packed_losses
    monkeypatch.setattr("hf_mtl.training.step.packed_losses", lambda *args: calls.append(args) or real(*args))
    monkeypatch.setattr(
        "hf_mtl.training.step.supports_packed_pass", packing.supports_packed_pass if packed else lambda *args: False
    )
    trainer.current_gradient_accumulation_steps = len(micro_batches)
    trainer._combine = lambda gradients: gradients.reduce()
    trainer._free_rows()  # of new ones nothing counts as zero already
    trainer.begin_step()
    trainer.gradients.buffer.values.fill_(torch.nan)  # no content yet
    for i, batch in enumerate(micro_batches):
        trainer.accelerator.gradient_state._set_sync_gradients(i == len(micro_batches) - 1)
        trainer.training_step(trainer.model, batch)
    assert len(calls) == (len(micro_batches) if packed else 0)
    heads = {name: p.grad for name, p in trainer.model.heads.named_parameters()}
    assert all(p.grad is None for p in trainer.model.shared_parameters())
    return trainer.gradients.buffer.values.clone(), heads, trainer.gradients.mean_losses()


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
    assert set(FAMILIES) - set(conftest.FAMILIES) == {"camembert"}  # which is below


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
    trainer.begin_step()
    outputs, real = [], packed_layers.EncoderLayerWeights.__call__
    monkeypatch.setattr(
        packed_layers.EncoderLayerWeights, "__call__", lambda *args: outputs.append(real(*args)) or outputs[-1]
    )
    losses = packing.packed_losses(model, batches_of(trainer)[0], trainer.gradients)
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
    trainer.begin_step()
    trainer.training_step(trainer.model, batch)
    gc.collect()
    gc.disable()
    try:
        before = count_tensors()
        for _ in range(3):
            trainer.begin_step()
            trainer.training_step(trainer.model, batch)
        assert count_tensors() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("spoilt", ["loss", "gradient"])
def test_a_task_that_is_not_finite_spoils_no_other(make_trainer, monkeypatch, spoilt):
    trainer = make_trainer()
    batch = batches_of(trainer)[0]
    _, heads, _ = steps(trainer, [batch], monkeypatch, packed=True)
    wanted = trainer.gradients.buffer.values[0].clone()
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


# ---- where it is left alone ----


class OwnForward(MultiTaskModel):
    """A user's model."""

    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


class Adapter(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


def watch(model):
    model.encoder.register_forward_hook(lambda *args: None)


def patch(model):
    model.forward = model.forward


def subclass(model):
    model.__class__ = OwnForward


def eager(model):
    model.set_attn_implementation("eager")


def chunks(model):
    model.encoder.config.chunk_size_feed_forward = 2


def decoder(model):
    model.encoder.config.is_decoder = True


def adapter(model):
    model.encoder.encoder.layer[0].add_module("adapter", Adapter())


def scaled_by_frequency(model):
    model.encoder.embeddings.word_embeddings.scale_grad_by_freq = True


def without_dropout(model):
    model.encoder.encoder.layer[0].output.dropout = nn.Identity()


def in_place(model):
    model.encoder.encoder.layer[0].intermediate.intermediate_act_fn = nn.ReLU(inplace=True)


def function(model):
    intermediate = model.encoder.encoder.layer[0].intermediate
    del intermediate.intermediate_act_fn
    intermediate.intermediate_act_fn = torch.relu


def gradient_hook(model):
    model.encoder.embeddings.word_embeddings.weight.register_hook(lambda gradient: gradient)


class OwnLinear(nn.Linear):
    """Of somebody else."""


def other_class(model):
    model.encoder.encoder.layer[0].output.dense.__class__ = OwnLinear


def halves(model):
    model.encoder.half()


@pytest.mark.parametrize(
    "change",
    [
        watch,
        patch,
        subclass,
        eager,
        chunks,
        decoder,
        adapter,
        scaled_by_frequency,
        without_dropout,
        other_class,
        in_place,
        function,
        gradient_hook,
        halves,
    ],
)
def test_models_that_it_does_not_know(make_model, change):
    model = make_model()
    assert packing.supports_packed_pass(model)
    change(model)
    assert not packing.supports_packed_pass(model)


def test_a_forward_that_somebody_gave_a_class_of_transformers(make_model, monkeypatch):
    model = make_model()
    layer = type(model.encoder.encoder.layer[0])
    real = layer.forward
    monkeypatch.setattr(layer, "forward", lambda *args, **kwargs: real(*args, **kwargs))
    assert not packing.supports_packed_pass(model)


def test_inputs_that_it_does_not_know(make_trainer):
    trainer = make_trainer()
    batch = batches_of(trainer)[0]
    assert packing.has_only_packable_inputs(batch)
    batch["pairs"]["position_ids"] = torch.zeros_like(batch["pairs"]["input_ids"])
    assert not packing.has_only_packable_inputs(batch)


def test_eager_mpnet(specs, make_trainer):
    config = AutoConfig.for_model("mpnet", vocab_size=120, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    config._attn_implementation = "eager"
    for eager_too in (False, True):
        whole = MultiTaskConfig(config, [spec.head for spec in specs])
        if eager_too:
            whole._attn_implementation = "eager"
        model = MultiTaskModel(whole)
        assert packing.supports_packed_pass(model) != eager_too


@pytest.mark.parametrize(
    "arguments",
    [
        {"bf16": True},
        {"gradient_checkpointing": True},
        {"torch_compile": True, "torch_compile_backend": "eager"},
        {"gradient_method": "famo"},
        {"world_size": 2},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_runs_that_go_without_it(make_trainer, monkeypatch, arguments):
    trainer = make_trainer()
    assert trainer._supports_packed_pass()
    if "world_size" in arguments:
        monkeypatch.setattr(type(trainer.args), "world_size", arguments["world_size"])
    else:
        trainer = make_trainer(**arguments)
        if "gradient_checkpointing" in arguments:
            trainer.model.gradient_checkpointing_enable()
    assert not trainer._supports_packed_pass()


def test_a_subclass_with_a_context_of_its_own_has_a_pass_per_task(make_trainer):
    class Subclass(MultiTaskTrainer):
        def compute_loss_context_manager(self):
            return super().compute_loss_context_manager()

    trainer = make_trainer()
    trainer.__class__ = Subclass
    assert not trainer._supports_packed_pass()


def test_a_run_takes_it(make_trainer, monkeypatch):
    calls, real = [], packing.packed_losses
    monkeypatch.setattr("hf_mtl.training.step.packed_losses", lambda *args: calls.append(args) or real(*args))
    make_trainer(max_steps=3).train()
    assert len(calls) == 3


def test_a_hook_that_comes_after_the_first_step_is_called(make_trainer):
    seen = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            if state.global_step == 1:
                model.encoder.encoder.layer[0].register_forward_hook(lambda *args: seen.append(state.global_step))

    make_trainer(max_steps=3, eval_strategy="no", callbacks=[Watch()]).train()
    assert seen == [1, 1, 2, 2]  # of two tasks, in the second and the third step
