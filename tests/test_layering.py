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
    "kinds": 1,
    "inputs": 1,
    "long_texts": 0,
    "encoding": 2,
    "pipeline_inputs": 1,
    "model_files": 0,
    "model_source": 1,
    "weights": 1,
    "mpnet": 0,
    "seeding": 1,
    "schedule": 1,
    "validation": 1,
    "cells": 0,
    "class_names": 1,
    "metric_names": 1,
    "text_files": 1,
    "json_values": 2,
    "tables": 3,
    "columns": 4,
    "folders": 2,
    "tasks": 2,
    "shares": 2,
    "sampling": 3,
    "demo": 2,
    "configuration": 2,
    "optimizers": 2,
    "checkpoints": 2,
    "processes": 2,
    "saving": 4,
    "resuming": 3,
    "unfreezing": 2,
    "data": 3,
    "label_column": 2,
    "labels": 3,
    "loading": 5,
    "metrics": 3,
    "progress": 3,
    "report": 3,
    "modeling": 3,
    "pipeline": 3,
    "auto": 4,
    "pretrained": 4,
    "merging": 1,
    "card": 3,
    "prediction": 4,
    "inspection": 6,
    "cli": 7,
    "ragged": 0,
    "gradients": 2,  # a folder: its modules import each other and what is below
    "counts": 0,
    "hub": 4,
    "pushing": 5,
    "refusals": 7,
    "arguments": 6,
    "given_rows": 3,
    "own_loss": 1,
    "trainer_parts": 8,
    "argument_checks": 4,
    "argument_files": 3,
    "watched_metric": 3,
    "early_stopping": 0,
    "evaluation": 4,
    "publishing": 7,
    "kernels": 4,
    "steps": 9,
    "resumable": 10,
    "trainer": 11,
    "__init__": 12,
}
# Slow to import, and needed late or by some only: (module, what it imports where it is used).
LATE = {
    ("evaluation", "metrics"),  # evaluate, scipy.stats
    ("gradients.methods.pcgrad_reference", "pytorch_optimizer"),
    ("optimizers", "pytorch_optimizer"),
    ("publishing", "report"),  # matplotlib
    ("modeling", "mpnet"),  # transformers' MPNet
}
SLOW = ("evaluate", "matplotlib", "pytorch_optimizer", "transformers.models.mpnet.modeling_mpnet")
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
    for path in PACKAGE.rglob("*.py")
}


def layer(name: str) -> str:
    """The folder that a module is in, or itself."""
    return name.split(".")[0]


def own_imports(name: str) -> set[str]:
    """Modules of the package that a module imports, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = name.split(".")[: -node.level]
            source = ".".join([*above, node.module] if node.module else above)
            for name_in_source in (f"{source}.{alias.name}".removeprefix(".") for alias in node.names):
                places = (name_in_source, f"{name_in_source}.__init__", source, f"{source}.__init__")
                found.add(next(place for place in places if place in MODULES))
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
    assert set(LEVELS) == set(map(layer, MODULES))


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_from_lower_levels_only(name):
    own, others = layer(name), own_imports(name)
    above = {other for other in others if layer(other) != own and LEVELS[layer(other)] >= LEVELS[own]}
    assert not above, f"{name} (level {LEVELS[own]}) imports {above}"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_are_at_the_top_and_relative(name):
    tree = MODULES[name]
    inside = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) and n not in tree.body]
    inside = [n for n in inside if not isinstance(n, ast.ImportFrom) or (name, n.module) not in LATE]
    assert not inside, f"{name} imports in line {inside[0].lineno}, not at the top"
    assert "hf_mtl" not in foreign_imports(name)
    assert all(n.level <= 1 + name.count(".") for n in tree.body if isinstance(n, ast.ImportFrom))


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


GRADIENTS = [name for name in MODULES if layer(name) == "gradients"]


@pytest.mark.parametrize("name", ["errors", "kinds", "schedule", "seeding", "shares", "sampling", *GRADIENTS])
def test_the_mathematics_needs_no_transformers(name):
    needed = set().union(*(foreign_imports(module) for module in closure(name)))
    assert needed - sys.stdlib_module_names <= {"torch", "numpy", "scipy", "pytorch_optimizer"}
