"""What the process of a run does: `hf-mtl train` with a file of arguments, for as long as its parent lives.

Its standard input is a pipe that the parent holds open. When the parent ends, however it ends, the pipe does, and the
process group with it: the run and the workers of its loaders.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from ..errors import CheckpointError, InputError
from ..training.run import main


def end_with_parent() -> None:
    """Wait for the end of standard input, then end the group of this process."""
    while os.read(0, 4096):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        main(sys.argv[1:], command="hf-mtl train")
    except (InputError, CheckpointError) as error:
        sys.exit(f"hf-mtl: {error}")
