"""Learning rates by depth: the level of every parameter, and groups that hold each parameter once."""

import pytest
import torch
from families import small_config
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel, BertConfig

from hf_mtl import MultiTaskConfig, MultiTaskModel
from hf_mtl.model.encoder_layers import encoder_layers
from hf_mtl.model.heads import HeadSpec
from hf_mtl.training.learning_rates import depths_of, levels_of, parameter_groups, table_of

HEADS = [HeadSpec(name="one", kind="classification", labels=("a", "b"))]


def first_outputs_that_read(encoder):
    """Name of a parameter -> the number of the lowest layer whose output depends on it; the top one's if none does."""
    layers, outputs = encoder_layers(encoder), []
    for layer in layers:
        layer.register_forward_hook(lambda _, __, out: outputs.append(out if isinstance(out, torch.Tensor) else out[0]))
    ids = torch.randint(4, 100, (2, 9))
    encoder.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
    named, found = {name: p for name, p in encoder.named_parameters() if p.requires_grad}, {}
    for number, output in enumerate(outputs, start=1):
        for name, gradient in zip(
            named, torch.autograd.grad(output.sum(), named.values(), allow_unused=True, retain_graph=True), strict=True
        ):
            if gradient is not None:
                found.setdefault(name, number)
    return {name: found.get(name, len(layers)) for name in named}


def check_levels(encoder):
    """A layer's own parameters are at its level; what the lowest layer reads beside them is below it."""
    layers, levels = encoder_layers(encoder), levels_of(encoder)
    assert levels.keys() == {id(p) for p in encoder.parameters()}
    inside = {id(p): number for number, layer in enumerate(layers, start=1) for p in layer.parameters()}
    reads = first_outputs_that_read(encoder)
    for name, parameter in encoder.named_parameters():
        if not parameter.requires_grad:  # a fixed table
            assert levels[id(parameter)] == 0, name
        elif id(parameter) in inside:
            assert levels[id(parameter)] == inside[id(parameter)], name
            assert len(set(layers)) == 1 or reads[name] == inside[id(parameter)], name
        elif name.startswith("embeddings.") or reads[name] == 1:
            assert levels[id(parameter)] == 0, name
        else:
            assert levels[id(parameter)] == len(layers) == reads[name], name


def test_every_parameter_is_as_deep_as_the_layer_that_reads_it(family_config):
    check_levels(AutoModel.from_config(family_config))


@pytest.mark.parametrize("model_type", ["esm", "eurobert", "rembert", "roformer", "megatron-bert", "xlm-roberta-xl"])
def test_the_same_holds_for_other_types(model_type):
    check_levels(AutoModel.from_config(small_config(model_type)))


def test_what_debertas_layers_read_beside_the_embeddings_is_as_deep_as_they_are():
    check_levels(AutoModel.from_config(small_config("deberta-v2", norm_rel_ebd="layer_norm")))
    config = small_config("deberta-v2", norm_rel_ebd="layer_norm", conv_kernel_size=3, conv_act="gelu")
    encoder = AutoModel.from_config(config)
    levels = levels_of(encoder)
    outside = {name for name, p in encoder.named_parameters() if ".layer." not in name}
    assert {"encoder.rel_embeddings.weight", "encoder.LayerNorm.weight", "encoder.conv.conv.weight"} <= outside
    assert {levels[id(encoder.get_parameter(name))] for name in outside} == {0}


def test_the_parts_of_xlms_layers_stand_at_their_depth():
    encoder = AutoModel.from_config(small_config("xlm"))
    levels, number = levels_of(encoder), encoder.config.num_hidden_layers
    for part in ("attentions", "layer_norm1", "ffns", "layer_norm2"):
        found = [{levels[id(p)] for p in layer.parameters()} for layer in getattr(encoder, part)]
        assert found == [{level} for level in range(1, number + 1)]
    assert {levels[id(p)] for p in encoder.layer_norm_emb.parameters()} == {0}


def test_a_layer_at_several_depths_trains_at_the_rate_of_the_highest():
    config = AutoConfig.for_model("albert", **vars_of_albert())
    model = MultiTaskModel(MultiTaskConfig(config, HEADS))
    depths = depths_of(model, layer_lr_decay=0.5, head_lr_multiplier=1.0)
    assert [bool(depth.parameters) for depth in depths] == [
        True,
        False,
        False,
        True,
        True,
    ]  # top, 2, 1, embeddings, heads
    assert any("albert_layer_groups" in name for name in depths[0].parameters)


def vars_of_albert():
    sizes = {"vocab_size": 50, "embedding_size": 8, "hidden_size": 16, "intermediate_size": 16}
    return {**sizes, "num_hidden_layers": 3, "num_attention_heads": 2}


def small_bert(layers):
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 8}
    config = BertConfig(vocab_size=11, num_hidden_layers=layers, **sizes)
    return MultiTaskModel(MultiTaskConfig(config, HEADS))


@settings(max_examples=25, deadline=None)
@given(
    layers=st.integers(1, 4),
    decay=st.floats(0.01, 1.0),
    multiplier=st.floats(0.01, 100.0),
    frozen=st.sets(st.integers(0, 30)),
    undecayed=st.sets(st.integers(0, 30)),
)
def test_every_parameter_that_trains_is_in_one_group_at_its_rate(layers, decay, multiplier, frozen, undecayed):
    model = small_bert(layers)
    names = [name for name, _ in model.named_parameters()]
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number not in frozen)
    decayed = {name for number, name in enumerate(names) if number not in undecayed}
    depths = depths_of(model, layer_lr_decay=decay, head_lr_multiplier=multiplier)
    groups = parameter_groups(depths, decayed, learning_rate=0.5, weight_decay=0.25)
    assert groups[0]["lr"] == 0.5 and all(group["params"] for group in groups[1:])
    found = {id(p): group for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found)
    assert found.keys() == {id(p) for p in model.parameters() if p.requires_grad}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            below = (
                layers if "embeddings" in name else layers - 1 - int(name.split(".")[3]) if "layer" in name else None
            )
            factor = multiplier if below is None else decay**below
            assert found[id(parameter)]["lr"] == pytest.approx(0.5 * factor, rel=1e-12), name
            assert found[id(parameter)]["weight_decay"] == (0.25 if name in decayed else 0.0)


def test_the_table_has_a_line_for_every_depth():
    model = small_bert(2)
    lines = table_of(depths_of(model, layer_lr_decay=0.5, head_lr_multiplier=5.0), 2e-4).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["depth", "layer 2 and above", "layer 1", "embeddings", "heads"]
    assert [line.split()[-1] for line in lines] == ["rate", "0.0002", "0.0001", "5e-05", "0.001"]
    assert sum(int(line.split()[-2].replace(",", "")) for line in lines[1:]) == model.num_parameters()
