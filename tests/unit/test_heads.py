"""Heads: the loss as a sum over units, the names of the weights, and what config.json says of them."""

import json

import pytest
import torch
import torch.nn.functional as F

from hf_mtl import HeadSpec, InputError, MultiTaskConfig, MultiTaskModel, load_model
from hf_mtl.model.configuration import BUILT_IN_HEADS, FORMAT_VERSION
from hf_mtl.model.heads import HEADS, Head, register_head
from hf_mtl.model.travelling_heads import OWN_KINDS
from hf_mtl.tasks.kinds import KINDS

SENTIMENT = HeadSpec(name="sentiment", kind="classification", labels=("bad", "good", "neither"))
SIMILARITY = HeadSpec(name="similarity", kind="regression", label_range=(1.0, 4.0), num_texts=2)


def head_of(spec, width=8):
    torch.manual_seed(0)
    return HEADS[spec.kind](spec, width, "mean", 0.0)


def losses_of(spec, labels, plain):
    """Loss and its gradient by a head, and by torch's own mean."""
    results = []
    for how in ("head", "torch"):
        head = head_of(spec)
        hidden = torch.randn(len(labels), 5, 8, generator=torch.Generator().manual_seed(1))
        logits = head(hidden, torch.ones(len(labels), 5, dtype=torch.long))
        total, units = head.loss(logits, labels)
        assert units == head.num_units(labels) == len(labels)
        loss = total / units if how == "head" else plain(logits, labels)
        loss.backward()
        results.append([loss.detach(), head.weight.grad, head.bias.grad])
    return results


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 32, 63])
def test_the_loss_is_torchs_mean(rows):
    generator = torch.Generator().manual_seed(rows)
    classes = torch.randint(0, 3, (rows,), generator=generator)
    values = torch.rand(rows, generator=generator) * 3 + 1
    by_classes = losses_of(SENTIMENT, classes, F.cross_entropy)
    by_values = losses_of(SIMILARITY, values, lambda x, y: F.mse_loss(x.squeeze(-1), (y - 2.5) / 0.6))
    for ours, theirs in (by_classes, by_values):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)  # the order of one division


def test_a_forward_tells_the_units_of_its_loss(make_model):
    batch = {"input_ids": torch.ones(3, 4, dtype=torch.long), "labels": torch.tensor([0, 1, 0])}
    model = make_model()
    assert model(task="reviews", **batch).units == 3
    both = model(batches={"reviews": batch, "pairs": {**batch, "labels": torch.tensor([0.0, 1.0, 2.0])}})
    assert both.units == {"reviews": 3, "pairs": 3}
    assert model(task="reviews", input_ids=batch["input_ids"]).units is None


def test_names_of_the_weights_are_those_of_a_linear_layer(make_model):
    names = [name for name in make_model().state_dict() if name.startswith("heads.")]
    assert names == ["heads.reviews.weight", "heads.reviews.bias", "heads.pairs.weight", "heads.pairs.bias"]


def test_a_head_owns_its_dropout(make_model):
    model = make_model(dropout=0.5)
    assert {head.dropout.p for head in model.heads.values()} == {0.5}
    assert not hasattr(model, "dropout")


def test_a_kind_has_one_head():
    with pytest.raises(InputError, match=r"kind 'regression' has a head already, hf_mtl.*RegressionHead; choose"):
        register_head("regression")(HEADS["classification"])
    with pytest.raises(InputError, match="wanted a subclass of Head"):
        register_head("mine")(torch.nn.Linear)


# ---- config.json ----


def test_the_format_is_written_and_read(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["format_version"] == FORMAT_VERSION == 1 and "head_files" not in values
    assert MultiTaskModel.from_pretrained(tmp_path).config.format_version == 1


NEWER = r"format_version is .*knows the formats up to 1.*--upgrade hf_mtl"
WRONG = r"format_version is .*, wanted a whole number from 1"


@pytest.mark.parametrize(
    ("version", "named"), [(2, NEWER), (17, NEWER), ("1", WRONG), (1.0, WRONG), (True, WRONG), (0, WRONG)]
)
def test_a_format_that_is_not_known_is_refused_with_what_to_do(make_model, tmp_path, version, named):
    make_model().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "format_version": version, "tasks": "of another form"}))
    for load in (MultiTaskModel.from_pretrained, lambda name: load_model(name, [SENTIMENT])):
        with pytest.raises(InputError, match=named):
            load(str(tmp_path))


