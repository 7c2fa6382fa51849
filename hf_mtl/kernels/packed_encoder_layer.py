"""An encoder layer over the packed tokens of all tasks, forward and backward by hand.

It is the layer of BERT and what comes from it: attention, then two linear layers with an activation between, each
followed by dropout, the sum with what went in, and a norm. By hand no operation needs a call of its own into autograd,
sums are built in place, and each weight's gradient is taken from one task's tokens at a time, straight into its row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..gradients.gradient_buffer import GradientBuffer
from .cpu_functions import (
    FastDropoutRng,
    add_product_,
    attend,
    attend_backward,
    product,
    scaled_mask,
    sum_of_rows,
    transposed_product_pays,
)


@dataclass(frozen=True)
class TaskSegment:
    """One task's tokens among all.

    Attributes:
        task: position of the task.
        tokens: where they are.
        shape: rows and the tokens of each.
        mask: for attention's scores; boolean or added. *Shape:* (rows or 1, heads or 1, 1 or tokens, tokens)
    """

    task: int
    tokens: slice
    shape: tuple[int, int]
    mask: Tensor | None = None

    def rows_of(self, packed: Tensor, heads: int, number: int = 1) -> Tensor:
        """A view of this segment of so many tensors side by side.

        *Shape:* (all tokens, number * heads * width) -> (number, rows, heads, tokens, width)
        """
        return packed[self.tokens].view(*self.shape, number, heads, -1).permute(2, 0, 3, 1, 4)


@dataclass(frozen=True)
class PackedBatch:
    """The tokens of all tasks, and where the gradients go that come from them.

    Attributes:
        gradients: take those of the parameters, while backward runs.
        segments: the tasks' tokens.
        dropout_rng: for dropout.
    """

    gradients: GradientBuffer
    segments: list[TaskSegment]
    dropout_rng: FastDropoutRng

    def dropout_mask_of(self, dropout: nn.Dropout, shape: tuple[int, ...]) -> Tensor | None:
        """The mask that a dropout multiplies by; None if it drops nothing."""
        dropout_mask = dropout.training and dropout.p > 0
        return scaled_mask(torch.Size(shape), dropout.p, self.dropout_rng) if dropout_mask else None

    def add_linear(self, linear: nn.Linear, gradient: Tensor, inputs: Tensor) -> None:
        """Take the gradients of a linear layer's parameters. *Shapes:* (all tokens, width out), (all tokens, width)."""
        for segment in self.segments:
            own = gradient[segment.tokens]
            if linear.bias.requires_grad:
                self.gradients.add(segment.task, linear.bias, sum_of_rows(own))
            if not linear.weight.requires_grad:
                continue
            if transposed_product_pays(own, inputs):
                self.gradients.add(segment.task, linear.weight, product(own.T, inputs[segment.tokens].T))
            else:
                self.gradients.add_product(segment.task, linear.weight, own.T, inputs[segment.tokens])

    def add_norm(
        self, weight: nn.Parameter | None, bias: nn.Parameter | None, gradient: Tensor, *saved: Tensor
    ) -> Tensor:
        """Accumulate the norm's parameter gradients; return its input gradient. `saved` is (inputs, mean, rstd)."""

        def gradients_of(tokens: slice, wanted: list[bool]) -> tuple[Tensor, ...]:
            own, inputs, mean, rstd = (each[tokens] for each in (gradient, *saved))
            found: tuple[Tensor, ...] = torch.ops.aten.native_layer_norm_backward(
                own, inputs, inputs.shape[1:], mean, rstd, weight, bias, wanted
            )
            return found

        wanted = [p is not None and p.requires_grad for p in (weight, bias)]
        for segment in self.segments if any(wanted) else ():
            found = gradients_of(segment.tokens, [False, *wanted])[1:]
            for parameter, own in zip((weight, bias), found, strict=True):
                if parameter is not None and own is not None:
                    self.gradients.add(segment.task, parameter, own)
        return gradients_of(slice(None), [True, False, False])[0]


