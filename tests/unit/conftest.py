"""A unit test starts no process."""

import sys

import pytest

STARTS = {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"}
watching = False


def refuse_a_process(event: str, args: tuple) -> None:
    """An audit hook, which stays for the life of the interpreter, so it looks away unless a unit test runs."""
    if watching and event in STARTS:
        raise AssertionError(f"{event} {args}: a unit test starts no process; move it to tests/integration")


sys.addaudithook(refuse_a_process)


@pytest.fixture(autouse=True)
def no_process():
    global watching
    watching = True
    yield
    watching = False
