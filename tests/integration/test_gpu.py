"""What differs on a GPU, against the same on the CPU or in fp64. The numbers are small, so fp32 means fp32: no TF32."""

import copy

import pytest
import torch
from mpnet_pairs import PATTERNS, apart, inputs, pair

from hf_mtl.data.collator import TaskCollator
from hf_mtl.data.task_rows import TaskRows
from hf_mtl.gradients.gramian import GPU_STRETCH, inner_products
from hf_mtl.model import mpnet_attention as mpnet

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(autouse=True)
def full_fp32():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def test_inner_products_over_more_than_a_stretch():
    rows = torch.randn(3, 2 * GPU_STRETCH + 5, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    wanted = rows.double() @ rows.double().T
    norms = wanted.diagonal().sqrt()
    # fp32 sums over 2^20 elements, added in a tree: some 1e-7 of the two norms.
    assert ((inner_products(rows) - wanted).abs() / (norms[:, None] * norms)).max() < 1e-6


@pytest.mark.parametrize("lengths", PATTERNS.values(), ids=PATTERNS)
def test_mpnets_fused_attention_equals_the_eager_one(lengths):
    batch = {name: value.cuda() for name, value in inputs(lengths).items()}
    results = []
    for model in pair():
        hidden = model.cuda().eval()(**batch).last_hidden_state * batch["attention_mask"].unsqueeze(-1)
        hidden.square().sum().backward()
        results.append({"outputs": hidden.detach(), **{name: p.grad for name, p in model.named_parameters()}})
    for name, wanted in results[0].items():
        if not name.endswith(".k.bias"):  # zero but for rounding
            assert apart(results[1][name], wanted) < 1e-5, name


def test_mpnets_buckets_are_those_of_the_cpu():
    tables = [mpnet.position_buckets(258, torch.device(device)) for device in ("cpu", "cuda")]
    assert tables[1].is_cuda and torch.equal(tables[0], tables[1].cpu())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_step_has_the_gradient_of_the_plain_loop(make_trainer, make_model, rows, tokenizer, dtype):
    """In fp32 within 1e-5; in bf16 no further from fp32 than twice the plain loop is."""
    batch = TaskCollator(tokenizer)(TaskRows(rows["train"]).__getitems__([*range(16), *range(96, 112)]))
    model = make_model()
    trainer = make_trainer(copy.deepcopy(model), use_cpu=False, bf16=dtype == "bf16", gradient_method="sum")
    trainer.current_gradient_accumulation_steps = 1  # set by train()
    trainer.step.begin(trainer.state.global_step)
    trainer.training_step(trainer.model, batch)
    found = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])

    def plain(autocast):
        mine = copy.deepcopy(model).cuda().train()
        for task, columns in batch.items():
            with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
                loss = mine(task=task, **{name: value.cuda() for name, value in columns.items()}).loss
            loss.backward()
        return torch.cat([p.grad.flatten() for p in mine.parameters()])

    wanted = plain(False)
    bound = 1e-5 if dtype == "fp32" else 2 * apart(plain(True), wanted)
    assert apart(found, wanted) <= bound


def test_outputs_and_gradients_are_finite_where_rows_are_all_padding_but_one_token():
    _, fused = pair()
    batch = {name: value.cuda() for name, value in inputs([1, 40]).items()}
    with torch.autocast("cuda", torch.bfloat16):
        hidden = fused.cuda().train()(**batch).last_hidden_state
    hidden.float().square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in fused.parameters())
