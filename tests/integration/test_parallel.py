"""Work that several processes share is as if one had done it; they end with it."""

import os
import signal
import subprocess
import sys
import time

import pytest
from datasets import Dataset

from hf_mtl import TaskSpec
from hf_mtl.data import parallel, tokenization
from hf_mtl.data.tokenization import tokenize
from hf_mtl.errors import InputError

TEXTS = [" ".join(["the film is dull", "a warm plot"][: 1 + row % 2]) + " so" * (row % 7) for row in range(50)]
forks = pytest.mark.skipif(parallel.num_processes(2) == 1, reason="one core, or a system that cannot fork")


def task():
    return TaskSpec(name="t", kind="classification", text_columns=("text",), labels=("a", "b"))


@forks
def test_rows_that_processes_share_have_the_same_tokens(tokenizer, monkeypatch, tmp_path):
    rows, processes = Dataset.from_dict({"text": TEXTS}), set()
    alone = tokenize(task(), rows, tokenizer, 8)
    monkeypatch.setattr(tokenization, "AT_ONCE", 4)
    monkeypatch.setattr(tokenization, "MANY", 10)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    real = tokenization.in_processes

    def noted(work, numbers, num):
        processes.add(num)
        return real(work, numbers, num)

    monkeypatch.setattr(tokenization, "in_processes", noted)
    shared = tokenize(task(), rows, tokenizer, 8)
    assert processes == {parallel.num_processes(13)} and processes != {1}
    assert shared.features == alone.features and shared.to_dict() == alone.to_dict()


@forks
def test_results_come_in_order_from_other_processes_and_tokenizers_get_their_threads_back(monkeypatch):
    monkeypatch.setenv(parallel.TOKENIZER_THREADS, "true")
    results = list(
        parallel.in_processes(lambda n: (n, os.getpid(), os.environ[parallel.TOKENIZER_THREADS]), range(9), 2)
    )
    assert [n for n, *_ in results] == list(range(9))
    assert os.getpid() not in {pid for _, pid, _ in results} and {threads for *_, threads in results} == {"false"}
    assert os.environ[parallel.TOKENIZER_THREADS] == "true"


@forks
def test_an_error_of_a_process_is_that_of_the_work(monkeypatch):
    monkeypatch.delenv(parallel.TOKENIZER_THREADS, raising=False)

    def work(number):
        if number == 3:
            raise InputError("row 3 holds nothing")
        return number

    with pytest.raises(InputError, match="row 3 holds nothing"):
        list(parallel.in_processes(work, range(5), 2))
    assert parallel.TOKENIZER_THREADS not in os.environ


@forks
def test_where_a_process_is_killed_one_goes_on_alone(tmp_path, caplog):
    parent, mark = os.getpid(), tmp_path / "killed"

    def work(number):
        if number == 5 and os.getpid() != parent and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    assert list(parallel.in_processes(work, range(20), 2)) == list(range(20))
    assert mark.exists() and "a process ended before its work was done" in caplog.text


@forks
def test_few_results_wait_for_whoever_takes_them(tmp_path):
    def work(number):
        (tmp_path / str(number)).touch()
        return number

    results = parallel.in_processes(work, range(50), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) <= 3 + 2 * 2 + 1
    assert list(results) == list(range(3, 50))


PARENT = """
import os, time
from hf_mtl.data.parallel import in_processes

def work(number):
    os.write(1, f"{os.getpid()}\\n".encode())  # in one piece: both processes write to this pipe
    time.sleep(60)

list(in_processes(work, range(2), 2))
"""


@forks
def test_processes_end_with_the_one_that_they_work_for():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    try:
        pids = [int(parent.stdout.readline()) for _ in range(2)]
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.communicate()
    deadline = time.monotonic() + 30
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, "a process outlives the one that it works for"
        time.sleep(0.05)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
