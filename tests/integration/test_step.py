"""One training step is PCGrad on the shared parameters: checked against pytorch_optimizer and the paper's loop."""

import random

import pytest
import torch
from plain_steps import flat, paper_algorithm_1, relative_error, step
from pytorch_optimizer import PCGrad
from transformers import Trainer, TrainingArguments

from hf_mtl import MultiTaskTrainer, TaskSpec
from hf_mtl.data.tokenization import TaskCollator, TaskRows
from hf_mtl.gradients.solvers import projection_orders
from hf_mtl.gradients.task_gradients import TaskGradients
from hf_mtl.seeding import seeded_generator


@pytest.fixture
def conflicting(rows, specs, tokenizer, make_model, make_arguments):
    """A trainer and a batch of `num_tasks` tasks whose shared gradients conflict.

    All tasks read reviews through heads that share a part; in every other one all labels are 1, else 0. The gradients
    conflict without being opposite: those would cancel and leave nothing but rounding to compare. A task has 16 rows,
    so that the factor between mean and sum of its loss is exact and both sides' backward rounds alike.
    """

    def make(num_tasks=2, **arguments):
        tasks = [
            TaskSpec(name=f"t{i}", kind="classification", text_columns=("s",), labels=("no", "yes"), dataset="-")
            for i in range(num_tasks)
        ]
        model = make_model(tasks)
        common = torch.randn(2, 32)
        with torch.no_grad():
            for head in model.heads.values():
                head.weight.copy_(0.02 * (2 / num_tasks * common + torch.randn(2, 32)))
        source = rows["train"]["reviews"]
        data = {}
        for i, spec in enumerate(tasks):
            mine = source.select(range(16 * i, 16 * i + 16))
            data[spec.name] = mine.map(lambda row, i=i: {"labels": i % 2})
        trainer = MultiTaskTrainer(model, make_arguments(**arguments), tasks, data, data, tokenizer)
        trainer.current_gradient_accumulation_steps = 1  # set by train()
        batch = TaskCollator(tokenizer)(TaskRows(data).__getitems__(range(16 * num_tasks)))
        return trainer, batch

    return make


def task_gradients(trainer, batch):
    """Task -> (flat gradient of its mean loss over the shared parameters, flat gradient of its own head)."""
    model, shared = trainer.model, trainer.model.shared_parameters()
    result = {}
    for task, inputs in batch.items():
        head = list(model.heads[task].parameters())
        loss = model.train()(task=task, **inputs).loss
        gradients = torch.autograd.grad(loss, [*shared, *head])
        result[task] = flat(gradients[: len(shared)]), flat(gradients[len(shared) :])
    return result


def test_two_tasks_equal_pytorch_optimizers_pcgrad_on_the_shared_parameters(conflicting):
    trainer, batch = conflicting()
    gradients = [shared for shared, _ in task_gradients(trainer, batch).values()]
    assert torch.dot(*gradients) < 0
    found = step(trainer, batch)

    shared = trainer.model.shared_parameters()
    oracle = PCGrad(torch.optim.SGD(shared, lr=0.1), reduction="sum")
    random.seed(0)  # with two tasks the order does not matter
    oracle.pc_backward([trainer.model(task=task, **inputs).loss for task, inputs in batch.items()])
    wanted = flat([p.grad for p in shared])
    # fp32 accumulation over up to 10^5 elements: a few units of 6e-8 times a small condition number.
    assert relative_error(found, wanted) <= 1e-6
    assert relative_error(sum(gradients), wanted) > 1e-2  # a step that skipped the projection would be seen


@pytest.mark.parametrize("num_tasks", [3, 4])
def test_more_tasks_equal_the_papers_loop_in_the_same_order(conflicting, num_tasks):
    trainer, batch = conflicting(num_tasks)
    gradients = [shared for shared, _ in task_gradients(trainer, batch).values()]
    for global_step in (0, 7):
        trainer.state.global_step = global_step
        orders = projection_orders(num_tasks, seeded_generator(trainer.args.seed, global_step))
        wanted = paper_algorithm_1(gradients, orders)
        assert relative_error(step(trainer, batch), wanted) <= 1e-6
        assert relative_error(sum(gradients), wanted) > 1e-2


