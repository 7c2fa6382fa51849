"""Scaled-dot-product attention for MPNet, of which transformers has the eager form only.

The relative position bias and the padding mask are added once per forward instead of once per layer, and the bias is
looked up in a table that stays on the device. Parameters keep their names, so every saved MPNet loads. Imports torch
and transformers only: it travels with a saved model's code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder, MPNetSelfAttention


def use_fused_attention(encoder: nn.Module) -> None:
    """Let an MPNet encoder attend through `scaled_dot_product_attention`, from now on."""
    for module in encoder.modules():
        if type(module) is MPNetEncoder:
            module.__class__ = FusedMPNetEncoder
        elif type(module) is MPNetSelfAttention:
            module.__class__ = FusedMPNetSelfAttention


_kept_buckets: dict[tuple[int, torch.device], Tensor] = {}


def position_buckets(length: int, device: torch.device) -> Tensor:
    """The bucket of every pair of positions, kept on the device. *Shape:* (length, length), int64."""
    if (length, device) in _kept_buckets:
        return _kept_buckets[length, device]
    with torch.inference_mode(False):  # made under it, the table could not be used in training later
        positions = torch.arange(length)
        buckets = MPNetEncoder.relative_position_bucket(positions[None, :] - positions[:, None]).to(device)
    if type(buckets) is Tensor:  # torch.export's stand-ins are good for one export only
        _kept_buckets[length, device] = buckets
    return buckets


class FusedMPNetEncoder(MPNetEncoder):  # type: ignore[misc]  # transformers' base class is untyped
    """The stack of layers, with one bias for all of them."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As in transformers; attentions and hidden states come from its own code.

        The mask is 0 at real tokens and the lowest number at padding; there is none when all are real.
        *Shapes:* (rows, tokens, width), mask (rows, 1, 1 or tokens, tokens)
        """
        if output_attentions or output_hidden_states or not return_dict:
            return super().forward(
                hidden_states, attention_mask, output_attentions, output_hidden_states, return_dict, **kwargs
            )
        bias = self.position_bias(hidden_states.shape[1])
        if attention_mask is not None:
            bias = bias + attention_mask
        device = hidden_states.device.type
        autocast = torch.is_autocast_enabled(device)
        bias = bias.to(torch.get_autocast_dtype(device) if autocast else hidden_states.dtype)  # once, not per layer
        for layer in self.layer:
            hidden_states = layer(hidden_states, position_bias=bias)[0]
        return BaseModelOutput(last_hidden_state=hidden_states)

    def position_bias(self, length: int) -> Tensor:
        """What is added to the attention scores for the distance of two tokens. *Shape:* (1, heads, tokens, tokens)."""
        table = self.relative_attention_bias
        longest = max(length, self.config.max_position_embeddings)
        buckets = position_buckets(longest, table.weight.device)
        return table(buckets[:length, :length]).permute(2, 0, 1).unsqueeze(0)


class FusedMPNetSelfAttention(MPNetSelfAttention):  # type: ignore[misc]
    """One layer's attention."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, ...]:
        """*Shapes:* (rows, tokens, width), bias (1 or rows, heads, tokens, tokens) -> (rows, tokens, width)."""
        if output_attentions or attention_mask is not None:
            return super().forward(hidden_states, attention_mask, position_bias, output_attentions, **kwargs)
        split = (*hidden_states.shape[:-1], self.num_attention_heads, self.attention_head_size)
        query, key, value = (linear(hidden_states).view(split).transpose(1, 2) for linear in (self.q, self.k, self.v))
        attended = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=position_bias, dropout_p=self.dropout.p if self.training else 0.0
        )
        return (self.o(attended.transpose(1, 2).flatten(2)),)
