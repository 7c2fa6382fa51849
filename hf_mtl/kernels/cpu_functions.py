"""What a CPU does faster than by torch's own choice: linear layers, dropout, attention with dropout, embeddings.

`CpuKernels` puts the four in the place of torch's functions while it is entered, for fp32 tensors on a CPU; a model
needs no change, and everything else goes its usual way. Results are torch's up to rounding, and dropout has the same
probability from other random numbers.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import Parameter
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class CpuKernels(TorchFunctionMode):
    """While entered, routes linear layers, dropout, embeddings and attention to the kernels of this module.

    It must not be around a forward that backward repeats (gradient checkpointing): the second forward would drop other
    numbers.

    Args:
        sparse: those of them that are embeddings get sparse gradients, which are not made anew, full of zeros, for
            every backward. `TaskGradients` takes such gradients; optimizers and clipping do not.
        dropout_rng: for dropout. Forwards in several contexts draw on from the same, as they would in one.
    """

    KERNELS: ClassVar[dict[Any, Callable[..., Tensor | None]]]
    """torch's function -> what stands in for it; None from it asks for torch's."""

    def __init__(self, sparse: Iterable[Parameter] = (), dropout_rng: FastDropoutRng | None = None) -> None:
        super().__init__()
        self.sparse = {id(p) for p in sparse}
        self.dropout_rng = dropout_rng or FastDropoutRng()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kernel, kwargs = self.KERNELS.get(func), kwargs or {}
        result = None if kernel is None else kernel(self, *args, **kwargs)
        return func(*args, **kwargs) if result is None else result


def _suits(*tensors: Tensor | None) -> bool:
    """Whether these are plain fp32 tensors on a CPU that nothing is about to cast."""
    return not torch.is_autocast_enabled("cpu") and all(
        type(t) in (Tensor, Parameter)
        and t.dtype == torch.float32
        and t.device.type == "cpu"
        and t.layout == torch.strided
        for t in tensors
        if t is not None
    )


# ---- linear layers ----


@functools.cache
def _is_intels() -> bool:
    """Whether Intel made the processor."""
    about = Path("/proc/cpuinfo")
    return "GenuineIntel" in (about.read_text() if about.exists() else platform.processor())


def onednn_is_faster() -> bool:
    """Whether oneDNN is there and beats MKL, torch's choice in fp32: by a fifth on an AMD EPYC, on no Intel Xeon."""
    there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(there and torch.backends.mkldnn.enabled) and not _is_intels()