@pytest.mark.parametrize("method", ["pcgrad", "sum", "mean", "pcgrad_reference"])
def test_each_head_keeps_its_own_tasks_gradient(conflicting, method):
    trainer, batch = conflicting(gradient_method=method)
    wanted = {task: head for task, (_, head) in task_gradients(trainer, batch).items()}
    step(trainer, batch)
    for task, gradient in wanted.items():
        assert relative_error(flat([p.grad for p in trainer.model.heads[task].parameters()]), gradient) <= 1e-6


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_reference_method_agrees_with_the_fast_one(conflicting, reduction):
    options = f'{{"reduction": "{reduction}"}}'
    fast, reference = (
        step(*conflicting(gradient_method=method, gradient_method_args=options))
        for method in ("pcgrad", "pcgrad_reference")
    )
    assert relative_error(fast, reference) <= 1e-6


def test_the_reference_method_leaves_the_global_random_state_alone(conflicting):
    trainer, batch = conflicting(gradient_method="pcgrad_reference")
    random.seed(5)
    state = random.getstate()
    first = step(trainer, batch)
    assert random.getstate() == state
    random.seed(6)
    assert torch.equal(step(trainer, batch), first)


def test_loss_weights_scale_a_tasks_gradient(conflicting):
    trainer, batch = conflicting(gradient_method="sum", loss_weights='{"t0": 3}')
    (a, head_a), (b, _) = task_gradients(trainer, batch).values()
    assert relative_error(step(trainer, batch), 3 * a + b) <= 1e-6
    assert relative_error(flat([p.grad for p in trainer.model.heads["t0"].parameters()]), 3 * head_a) <= 1e-6


def test_accumulated_micro_batches_of_unequal_size_give_the_gradient_of_all_rows(conflicting):
    trainer, batch = conflicting()
    wanted = step(trainer, batch)
    trainer.begin_step()
    for part, last in ((slice(0, 5), False), (slice(5, 16), True)):
        trainer.accelerator.gradient_state._set_sync_gradients(last)
        pieces = {task: {name: value[part] for name, value in inputs.items()} for task, inputs in batch.items()}
        trainer.training_step(trainer.model, pieces)
    found = flat([p.grad for p in trainer.model.shared_parameters()])
    assert relative_error(found, wanted) <= 1e-6


def test_a_frozen_encoder_trains_the_heads_alone(conflicting):
    trainer, batch = conflicting()
    wanted = {task: head for task, (_, head) in task_gradients(trainer, batch).items()}
    trainer.model.encoder.requires_grad_(False)
    trainer.begin_step()
    trainer.training_step(trainer.model, batch)
    assert all(p.grad is None for p in trainer.model.shared_parameters())
    for task, gradient in wanted.items():
        assert relative_error(flat([p.grad for p in trainer.model.heads[task].parameters()]), gradient) <= 1e-6


def test_sum_equals_a_stock_trainer_on_the_summed_loss(make_trainer, make_model, rows, tokenizer, tmp_path):
    settings = {
        "max_steps": 20,
        "optim": "sgd",
        "learning_rate": 0.05,
        "max_grad_norm": 1.0,
        "lr_scheduler_type": "constant",
    }
    start = flat(make_model().parameters()).detach()
    ours = make_trainer(gradient_method="sum", **settings)
    ours.train()
    batches = list(ours.get_train_dataloader())

    class SummedLoss(Trainer):
        """The stock training step on one joint loss."""

        loss_is_scaled_for_ga = False

        def get_train_dataloader(self):
            return batches

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return sum(model(task=task, **batch).loss for task, batch in inputs.items())

    args = TrainingArguments(
        output_dir=str(tmp_path / "stock"),
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
        **settings,
    )
    stock = SummedLoss(model=make_model(), args=args, train_dataset=ours.train_dataset)
    stock.train()
    update = flat(stock.model.parameters()) - start
    assert update.norm() > 0.01
    # 20 steps amplify the rounding of fp32 sums taken in another order.
    assert relative_error(flat(ours.model.parameters()) - start, update) <= 1e-5


