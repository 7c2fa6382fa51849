"""The table of docs/gradients.md: a small part of it holds, and it fails when a part of the step is taken out.

Clipping and an adaptive optimizer would hide a wrong factor in the gradient; the table's bounds must not.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import gradient_table  # noqa: E402

from hf_mtl.gradients.method import make_gradient_method  # noqa: E402
from hf_mtl.gradients.task_gradients import TaskGradients  # noqa: E402

CELLS = [(2, "fp32", False, False), (2, "fp32", True, True), (2, "bf16", True, True)]
START = """
import sys
import torch.distributed
sys.path.insert(0, {folder!r})
import gradient_table
gradient_table.CELLS = {cells!r}
if {broken!r}:
    begin = torch.distributed.all_reduce
    torch.distributed.all_reduce = lambda tensor, **options: begin(torch.zeros(1), **options)
sys.argv[1:] = ["--measure", "2", "--result", {result!r}]
from pathlib import Path
gradient_table.main()
"""


def two_processes(folder, *, broken):
    script, result = folder / "start.py", folder / "rows.json"
    script.write_text(START.format(folder=str(BENCHMARKS), cells=CELLS, broken=broken, result=str(result)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    subprocess.run(command, check=True, capture_output=True, cwd=BENCHMARKS.parent, timeout=300)
    return json.loads(result.read_text())


@pytest.fixture(autouse=True)
def few_cells(monkeypatch):
    monkeypatch.setattr(gradient_table, "CELLS", CELLS)


def test_it_holds_with_micro_batches():
    assert gradient_table.broken(gradient_table.measure(1)) == []


def test_it_fails_without_the_accumulation_factor(monkeypatch):
    def last_only(self, task, loss, num_rows, count=TaskGradients.count):
        self._counts[self.tasks.index(task)] = 0
        count(self, task, loss, num_rows)

    monkeypatch.setattr(TaskGradients, "count", last_only)
    found = gradient_table.broken(gradient_table.measure(1))
    assert any("gradient" in line for line in found) and any("update" in line for line in found)


def test_it_fails_without_the_projection(monkeypatch):
    monkeypatch.setattr("hf_mtl.training.trainer_parts.make_gradient_method", lambda name: make_gradient_method("sum"))
    found = gradient_table.broken(gradient_table.measure(1))
    assert any("gradient" in line for line in found) and any("update" in line for line in found)


def test_it_holds_on_two_processes(tmp_path):
    assert gradient_table.broken(two_processes(tmp_path, broken=False)) == []


def test_it_fails_without_the_all_reduce(tmp_path):
    found = gradient_table.broken(two_processes(tmp_path, broken=True))
    assert any("gradient" in line for line in found) and any("update" in line for line in found)
