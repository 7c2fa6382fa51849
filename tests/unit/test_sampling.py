"""The batch sampler: exact shares, permutations without repeats, ranks, resuming, padding."""

from collections import Counter
from itertools import islice, pairwise
from unittest import mock

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mtl import InputError
from hf_mtl.data import batch_sampler
from hf_mtl.data.batch_sampler import TaskBatchSampler, permuted_rows
from hf_mtl.data.task_shares import TASK_SAMPLING, task_quotas, task_shares
from hf_mtl.seeding import seeded_generator

SIZES = {"large": 103, "middle": 40, "small": 7}


OPTIONS = {
    "temperature": {"temperature": 3},
    "capped": {"cap": 50},
    "explicit": {"weights": {"large": 1, "middle": 2.5, "small": 0.7}},
}
EPOCHS = 5


def sampler(sizes=SIZES, sampling="equal", batch_size=12, weights=None, lengths=None, **options) -> TaskBatchSampler:
    lengths = lengths or {task: np.arange(size) % 17 + 3 for task, size in sizes.items()}
    sizes = {task: len(rows) for task, rows in lengths.items()}

    def shares(number):
        progress = min(1.0, number / (EPOCHS - 1))
        weights_or_ones = weights or [1] * len(lengths)
        return task_shares(
            sampling, sizes, weights_or_ones, batch_size, progress=progress, options=OPTIONS.get(sampling)
        )

    return TaskBatchSampler(lengths, batch_size=batch_size, shares=shares, **{"seed": 0, **options})


def shares_of(sampling, sizes, weights, batch_size, **arguments):
    """`task_shares` of tasks named a, b, ..., as a list."""
    return task_shares(sampling, dict(zip("abcdefghi", sizes, strict=False)), weights, batch_size, **arguments).tolist()


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
    assert shares_of("equal", [10, 1000, 3], [1, 1, 1], 64) == pytest.approx([64 / 3] * 3)
    assert shares_of("equal", [10, 1000], [3, 1], 64) == pytest.approx([48, 16])


def test_proportional_shares_are_those_of_the_rows():
    assert shares_of("proportional", [300, 100], [1, 1], 64) == pytest.approx([48, 16])
    assert shares_of("proportional", [300, 100], [1, 3], 64) == pytest.approx([32, 32])


CLOSED_FORMS = {
    # sizes 9000, 1000 and 10, a batch of 200
    "equal": ({}, 0, [1, 1, 1]),
    "proportional": ({}, 0, [9000, 1000, 10]),
    "temperature": ({"temperature": 5}, 0, [9000**0.2, 1000**0.2, 10**0.2]),
    "square_root": ({}, 0, [9000**0.5, 1000**0.5, 10**0.5]),
    "capped": ({"cap": 2000}, 0, [2000, 1000, 10]),
    "annealed": ({}, 0.25, [9000**0.8, 1000**0.8, 10**0.8]),
    "explicit": ({"weights": {"c": 1, "a": 5, "b": 2.5}}, 0, [5, 2.5, 1]),
}


@pytest.mark.parametrize("sampling", TASK_SAMPLING)
def test_shares_are_the_closed_form_with_one_row_at_least(sampling):
    options, progress, wanted = CLOSED_FORMS[sampling]
    found = shares_of(sampling, [9000, 1000, 10], [1, 1, 1], 200, progress=progress, options=options)
    plain = 200 * np.array(wanted) / sum(wanted)
    if plain.min() < 1:
        plain = np.array([199 * wanted[0] / sum(wanted[:2]), 199 * wanted[1] / sum(wanted[:2]), 1])
    assert found == pytest.approx(plain)


def test_a_temperature_of_one_is_proportional_and_a_high_one_equal():
    for temperature, same in ((1, "proportional"), (2, "square_root"), (1e9, "equal")):
        found = shares_of("temperature", [9000, 1000], [1, 1], 64, options={"temperature": temperature})
        assert found == pytest.approx(shares_of(same, [9000, 1000], [1, 1], 64))
    assert shares_of("temperature", [9000, 1000], [1, 1], 64, options={"temperature": 1e-9}) == pytest.approx([63, 1])


def test_annealing_ends_at_the_power_of_one_fifth():
    start, end = (shares_of("annealed", [9000, 1000], [1, 1], 64, progress=progress) for progress in (0, 1))
    assert start == pytest.approx(shares_of("proportional", [9000, 1000], [1, 1], 64))
    assert end == pytest.approx(shares_of("temperature", [9000, 1000], [1, 1], 64, options={"temperature": 5}))


