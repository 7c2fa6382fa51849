"""The batch sampler: exact shares, permutations without repeats, ranks, resuming, padding."""

from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mtl import InputError
from hf_mtl.sampling import TaskBatchSampler, permuted_rows, task_quotas, task_shares

SIZES = {"large": 103, "middle": 40, "small": 7}


def sampler(sizes=SIZES, sampling="equal", batch_size=12, weights=None, lengths=None, **options) -> TaskBatchSampler:
    lengths = lengths or {task: np.arange(size) % 17 + 3 for task, size in sizes.items()}
    shares = task_shares(sampling, [len(v) for v in lengths.values()], weights or [1] * len(lengths), batch_size)
    return TaskBatchSampler(lengths, batch_size=batch_size, shares=shares, **{"seed": 0, **options})


def epoch(batches: TaskBatchSampler, number: int) -> list[list[int]]:
    batches.set_epoch(number)
    return list(batches)


def task_streams(batches: list[list[int]], sizes=SIZES) -> list[list[int]]:
    """Each task's rows, numbered from 0, in the order in which they are trained on."""
    ends = np.cumsum(list(sizes.values()))
    streams = [[] for _ in sizes]
    for index in (index for batch in batches for index in batch):
        task = int(np.searchsorted(ends, index, side="right"))
        streams[task].append(index - (int(ends[task - 1]) if task else 0))
    return streams


# ---- shares and quotas ----


def test_equal_shares_are_the_batch_divided_by_the_tasks():
    assert task_shares("equal", [10, 1000, 3], [1, 1, 1], 64).tolist() == pytest.approx([64 / 3] * 3)
    assert task_shares("equal", [10, 1000], [3, 1], 64).tolist() == pytest.approx([48, 16])


def test_proportional_shares_are_those_of_the_rows():
    assert task_shares("proportional", [300, 100], [1, 1], 64).tolist() == pytest.approx([48, 16])
    assert task_shares("proportional", [300, 100], [1, 3], 64).tolist() == pytest.approx([32, 32])


def test_a_share_below_one_row_is_one_row_and_the_others_divide_the_rest():
    shares = task_shares("proportional", [100_000, 50_000, 10], [1, 1, 1], 31)
    assert shares.tolist() == pytest.approx([20, 10, 1])
    assert task_shares("proportional", [10**6, 1, 1], [1, 1, 1], 3).tolist() == pytest.approx([1, 1, 1])


def test_an_unknown_sampling_lists_those_there_are():
    with pytest.raises(InputError, match=r"'equl' \(did you mean 'equal'\?\); choose from: equal, proportional"):
        task_shares("equl", [1, 1], [1, 1], 8)


def test_a_batch_smaller_than_the_number_of_tasks_is_refused():
    task_shares("equal", [5, 5, 5], [1, 1, 1], 3)
    with pytest.raises(InputError, match=r"per_device_train_batch_size is 2 and there are 3 tasks.*at least 3"):
        task_shares("equal", [5, 5, 5], [1, 1, 1], 2)


@settings(deadline=None, max_examples=150)
@given(
    sizes=st.lists(st.integers(1, 10**6), min_size=1, max_size=9),
    spare=st.integers(0, 60),
    sampling=st.sampled_from(["equal", "proportional"]),
    data=st.data(),
)
def test_quotas_fill_every_batch_and_follow_the_shares(sizes, spare, sampling, data):
    weights = data.draw(st.lists(st.floats(0.01, 100), min_size=len(sizes), max_size=len(sizes)))
    batch_size = len(sizes) + spare
    shares = task_shares(sampling, sizes, weights, batch_size)
    assert shares.sum() == pytest.approx(batch_size)
    assert shares.min() >= 1 - 1e-9
    quotas = task_quotas(shares, 120)
    assert (quotas.sum(axis=1) == batch_size).all()
    assert quotas.min() >= 1
    due = shares * np.arange(1, 121)[:, None]
    # What is owed is carried on, so the difference does not grow; that every batch holds one row of every task can
    # bring a row forward, hence "about" one row.
    assert np.abs(quotas.cumsum(axis=0) - due).max() < 1.5


# ---- batches ----


@pytest.mark.parametrize("sampling", ["equal", "proportional"])
@pytest.mark.parametrize("grouped", [True, False])
def test_every_batch_holds_its_quota_of_every_task(sampling, grouped):
    batches = sampler(sampling=sampling, grouped=grouped)
    assert len(batches) == len(list(batches))
    for batch, quota in zip(batches, batches.quotas, strict=True):
        assert [len(stream) for stream in task_streams([batch])] == quota.tolist()
        assert len(batch) == 12


