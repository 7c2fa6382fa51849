"""The processes of runs: started, awaited, and ended with this one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from ..errors import InputError
from ..training.checkpoints import checkpoints_in, lock_output_folder, unlock_output_folder
from ..training.output_folder import LOG_FILE, RUN_FILE
from .runs import Run

COMMAND = [sys.executable, "-m", f"{__package__}.watched_run"]
POLL_SECONDS = 0.1
SHOWN_LINES = 12  # of the log of a run that failed


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run left.

    Attributes:
        run: that is through.
        metrics: the content of its all_results.json.
        seconds: wall time of its process.
        memory: the most resident memory of its process, in bytes.
    """

    run: Run
    metrics: dict[str, Any]
    seconds: float
    memory: int


@dataclass(kw_only=True)
class _Child:
    run: Run
    folder: Path
    process: subprocess.Popen[bytes]
    began: float


class Children:
    """The processes that are running; on leaving the context, all of them are ended.

    Args:
        output_dir: of the comparison.
        parallel: how many there are to be at a time. The cores are shared among them, unless OMP_NUM_THREADS says how
            many threads each has.
        with_test: whether they score test splits.
    """

    def __init__(self, output_dir: Path, *, parallel: int, with_test: bool) -> None:
        self.output_dir, self.with_test = output_dir, with_test
        self._running: list[_Child] = []
        self._environment = dict(os.environ)
        if parallel > 1:
            self._environment.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // parallel)))

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for child in self._running:
            _end_group(child.process)
        for child in self._running:
            child.process.wait()
            assert child.process.stdin is not None
            child.process.stdin.close()
        self._running.clear()

    @property
    def runs(self) -> list[Run]:
        """Those that are going on."""
        return [child.run for child in self._running]

    def start(self, run: Run) -> None:
        """Begin a run in a fresh folder; what a run that was cut off had left there is removed."""
        folder = run.folder(self.output_dir)
        if folder.exists():
            lock_output_folder(folder)  # waits for a process that is about to end with its parent
            unlock_output_folder(folder)
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        arguments = folder / RUN_FILE
        arguments.write_text(json.dumps(run.arguments(self.output_dir, with_test=self.with_test), indent=1))
        with open(folder / LOG_FILE, "wb") as log:
            process = subprocess.Popen(
                [*COMMAND, str(arguments)],
                stdin=subprocess.PIPE,  # never written to: its end tells the process that this one has ended
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        self._running.append(_Child(run=run, folder=folder, process=process, began=time.monotonic()))

    def ended(self) -> Outcome | None:
        """The outcome of a run that has ended; None where all are going on, after a moment.

        Raises:
            InputError: for a run that failed, with the last lines of its log.
        """
        for child in self._running:
            pid, status, usage = os.wait4(child.process.pid, os.WNOHANG)
            if pid:
                seconds = time.monotonic() - child.began
                child.process.returncode = os.waitstatus_to_exitcode(status)
                self._forget(child)
                return _outcome(child, seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
        time.sleep(POLL_SECONDS)
        return None

    def _forget(self, child: _Child) -> None:
        """Close what belongs to a child that has ended."""
        self._running.remove(child)
        assert child.process.stdin is not None
        child.process.stdin.close()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started."""
    with contextlib.suppress(ProcessLookupError):  # all of them have ended
        os.killpg(process.pid, signal.SIGKILL)


def _outcome(child: _Child, seconds: float, memory: int) -> Outcome:
    """What a run that has ended left; its checkpoints are removed."""
    results, code = child.folder / "all_results.json", child.process.returncode
    if code != 0 or not results.is_file():
        how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}" if code else "left no results"
        log = child.folder / LOG_FILE
        with open(log, encoding="utf-8", errors="replace") as lines:
            last = "".join(deque(lines, SHOWN_LINES)).rstrip()
        raise InputError(
            f"{child.run} {how}; {str(log)!r} ends with the lines below. The results of other runs are kept, and the "
            f"same command goes on once this is mended\n{last}"
        )
    for checkpoint in checkpoints_in(child.folder):
        shutil.rmtree(checkpoint)
    metrics = json.loads(results.read_text(encoding="utf-8"))
    return Outcome(run=child.run, metrics=metrics, seconds=seconds, memory=memory)