@dataclass(frozen=True)
class EncoderLayerWeights:
    """The modules of one encoder layer, which the families of encoders name differently."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_dropout: nn.Dropout
    heads: int
    attention_output: nn.Linear
    middle_dropout: nn.Dropout
    middle_norm: nn.LayerNorm
    ffn_in: nn.Linear
    activation: Callable[[Tensor], Tensor]
    ffn_out: nn.Linear
    last_dropout: nn.Dropout
    last_norm: nn.LayerNorm

    @classmethod
    def of(cls, module: Any) -> EncoderLayerWeights:
        """The weights of a layer of transformers.

        Raises:
            AttributeError: for another kind of layer.
        """
        if hasattr(module.attention, "attn"):  # MPNet
            attention, after = module.attention.attn, module.attention
            query, key, value, output = attention.q, attention.k, attention.v, attention.o
        else:
            attention, after = module.attention.self, module.attention.output
            query, key, value, output = attention.query, attention.key, attention.value, after.dense
        return cls(
            query, key, value, attention.dropout, attention.num_attention_heads,
            output, after.dropout, after.LayerNorm,
            module.intermediate.dense, module.intermediate.intermediate_act_fn,
            module.output.dense, module.output.dropout, module.output.LayerNorm,
        )  # fmt: skip

    def is_known(self) -> bool:
        """Whether all layers are torch's own, no bias is missing, and the activation makes a new tensor."""
        linears = (self.query, self.key, self.value, self.attention_output, self.ffn_in, self.ffn_out)
        dropouts = (self.attention_dropout, self.middle_dropout, self.last_dropout)
        return (
            all(type(each) is nn.Linear and each.bias is not None for each in linears)
            and all(type(each) is nn.Dropout for each in dropouts)
            and all(type(each) is nn.LayerNorm for each in (self.middle_norm, self.last_norm))
            and isinstance(self.activation, nn.Module)
            and not getattr(self.activation, "inplace", False)
        )

    def parameters(self) -> list[nn.Parameter]:
        modules = [each for each in vars(self).values() if isinstance(each, nn.Module)]
        return [p for module in modules for p in module._parameters.values() if p is not None]

    def query_key_value(self) -> tuple[Tensor, Tensor]:
        """Their weights and biases, one after the other. *Shapes:* (3 * width, width), (3 * width,)."""
        linears = (self.query, self.key, self.value)
        return torch.cat([each.weight for each in linears]), torch.cat([each.bias for each in linears])

    def __call__(self, inputs: Tensor, packed: PackedBatch) -> Tensor:
        """*Shape:* (all tokens, width) -> (all tokens, width)."""
        masks = [segment.mask for segment in packed.segments]
        output: Tensor = _LayerFunction.apply(inputs, self, packed, *masks, *self.parameters())  # type: ignore[no-untyped-call]
        return output


def _linear(inputs: Tensor, linear: nn.Linear) -> Tensor:
    return product(inputs, linear.weight, linear.bias)


def _norm(inputs: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor, Tensor]:
    return torch.native_layer_norm(inputs, inputs.shape[1:], norm.weight, norm.bias, norm.eps)


def _drop_and_add_(rows: Tensor, dropout_mask: Tensor | None, others: Tensor) -> Tensor:
    """`rows * dropout_mask + others`, in the place of the rows."""
    return rows.add_(others) if dropout_mask is None else torch.addcmul(others, rows, dropout_mask, out=rows)


def _attend(
    layer: EncoderLayerWeights, packed: PackedBatch, qkv: Tensor, bias: Tensor
) -> tuple[Tensor, list[Tensor | None]]:
    """Attention within each row, and what its backward needs.

    *Shapes:* query, key and value side by side, still without bias, (all tokens, 3 * width), (3 * width,)
    -> (all tokens, width)
    """
    output = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
    saved: list[Tensor | None] = []
    for segment in packed.segments:
        own = segment.rows_of(qkv, layer.heads, 3)
        # Contiguous, for the batched products; a sum would keep its input's layout.
        own = torch.add(own, bias.view(3, 1, layer.heads, 1, -1), out=own.new_empty(own.shape))
        rows, tokens = segment.shape
        dropout_mask = packed.dropout_mask_of(layer.attention_dropout, (rows, layer.heads, tokens, tokens))
        context, of_segment = attend(own[0], own[1], own[2], segment.mask, dropout_mask, own.shape[-1] ** -0.5)
        segment.rows_of(output, layer.heads)[0].copy_(context)
        saved += of_segment
    return output, saved