def test_a_format_that_is_not_named_is_that_of_0_1_0(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["format_version"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert MultiTaskModel.from_pretrained(tmp_path).config.format_version == 1


def test_a_kind_whose_head_is_beside_the_weights_names_kind_file_and_flag(make_model, tmp_path):
    tasks = [{"name": "topics", "kind": "many", "labels": ["a", "b"]}]
    with pytest.raises(InputError, match=r"kind 'many', which is not registered; .* 'many_head\.py'.* --plugin FILE"):
        MultiTaskConfig(make_model().config.encoder_config, tasks, head_files={"many": "many_head.py"})


# ---- the file of a head ----

HEAD = """
from hf_mtl.model.heads import Head
{imports}
class OwnHead(Head):
    def forward(self, hidden, mask): ...
    def loss(self, logits, labels): ...
    def decode(self, logits, mask=None): ...
    def answer(self, logits, mask=None, top_k="best"): ...
"""
IMPORTS = {
    "numpy": ("import numpy as np", r"imports numpy in line 3"),
    "the package": ("import hf_mtl", r"imports hf_mtl\. in line 3"),
    "a module of the package as a whole": ("import hf_mtl.model.heads", r"imports hf_mtl\.model\.heads\. in line 3"),
    "another part of the package": ("from hf_mtl import InputError", r"imports hf_mtl in line 3"),
    "late": ("def late():\n    from hf_mtl.tasks.spec import TaskSpec", r"imports hf_mtl\.tasks\.spec in line 4"),
    "a neighbour": ("from own_layers import Layer", r"imports own_layers in line 3"),
}


def make_head(folder, code, name="own_head.py"):
    """The class in a file that is imported as a plugin's head is."""
    from hf_mtl.plugins import load_plugin

    for each in ("own_layers.py", name):
        (folder / each).write_text("Layer = None\n" if each == "own_layers.py" else code)
    (folder / "own_kind.py").write_text(f"from {name.removesuffix('.py')} import OwnHead")
    return load_plugin(folder / "own_kind.py").OwnHead


@pytest.mark.parametrize(("imports", "message"), IMPORTS.values(), ids=IMPORTS)
@pytest.mark.usefixtures("plugins_of_this_test")
def test_a_head_that_could_not_go_along_is_refused_before_training(tmp_path, make_model, imports, message):
    register_head("own")(make_head(tmp_path, HEAD.format(imports=imports)))
    model = make_model([type("Task", (), {"head": HeadSpec(name="t", kind="own")})])
    with pytest.raises(InputError, match=rf"kind 'own': own_head\.py {message}.*wanted a file that imports torch"):
        model.check_names()


@pytest.mark.usefixtures("plugins_of_this_test")
def test_a_head_in_a_file_named_as_one_of_the_model_is_refused(tmp_path, make_model):
    register_head("own")(make_head(tmp_path, HEAD.format(imports=""), "weights.py"))
    model = make_model([type("Task", (), {"head": HeadSpec(name="t", kind="own")})])
    with pytest.raises(InputError, match=r"weights\.py' is called as a module of hf_mtl\.model is; rename it"):
        model.check_names()


@pytest.mark.usefixtures("plugins_of_this_test")
def test_a_head_that_is_in_no_file_is_refused(make_model):
    class Inner(Head):
        forward = loss = decode = answer = None

    register_head("own")(Inner)
    model = make_model([type("Task", (), {"head": HeadSpec(name="t", kind="own")})])
    with pytest.raises(InputError, match="is not at the top of a file that can be imported"):
        model.check_names()


def test_every_kind_of_the_package_is_known_to_copies_of_its_code():
    assert set(OWN_KINDS) == {kind for kind, head in HEADS.items() if head in BUILT_IN_HEADS} == set(KINDS)
