"""The demo's rows are the same in every process."""

import hashlib
import json
import os
import subprocess
import sys

from hf_mtl.tasks import demo

DIGEST_SOURCE = """
import hashlib, json
from hf_mtl.tasks import demo
rows = [demo.demo_rows(task, split) for task in ("reviews", "pairs") for split in demo.SPLITS]
content = json.dumps([rows, sorted(demo.demo_tokenizer().get_vocab().items())])
print(hashlib.sha256(content.encode()).hexdigest())
"""


def test_rows_and_vocabulary_do_not_depend_on_the_process():
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    fresh = subprocess.run(
        [sys.executable, "-c", DIGEST_SOURCE],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [demo.demo_rows(task, split) for task in ("reviews", "pairs") for split in demo.SPLITS]
    content = json.dumps([rows, sorted(demo.demo_tokenizer().get_vocab().items())])
    assert fresh.stdout.strip() == hashlib.sha256(content.encode()).hexdigest()
