"""The buffer of task gradients: vectors that no task touched are neither cleared nor read, in any step."""

import pytest
import torch
from plain_steps import flat

from hf_mtl.gradients.task_gradients import TaskGradients


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
        assert table.grad.norm().item() == pytest.approx(15**0.5)
    gradients.close()
