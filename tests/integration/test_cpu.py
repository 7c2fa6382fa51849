"""The CPU's kernels against torch's own functions: outputs and gradients, and what dropout drops."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from hf_mtl.gradients.task_gradients import TaskGradients
from hf_mtl.kernels import cpu_functions as cpu
from hf_mtl.kernels.cpu_functions import CpuKernels

TOLERANCE = 1e-5  # fp32 sums in another order differ by some 1e-7 of the whole, a few times that through several layers


@pytest.fixture(autouse=True)
def any_processor(monkeypatch):
    """All kernels are tested, also those that an Intel processor goes without."""
    monkeypatch.setattr(cpu, "_is_intels", lambda: False)


def apart(found, wanted):
    """2-norm of the difference over that of the wanted."""
    return ((found - wanted).norm() / wanted.norm()).item()


def outputs_and_gradients(function, tensors):
    """What a function gives, and the gradient of a fixed weighted sum of it for every tensor that wants one."""
    tensors = [t.detach().clone().requires_grad_(t.requires_grad) if t is not None else None for t in tensors]
    output = function(*tensors)
    output.backward(torch.randn(output.shape, generator=torch.Generator().manual_seed(1)))
    return output.detach(), [t.grad for t in tensors if t is not None and t.requires_grad]


def no_kernels(sparse=(), dropout_rng=None):
    """In the place of `CpuKernels`."""
    return nullcontext()


def assert_same(function, tensors):
    """A function under the kernels gives what it gives without, and so do its gradients."""
    wanted, gradients = outputs_and_gradients(function, tensors)
    with CpuKernels():
        found, own = outputs_and_gradients(function, tensors)
    assert apart(found, wanted) < TOLERANCE
    for gradient, other in zip(own, gradients, strict=True):
        assert gradient.shape == other.shape
        assert apart(gradient, other) < TOLERANCE


def calls_of(monkeypatch, name):
    """A list that grows with every call of one of the kernels' parts."""
    calls, real = [], getattr(cpu, name)
    monkeypatch.setattr(cpu, name, lambda *args: calls.append(args) or real(*args))
    return calls


