"""MPNet's fused attention against transformers' eager one: outputs, and the gradient of every parameter."""

import pytest
import torch
from mpnet_pairs import HEADS, PATTERNS, apart, encoder, inputs, outputs_and_gradients, pair
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModel
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder, MPNetSelfAttention

from hf_mtl import MultiTaskConfig, MultiTaskModel, load_model
from hf_mtl.model import mpnet_attention as mpnet
from hf_mtl.model.mpnet_attention import FusedMPNetSelfAttention, position_buckets


@pytest.mark.parametrize("lengths", PATTERNS.values(), ids=PATTERNS)
def test_fused_attention_equals_the_eager_one(lengths):
    """Within 1e-5: both are fp32 and add up in another order, which is worth some 1e-7 a layer."""
    eager, fused = pair()
    wanted, gradients = outputs_and_gradients(eager.eval(), inputs(lengths))
    found, fused_gradients = outputs_and_gradients(fused.eval(), inputs(lengths))
    assert apart(found, wanted) < 1e-5
    assert gradients.keys() == fused_gradients.keys()
    assert gradients["encoder.relative_attention_bias.weight"].norm() > 1e-3
    for name, gradient in gradients.items():
        if name.endswith(".k.bias"):  # the same for all scores of a row, so zero but for rounding
            continue
        assert apart(fused_gradients[name], gradient) < 1e-5, name


@pytest.mark.parametrize("lengths", PATTERNS.values(), ids=PATTERNS)
def test_under_autocast_its_gradients_are_as_good_as_the_eager_ones(lengths):
    """Both against fp32: what bf16 costs the eager form is what it may cost this one, and half as much again."""
    eager, fused = pair()
    _, wanted = outputs_and_gradients(eager.eval(), inputs(lengths))
    errors = []
    for model in (eager, fused):
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            _, found = outputs_and_gradients(model.eval(), inputs(lengths))
        errors.append({name: apart(found[name], wanted[name]) for name in wanted})
    assert max(errors[0].values()) > 1e-3
    for name, error in errors[1].items():
        if not name.endswith(".k.bias"):
            assert error <= 1.5 * errors[0][name], name


def test_the_bias_is_part_of_it():
    """The comparison above would notice a bias that is not added."""
    eager, fused = pair()
    with torch.no_grad():
        fused.encoder.relative_attention_bias.weight.zero_()
    batch = inputs([20, 3, 11])
    assert apart(fused.eval()(**batch).last_hidden_state, eager.eval()(**batch).last_hidden_state) > 1e-2


def test_it_draws_the_same_dropout_masks():
    eager, fused = pair(attention_probs_dropout_prob=0.3)
    found = []
    for model in (eager, fused):
        torch.manual_seed(3)
        found.append(model.train()(**inputs([20, 3, 11])).last_hidden_state)
    assert apart(found[1], found[0]) < 1e-5


def test_attentions_and_hidden_states_are_transformers_own():
    eager, fused = pair()
    batch = inputs([20, 3, 11])
    wanted = eager.eval()(**batch, output_attentions=True, output_hidden_states=True)
    found = fused.eval()(**batch, output_attentions=True, output_hidden_states=True)
    assert all(map(torch.equal, found.attentions, wanted.attentions))
    assert all(map(torch.equal, found.hidden_states, wanted.hidden_states))


def test_the_table_of_buckets_is_made_once_and_of_real_numbers(monkeypatch):
    made, make = [], MPNetEncoder.relative_position_bucket
    monkeypatch.setattr(mpnet, "_kept_buckets", {})
    monkeypatch.setattr(MPNetEncoder, "relative_position_bucket", lambda positions: made.append(1) or make(positions))
    _, fused = pair()
    with FakeTensorMode():  # as under torch.export
        position_buckets(258, torch.device("cpu"))
    made.clear()
    with torch.inference_mode():
        fused(**inputs([20, 3, 11]))
    fused.train()(**inputs([5, 9])).last_hidden_state.sum().backward()
    assert len(made) == 1


@pytest.mark.parametrize(("asked", "attention"), [(None, FusedMPNetSelfAttention), ("eager", MPNetSelfAttention)])
def test_a_model_has_it_unless_eager_attention_is_asked_for(tmp_path, asked, attention):
    encoder().save_pretrained(tmp_path)
    model = load_model(tmp_path, HEADS, **({} if asked is None else {"attn_implementation": asked}))
    found = {type(module) for module in model.modules() if isinstance(module, MPNetSelfAttention)}
    assert found == {attention}


def test_its_weights_are_mpnets(tmp_path):
    model = MultiTaskModel(MultiTaskConfig(encoder().config, HEADS)).eval()
    model.encoder.save_pretrained(tmp_path)
    plain = AutoModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    assert type(plain.encoder.layer[0].attention.attn) is MPNetSelfAttention
    batch = inputs([20, 3, 11])
    assert apart(model.encoder(**batch).last_hidden_state, plain(**batch).last_hidden_state) < 1e-5
