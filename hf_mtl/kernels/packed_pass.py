"""One forward and backward over the rows of all tasks, with every task's own gradient of the shared parameters.

The tasks' tokens lie one after the other, (tokens, width), so that each layer reads its weights once for all tasks;
attention keeps to a task's rows, as padded for themselves. Every task's gradient of a parameter comes from its own
tokens and goes into its row. A pass per task gives the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..gradients.task_gradients import TaskGradients
from ..model.modeling import MultiTaskModel
from .cpu_functions import CpuKernels, FastDropoutRng
from .packed_encoder_layer import EncoderLayerWeights, PackedBatch, TaskSegment

FAMILIES = ("bert", "camembert", "mpnet", "roberta", "xlm-roberta")
"""Encoders that are `embeddings`, then a stack of layers that `EncoderLayerWeights` knows, and nothing else."""
INPUTS = ("input_ids", "token_type_ids", "attention_mask", "labels", "sequences_per_row", "word_numbers")


def supports_packed_pass(model: MultiTaskModel) -> bool:
    """Whether `packed_losses` can stand for the model's forward: it knows every part, in fp32 on a CPU."""
    encoder, config = model.encoder, model.encoder.config
    return (
        type(model) is MultiTaskModel
        and config.model_type in FAMILIES
        and (_has_fused_bias(encoder) or config._attn_implementation == "sdpa")
        and not getattr(config, "is_decoder", False)
        and not getattr(config, "chunk_size_feed_forward", 0)
        and not any(map(_is_watched, model.modules()))
        and all(map(_is_known, encoder.modules()))
        and all(map(_is_known_layer, model.encoder_layers()))
        and all(map(_is_plain, encoder.parameters()))
    )


def has_only_packable_inputs(batch: Mapping[str, Tensor]) -> bool:
    """Whether a task's rows have nothing but what `packed_losses` takes."""
    return all(name in INPUTS for name in batch)


def _has_fused_bias(encoder: nn.Module) -> bool:
    """Whether an encoder is `hf_mtl.model.mpnet_attention`'s, whose position bias is part of the attention mask."""
    return hasattr(encoder.encoder, "position_bias")


def _is_watched(module: nn.Module) -> bool:
    """True if a hook or a replaced forward expects the module's usual inputs."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in vars(module)


def _is_plain(parameter: nn.Parameter) -> bool:
    """True if it is fp32 on a CPU and has no gradient hooks."""
    return parameter.dtype == torch.float32 and parameter.device.type == "cpu" and not parameter._backward_hooks


def _is_known(module: nn.Module) -> bool:
    """True if class and forward come unmodified from torch, transformers or hf_mtl."""
    ours = ("torch.", "transformers.", f"{__package__.split('.')[0]}.")
    if not all(each.__module__.startswith(ours) for each in (type(module), type(module).forward)):
        return False
    if isinstance(module, nn.Embedding):
        return type(module) is nn.Embedding and module.max_norm is None and not module.scale_grad_by_freq
    return type(module) in (nn.Linear, nn.LayerNorm) or not module._parameters


def _is_known_layer(layer: nn.Module) -> bool:
    try:
        return EncoderLayerWeights.of(layer).is_known()
    except AttributeError:
        return False


class _EmbeddingKernels(CpuKernels):
    """Lets the embeddings of one task's tokens give their parameters' gradients to its row."""

    def __init__(self, packed: PackedBatch) -> None:
        super().__init__(dropout_rng=packed.dropout_rng)
        self.packed = packed

    def _layer_norm(
        self, input: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
    ) -> Tensor:
        assert len(shape) == 1
        output: Tensor = _LayerNorm.apply(input.flatten(0, -2), weight, bias, eps, self.packed)  # type: ignore[no-untyped-call]
        return output.view_as(input)

    def _embedding(self, input: Tensor, weight: Tensor, padding_idx: int | None = None, **others: Any) -> Tensor:
        output: Tensor = _Embedding.apply(input, weight, padding_idx, self.packed)  # type: ignore[no-untyped-call]
        return output

    KERNELS: ClassVar[dict[Any, Any]] = {**CpuKernels.KERNELS, F.layer_norm: _layer_norm, F.embedding: _embedding}


class _LayerNorm(Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, packed: PackedBatch
    ) -> Tensor:
        output, mean, rstd = torch.native_layer_norm(inputs, inputs.shape[1:], weight, bias, eps)
        ctx.save_for_backward(inputs, mean, rstd)
        ctx.weight, ctx.bias, ctx.packed = weight, bias, packed
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.packed.add_norm(ctx.weight, ctx.bias, gradient, *ctx.saved_tensors), None, None, None, None


class _Embedding(Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, padding_idx: int | None, packed: PackedBatch) -> Tensor:
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
        (segment,) = ctx.packed.segments
        ctx.packed.gradients.add_at(segment.task, ctx.weight, ids, gradient)
        return None, None, None, None


def packed_losses(
    model: MultiTaskModel, batches: Mapping[str, Mapping[str, Tensor]], gradients: TaskGradients
) -> dict[str, Tensor]:
    """Each task's mean loss, as a forward per task gives it; backward of their sum fills every task's row.

    Args:
        model: its encoder passes `supports_packed_pass`.
        batches: task -> its rows, of `INPUTS`.
        gradients: take the gradients of the shared parameters, while backward runs.
    """
    segments: list[TaskSegment] = []
    embedded, dropout_rng = [], FastDropoutRng()
    for task, batch in batches.items():
        rows, start = batch["input_ids"], segments[-1].tokens.stop if segments else 0
        shape = (rows.shape[0], rows.shape[1])
        alone = TaskSegment(gradients.tasks.index(task), slice(0, rows.numel()), shape)
        with _EmbeddingKernels(PackedBatch(gradients.buffer, [alone], dropout_rng)):
            types = {"token_type_ids": batch["token_type_ids"]} if "token_type_ids" in batch else {}
            embedded.append(model.encoder.embeddings(input_ids=rows, **types).flatten(0, 1))
            mask = _attention_mask(model.encoder, batch["attention_mask"])
        segments.append(TaskSegment(alone.task, slice(start, start + rows.numel()), shape, mask))
    hidden, packed = torch.cat(embedded), PackedBatch(gradients.buffer, segments, dropout_rng)
    for layer in model.encoder_layers():
        hidden = EncoderLayerWeights.of(layer)(hidden, packed)
    losses = {}
    of_tasks = torch.split(hidden, [segment.shape[0] * segment.shape[1] for segment in segments])
    for (task, batch), segment, own in zip(batches.items(), segments, of_tasks, strict=True):
        with CpuKernels(dropout_rng=dropout_rng):
            loss, _ = model.forward_head(task, own.view(*segment.shape, -1), batch["attention_mask"], batch["labels"])
        assert loss is not None
        losses[task] = loss
    return losses


def _attention_mask(encoder: Any, real: Tensor) -> Tensor | None:
    """One task's attention mask, with MPNet's bias, for all layers. *Shape:* (rows, tokens) -> that of a segment."""
    shown = None if real.all() else real[:, None, None, :].bool()
    if not _has_fused_bias(encoder):
        return shown
    bias: Tensor = encoder.encoder.position_bias(real.shape[1])
    return bias if shown is None else bias + (1 - shown.float()) * torch.finfo(bias.dtype).min
