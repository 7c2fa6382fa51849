"""MPNet's fused attention against transformers' eager one: outputs, and the gradient of every parameter."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModel, MPNetConfig
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder, MPNetSelfAttention

from hf_mtl import MultiTaskConfig, MultiTaskModel, load_model
from hf_mtl.model import mpnet_attention as mpnet
from hf_mtl.model.heads import HeadSpec
from hf_mtl.model.mpnet_attention import FusedMPNetSelfAttention, position_buckets, use_fused_attention

PATTERNS = {  # real tokens of each row; an input is as long as its longest row
    "nothing padded": [20, 20, 20],
    "some padded": [20, 3, 11],
    "one token": [1, 9, 2],
    "longer than the exact buckets": [200, 140, 7],
}


def encoder(layers=3, **options):
    torch.manual_seed(0)
    config = MPNetConfig(
        vocab_size=120, hidden_size=64, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=96,
        pad_token_id=1, max_position_embeddings=258, **options,
    )  # fmt: skip
    model = AutoModel.from_config(config, add_pooling_layer=False)
    # As large as in all-mpnet-base-v2, whose bias moves the scores; a fresh one is nearly zero.
    torch.nn.init.normal_(model.encoder.relative_attention_bias.weight, std=1.0)
    return model


def pair(**options):
    eager, fused = encoder(**options), encoder(**options)
    use_fused_attention(fused)
    return eager, fused


def inputs(lengths):
    mask = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
    ids = torch.randint(4, 120, mask.shape, generator=torch.Generator().manual_seed(1)).masked_fill(~mask, 1)
    return {"input_ids": ids, "attention_mask": mask.long()}


def outputs_and_gradients(model, batch):
    hidden = model(**batch).last_hidden_state
    wanted = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))
    real = batch["attention_mask"].unsqueeze(-1)
    (hidden * wanted * real).sum().backward()
    return hidden * real, {name: p.grad for name, p in model.named_parameters()}


def apart(a, b):
    return ((a - b).norm() / b.norm()).item()


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


HEADS = [HeadSpec(name="one", kind="classification", labels=("no", "yes"))]


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


REMOTE = """
import sys, torch
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
with torch.no_grad():
    logits = model(**torch.load(sys.argv[2]), task="one").logits
assert "hf_mtl" not in sys.modules
print(type(model.encoder.encoder.layer[0].attention.attn).__name__)
torch.save(logits, sys.argv[3])
"""


def test_it_travels_with_the_model(tmp_path):
    model = MultiTaskModel(MultiTaskConfig(encoder().config, HEADS)).eval()
    model.save_pretrained(tmp_path / "model")
    batch = inputs([20, 3, 11])
    torch.save(batch, tmp_path / "batch.pt")
    paths = [str(tmp_path / name) for name in ("model", "batch.pt", "logits.pt")]
    done = subprocess.run([sys.executable, "-c", REMOTE, *paths], check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.split() == ["FusedMPNetSelfAttention"]
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "logits.pt"), model(**batch, task="one").logits)
