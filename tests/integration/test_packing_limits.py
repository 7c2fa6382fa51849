"""Models, inputs and runs that the packed pass does not know have a pass per task."""

import pytest
import torch
from packed_steps import batches_of, packs
from torch import nn
from transformers import AutoConfig

from hf_mtl import MultiTaskConfig, MultiTaskModel, MultiTaskTrainer
from hf_mtl.kernels import cpu_functions as cpu
from hf_mtl.kernels import packed_pass as packing


@pytest.fixture(autouse=True, params=["oneDNN", "MKL"])
def library(request, monkeypatch):
    """Products by either library; on a machine without oneDNN by the same twice."""
    monkeypatch.setattr(cpu, "_is_intels", lambda: request.param == "MKL")


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
    batches = batches_of(trainer)[0]
    trainer.step.begin(0)
    assert list(trainer.step.strategy.packable(batches)) == ["reviews", "pairs"]
    batches["pairs"]["position_ids"] = torch.zeros_like(batches["pairs"]["input_ids"])
    assert list(trainer.step.strategy.packable(batches)) == ["reviews"]


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
    assert packs(trainer)
    if "world_size" in arguments:
        monkeypatch.setattr(type(trainer.args), "world_size", arguments["world_size"])
    trainer = make_trainer(**{name: value for name, value in arguments.items() if name != "world_size"})
    if "gradient_checkpointing" in arguments:
        trainer.model.gradient_checkpointing_enable()
    assert not packs(trainer)


def test_a_subclass_with_a_context_of_its_own_has_it_around_the_packed_pass(make_trainer, monkeypatch):
    entered = []

    real_context = MultiTaskTrainer.compute_loss_context_manager
    monkeypatch.setattr(
        MultiTaskTrainer,
        "compute_loss_context_manager",
        lambda self: entered.append(len(calls)) or real_context(self),
    )
    calls, real = [], packing.packed_losses
    monkeypatch.setattr("hf_mtl.kernels.strategy.packed_losses", lambda *args: calls.append(args) or real(*args))
    trainer = make_trainer(max_steps=2, eval_strategy="no", save_strategy="no")
    trainer.train()
    assert len(calls) == 3  # the first of them checks the pass
    assert entered == [0, 2]
