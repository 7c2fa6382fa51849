"""One forward and backward over the rows of all tasks, with every task's own gradient of the shared parameters.

The tasks' tokens lie one after the other, (1, tokens, width), so that each layer reads its weights once for all tasks;
attention keeps to a task's rows, as padded for themselves. In backward linear layers, norms and embeddings take the
gradient of their parameters from one task's tokens at a time and put it into that task's row. A pass per task gives the
same up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .cpu import (
    CpuKernels,
    RandomBits,
    attend,
    attend_backward,
    product,
    scaled_mask,
    sum_of_rows,
    transposed_product_pays,
)
from .gradients import TaskGradients
from .modeling import MultiTaskModel
from .unfreezing import encoder_layers

FAMILIES = ("bert", "camembert", "mpnet", "roberta", "xlm-roberta")
"""Encoders that are `embeddings`, then a stack of layers, and nothing else."""
INPUTS = ("input_ids", "token_type_ids", "attention_mask", "labels")


def can_pack(model: MultiTaskModel) -> bool:
    """Whether `packed_losses` can stand for the model's forward: it knows all parts, in fp32 on a CPU."""
    encoder, config = model.encoder, model.encoder.config
    return (
        type(model) is MultiTaskModel
        and config.model_type in FAMILIES
        and (_has_fused_bias(encoder) or config._attn_implementation == "sdpa")
        and not getattr(config, "is_decoder", False)
        and not getattr(config, "chunk_size_feed_forward", 0)
        and not any(map(_is_watched, model.modules()))
        and all(map(_has_known_parameters, encoder.modules()))
        and all(p.dtype == torch.float32 and p.device.type == "cpu" for p in encoder.parameters())
    )


def are_known(batches: Mapping[str, Mapping[str, Tensor]]) -> bool:
    """Whether the rows have nothing but what `packed_losses` takes."""
    return all(name in INPUTS for batch in batches.values() for name in batch)


def _has_fused_bias(encoder: nn.Module) -> bool:
    """Whether an encoder is `hf_mtl.mpnet`'s, whose position bias is part of the attention mask."""
    return hasattr(encoder.encoder, "position_bias")