def test_a_share_below_one_row_is_one_row_and_the_others_divide_the_rest():
    assert shares_of("proportional", [100_000, 50_000, 10], [1, 1, 1], 31) == pytest.approx([20, 10, 1])
    assert shares_of("proportional", [10**6, 1, 1], [1, 1, 1], 3) == pytest.approx([1, 1, 1])


@pytest.mark.parametrize(
    ("sampling", "options", "message"),
    [
        ("equl", {}, r"'equl' \(did you mean 'equal'\?\); choose from: annealed, capped, equal, explicit"),
        ("equal", {"cap": 1}, "task_sampling 'equal' takes no options, found 'cap'"),
        ("capped", {"cup": 1}, r"option of task_sampling 'capped': 'cup' \(did you mean 'cap'"),
        ("capped", {}, "task_sampling 'capped' needs 'cap' in task_sampling_args"),
        ("capped", {"cap": 0}, "cap is 0, wanted a number of rows >= 1"),
        ("temperature", {"temperature": "hot"}, "temperature is 'hot', wanted a number > 0"),
        ("explicit", {"weights": {"a": 1}}, "wanted a number for each of the tasks a, b"),
        ("explicit", {"weights": [1, 1]}, "wanted a number for each of the tasks a, b"),
        ("explicit", {"weights": {"a": 1, "b": 0}}, "weight of task 'b' is 0, wanted a number > 0"),
    ],
)
def test_a_sampling_that_cannot_be_used_is_refused_by_name(sampling, options, message):
    with pytest.raises(InputError, match=message):
        shares_of(sampling, [1, 1], [1, 1], 8, options=options)


def test_a_batch_smaller_than_the_number_of_tasks_is_refused():
    shares_of("equal", [5, 5, 5], [1, 1, 1], 3)
    with pytest.raises(InputError, match=r"per_device_train_batch_size is 2 and there are 3 tasks.*at least 3"):
        shares_of("equal", [5, 5, 5], [1, 1, 1], 2)


@settings(deadline=None, max_examples=150)
@given(
    sizes=st.lists(st.integers(1, 10**6), min_size=1, max_size=9),
    spare=st.integers(0, 60),
    sampling=st.sampled_from(["equal", "proportional", "square_root", "annealed"]),
    progress=st.floats(0, 1),
    data=st.data(),
)
def test_quotas_fill_every_batch_and_follow_the_shares(sizes, spare, sampling, progress, data):
    weights = data.draw(st.lists(st.floats(0.01, 100), min_size=len(sizes), max_size=len(sizes)))
    batch_size = len(sizes) + spare
    shares = np.array(shares_of(sampling, sizes, weights, batch_size, progress=progress))
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


@pytest.mark.parametrize("sampling", TASK_SAMPLING)
@pytest.mark.parametrize("grouped", [True, False])
def test_every_batch_holds_its_quota_of_every_task(sampling, grouped):
    batches = sampler(sampling=sampling, grouped=grouped)
    assert len(batches) == len(list(batches))
    for batch, quota in zip(epoch(batches, 2), batches.quotas(2), strict=True):
        assert [len(stream) for stream in task_streams([batch])] == quota.tolist()
        assert len(batch) == 12


