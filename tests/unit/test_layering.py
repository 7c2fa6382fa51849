"""Packages import downward only, and a saved model loads with torch and transformers alone."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_relative_import_files

from hf_mtl.model.export_code import modeling_code

PACKAGE = Path(__file__).parents[2] / "hf_mtl"
# A module imports from its own package and from lower layers. Modules beside the packages are the ground, which anyone
# may import, unless they are named here.
LAYERS = [
    ["model"],
    ["ground"],
    ["tasks", "gradients"],
    ["hub", "kernels"],
    ["data"],
    ["inference"],
    ["training"],
    ["compare"],
    ["cli", "loading", "__init__"],
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
# Slow to import, and needed late or by some only: (module, what it imports where it is used).
LATE = {
    ("training.evaluation", "tasks.metrics"),
    ("tasks.kind_ordinal", "sklearn.metrics"),
    ("tasks.metrics", "scipy"),  # scipy.stats
    ("data.cuts", "scipy.sparse"),
    ("data.cuts", "scipy.sparse.csgraph"),
    ("tasks.metrics", "sklearn.metrics"),
    ("tasks.metrics", "evaluate_metric"),  # evaluate
    ("gradients.methods.pcgrad_reference", "pytorch_optimizer"),
    ("training.optimizers", "pytorch_optimizer"),
    ("training.publishing", "training_curves"),  # matplotlib
    ("training.pictures", "matplotlib.backends.backend_agg"),
    ("training.pictures", "matplotlib.figure"),
    ("model.modeling", "mpnet_attention"),  # transformers' MPNet
}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
    for path in PACKAGE.rglob("*.py")
}


def package(name: str) -> str:
    """The package that a module is in; the ground for one that stands beside them."""
    first = name.split(".")[0]
    return first if first in RANK else "ground"


def own_imports(name: str) -> set[str]:
    """Modules of hf_mtl that a module imports, wherever the import stands."""
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
    """A module and every module of hf_mtl that it needs."""
    reached, open_ends = set(), [name]
    while open_ends:
        module = open_ends.pop()
        if module not in reached:
            reached.add(module)
            open_ends += own_imports(module)
    return reached


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_from_lower_layers_only(name):
    own = package(name)
    above = {other for other in own_imports(name) if package(other) != own and RANK[package(other)] >= RANK[own]}
    assert not above, f"{name} (of {own}) imports {above}"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_are_at_the_top_and_relative(name):
    tree = MODULES[name]
    inside = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) and n not in tree.body]
    inside = [n for n in inside if not isinstance(n, ast.ImportFrom) or (name, n.module) not in LATE]
    assert not inside, f"{name} imports in line {inside[0].lineno}, not at the top"
    assert "hf_mtl" not in foreign_imports(name)


def test_there_are_at_most_ten_modules_beside_the_packages():
    assert len([name for name in MODULES if "." not in name and name != "__init__"]) <= 10


def test_there_is_no_circle():
    list(TopologicalSorter({name: own_imports(name) for name in MODULES}).static_order())  # raises CycleError


def test_a_saved_model_needs_torch_and_transformers_only():
    names = {f"model.{module}" for module in modeling_code()}
    needed = set().union(*map(foreign_imports, names))
    assert closure("model.modeling") | closure("model.pipeline") == names
    assert needed - sys.stdlib_module_names == {"torch", "transformers"}


def test_transformers_finds_every_module_of_a_saved_model():
    entries = [PACKAGE / "model" / f"{name}.py" for name in ("configuration", "modeling", "pipeline")]
    found = {Path(file) for entry in entries for file in (entry, *get_relative_import_files(entry))}
    assert found == {PACKAGE / "model" / f"{name}.py" for name in modeling_code()}


GRADIENTS = [name for name in MODULES if package(name) == "gradients"]


@pytest.mark.parametrize(
    "name", ["model.pooling", "errors", "seeding", "data.task_shares", "data.batch_sampler", *GRADIENTS]
)
def test_the_mathematics_needs_no_transformers(name):
    needed = set().union(*(foreign_imports(module) for module in closure(name)))
    assert needed - sys.stdlib_module_names <= {"torch", "numpy", "scipy", "pytorch_optimizer"}
