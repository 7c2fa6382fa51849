"""One task's part of the batches of several tasks holds the same rows, batch by batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mtl.data.batch_sampler import OneTaskBatches, TaskBatchSampler
from hf_mtl.data.task_shares import task_shares

EPOCHS = 4
OPTIONS = {
    "temperature": {"temperature": 3},
    "capped": {"cap": 50},
    "explicit": {"weights": {"a": 1, "b": 2.5, "c": 1}},
}
SAMPLINGS = ["equal", "proportional", "square_root", "annealed", *OPTIONS]


def joint_sampler(sizes, sampling="equal", batch_size=12, **options):
    lengths = {task: np.arange(size) * 7 % 17 + 3 for task, size in zip("abc", sizes, strict=True)}
    by_task = dict(zip("abc", sizes, strict=True))

    def shares(epoch):
        progress = min(1.0, epoch / (EPOCHS - 1))
        return task_shares(
            sampling, by_task, [1, 1, 1], batch_size, progress=progress, options=OPTIONS.get(sampling, {})
        )

    return TaskBatchSampler(lengths, batch_size=batch_size, shares=shares, **{"seed": 3, **options})


def part_of(batch, sizes, task):
    """The rows of one task in a batch of all, numbered within the task."""
    first = sum(sizes[:task])
    return [index - first for index in batch if first <= index < first + sizes[task]]


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=3, max_size=3),
    sampling=st.sampled_from(SAMPLINGS),
    batch_size=st.integers(3, 20),
    grouped=st.booleans(),
    processes=st.integers(1, 3),
    task=st.integers(0, 2),
)
def test_its_rows_are_those_of_the_joint_batches(sizes, sampling, batch_size, grouped, processes, task):
    options = {"batch_size": batch_size, "grouped": grouped, "num_processes": processes}
    joint = joint_sampler(sizes, sampling, **options)
    alone = OneTaskBatches(joint_sampler(sizes, sampling, **options), task)
    assert len(alone) == len(joint) and alone.sizes == [sizes[task]] and alone.seed == joint.seed
    for epoch in (0, 2, 1, EPOCHS - 1):
        joint.set_epoch(epoch)
        alone.set_epoch(epoch)
        assert list(alone) == [part_of(batch, sizes, task) for batch in joint]
        assert alone.quotas(epoch).tolist() == joint.quotas(epoch)[:, [task]].tolist()


@pytest.mark.parametrize("task", range(3))
def test_it_counts_the_passes_of_its_task(task):
    joint = joint_sampler([103, 40, 7], "annealed")
    assert OneTaskBatches(joint, task).passes(2.5).tolist() == [joint.passes(2.5)[task]]