def _attend_backward(
    layer: EncoderLayerWeights, packed: PackedBatch, gradient: Tensor, saved: tuple[Tensor | None, ...]
) -> tuple[Tensor, list[Tensor]]:
    """Gradients to query, key and value side by side, and to the scores of each segment."""
    to_qkv = gradient.new_empty(len(gradient), 3 * gradient.shape[1])
    to_scores = []
    for i, segment in enumerate(packed.segments):
        of_segment = saved[i * len(saved) // len(packed.segments) : (i + 1) * len(saved) // len(packed.segments)]
        own = segment.rows_of(gradient, layer.heads)[0]
        *found, to_segment = attend_backward(own, of_segment, own.shape[-1] ** -0.5)
        for place, each in zip(segment.rows_of(to_qkv, layer.heads, 3), found, strict=True):
            place.copy_(each.view(own.shape))
        to_scores.append(to_segment)
    return to_qkv, to_scores


class _LayerFunction(Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, layer: EncoderLayerWeights, packed: PackedBatch, *masks_and_parameters: Tensor | None
    ) -> Tensor:
        weight, bias = layer.query_key_value()
        context, of_attention = _attend(layer, packed, product(inputs, weight), bias)
        middle_dropout_mask = packed.dropout_mask_of(layer.middle_dropout, inputs.shape)
        middle_sum = _drop_and_add_(_linear(context, layer.attention_output), middle_dropout_mask, inputs)
        middle, *of_middle = _norm(middle_sum, layer.middle_norm)
        ffn_hidden = _linear(middle, layer.ffn_in)
        with torch.set_grad_enabled(any(ctx.needs_input_grad)):
            activated = layer.activation(ffn_hidden.requires_grad_())
        last_dropout_mask = packed.dropout_mask_of(layer.last_dropout, inputs.shape)
        last_sum = _drop_and_add_(_linear(activated.detach(), layer.ffn_out), last_dropout_mask, middle)
        output, *of_last = _norm(last_sum, layer.last_norm)
        ctx.layer, ctx.packed, ctx.activation = layer, packed, (ffn_hidden, activated)
        ctx.save_for_backward(
            inputs,
            context,
            middle_dropout_mask,
            middle_sum,
            *of_middle,
            middle,
            last_dropout_mask,
            last_sum,
            *of_last,
            *of_attention,
        )
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layer, packed = ctx.layer, ctx.packed
        (ffn_hidden, activated), ctx.activation = ctx.activation, None
        inputs, context, middle_dropout_mask, *of_middle, middle, last_dropout_mask = ctx.saved_tensors[:8]
        of_last, of_attention = ctx.saved_tensors[8:11], ctx.saved_tensors[11:]

        to_middle = packed.add_norm(layer.last_norm.weight, layer.last_norm.bias, gradient, *of_last)
        to_ffn_out = to_middle if last_dropout_mask is None else to_middle * last_dropout_mask
        packed.add_linear(layer.ffn_out, to_ffn_out, activated.detach())
        (to_ffn_in,) = torch.autograd.grad(activated, ffn_hidden, product(to_ffn_out, layer.ffn_out.weight.T))
        packed.add_linear(layer.ffn_in, to_ffn_in, middle)
        to_middle = add_product_(to_middle, to_ffn_in, layer.ffn_in.weight)

        to_inputs = packed.add_norm(layer.middle_norm.weight, layer.middle_norm.bias, to_middle, *of_middle)
        to_attention_output = to_inputs if middle_dropout_mask is None else to_inputs * middle_dropout_mask
        packed.add_linear(layer.attention_output, to_attention_output, context)
        to_context = product(to_attention_output, layer.attention_output.weight.T)
        to_qkv, to_scores = _attend_backward(layer, packed, to_context, of_attention)
        for linear, own in zip((layer.query, layer.key, layer.value), to_qkv.chunk(3, dim=1), strict=True):
            packed.add_linear(linear, own, inputs)
        if ctx.needs_input_grad[0]:
            to_inputs = add_product_(to_inputs, to_qkv, layer.query_key_value()[0])
        to_masks = [
            each.sum_to_size(segment.mask.shape) if wanted else None
            for each, segment, wanted in zip(to_scores, packed.segments, ctx.needs_input_grad[3:], strict=False)
        ]
        nothing = [None] * (len(ctx.needs_input_grad) - 3 - len(to_masks))
        return to_inputs if ctx.needs_input_grad[0] else None, None, None, *to_masks, *nothing
