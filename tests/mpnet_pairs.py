"""A small MPNet with transformers' eager attention and with the fused one."""

import torch
from transformers import AutoModel, MPNetConfig

from hf_mtl.model.heads import HeadSpec
from hf_mtl.model.mpnet_attention import use_fused_attention

HEADS = [HeadSpec(name="one", kind="classification", labels=("no", "yes"))]
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