def test_an_epoch_is_one_pass_over_the_largest_task_or_over_all_rows():
    assert len(sampler(sampling="equal")) == -(-103 // 4)
    assert len(sampler(sampling="proportional")) == -(-150 // 12)
    assert len(sampler(sampling="annealed")) == len(sampler(sampling="proportional"))
    assert len(sampler(sizes={"only": 24})) == 2


@pytest.mark.parametrize("sampling", TASK_SAMPLING)
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
        if size > 20:  # seven rows sorted by length have few orders
            assert all(one != following for one, following in pairwise(passes[:-1]))  # each pass has its own order


@pytest.mark.parametrize("sampling", TASK_SAMPLING)
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_ranks_counts_are_the_closed_form(sampling, world):
    batches = sampler(sampling=sampling, num_processes=world)
    given = np.zeros(3)
    for number in range(EPOCHS):
        everything = epoch(batches, number)
        shards = [list(BatchSamplerShard(batches, num_processes=world, process_index=rank)) for rank in range(world)]
        assert [batch for step in zip(*shards, strict=True) for batch in step] == everything
        given += [len(stream) for stream in task_streams(everything)]
        weights = np.array(
            {
                "equal": [1, 1, 1],
                "proportional": [103, 40, 7],
                "temperature": np.cbrt([103, 40, 7]),
                "square_root": np.sqrt([103, 40, 7]),
                "capped": [50, 40, 7],
                "annealed": np.array([103, 40, 7]) ** (1 - 0.2 * number),
                "explicit": [1, 2.5, 0.7],
            }[sampling]
        )
        due = len(everything) * 12 * weights / weights.sum()
        if due.min() < len(everything):  # a task of less than a row per batch has one
            due = np.array([*(len(everything) * 11 * weights[:2] / weights[:2].sum()), len(everything)])
        assert np.abs(given - due).max() < 1.5
        given -= given


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    spare=st.integers(0, 12),
    sampling=st.sampled_from(["equal", "proportional", "square_root", "annealed"]),
    world=st.integers(1, 3),
    grouped=st.booleans(),
    data=st.data(),
)
def test_no_row_is_lost_and_a_position_is_the_same_after_any_resume(sizes, spare, sampling, world, grouped, data):
    sizes = dict(zip("abcd", sizes, strict=False))
    arguments = {"sizes": sizes, "batch_size": len(sizes) + spare, "num_processes": world, "grouped": grouped}
    whole = sampler(sampling=sampling, **arguments)
    run = [batch for number in range(EPOCHS) for batch in epoch(whole, number)]
    for size, stream in zip(sizes.values(), task_streams(run, sizes), strict=True):
        for start in range(0, len(stream), size):
            rows = stream[start : start + size]
            assert sorted(rows) == list(range(size)) if len(rows) == size else len(set(rows)) == len(rows)
    position = data.draw(st.integers(0, len(run) - 1))
    fresh = sampler(sampling=sampling, **arguments)
    number, skipped = divmod(position, len(fresh))
    assert epoch(fresh, number)[skipped:] == run[position : (number + 1) * len(fresh)]


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
    order = np.concatenate(list(permuted_rows(lengths, 0, seed=0, task=0, quota=40, grouped=True)))
    means = lengths[order].reshape(-1, 40).mean(axis=1)
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.4  # 50 batches in random order: sd 0.14


def whole_pass(lengths, pass_index, quota, at_once):
    """What a pass is in plain words: the permutation, of which each stretch is sorted and its batches are shuffled."""
    generator = seeded_generator(3, 1, pass_index)
    order = torch.randperm(len(lengths), generator=generator).tolist()
    head = -pass_index * len(lengths) % quota
    found = order[:head]
    for start in range(head, len(order), at_once):
        rows = sorted(order[start : start + at_once], key=lambda row: lengths[row])
        batches = [rows[place : place + quota] for place in range(0, len(rows), quota)]
        last = batches.pop() if len(batches[-1]) < quota else []
        places = torch.randperm(len(batches), generator=generator).tolist()
        found += [row for place in places for row in batches[place]] + last
    return found


@settings(deadline=None, max_examples=200)
@given(size=st.integers(1, 300), quota=st.integers(2, 40), pass_index=st.integers(0, 5), data=st.data())
def test_a_pass_is_a_permutation_and_goes_on_anywhere(size, quota, pass_index, data):
    lengths, skip = np.arange(size)[::-1] % 7, data.draw(st.integers(0, size - 1))
    options = {"seed": 3, "task": 1, "quota": quota, "grouped": True}
    with mock.patch.object(batch_sampler, "GROUPED_BATCHES", 3):
        order = np.concatenate(list(permuted_rows(lengths, pass_index, **options)))
        rest = np.concatenate(list(permuted_rows(lengths, pass_index, **options, skip=skip)))
    assert order.tolist() == whole_pass(lengths, pass_index, quota, 3 * quota)
    assert rest.tolist() == order[skip:].tolist()
    assert Counter(order.tolist()) == Counter(range(size))


@pytest.mark.parametrize("sampling", ["equal", "proportional", "annealed"])
@pytest.mark.parametrize("epochs", [0.25, 1, 2.5])
def test_passes_count_the_rows_that_are_dealt(sampling, epochs):
    batches = sampler(sampling=sampling)
    dealt = [batch for number in range(3) for batch in epoch(batches, number)][: round(epochs * len(batches))]
    counts = [len(rows) for rows in task_streams(dealt)]
    assert batches.passes(round(epochs * len(batches)) / len(batches)).tolist() == pytest.approx(
        [count / size for count, size in zip(counts, SIZES.values(), strict=True)]
    )
