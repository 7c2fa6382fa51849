"""The demo's promise: the whole command, as the README gives it, learns both tasks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_demo_reaches_its_scores(tmp_path):
    launcher = [str(Path(sys.executable).parent / "accelerate"), "launch", "--num_processes", "1", "run_glue_mtl.py"]
    command = [*launcher, "examples/demo.yaml", "--use_cpu", "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["eval_reviews_accuracy"] >= 0.90
    assert results["eval_pairs_pearson"] >= 0.85