def test_after_training_the_rows_are_gone_and_backward_is_as_ever(make_trainer):
    trainer = make_trainer(max_steps=1)
    trainer.train()
    model = trainer.model
    batch = next(iter(trainer.get_train_dataloader()))["reviews"]
    model.zero_grad()
    model(task="reviews", **batch).loss.backward()
    assert trainer.gradients is None
    assert all(p.grad is not None for p in model.shared_parameters())
    assert not any(p._post_accumulate_grad_hooks for p in model.shared_parameters())


def test_an_error_in_mid_step_leaves_no_hook_behind(make_trainer, make_model, monkeypatch):
    trainer = make_trainer(model := make_model(), max_steps=1)
    monkeypatch.setattr(trainer, "_combine", lambda gradients: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert not any(p._post_accumulate_grad_hooks for p in model.shared_parameters())
    make_trainer(model, max_steps=1).train()


@pytest.mark.parametrize("last", [True, False])
def test_a_tasks_row_is_summed_over_the_processes_while_the_next_ones_backward_runs(conflicting, monkeypatch, last):
    """And at the step's last micro-batch only."""
    trainer, batch = conflicting(num_tasks=3)
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    order = []
    monkeypatch.setattr(TaskGradients, "begin_sum", lambda self, task, real=TaskGradients.begin_sum: (
        order.append(f"sum {task}"), real(self, task)))  # fmt: skip
    backward = trainer.accelerator.backward
    monkeypatch.setattr(trainer.accelerator, "backward", lambda loss: (order.append("backward"), backward(loss)))
    trainer.begin_step()
    trainer.accelerator.gradient_state._set_sync_gradients(last)
    trainer.training_step(trainer.model, batch)
    sums = ["sum t0", "sum t1", "sum t2"] if last else [None] * 3
    assert order == [entry for each in sums for entry in ("backward", each) if entry]


def test_a_loss_that_is_not_finite_does_not_spoil_the_mean_of_the_run(conflicting):
    trainer, batch = conflicting()
    assert trainer.args.logging_nan_inf_filter is False  # which would wait for the device
    with torch.no_grad():
        trainer.model.heads["t0"].bias.fill_(float("nan"))
    trainer.begin_step()
    found = trainer.training_step(trainer.model, batch)
    with torch.no_grad():
        alone = trainer.model(task="t1", **batch["t1"]).loss
    assert found.item() == pytest.approx(alone.item(), rel=1e-6)


def test_inner_products_and_sum_leave_out_vectors_that_no_row_has_a_gradient_in():
    """As over whole rows: with a table before, between and after other parameters, one of them with many vectors."""
    torch.manual_seed(0)
    sizes = [(40, 3), (7,), (30, 2), (5, 3), (4, 4)]
    shared = [torch.nn.Parameter(torch.zeros(size)) for size in sizes]
    heads = {task: [torch.nn.Parameter(torch.zeros(1))] for task in ("a", "b")}
    gradients = TaskGradients(["a", "b"], shared, heads, {"a": 1.0, "b": 2.0})
    gradients.buffer.values.fill_(torch.nan)
    gradients.clear()
    for task in (0, 1):
        for table in (0, 2, 3):
            ids = torch.tensor([[3, 2, 3], [4, 2, 2]])[task]
            gradients.buffer.add_at(task, shared[table], ids, torch.randn(3, sizes[table][1]))
        gradients.buffer.add(task, shared[1], torch.randn(7))
        gradients.buffer.add_product(task, shared[4], torch.randn(4, 2), torch.randn(2, 4))
        gradients.count("ab"[task], torch.tensor(1.0), 1)
    rows = gradients.buffer.values.clone()
    assert rows.isfinite().all()
    assert [None if found is None else found.tolist() for _, found, _ in gradients.buffer.column_blocks()] == [
        None, [2, 3, 4], None, [2, 3, 4], None,
    ]  # fmt: skip
    gradients.reduce()
    assert not gradients.leave_out_bad_tasks(keep_overflow=False)
    wanted = rows.double() @ rows.double().T
    scales = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(gradients.gramian(), wanted * scales[:, None] * scales, rtol=1e-6, atol=0)
    gradients.write_weighted(torch.tensor([0.5, 3.0]))
    torch.testing.assert_close(flat([p.grad for p in shared]), 0.5 * rows[0] + 6 * rows[1], rtol=1e-6, atol=1e-7)
    gradients.clear()
    gradients.buffer.add_at(0, shared[0], torch.tensor([1]), torch.ones(1, 3))
    gradients.buffer.add(1, shared[0], torch.ones(40, 3))  # a whole gradient beside
    assert [found for _, found, _ in gradients.buffer.column_blocks()] == [None]
    gradients.close()


def test_a_step_finds_nothing_of_the_vectors_of_the_steps_before():
    """Whatever the steps before filled, left out or showed to an optimizer, which may change all that it sees."""
    torch.manual_seed(0)
    tables = [torch.nn.Parameter(torch.zeros(40, 3)), torch.nn.Parameter(torch.zeros(30, 2))]
    heads = {task: [torch.nn.Parameter(torch.zeros(1))] for task in "abc"}
    gradients = TaskGradients(list(heads), tables, heads, dict.fromkeys(heads, 1.0))
    gradients.buffer.values.fill_(torch.nan)
    few, others, whole = torch.tensor([3, 2, 3]), torch.tensor([7, 2]), torch.arange(40)
    steps = [
        {0: few, 1: others, 2: few},
        {0: others, 1: others, 2: others},
        {1: few, 2: others},
        {0: others, 1: whole, 2: few},
        {0: few, 1: others, 2: others},
        {0: few, 1: few, 2: few},
        {0: others, 1: others, 2: others},
    ]
    for number, ids_of_tasks in enumerate(steps):
        gradients.clear()
        wanted = [[torch.zeros_like(table) for table in tables] for _ in heads]
        for task, ids in ids_of_tasks.items():
            filled = tables if (number + task) % 3 != 2 and ids is not whole else tables[:1]
            for _ in range(2):  # micro-batches
                for table, dense in zip(filled, wanted[task], strict=False):
                    own = torch.randn(len(ids), table.shape[1])
                    if number == 4 and task == 0:
                        own.fill_(torch.nan)
                    dense.index_add_(0, ids, own)
                    if ids is whole:
                        gradients.buffer.add(task, table, own)
                    else:
                        gradients.buffer.add_at(task, table, ids, own)
            gradients.count("abc"[task], torch.tensor(1.0), 1)
        for task, row in enumerate(wanted):
            gradients.begin_sum("abc"[task])
            assert torch.equal(gradients.buffer.values[task].nan_to_num(9), flat(row).nan_to_num(9))
        gradients.reduce()
        assert gradients.leave_out_bad_tasks(keep_overflow=False) == ["a"] * (number == 4)
        gradients.write_weighted(torch.ones(len(gradients.finite_tasks)))
        good = [flat(row) for row in wanted if flat(row).isfinite().all()]
        torch.testing.assert_close(flat([table.grad for table in tables]), torch.stack(good).sum(dim=0))
        for table in tables:
            table.grad.add_(1)
    gradients.close()


def clipped_by_torch(trainer, max_norm):
    """Copies of the parameters, in fp64, with clipped copies of their gradients; and the norm before."""
    parameters = list(trainer.model.parameters())
    copies = [torch.nn.Parameter(torch.zeros_like(p, dtype=torch.float64)) for p in parameters]
    for copy, parameter in zip(copies, parameters, strict=True):
        copy.grad = None if parameter.grad is None else parameter.grad.double()
    return copies, torch.nn.utils.clip_grad_norm_(copies, max_norm)


def take_step(trainer, batch=None):
    trainer.current_gradient_accumulation_steps = 1
    trainer.begin_step()
    trainer.training_step(trainer.model, batch or next(iter(trainer.get_train_dataloader())))


@pytest.mark.parametrize("left_out", [False, True])
@pytest.mark.parametrize("max_norm", [0.1, 1e6])
def test_clipping_is_torchs(make_trainer, monkeypatch, max_norm, left_out):
    """With vectors of the word embeddings left out, and without a call of torch's; with and without the first task."""
    trainer = make_trainer(max_grad_norm=max_norm)
    batch = next(iter(trainer.get_train_dataloader()))
    if left_out:
        with torch.no_grad():
            trainer.model.heads["reviews"].bias.fill_(torch.nan)
    take_step(trainer, batch)
    assert trainer.gradients.finite_tasks == ([1] if left_out else [0, 1])
    copies, wanted = clipped_by_torch(trainer, max_norm)
    assert 0.1 < wanted < 1e6
    with monkeypatch.context() as without:
        without.setattr(trainer.accelerator, "clip_grad_norm_", None)
        found = trainer._clip_grad_norm(trainer.model)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    for copy, parameter in zip(copies, trainer.model.parameters(), strict=True):
        assert (parameter.grad is None) == (copy.grad is None)
        if copy.grad is not None:  # torch adds 1e-6 to the norm that it divides by
            torch.testing.assert_close(parameter.grad, copy.grad.float(), rtol=2e-5, atol=0)


class Noisy(MultiTaskTrainer):
    """Changes gradients in a way that leaves no trace."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        for parameter in model.parameters():
            parameter.grad.data.add_(1)
        return loss


def test_gradients_that_a_subclass_changed_are_clipped_by_torch(make_trainer):
    trainer = make_trainer()
    trainer.__class__ = Noisy
    take_step(trainer)
    _, wanted = clipped_by_torch(trainer, 1.0)
    assert trainer._clip_grad_norm(trainer.model).item() == pytest.approx(wanted.item(), rel=1e-5)
    assert flat([p.grad for p in trainer.model.parameters()]).norm().item() == pytest.approx(1.0, rel=1e-5)


def test_without_a_gradient_nothing_is_clipped(make_trainer):
    trainer = make_trainer()
    trainer.begin_step()
    assert trainer.gradients.clip(1.0) is None
    assert trainer._clip_grad_norm(trainer.model) == 0


def test_other_processes_vectors_are_not_left_out(monkeypatch):
    """Where a sum over processes brings gradients of vectors that this one had none of."""
    table, head = torch.nn.Parameter(torch.zeros(40, 3)), torch.nn.Parameter(torch.zeros(1))
    gradients = TaskGradients(["a"], [table], {"a": [head]}, {"a": 1.0})

    class Done:
        def wait(self):
            pass

    def add_theirs(tensors):
        for tensor in tensors:
            if tensor.numel() == table.numel():
                tensor.view(40, 3)[30] += 2
        return [Done()]

    monkeypatch.setattr("hf_mtl.gradients.task_gradients.begin_sum_over_processes", add_theirs)
    for _ in range(2):
        gradients.clear()
        gradients.buffer.add_at(0, table, torch.tensor([1]), torch.ones(1, 3))
        gradients.count("a", torch.tensor(1.0), 1)
        gradients.begin_sum("a")
        gradients.reduce()
        assert not gradients.leave_out_bad_tasks(keep_overflow=False)
        assert gradients.gramian().item() == pytest.approx(3 + 12)
        gradients.write_weighted(torch.ones(1))
        assert gradients.clip(1.0).item() == pytest.approx(15**0.5)
        assert table.grad.norm().item() == pytest.approx(1.0)
    gradients.close()