def _is_watched(module: nn.Module) -> bool:
    """Whether somebody waits for a module's usual inputs: by a hook, or in the place of its forward."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in vars(module)


def _has_known_parameters(module: nn.Module) -> bool:
    if isinstance(module, nn.Embedding):
        return type(module) is nn.Embedding and module.max_norm is None and not module.scale_grad_by_freq
    return type(module) in (nn.Linear, nn.LayerNorm) or not module._parameters


@dataclass(frozen=True)
class _Part:
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

    def rows_of(self, packed: Tensor) -> Tensor:
        """A view of this part. *Shape:* (all tokens, heads, width) -> (rows, heads, tokens, width)"""
        return packed[self.tokens].view(*self.shape, *packed.shape[1:]).transpose(1, 2)


class _Packed(CpuKernels):
    """Lets layers work on the tokens of these parts."""

    def __init__(self, gradients: TaskGradients, parts: list[_Part], bits: RandomBits) -> None:
        super().__init__(bits=bits)
        self.gradients, self.parts = gradients, parts
        self.num_tokens = parts[-1].tokens.stop

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        assert input.shape[:-1].numel() == self.num_tokens
        output: Tensor = _Linear.apply(input.flatten(0, -2), weight, bias, self)  # type: ignore[no-untyped-call]
        return output.view(*input.shape[:-1], -1)

    def _layer_norm(
        self, input: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
    ) -> Tensor:
        assert input.shape[:-1].numel() == self.num_tokens and len(shape) == 1
        output: Tensor = _LayerNorm.apply(input.flatten(0, -2), weight, bias, eps, self)  # type: ignore[no-untyped-call]
        return output.view_as(input)

    def _embedding(self, input: Tensor, weight: Tensor, padding_idx: int | None = None, **others: Any) -> Tensor:
        assert len(self.parts) == 1
        output: Tensor = _Embedding.apply(input, weight, padding_idx, self)  # type: ignore[no-untyped-call]
        return output

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None,
    ) -> Tensor:  # fmt: skip
        assert attn_mask is None and not is_causal
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        masks = [part.mask for part in self.parts]
        query, key, value = (each.squeeze(0).transpose(0, 1) for each in (query, key, value))
        output: Tensor = _Attention.apply(query, key, value, dropout_p, factor, self, *masks)  # type: ignore[no-untyped-call]
        return output.transpose(0, 1).unsqueeze(0)

    KERNELS: ClassVar[dict[Any, Any]] = {
        **CpuKernels.KERNELS,
        F.linear: _linear,
        F.layer_norm: _layer_norm,
        F.embedding: _embedding,
        F.scaled_dot_product_attention: _attention,
    }


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, packed: _Packed) -> Tensor:
        ctx.save_for_backward(inputs if ctx.needs_input_grad[1] else None)
        ctx.weight, ctx.bias, ctx.packed = weight, bias, packed
        return product(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (inputs,), gradient = ctx.saved_tensors, gradient.contiguous()
        gradients = ctx.packed.gradients
        for part in ctx.packed.parts:
            own = gradient[part.tokens]
            if ctx.needs_input_grad[2]:
                gradients.add(part.task, ctx.bias, sum_of_rows(own))
            if not ctx.needs_input_grad[1]:
                continue
            if transposed_product_pays(own, inputs):
                gradients.add(part.task, ctx.weight, product(own.T, inputs[part.tokens].T))
            else:
                gradients.add_product(part.task, ctx.weight, own.T, inputs[part.tokens])
        return product(gradient, ctx.weight.T) if ctx.needs_input_grad[0] else None, None, None, None


class _LayerNorm(Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, packed: _Packed
    ) -> Tensor:
        output, mean, rstd = torch.native_layer_norm(inputs, inputs.shape[1:], weight, bias, eps)
        ctx.save_for_backward(inputs, mean, rstd)
        ctx.weight, ctx.bias, ctx.packed = weight, bias, packed
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        def gradients_of(tokens: slice, wanted: list[bool]) -> tuple[Tensor | None, ...]:
            given = (each[tokens] for each in (gradient, *ctx.saved_tensors))
            gradient_, inputs, mean, rstd = given
            return torch.ops.aten.native_layer_norm_backward(
                gradient_, inputs, inputs.shape[1:], mean, rstd, ctx.weight, ctx.bias, wanted
            )

        to_inputs, to_weight, to_bias, *_ = ctx.needs_input_grad
        if to_weight or to_bias:
            for part in ctx.packed.parts:
                found = gradients_of(part.tokens, [False, to_weight, to_bias])
                for parameter, own in zip((ctx.weight, ctx.bias), found[1:], strict=True):
                    if own is not None:
                        ctx.packed.gradients.add(part.task, parameter, own)
        return gradients_of(slice(None), [True, False, False])[0] if to_inputs else None, None, None, None, None


class _Embedding(Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, padding_idx: int | None, packed: _Packed) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.weight, ctx.padding_idx, ctx.packed = weight, padding_idx, packed
        return F.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, ...]:
        (ids,) = ctx.saved_tensors
        ids, gradient = ids.flatten(), gradient.flatten(0, -2)
        if ctx.padding_idx is not None:
            real = ids != ctx.padding_idx
            ids, gradient = ids[real], gradient[real]
        (part,) = ctx.packed.parts
        ctx.packed.gradients.add_at(part.task, ctx.weight, ids, gradient)
        return None, None, None, None


class _Attention(Function):
    """Each task's rows by themselves. *Shapes:* (all tokens, heads, width)"""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, dropout: float, scale: float, packed: _Packed,
        *masks: Tensor | None,
    ) -> Tensor:  # fmt: skip
        ctx.scale, ctx.packed = scale, packed
        output = torch.empty(value.shape)
        saved: list[Tensor | None] = []
        for part, mask in zip(packed.parts, masks, strict=True):
            own = [part.rows_of(each) for each in (query, key, value)]
            shape = torch.Size((*own[0].shape[:3], own[1].shape[2]))
            drops = scaled_mask(shape, dropout, packed.bits) if dropout else None
            attended, of_part = attend(own[0], own[1], own[2], mask, drops, scale)
            part.rows_of(output).copy_(attended)
            saved += of_part
        ctx.save_for_backward(*saved)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        to_inputs = [torch.empty(gradient.shape) for _ in range(3)]
        to_masks: list[Tensor | None] = []
        parts, saved = ctx.packed.parts, ctx.saved_tensors
        for i, part in enumerate(parts):
            of_part = saved[i * len(saved) // len(parts) : (i + 1) * len(saved) // len(parts)]
            *found, to_mask = attend_backward(part.rows_of(gradient), of_part, ctx.scale)
            for whole, own in zip(to_inputs, found, strict=True):
                own_rows = part.rows_of(whole)
                own_rows.copy_(own.view(own_rows.shape))
            wanted = ctx.needs_input_grad[6 + i]
            to_masks.append(to_mask.sum_to_size(part.mask.shape) if wanted and part.mask is not None else None)
        return *to_inputs, None, None, None, *to_masks


def packed_losses(
    model: MultiTaskModel, batches: Mapping[str, Mapping[str, Tensor]], gradients: TaskGradients
) -> dict[str, Tensor]:
    """Each task's mean loss, as a forward per task gives it; backward of their sum fills every task's row.

    Args:
        model: its encoder passes `can_pack`.
        batches: task -> its rows, of `INPUTS`.
        gradients: take the gradients of the shared parameters, while backward runs.
    """
    parts: list[_Part] = []
    embedded, bits = [], RandomBits()
    for task, batch in batches.items():
        rows, start = batch["input_ids"], parts[-1].tokens.stop if parts else 0
        shape = (rows.shape[0], rows.shape[1])
        alone = _Part(gradients.tasks.index(task), slice(0, rows.numel()), shape)
        with _Packed(gradients, [alone], bits):
            types = {"token_type_ids": batch["token_type_ids"]} if "token_type_ids" in batch else {}
            embedded.append(model.encoder.embeddings(input_ids=rows, **types).flatten(0, 1))
            mask = _attention_mask(model.encoder, batch["attention_mask"])
        parts.append(_Part(alone.task, slice(start, start + rows.numel()), shape, mask))
    hidden = torch.cat(embedded)[None]
    with _Packed(gradients, parts, bits):
        for layer in encoder_layers(model.encoder):
            output = layer(hidden)
            hidden = output[0] if isinstance(output, tuple) else output
    losses = {}
    of_tasks = torch.split(hidden[0], [part.shape[0] * part.shape[1] for part in parts])
    for (task, batch), part, own in zip(batches.items(), parts, of_tasks, strict=True):
        with CpuKernels(bits=bits):
            loss, _ = model.read(task, own.view(*part.shape, -1), batch["attention_mask"], batch["labels"])
        assert loss is not None
        losses[task] = loss
    return losses


def _attention_mask(encoder: Any, real: Tensor) -> Tensor | None:
    """What one task's attention masks, and MPNet adds, in all layers. *Shape:* (rows, tokens) -> as `_Part.mask`"""
    padded = None if real.all() else ~real[:, None, None, :].bool()
    if not _has_fused_bias(encoder):
        return None if padded is None else ~padded
    bias: Tensor = encoder.encoder.position_bias(real.shape[1])
    return bias if padded is None else bias.masked_fill(padded, torch.finfo(bias.dtype).min)
