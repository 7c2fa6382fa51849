"""What 0.1.0 had elsewhere is there for one more release, with a warning that says where it is now."""

import pytest

import hf_mtl.data
import hf_mtl.loading
from hf_mtl.data import collator, raw_rows, task_rows, tokenization
from hf_mtl.tasks import labels

MOVED = {
    "hf_mtl.data.tokenise": (hf_mtl.data, "tokenise", tokenization.tokenize),
    "hf_mtl.data.TaskRows": (hf_mtl.data, "TaskRows", task_rows.TaskRows),
    "hf_mtl.data.TaskCollator": (hf_mtl.data, "TaskCollator", collator.TaskCollator),
    "hf_mtl.loading.load_rows": (hf_mtl.loading, "load_rows", raw_rows.load_rows),
    "hf_mtl.loading.read_labels": (hf_mtl.loading, "read_labels", labels.read_labels),
}


@pytest.mark.parametrize(("module", "name", "new"), MOVED.values(), ids=MOVED)
def test_an_old_name_works_and_warns(module, name, new):
    wanted = f"{module.__name__}.{name} is now {new.__module__}.{new.__name__}"
    with pytest.warns(DeprecationWarning, match=f"^{wanted}$") as caught:
        assert getattr(module, name) is new
    assert caught[0].filename == __file__


def test_the_old_imports_work():
    with pytest.warns(DeprecationWarning, match=r"is now hf_mtl\."):
        from hf_mtl.data import TaskCollator, tokenise
        from hf_mtl.loading import load_rows, read_labels
    assert tokenise is tokenization.tokenize and TaskCollator is collator.TaskCollator
    assert load_rows is raw_rows.load_rows and read_labels is labels.read_labels


@pytest.mark.parametrize("module", [hf_mtl.data, hf_mtl.loading])
def test_a_name_that_never_was_is_none(module):
    with pytest.raises(AttributeError, match="has no attribute 'tokenize_all'"):
        _ = module.tokenize_all