# ---- linear layers ----


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 5)], ids=str)
@pytest.mark.parametrize(("width", "width_out"), [(8, 24), (24, 8), (16, 16), (16, 1)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_linear_layers(shape, width, width_out, with_bias, monkeypatch):
    calls = calls_of(monkeypatch, "product")
    torch.manual_seed(0)
    bias = torch.randn(width_out, requires_grad=True) if with_bias else None
    assert_same(
        F.linear,
        [torch.randn(*shape, width, requires_grad=True), torch.randn(width_out, width, requires_grad=True), bias],
    )
    assert len(calls) == (3 if width_out < width else 2)  # forward, to the input, and to the weight where it narrows


def test_linear_layers_of_transposed_inputs_and_gradients():
    torch.manual_seed(0)
    weight, second = torch.randn(12, 8, requires_grad=True), torch.randn(6, 5, requires_grad=True)

    def function(inputs, weight, second):
        return F.linear(F.linear(inputs.transpose(1, 2), weight).transpose(1, 2), second)

    assert_same(function, [torch.randn(4, 8, 5, requires_grad=True), weight, second])


@pytest.mark.parametrize("trains", [{"inputs"}, {"weight"}, {"bias"}])
def test_linear_layers_compute_no_gradient_that_nobody_wants(trains):
    torch.manual_seed(0)
    tensors = [
        torch.randn(shape, requires_grad=name in trains)
        for name, shape in (("inputs", (5, 8)), ("weight", (3, 8)), ("bias", (3,)))
    ]
    assert_same(F.linear, tensors)
    with CpuKernels():
        output = F.linear(*tensors)
    saved = [t for t in output.grad_fn.next_functions[0][0].saved_tensors if t is not None]
    assert len(saved) == (0 if trains == {"bias"} else 1)


def test_the_output_of_a_linear_layer_may_be_changed_in_place():
    torch.manual_seed(0)
    for shape in ((4, 8), (2, 4, 8)):
        tensors = [torch.randn(shape, requires_grad=True), torch.randn(6, 8, requires_grad=True)]
        assert_same(lambda x, w: F.relu(F.linear(x, w).div_(2), inplace=True), tensors)
        frozen = [tensors[0].detach(), tensors[1].detach(), torch.randn(6, requires_grad=True)]
        assert_same(lambda x, w, b: F.linear(x, w).add_(b), frozen)


def test_linear_layers_of_tensors_that_are_not_contiguous():
    torch.manual_seed(0)
    inputs, weight = torch.randn(3, 8, requires_grad=True), torch.randn(6, 8, requires_grad=True)
    assert_same(lambda x, w, b: F.linear(x, w, b[::2]), [inputs, weight, torch.randn(12, requires_grad=True)])
    assert_same(lambda x, w, b: F.linear(x, w, b.expand(6)), [inputs, weight, torch.randn(1, requires_grad=True)])
    assert_same(lambda x, w: F.linear(x.unfold(0, 8, 1), w), [torch.randn(20, requires_grad=True), weight])
    assert_same(lambda x, w: F.linear(x, w.T), [inputs, torch.randn(8, 6, requires_grad=True)])


def test_on_an_intel_processor_linear_layers_are_left_to_torch(monkeypatch):
    calls = calls_of(monkeypatch, "product")
    monkeypatch.setattr(cpu, "_is_intels", lambda: True)
    assert_same(F.linear, [torch.randn(5, 8, requires_grad=True), torch.randn(3, 8, requires_grad=True)])
    assert not calls


def test_a_linear_layer_without_gradients_keeps_no_graph():
    with CpuKernels():
        assert F.linear(torch.randn(5, 8), torch.randn(3, 8)).grad_fn is None


# ---- dropout ----


def test_dropout_drops_with_its_probability_and_keeps_the_mean():
    """Within five standard deviations, 0.0011 of a million draws; each of the four draws of a word alike."""
    torch.manual_seed(0)
    with CpuKernels():
        output = F.dropout(torch.ones(2**20), 0.1)
    assert output.unique().tolist() == [0.0, pytest.approx(1 / 0.9, rel=1e-4)]
    for draws in (output, *output.view(-1, 4).unbind(dim=1)):
        assert (draws == 0).float().mean().item() == pytest.approx(0.1, abs=5 * (0.09 / len(draws)) ** 0.5)
    pairs = (output.view(-1, 4)[:, 0] == 0) & (output.view(-1, 4)[:, 1] == 0)
    assert pairs.float().mean().item() == pytest.approx(0.01, abs=5 * (0.0099 / len(pairs)) ** 0.5)


def test_dropout_has_a_gradient_where_it_kept():
    inputs = torch.randn(50, 7, requires_grad=True)
    with CpuKernels():
        output = F.dropout(inputs, 0.3)
    output.sum().backward()
    torch.testing.assert_close(inputs.grad, output.detach() / inputs.detach())


def test_dropout_follows_the_seed():
    """Two masks of a forward differ, and so do two forwards; after the same seed all are the same again."""
    inputs = torch.randn(50, 7)
    masks = []
    for _ in range(2):
        torch.manual_seed(3)
        for _ in range(2):
            with CpuKernels():
                masks += [F.dropout(inputs, 0.3) for _ in range(2)]
    for i in range(4):
        assert torch.equal(masks[i], masks[4 + i])
        assert not any(torch.equal(masks[i], other) for other in masks[:i])


@pytest.mark.parametrize("p", [0.0, 1e-7, 1.0])
def test_probabilities_that_16_bits_cannot_draw_are_left_to_torch(p, monkeypatch):
    calls = calls_of(monkeypatch, "scaled_mask")
    inputs = torch.randn(10)
    with CpuKernels():
        torch.testing.assert_close(F.dropout(inputs, p), inputs if p < 1 else torch.zeros(10))
        assert torch.equal(F.dropout(inputs, 0.5, training=False), inputs)
    assert not calls


# ---- attention ----

HIDDEN = torch.arange(7)[None, :] < torch.tensor([7, 4, 1])[:, None]  # rows of 7, 4 and 1 real tokens
MASKS = {
    "none": None,
    "bool": HIDDEN[:, None, None, :],
    "float": torch.zeros(3, 1, 1, 7).masked_fill(~HIDDEN[:, None, None, :], torch.finfo(torch.float32).min),
    "all of a row": torch.arange(7)[None, None, None, :] < torch.tensor([7, 0, 1])[:, None, None, None],
    "infinite": torch.zeros(3, 1, 1, 7).masked_fill(torch.tensor([0, 1, 0])[:, None, None, None].bool(), -torch.inf),
    "bias": torch.randn(1, 2, 7, 7, generator=torch.Generator().manual_seed(5)).requires_grad_(),
}


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_attention(mask, scale, monkeypatch):
    """With the same mask of dropout on both sides."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, 7, 2, 4, requires_grad=True).transpose(1, 2) for _ in range(3))
    dropped = cpu.scaled_mask(torch.Size((3, 2, 7, 7)), 0.4, cpu.FastDropoutRng())
    monkeypatch.setattr(cpu, "scaled_mask", lambda *args: dropped)

    def plain(query, key, value, mask):
        scores = query @ key.transpose(2, 3) * (0.5 if scale is None else scale)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        nothing = (scores == -torch.inf).all(dim=-1, keepdim=True)
        return (scores.masked_fill(nothing, 0).softmax(dim=-1) * ~nothing * dropped) @ value

    def ours(query, key, value, mask):
        with CpuKernels():
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=0.4, scale=scale)

    wanted, gradients = outputs_and_gradients(plain, [query, key, value, mask])
    found, own = outputs_and_gradients(ours, [query, key, value, mask])
    assert apart(found, wanted) < TOLERANCE
    for gradient, other in zip(own, gradients, strict=True):
        assert apart(gradient, other) < TOLERANCE


@pytest.mark.parametrize("options", [{"dropout_p": 0.0}, {"dropout_p": 0.4, "is_causal": True}], ids=str)
def test_attention_of_another_kind_is_left_to_torch(options, monkeypatch):
    calls = calls_of(monkeypatch, "scaled_mask")
    tensors = [torch.randn(3, 2, 7, 4) for _ in range(3)]
    torch.manual_seed(0)
    wanted = F.scaled_dot_product_attention(*tensors, **options)
    torch.manual_seed(0)
    with CpuKernels():
        assert torch.equal(F.scaled_dot_product_attention(*tensors, **options), wanted)
    assert not calls


# ---- embeddings ----


@pytest.mark.parametrize("padding_idx", [None, 3])
def test_rows_take_an_embeddings_sparse_gradients(padding_idx):
    """Over two micro-batches with repeated ids, as dense ones."""
    ids = torch.tensor([[3, 9, 9, 1], [3, 3, 0, 9]])
    rows = []
    for around in (CpuKernels, no_kernels):
        torch.manual_seed(0)
        table = nn.Embedding(40, 5, padding_idx)
        head = nn.Linear(5, 1)
        gradients = TaskGradients(["a"], list(table.parameters()), {"a": list(head.parameters())}, {"a": 1.0})
        gradients.buffer.values.fill_(torch.nan)  # no content yet
        gradients.clear()
        for part in (ids, ids[:1]):
            with around(table.parameters()):
                vectors = table(part)
                loss = head(vectors).square().mean()
            kinds = []
            hook = table.weight.register_hook(lambda g, kinds=kinds: kinds.append(g.is_sparse))
            with gradients.collecting("a", loss, len(part)):
                (loss * len(part)).backward()
            hook.remove()
            assert kinds == [around is CpuKernels]
        gradients.close()
        rows.append(gradients.buffer.values[0].clone())
    assert apart(rows[0], rows[1]) < TOLERANCE


def test_a_small_table_has_a_dense_gradient():
    table = nn.Embedding(2, 5)
    with CpuKernels(table.parameters()):
        table(torch.zeros(4, dtype=torch.int64)).sum().backward()
    assert not table.weight.grad.is_sparse


def test_only_gradients_that_something_takes_are_sparse():
    """A part of a table, one that is scaled by frequency, and one that nobody named have dense gradients."""
    ids, table = torch.tensor([1, 1]), nn.Embedding(40, 5)
    with CpuKernels(table.parameters()):
        (F.embedding(ids, table.weight[:20]) + table(ids)).sum().backward()
    assert not table.weight.grad.is_sparse
    table.scale_grad_by_freq, table.weight.grad = True, None
    with CpuKernels(table.parameters()):
        table(ids).sum().backward()
    assert not table.weight.grad.is_sparse
    other = nn.Embedding(40, 5)
    with CpuKernels(table.parameters()):
        other(ids).sum().backward()
    assert not other.weight.grad.is_sparse


# ---- where they are used ----


class Watch(TorchFunctionMode):
    """Notes which of torch's functions are reached."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.seen.add(function)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_left_to_torch(dtype):
    tensors = [torch.randn(4, 8, dtype=dtype), torch.randn(3, 8, dtype=dtype)]
    with Watch() as watch, CpuKernels():
        assert F.linear(*tensors).dtype == dtype
    assert F.linear in watch.seen


def test_autocast_keeps_its_types():
    with torch.autocast("cpu", torch.bfloat16), CpuKernels():
        assert F.linear(torch.randn(4, 8), torch.randn(3, 8)).dtype == torch.bfloat16


def step_rows(trainer):
    """The rows of gradients after one step's backward, before they are combined."""
    trainer.current_gradient_accumulation_steps = 1
    trainer.step._combine = lambda gradients, scaler: None
    trainer.step.begin(trainer.state.global_step)
    trainer.training_step(trainer.model, next(iter(trainer.get_train_dataloader())))
    return trainer.step.gradients.buffer.values


def test_a_steps_gradients_are_those_of_the_plain_forward(make_trainer, monkeypatch):
    """A task at a time; tests/integration/test_packing.py has all of them together."""
    monkeypatch.setattr("hf_mtl.kernels.strategy.supports_packed_pass", lambda *args: False)
    calls = calls_of(monkeypatch, "product")
    rows = step_rows(make_trainer())
    assert calls
    monkeypatch.setattr("hf_mtl.kernels.strategy.CpuKernels", no_kernels)
    for row, wanted in zip(rows, step_rows(make_trainer()), strict=True):
        assert apart(row, wanted) < TOLERANCE


def test_gradients_with_checkpointing_are_those_without_it_under_dropout(make_trainer, make_model, monkeypatch):
    """Backward repeats the forward there, outside the kernels, which would drop other numbers."""
    model = make_model(dropout=0.3)
    model.gradient_checkpointing_enable()
    rows = step_rows(make_trainer(model))
    monkeypatch.setattr("hf_mtl.kernels.strategy.CpuKernels", no_kernels)
    monkeypatch.setattr("hf_mtl.kernels.strategy.supports_packed_pass", lambda *args: False)
    for row, wanted in zip(rows, step_rows(make_trainer(make_model(dropout=0.3))), strict=True):
        assert apart(row, wanted) < TOLERANCE


def test_compiled_layers_go_without_them(make_trainer, monkeypatch):
    calls = calls_of(monkeypatch, "product")
    for compiled in (True, False):
        options = {"torch_compile": True, "torch_compile_backend": "eager"} if compiled else {}
        with make_trainer(**options).step.around_forward():
            F.linear(torch.randn(4, 8), torch.randn(3, 8))
        assert len(calls) == (0 if compiled else 1)


def test_without_onednn_linear_layers_are_left_to_torch(monkeypatch):
    calls = calls_of(monkeypatch, "product")
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    with CpuKernels():
        F.linear(torch.randn(4, 8), torch.randn(3, 8))
    assert not calls


def test_evaluation_takes_them_too(make_trainer, monkeypatch):
    calls = calls_of(monkeypatch, "product")
    scores = make_trainer().evaluate()
    assert calls
    monkeypatch.setattr("hf_mtl.kernels.strategy.CpuKernels", no_kernels)
    assert scores["eval_loss"] == pytest.approx(make_trainer().evaluate()["eval_loss"], rel=TOLERANCE)
