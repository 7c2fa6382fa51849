"""The same work on many numbers, by several processes where the system can fork them."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, TypeVar

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
MOST_PROCESSES = 16
TOKENIZER_THREADS = "TOKENIZERS_PARALLELISM"

_work: Callable[[int], Any]  # of a process that was forked for it


def num_processes(num_pieces: int) -> int:
    """How many processes may share so many pieces of work: one where others cannot be forked."""
    is_daemon = multiprocessing.current_process().daemon  # which may have no processes of its own
    if is_daemon or "fork" not in multiprocessing.get_all_start_methods() or not hasattr(os, "sched_getaffinity"):
        return 1
    return max(1, min(len(os.sched_getaffinity(0)), num_pieces, MOST_PROCESSES))


def in_processes(work: Callable[[int], Result], numbers: Sequence[int], processes: int) -> Iterator[Result]:
    """What `work` gives for each of the numbers, in their order.

    Args:
        work: is not pickled, and sees all that was there before; its results are pickled.
        numbers: such as of first rows.
        processes: from `num_processes`; 1 is this one.
    """
    if processes == 1:
        yield from map(work, numbers)
        return
    done = 0
    try:
        for result in _shared(work, numbers, processes):
            yield result
            done += 1
    except BrokenProcessPool:
        logger.warning("a process ended before its work was done, as where memory is short; this one goes on alone")
        yield from map(work, numbers[done:])


def _shared(work: Callable[[int], Result], numbers: Sequence[int], processes: int) -> Iterator[Result]:
    """What several processes give, of which few results wait at a time."""
    context, waiting = multiprocessing.get_context("fork"), deque[Future[Result]]()
    with _one_tokenizer_thread(), ProcessPoolExecutor(processes, context, _begin, (work,)) as pool:
        try:
            for number in numbers:
                waiting.append(pool.submit(_do, number))
                if len(waiting) > 2 * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _begin(work: Callable[[int], Any]) -> None:
    """Take up the work; the process ends with the one that it is forked from, which alone hears of Ctrl-C."""
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _do(number: int) -> Any:
    return _work(number)


@contextmanager
def _one_tokenizer_thread() -> Iterator[None]:
    """Tokenizers without threads, which do not outlive a fork."""
    before = os.environ.get(TOKENIZER_THREADS)
    os.environ[TOKENIZER_THREADS] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[TOKENIZER_THREADS]
        else:
            os.environ[TOKENIZER_THREADS] = before