def test_an_epoch_is_one_pass_over_the_largest_task_or_over_all_rows():
    assert len(sampler(sampling="equal")) == -(-103 // 4)
    assert len(sampler(sampling="proportional")) == -(-150 // 12)
    assert len(sampler(sizes={"only": 24})) == 2


@pytest.mark.parametrize("sampling", ["equal", "proportional"])
@pytest.mark.parametrize("grouped", [True, False])
def test_every_row_comes_once_before_any_row_repeats_across_epochs(sampling, grouped):
    batches = sampler(sampling=sampling, grouped=grouped, weights=[1, 0.7, 1.3])
    stream_of_run = task_streams([batch for number in range(5) for batch in epoch(batches, number)])
    for size, stream in zip(SIZES.values(), stream_of_run, strict=True):
        passes = [stream[i : i + size] for i in range(0, len(stream), size)]
        assert len(passes) > 1
        for rows in passes[:-1]:
            assert sorted(rows) == list(range(size))
        assert len(set(passes[-1])) == len(passes[-1])
        assert all(one != following for one, following in pairwise(passes[:-1]))  # each pass has its own order


@pytest.mark.parametrize("grouped", [True, False])
def test_the_same_seed_and_epoch_give_the_same_batches(grouped):
    first, second = sampler(grouped=grouped), sampler(grouped=grouped)
    assert epoch(first, 1) == epoch(second, 1) == epoch(first, 1)
    assert epoch(first, 3) == epoch(second, 3)  # whatever was drawn before
    assert epoch(first, 0) != epoch(first, 1)
    assert epoch(first, 0) != epoch(sampler(grouped=grouped, seed=1), 0)


def test_tasks_of_the_same_size_have_orders_of_their_own():
    one, other = task_streams(next(iter([epoch(sampler(sizes={"a": 60, "b": 60}), 0)])), {"a": 60, "b": 60})
    assert one != other


# ---- processes ----


@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_processes_batches_tile_the_epoch(world):
    batches = sampler(num_processes=world)
    assert len(batches) % world == 0
    assert len(batches) - len(sampler()) in range(world)
    everything = epoch(batches, 1)
    shards = [list(BatchSamplerShard(batches, num_processes=world, process_index=rank)) for rank in range(world)]
    for rank, shard in enumerate(shards):
        assert shard == everything[rank::world]
    assert [batch for step in zip(*shards, strict=True) for batch in step] == everything


def test_one_process_and_several_see_the_same_rows_in_the_same_order():
    alone, several = sampler(), sampler(num_processes=4)
    assert list(islice(several, len(alone))) == list(alone)


# ---- length grouping ----


def long_tailed(size: int, seed: int) -> np.ndarray:
    """Lengths like those of sentences in a mixed corpus: most are short, a few are very long."""
    return np.clip(np.random.default_rng(seed).lognormal(3, 0.8, size), 4, 512).astype(np.int64)


def padded_over_real(batches: list[list[int]], lengths: dict[str, np.ndarray]) -> float:
    """Tokens with padding, each task padded to its own longest row in the batch, over tokens without."""
    sizes = {task: len(rows) for task, rows in lengths.items()}
    padded = real = 0
    for batch in batches:
        for rows, own in zip(task_streams([batch], sizes), lengths.values(), strict=True):
            padded += own[rows].max() * len(rows)
            real += own[rows].sum()
    return padded / real


def test_grouping_cuts_padding_and_keeps_every_row_once_a_pass():
    lengths = {"large": long_tailed(8000, 0), "small": long_tailed(3000, 1)}
    grouped = sampler(lengths=lengths, batch_size=64, grouped=True)
    shuffled = sampler(lengths=lengths, batch_size=64, grouped=False)
    assert padded_over_real(epoch(shuffled, 0), lengths) > 1.8
    for number in range(2):
        assert padded_over_real(epoch(grouped, number), lengths) <= 1.25
    large, small = task_streams(epoch(grouped, 0), {"large": 8000, "small": 3000})
    assert sorted(large) == list(range(8000))
    assert sorted(small[:3000]) == sorted(small[3000:6000]) == list(range(3000))


def test_grouped_batches_do_not_come_in_the_order_of_their_lengths():
    lengths = long_tailed(2000, 0)
    order = permuted_rows(lengths, 0, seed=0, task=0, quota=40, grouped=True)
    means = lengths[order].reshape(-1, 40).mean(axis=1)
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.4  # 50 batches in random order: sd 0.14


@settings(deadline=None, max_examples=100)
@given(size=st.integers(1, 300), quota=st.integers(1, 40), pass_index=st.integers(0, 5), grouped=st.booleans())
def test_a_pass_is_a_permutation(size, quota, pass_index, grouped):
    lengths = np.arange(size)[::-1] % 7
    order = permuted_rows(lengths, pass_index, seed=3, task=1, quota=quota, grouped=grouped)
    assert Counter(order.tolist()) == Counter(range(size))
