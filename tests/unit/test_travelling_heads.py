"""The file of a head of one's own beside a saved model: its imports there, and the files that cannot go along."""

import ast
import importlib.util
import sys

import pytest

from hf_mtl import InputError, MultiTaskConfig, TaskSpec
from hf_mtl.hub.model_card import CardFacts, model_card
from hf_mtl.model.export_code import copy_modeling_code
from hf_mtl.model.heads import HEADS
from hf_mtl.model.travelling_heads import check_head_files, write_head_files
from hf_mtl.plugins import load_plugin

pytestmark = pytest.mark.usefixtures("plugins_of_this_test")

KIND = """
from {module} import MyHead
from hf_mtl import register_kind
from hf_mtl.tasks.kind_classification import Classification
@register_kind("mine")
class Mine(Classification):
    head = MyHead
"""
HEAD = """
{imports}
class MyHead(ClassificationHead):
    def decode(self, logits, mask=None):
        return super().decode(logits, mask)
"""


@pytest.fixture
def load(tmp_path):
    """Load a plugin whose head is in a file with these imports."""

    def make(imports, head_file="head_of_mine.py"):
        path = tmp_path / head_file
        path.parent.mkdir(exist_ok=True)
        path.write_text(HEAD.format(imports=imports), encoding="utf-8")
        module = head_file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        (tmp_path / "kind_of_mine.py").write_text(KIND.format(module=module))
        load_plugin(tmp_path / "kind_of_mine.py")

    return make


IMPORTS = {
    "a line": "from hf_mtl.model.head_classification import ClassificationHead",
    "after a semicolon": "import math; from hf_mtl.model.head_classification import ClassificationHead; π = 'ü'",
    "after wide letters": "π = 'ü'; from hf_mtl.model.head_classification import ClassificationHead; math = 1",
    "over a backslash": "from hf_mtl.model.head_classification \\\n    import ClassificationHead",
    "after a tab": "from\thf_mtl.model.head_classification\timport ClassificationHead",
    "in brackets": "from hf_mtl.model.head_classification import (  # why\n    ClassificationHead,\n)",
    "two on a line": "from hf_mtl.model.pooling import pool as p; from hf_mtl.model.head_classification import *",
    "in a block": "if True:\n    from hf_mtl.model.head_classification import ClassificationHead",
}


@pytest.mark.parametrize("imports", IMPORTS.values(), ids=IMPORTS)
def test_the_copys_imports_are_from_its_neighbours(load, tmp_path, imports):
    load(imports)
    check_head_files(["mine"])
    copy_modeling_code(tmp_path / "saved_model")
    write_head_files(tmp_path / "saved_model", ["mine"])
    code = (tmp_path / "saved_model" / "head_of_mine.py").read_text(encoding="utf-8")
    found = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    assert found and all(node.level == 1 and "hf_mtl" not in str(node.module) for node in found)
    assert code.partition("class ")[2] == HEAD.partition("class ")[2]

    name = "saved_model_of_this_test"
    (tmp_path / "saved_model" / "__init__.py").write_text("")
    options = {"submodule_search_locations": [str(tmp_path / "saved_model")]}
    spec = importlib.util.spec_from_file_location(name, tmp_path / "saved_model" / "__init__.py", **options)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        module = importlib.import_module(f"{name}.head_of_mine")
        assert module.MyHead.__mro__[1].__module__ == f"{name}.head_classification"
    finally:
        for each in [each for each in sys.modules if each.split(".")[0] == name]:
            del sys.modules[each]


def test_a_head_in_a_packages_init_file_is_refused_with_the_way_out(load):
    load(IMPORTS["a line"], "package_of_mine/__init__.py")
    with pytest.raises(
        InputError, match=r"head is in '.*/__init__\.py', .* not be found as package_of_mine\.py .* own"
    ):
        check_head_files(["mine"])


def test_a_head_in_a_module_of_a_package_goes_along(load, tmp_path):
    (tmp_path / "other_package").mkdir()
    (tmp_path / "other_package" / "__init__.py").touch()
    load(IMPORTS["a line"], "other_package/head_of_mine.py")
    check_head_files(["mine"])


def test_the_card_and_the_error_say_how_such_a_model_is_opened(load):
    load(IMPORTS["a line"])
    task = TaskSpec(name="t", kind="mine", text_columns=("x",), labels=("a", "b"), files={"train": "a.csv"})
    card = " ".join(model_card(CardFacts(repo_id="user/demo", tasks=[task])).split())
    assert "It wants a process that does not import `hf_mtl`, which does not know `mine`. After" in card
    assert "it is not needed" not in card
    del HEADS["mine"]
    row = {"name": "t", "kind": "mine", "labels": ["a", "b"]}
    with pytest.raises(InputError, match="or trust_remote_code=True in a process that does not import hf_mtl"):
        MultiTaskConfig(tasks=[row], head_files={"mine": "head_of_mine.py"})