def product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`rows @ weight.T + bias` by the faster library.

    *Shapes:* (n, width), (width out, width), (width out,) -> (n, width out); contiguous or transposed
    """
    if onednn_is_faster():
        found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
        return found
    found = rows @ weight.T
    return found if bias is None else found.add_(bias)  # `addmm` would take longer: it copies the bias first


def add_product_(total: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
    """`total + rows @ weight`, in the place of the total. *Shapes:* (n, width out), (n, width), (width, width out)."""
    return total.add_(product(rows, weight.T)) if onednn_is_faster() else total.addmm_(rows, weight)


def sum_of_rows(rows: Tensor) -> Tensor:
    """`rows.sum(dim=0)` as a product, which takes two thirds of the time. *Shape:* (n, width) -> (width,)."""
    return rows.T @ rows.new_ones(len(rows))


def transposed_product_pays(gradient: Tensor, inputs: Tensor) -> bool:
    """Whether `product(gradient.T, inputs.T)` beats `gradient.T @ inputs`: oneDNN copies the gradient first."""
    return gradient.shape[1] < inputs.shape[1] and onednn_is_faster()


class _Linear(Function):
    """A linear layer on rows; a view made in here could not be changed in place later."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        input_too, weight_too, _ = ctx.needs_input_grad
        ctx.save_for_backward(inputs if weight_too else None, weight if input_too else None)
        return product(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        to_input = to_weight = to_bias = None
        gradient = gradient.contiguous()
        if weight is not None:
            to_input = product(gradient, weight.T)
        if inputs is not None:
            pays = transposed_product_pays(gradient, inputs)
            to_weight = product(gradient.T, inputs.contiguous().T) if pays else gradient.T @ inputs
        if ctx.needs_input_grad[2]:
            to_bias = sum_of_rows(gradient)
        return to_input, to_weight, to_bias


def _linear(kernels: CpuKernels, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    if not onednn_is_faster() or not _suits(input, weight, bias):
        return None
    if weight.dim() != 2 or input.dim() < 2 or input.numel() == 0:
        return None
    if bias is not None and not (bias.shape == weight.shape[:1] and bias.is_contiguous()):  # oneDNN would not notice
        return None
    output: Tensor = _Linear.apply(input.flatten(0, -2), weight, bias)  # type: ignore[no-untyped-call]
    return output.view(*input.shape[:-1], -1)


# ---- dropout ----


class FastDropoutRng:
    """Random bits from NumPy's SFC64, seeded by torch's global generator at the first draw.

    16 of them take 1.2 ns, where torch's own draw of a mask's element takes 8.
    """

    def __init__(self) -> None:
        self.source: np.random.SFC64 | None = None

    def draw(self, shape: torch.Size) -> Tensor:
        """16 bits an element, as int16."""
        if self.source is None:
            self.source = np.random.SFC64(int(torch.randint(2**62, ())))
        words = self.source.random_raw(-(-shape.numel() // 4))
        return torch.from_numpy(words.view(np.int16))[: shape.numel()].view(shape)


def scaled_mask(shape: torch.Size, p: float, dropout_rng: FastDropoutRng) -> Tensor:
    """0 with probability `p`, else 1 / (1 - p), both for `p` in steps of 2**-16."""
    if not can_draw(p):
        return F.dropout(torch.ones(shape, dtype=torch.float32), p)
    drop = round(p * 2**16)
    # Comparing into floats takes a third of comparing and converting.
    floats = torch.ge(dropout_rng.draw(shape), drop - 2**15, out=torch.empty(shape, dtype=torch.float32))
    return floats.mul_(2**16 / (2**16 - drop))


def can_draw(p: float) -> bool:
    """True if 16 random bits can tell a dropout of p from none and from all."""
    return 0 < round(p * 2**16) < 2**16


def _dropout(
    kernels: CpuKernels, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor | None:
    if not training or inplace or not can_draw(p) or not _suits(input):
        return None
    return input * scaled_mask(input.shape, p, kernels.dropout_rng)


def _scaled_product(left: Tensor, right: Tensor, scale: float) -> Tensor:
    return torch.baddbmm(left.new_zeros(()), left, right, beta=0, alpha=scale)


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout_mask: Tensor | None, scale: float
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Softmax of the scaled and masked scores, dropout, and the values' sums; and what `attend_backward` needs.

    *Shapes:* (rows, heads, tokens, width); mask as in `scaled_dot_product_attention`; dropout mask, from
    `scaled_mask`, (rows, heads, tokens, tokens)
    """
    queries, keys, values = query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)
    scores = _scaled_product(queries, keys.mT, scale).view(*query.shape[:3], key.shape[2])
    if mask is not None:
        scores = scores.add_(mask) if mask.is_floating_point() else scores.masked_fill_(~mask, -torch.inf)
    shares = scores.softmax(dim=-1)
    if mask is not None:
        empty = ((mask == -torch.inf) if mask.is_floating_point() else ~mask).all(dim=-1, keepdim=True)
        if empty.any():
            shares = shares.masked_fill(empty, 0)  # as in torch, where all is masked
    kept = (shares if dropout_mask is None else shares * dropout_mask).flatten(0, 1)
    return (kept @ values).view(*query.shape[:3], value.shape[3]), (queries, keys, values, shares, dropout_mask, kept)


def attend_backward(
    gradient: Tensor, saved: tuple[Tensor | None, ...], scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients to query, key, value and an added mask, the last for every score.

    *Shapes:* three times (rows * heads, tokens, width), and (rows, heads, tokens, tokens)
    """
    queries, keys, values, shares, dropout_mask, kept = saved
    assert queries is not None and keys is not None and values is not None and shares is not None and kept is not None
    gradients = gradient.flatten(0, 1)
    to_shares = (gradients @ values.mT).view_as(shares)
    if dropout_mask is not None:
        to_shares.mul_(dropout_mask)
    to_mask = torch._softmax_backward_data(to_shares, shares, -1, shares.dtype)
    to_scores = to_mask.flatten(0, 1)
    to_query, to_key = _scaled_product(to_scores, keys, scale), _scaled_product(to_scores.mT, queries, scale)
    return to_query, to_key, kept.mT @ gradients, to_mask


class _Attention(Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout_mask: Tensor, scale: float
    ) -> Tensor:
        attended, saved = attend(query, key, value, mask, dropout_mask, scale)
        ctx.save_for_backward(*saved)
        ctx.scale, ctx.mask_shape = scale, None if mask is None else mask.shape
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *to_inputs, to_mask = attend_backward(gradient, ctx.saved_tensors, ctx.scale)
        to_inputs = [each.view(*gradient.shape[:2], *each.shape[1:]) for each in to_inputs]
        return *to_inputs, to_mask.sum_to_size(ctx.mask_shape) if ctx.needs_input_grad[3] else None, None, None


def _attention(
    kernels: CpuKernels,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **other: Any,
) -> Tensor | None:
    """Attention with dropout, for which torch has no fused form on a CPU. *Shapes:* (rows, heads, tokens, width)."""
    if not can_draw(dropout_p) or is_causal or any(other.values()) or query.dim() != 4:
        return None
    mask = attn_mask if attn_mask is not None and attn_mask.dtype != torch.bool else None
    if not _suits(query, key, value, mask) or not query.shape[:2] == key.shape[:2] == value.shape[:2]:
        return None
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    dropout_mask = scaled_mask(torch.Size((*query.shape[:3], key.shape[2])), dropout_p, kernels.dropout_rng)
    output: Tensor = _Attention.apply(query, key, value, attn_mask, dropout_mask, factor)  # type: ignore[no-untyped-call]
    return output


# ---- embeddings ----


def _embedding(
    kernels: CpuKernels,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor | None:
    if id(weight) not in kernels.sparse or scale_grad_by_freq or max_norm is not None or not _suits(weight):
        return None
    if len(weight) < input.numel():  # more gradients than zeros
        return None
    return F.embedding(input, weight, padding_idx, sparse=True)


CpuKernels.KERNELS = {
    F.linear: _linear,
    F.dropout: _dropout,
    F.scaled_dot_product_attention: _attention,
    F.embedding: _embedding,
}
