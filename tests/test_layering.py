"""Modules import downward only, and a saved model loads with torch and transformers alone."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from hf_mtl.model_files import CODE

PACKAGE = Path(__file__).parent.parent / "hf_mtl"
LEVELS = {
    "errors": 0,
    "_version": 0,
    "solvers": 0,
    "kinds": 1,
    "inputs": 0,
    "model_files": 0,
    "mpnet": 0,
    "cpu": 0,
    "seeding": 1,
    "schedule": 1,
    "options": 1,
    "tasks": 2,
    "shares": 2,
    "sampling": 3,
    "stateful": 2,
    "balancing": 2,
    "demo": 2,
    "configuration": 2,
    "optimizers": 2,
    "checkpoints": 2,
    "processes": 2,
    "saving": 4,
    "resuming": 3,
    "unfreezing": 2,
    "data": 3,
    "labels": 3,
    "loading": 4,
    "metrics": 3,
    "progress": 3,
    "report": 3,
    "weightings": 3,
    "modeling": 3,
    "pipeline": 2,
    "auto": 4,
    "pretrained": 4,
    "merging": 1,
    "card": 3,
    "prediction": 3,
    "inspection": 5,
    "cli": 7,
    "ragged": 0,
    "sums": 0,
    "gradient_rows": 0,
    "gradients": 1,
    "counts": 0,
    "combination": 4,
    "hub": 4,
    "pushing": 5,
    "refusals": 7,
    "arguments": 6,
    "argument_checks": 4,
    "argument_files": 3,
    "watched_metric": 3,
    "early_stopping": 0,
    "joint": 5,
    "evaluation": 4,
    "publishing": 7,
    "packed_layers": 1,
    "packing": 4,
    "steps": 8,
    "resumable": 9,
    "trainer": 10,
    "__init__": 11,
}
# Slow to import, and needed late or by some only: (module, what it imports where it is used).
LATE = {
    ("evaluation", "metrics"),  # evaluate, scipy.stats
    ("combination", "pytorch_optimizer"),
    ("optimizers", "pytorch_optimizer"),
    ("publishing", "report"),  # matplotlib
    ("modeling", "mpnet"),  # transformers' MPNet
}
SLOW = ("evaluate", "matplotlib", "pytorch_optimizer", "transformers.models.mpnet.modeling_mpnet")
MODULES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.glob("*.py")}


def own_imports(name: str) -> set[str]:
    """Modules of the package that a module imports, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.ImportFrom) and node.level:
            found |= {node.module} if node.module else {alias.name for alias in node.names}
    return found


def foreign_imports(name: str) -> set[str]:
    """Top names of everything else that a module imports."""
    found: set[str] = set()
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module is not None
            found.add(node.module.split(".")[0])
    return found


def closure(name: str) -> set[str]:
    """A module and every module of the package that it needs."""
    reached, open_ends = set(), [name]
    while open_ends:
        module = open_ends.pop()
        if module not in reached:
            reached.add(module)
            open_ends += own_imports(module)
    return reached


def test_every_module_has_a_level():
    assert set(LEVELS) == set(MODULES)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_from_lower_levels_only(name):
    above = {other for other in own_imports(name) if LEVELS[other] >= LEVELS[name]}
    assert not above, f"{name} (level {LEVELS[name]}) imports {above}"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_are_at_the_top_and_relative(name):
    tree = MODULES[name]
    inside = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) and n not in tree.body]
    inside = [n for n in inside if not isinstance(n, ast.ImportFrom) or (name, n.module) not in LATE]
    assert not inside, f"{name} imports in line {inside[0].lineno}, not at the top"
    assert "hf_mtl" not in foreign_imports(name)
    assert all(n.level <= 1 for n in tree.body if isinstance(n, ast.ImportFrom))


def test_the_package_loads_nothing_slow():
    code = f"import hf_mtl, sys; print(*[name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_there_is_no_circle():
    list(TopologicalSorter({name: own_imports(name) for name in MODULES}).static_order())  # raises CycleError


def test_a_saved_model_needs_torch_and_transformers_only():
    needed = set().union(*(foreign_imports(name) for name in CODE))
    assert closure("modeling") | closure("pipeline") == set(CODE)
    assert needed - sys.stdlib_module_names == {"torch", "transformers"}


@pytest.mark.parametrize("name", ["errors", "kinds", "schedule", "weightings", "seeding", "shares", "sampling"])
def test_the_mathematics_needs_no_transformers(name):
    needed = set().union(*(foreign_imports(module) for module in closure(name)))
    assert needed - sys.stdlib_module_names <= {"torch", "numpy", "scipy"}
