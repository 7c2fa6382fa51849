"""One training step is PCGrad on the shared parameters: checked against pytorch_optimizer and the paper's loop."""

import random

import pytest
import torch
from plain_steps import flat, paper_algorithm_1, relative_error, step
from pytorch_optimizer import PCGrad
from transformers import Trainer, TrainingArguments

from hf_mtl import MultiTaskTrainer, TaskSpec
from hf_mtl.data.collator import TaskCollator
from hf_mtl.data.task_rows import TaskRows
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
    trainer.step.begin(trainer.state.global_step)
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
    trainer.step.begin(trainer.state.global_step)
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
    assert trainer.step.gradients is None
    assert all(p.grad is not None for p in model.shared_parameters())
    assert not any(p._post_accumulate_grad_hooks for p in model.shared_parameters())


def test_an_error_in_mid_step_leaves_no_hook_behind(make_trainer, make_model, monkeypatch):
    trainer = make_trainer(model := make_model(), max_steps=1)
    monkeypatch.setattr(trainer.step, "_combine", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert not any(p._post_accumulate_grad_hooks for p in model.shared_parameters())
    make_trainer(model, max_steps=1).train()


@pytest.mark.parametrize("last", [True, False])
def test_a_tasks_row_is_summed_over_the_processes_while_the_next_ones_backward_runs(conflicting, monkeypatch, last):
    """And at the step's last micro-batch only."""
    trainer, batch = conflicting(num_tasks=3)
    trainer.step.strategy.may_pack = False  # as on several processes
    order = []
    monkeypatch.setattr(TaskGradients, "begin_sum", lambda self, task, real=TaskGradients.begin_sum: (
        order.append(f"sum {task}"), real(self, task)))  # fmt: skip
    backward = trainer.accelerator.backward
    monkeypatch.setattr(trainer.accelerator, "backward", lambda loss: (order.append("backward"), backward(loss)))
    trainer.step.begin(trainer.state.global_step)
    trainer.accelerator.gradient_state._set_sync_gradients(last)
    trainer.training_step(trainer.model, batch)
    sums = ["sum t0", "sum t1", "sum t2"] if last else [None] * 3
    assert order == [entry for each in sums for entry in ("backward", each) if entry]


def test_a_loss_that_is_not_finite_does_not_spoil_the_mean_of_the_run(conflicting):
    trainer, batch = conflicting()
    assert trainer.args.logging_nan_inf_filter is False  # which would wait for the device
    with torch.no_grad():
        trainer.model.heads["t0"].bias.fill_(float("nan"))
    trainer.step.begin(trainer.state.global_step)
    found = trainer.training_step(trainer.model, batch)
    with torch.no_grad():
        alone = trainer.model(task="t1", **batch["t1"]).loss
    assert found.item() == pytest.approx(alone.item(), rel=1e-6)
