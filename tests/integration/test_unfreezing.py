"""Gradual unfreezing: which parameters train when, for every family, and that frozen ones do not move by a bit."""

import pytest
import torch
from transformers import AutoModel, TrainerCallback

from hf_mtl import MultiTaskConfig, MultiTaskModel
from hf_mtl.model.encoder_layers import encoder_layers
from hf_mtl.model.heads import HeadSpec
from hf_mtl.training.unfreezing import train_last_layers

HEADS = [HeadSpec(name="one", kind="classification", labels=("a", "b"))]


def trainable(module):
    return {name for name, p in module.named_parameters() if p.requires_grad}


def test_the_last_layers_train_and_nothing_below_them(family_config):
    encoder = AutoModel.from_config(family_config)
    layers = encoder_layers(encoder)
    assert len(layers) == 3
    train_last_layers(encoder, 0)
    assert trainable(encoder) == set()
    train_last_layers(encoder, 2)
    wanted = {id(p) for layer in layers[-2:] for p in layer.parameters()}
    assert {id(p) for p in encoder.parameters() if p.requires_grad} == wanted
    train_last_layers(encoder, None)
    assert len(trainable(encoder)) == len(list(encoder.parameters()))


@pytest.mark.parametrize("num_layers", [0, 1, 2])
def test_no_graph_is_kept_below_the_lowest_layer_that_trains(family_config, num_layers):
    """With the encoder frozen, no tensor is kept at all: it runs as under `no_grad`."""
    model = MultiTaskModel(MultiTaskConfig(family_config, HEADS))
    layers = encoder_layers(model.encoder)
    if len(set(layers)) == 1 and num_layers:
        pytest.skip("one layer at every depth: it trains from the bottom on")
    train_last_layers(model.encoder, num_layers)
    records, kept = [], []

    def begin(layer, *args):
        kept.clear()

    def end(layer, args, output):
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        records.append((hidden.requires_grad, bool(kept)))

    for layer in layers if len(set(layers)) > 1 else [model.encoder]:
        layer.register_forward_pre_hook(begin)
        layer.register_forward_hook(end)
    ids = torch.randint(4, 100, (2, 9))
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda index: pytest.fail("no backward here")):
        vectors = model.train().embed(ids, torch.ones_like(ids))
    trains = [False] * (len(records) - num_layers) + [True] * num_layers
    assert records == [(trained, trained) for trained in trains]
    assert vectors.requires_grad == bool(num_layers)


def test_alberts_shared_group_thaws_with_one_layer():
    from transformers import AlbertConfig

    config = AlbertConfig(
        vocab_size=50,
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
    )
    encoder = AutoModel.from_config(config, add_pooling_layer=False)
    train_last_layers(encoder, 1)
    assert {name.split(".")[1] for name in trainable(encoder)} == {"albert_layer_groups"}


class Watch(TrainerCallback):
    """After every step, which parameters have changed since the one before."""

    def __init__(self):
        self.moved = []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.before = {n: p.detach().clone() for n, p in model.named_parameters()}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        now = {n: p.detach().clone() for n, p in model.named_parameters()}
        self.moved.append({n for n in now if not torch.equal(now[n], self.before[n])})
        self.before = now


def part(name):
    """heads, embeddings, or the number of the layer that a parameter belongs to."""
    pieces = name.split(".")
    return pieces[3] if pieces[1] == "encoder" else pieces[0] if pieces[0] == "heads" else pieces[1]


@pytest.mark.parametrize("optimizer", [None, "lion", "adan"])
def test_frozen_weights_do_not_move_by_a_bit_and_thawed_ones_do(make_trainer, make_model, optimizer):
    watch = Watch()
    trainer = make_trainer(
        make_model(layers=3),
        callbacks=[watch],
        unfreeze_schedule="0:0,2:1,4:3,6:all steps",
        max_steps=8,
        weight_decay=0.1,
        optimizer=optimizer,
    )
    trainer.train()
    stages = [{part(name) for name in moved} for moved in watch.moved]
    upper, layers = {"heads", "2"}, {"heads", "0", "1", "2"}
    assert stages == [{"heads"}] * 2 + [upper] * 2 + [layers] * 2 + [layers | {"embeddings"}] * 2
    known = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert known == {id(p) for p in trainer.model.parameters()}


def test_epochs_of_the_schedule_are_the_trainers(make_trainer, make_model, caplog):
    watch = Watch()
    with caplog.at_level("INFO", logger="hf_mtl"):
        make_trainer(
            make_model(layers=3),
            callbacks=[watch],
            unfreeze_schedule="0:0,1:2",
            max_steps=-1,
            num_train_epochs=2,
            per_device_train_batch_size=32,
            gradient_accumulation_steps=2,
        ).train()
    # 96 reviews, 16 of them in a batch of 32: 6 batches, 3 steps an epoch
    stages = [{part(name) for name in moved} for moved in watch.moved]
    assert stages == [{"heads"}] * 3 + [{"heads", "1", "2"}] * 3
    assert "epoch 1 of 2, step 0: encoder frozen; 0.00 of" in caplog.text
    assert "epoch 2 of 2, step 3: the last 2 of 3 encoder layers train" in caplog.text


class Stop(TrainerCallback):
    """Ends a training by an error."""

    def on_step_end(self, *args, **kwargs):
        raise RuntimeError("stopped")


@pytest.mark.parametrize("callbacks", [[], [Stop()]], ids=["at its end", "by an error"])
def test_after_a_training_the_same_parameters_train_as_before(make_trainer, make_model, callbacks):
    model = make_model(layers=3)
    model.encoder.embeddings.requires_grad_(False)
    before = trainable(model)
    trainer = make_trainer(model, callbacks=callbacks, unfreeze_schedule="0:1", max_steps=1)
    if callbacks:
        with pytest.raises(RuntimeError, match="stopped"):
            trainer.train()
    else:
        trainer.train()
    assert trainable(model) == before
    watch = Watch()
    make_trainer(model, callbacks=[watch], max_steps=1).train()
    assert {part(name) for name in watch.moved[0]} == {"heads", "0", "1", "2"}


def test_what_was_frozen_before_stays_frozen_in_the_training(make_trainer, make_model):
    model = make_model(layers=3)
    model.encoder.encoder.layer[2].requires_grad_(False)
    seen = []

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            seen.append({part(name) for name in trainable(model)})

    make_trainer(model, callbacks=[Look()], unfreeze_schedule="0:2,1:all steps", max_steps=2).train()
    assert seen == [{"heads", "1"}, {"heads", "0", "1", "embeddings"}]
