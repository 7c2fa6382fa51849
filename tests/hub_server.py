"""A Hub-compatible server on loopback, and its clients."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOKEN, READ_TOKEN = "hf_loopback_write", "hf_loopback_read"


@contextlib.contextmanager
def serve(root, home, **variables):
    """The environment of a client of a fresh server over `root`; the client's user and home have telling names."""
    environment = {**os.environ, "LOCAL_HUB_TOKEN": TOKEN, "LOCAL_HUB_READ_TOKEN": READ_TOKEN, **variables}
    command = [sys.executable, str(ROOT / "tests" / "local_hub.py"), "--port", "0", "--root", str(root)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield {
                **os.environ,
                "HF_ENDPOINT": server.stdout.readline().strip(),
                "HF_TOKEN": TOKEN,
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_OFFLINE": "0",
                "HF_HOME": str(home / "hf"),
                "HOME": str(home),
                "USER": home.name,
                "LOGNAME": home.name,
                "PYTHONPATH": f"{ROOT}:{home}/site",
            }
        finally:
            server.terminate()


def run(arguments, environment, folder=ROOT):
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=folder, capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stdout + done.stderr


def git(repository, *arguments):
    return subprocess.run(["git", *arguments], cwd=repository, capture_output=True, check=True).stdout
