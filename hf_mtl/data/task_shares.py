"""How many rows of each task a batch holds: shares from the sizes of the tasks, whole quotas from the shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, unknown_name_error
from ..validation import check_number, check_options, check_signature, check_unregistered

Floats = NDArray[np.float64]
Sampling = TypeVar("Sampling", bound=Callable[..., Floats])
TASK_SAMPLING: dict[str, Callable[..., Floats]] = {}


def register_task_sampling(name: str) -> Callable[[Sampling], Sampling]:
    """Add a task sampling under a name, for `--task_sampling`.

        @register_task_sampling("first_task_twice")
        def first_task_twice(sizes, progress):
            return np.array([2.0] + [1.0] * (len(sizes) - 1))

    Decorates a function of task -> number of rows, and of the share of the run that is over in this epoch; it gives
    numbers in proportion to the tasks' shares. Keyword-only arguments are its options.

    Raises:
        InputError: for a name that another task sampling has, and for what is no such function.
    """

    def register(sampling: Sampling) -> Sampling:
        check_unregistered("task_sampling", name, TASK_SAMPLING.get(name), sampling)
        check_signature(f"task_sampling {name!r}", sampling, ["sizes", "progress"])
        TASK_SAMPLING[name] = sampling
        return sampling

    return register


def _rows(sizes: Mapping[str, int]) -> Floats:
    return np.fromiter(sizes.values(), dtype=np.float64)


@register_task_sampling("equal")
def _equal(sizes: Mapping[str, int], progress: float) -> Floats:
    """Every task alike."""
    return np.ones(len(sizes))


@register_task_sampling("proportional")
def _proportional(sizes: Mapping[str, int], progress: float) -> Floats:
    """By number of rows."""
    return _rows(sizes)


@register_task_sampling("temperature")
def _temperature(sizes: Mapping[str, int], progress: float, *, temperature: float) -> Floats:
    """By the number of rows to the power of 1 / temperature: 1 is proportional, infinity would be equal."""
    check_number("temperature", temperature, "a number > 0", lambda number: number > 0)
    logarithms = np.log(_rows(sizes))
    return np.asarray(np.exp((logarithms - logarithms.max()) / temperature))


@register_task_sampling("square_root")
def _square_root(sizes: Mapping[str, int], progress: float) -> Floats:
    """By the square root of the number of rows."""
    return np.sqrt(_rows(sizes))


@register_task_sampling("capped")
def _capped(sizes: Mapping[str, int], progress: float, *, cap: float) -> Floats:
    """By number of rows, of which no task counts more than `cap` (Raffel et al. 2020, section 3.5.2)."""
    check_number("cap", cap, "a number of rows >= 1", lambda number: number >= 1)
    return np.minimum(_rows(sizes), cap)


@register_task_sampling("annealed")
def _annealed(sizes: Mapping[str, int], progress: float) -> Floats:
    """From proportional towards equal over the epochs (Stickland & Murray 2019, section 4.1)."""
    return np.asarray(_rows(sizes) ** (1 - 0.8 * progress))


@register_task_sampling("explicit")
def _explicit(sizes: Mapping[str, int], progress: float, *, weights: Mapping[str, float]) -> Floats:
    """By weights that the user gives, one for each task."""
    if not isinstance(weights, dict) or set(weights) != set(sizes):
        raise InputError(f"weights is {weights!r}, wanted a number for each of the tasks {', '.join(sizes)}")
    for task, weight in weights.items():
        check_number(f"the weight of task {task!r}", weight, "a number > 0", lambda number: number > 0)
    return np.array([float(weights[task]) for task in sizes])


def check_sampling(sampling: str, options: Mapping[str, object]) -> None:
    """Raise InputError for an unknown task sampling, options that it does not take, and one that it lacks."""
    if sampling not in TASK_SAMPLING:
        error = unknown_name_error("task_sampling", sampling, TASK_SAMPLING)
        raise InputError(f"{error}; one of a file of your own: --plugin FILE.py")
    check_options(sampling, TASK_SAMPLING[sampling], options, kind="task_sampling")


def task_shares(
    sampling: str,
    sizes: Mapping[str, int],
    sampling_weights: Sequence[float],
    batch_size: int,
    *,
    progress: float = 0.0,
    options: Mapping[str, object] | None = None,
) -> Floats:
    """Rows of each task in an average batch; they sum to `batch_size` and none is below 1. *Shape:* (K,).

    Args:
        sampling: a name of `TASK_SAMPLING`.
        sizes: task -> its number of rows.
        sampling_weights: factor on each task's share.
        batch_size: rows of a batch over all tasks.
        progress: 0 in the first epoch of the run, 1 in the last one; "annealed" goes by it.
        options: the sampling's own.

    Raises:
        InputError: for an unknown `sampling`, options that it does not take, a batch smaller than the number of tasks,
            or a sampling that deals no shares or fails.
    """
    options = options or {}
    check_sampling(sampling, options)
    if batch_size < len(sizes):
        raise InputError(
            f"per_device_train_batch_size is {batch_size} and there are {len(sizes)} tasks; every batch holds every "
            f"task, wanted at least {len(sizes)}"
        )
    wanted = _proportions(sampling, sizes, _dealt(sampling, sizes, progress, options))
    wanted = wanted * np.asarray(sampling_weights, dtype=np.float64)
    floor = np.zeros(len(sizes), dtype=bool)
    while True:  # tasks whose share is below one row get one; the others divide what is left
        shares = np.where(floor, 1.0, wanted / wanted[~floor].sum() * (batch_size - floor.sum()))
        if not (shares < 1 - 1e-9).any():
            return np.asarray(shares)
        floor |= shares < 1


def _dealt(sampling: str, sizes: Mapping[str, int], progress: float, options: Mapping[str, object]) -> object:
    """What a task sampling gives; InputError where it fails."""
    try:
        return TASK_SAMPLING[sampling](sizes, progress, **options)
    except InputError:
        raise
    except Exception as error:  # whatever a user's code raises
        raise InputError(
            f"task_sampling {sampling!r} cannot deal the sizes {dict(sizes)}: {type(error).__name__}: {error}"
        ) from error


def _proportions(sampling: str, sizes: Mapping[str, int], given: object) -> Floats:
    """What a task sampling gave, as floats; InputError unless it deals shares. *Shape:* (K,)."""
    try:
        found: Floats = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.array(np.nan)
    with np.errstate(over="ignore"):
        total = found.sum()
    if found.shape != (len(sizes),) or not (np.isfinite(total) and total > 0 and (found >= 0).all()):
        raise InputError(
            f"task_sampling {sampling!r} gives {' '.join(repr(given).split()):.80} for the sizes {dict(sizes)}, wanted "
            "one finite number >= 0 per task, and one of them above 0"
        )
    return found


def task_quotas(shares: Floats, num_batches: int) -> NDArray[np.int64]:
    """Whole rows of each task in each batch. *Shape:* (num_batches, K).

    Every row sums to the batch size and holds at least 1; what a share has after the point is carried to the next
    batches, so that after t batches a task has had t times its share to within about one row.
    """
    batch_size = round(float(shares.sum()))
    quotas = np.empty((num_batches, len(shares)), dtype=np.int64)
    given = np.zeros(len(shares), dtype=np.int64)
    for t in range(num_batches):
        due = shares * (t + 1) - given
        quota = np.maximum(np.floor(due + 1e-9).astype(np.int64), 1)
        while quota.sum() < batch_size:
            quota[np.argmax(due - quota)] += 1
        while quota.sum() > batch_size:
            quota[np.argmin(np.where(quota > 1, due - quota, np.inf))] -= 1
        quotas[t] = quota
        given += quota
    return quotas
