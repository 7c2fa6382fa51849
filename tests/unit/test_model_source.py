"""A name, a configuration, weights or a tokenizer that cannot be read: a sentence names the file and the way out."""

import json
import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_start import load
from safetensors.torch import load_file
from transformers import pipeline

from hf_mtl import InputError, MultiTaskModel, load_model
from hf_mtl.cli import main as cli
from hf_mtl.model.heads import HeadSpec
from hf_mtl.pretrained import load_config, load_tokenizer

TOPIC = HeadSpec(name="topic", kind="classification", labels=("a", "b", "c"))
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 438064459\n"
WEIGHTS = "model.safetensors"


@pytest.fixture
def saved(make_model, tokenizer, tmp_path):
    """A sound saved model with its tokenizer."""
    folder = tmp_path / "saved"
    make_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-100])


def make_longer(file):
    file.write_bytes(file.read_bytes() + bytes(8))


def make_link(file):
    file.unlink()
    file.symlink_to(file.parent / "elsewhere")


def shard(folder):
    MultiTaskModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()
    return sorted(folder.glob("model-*.safetensors"))[1]


BROKEN = {
    "a pointer for weights": (WEIGHTS, lambda f: f.write_text(POINTER), "is a git-lfs pointer.*git lfs pull"),
    "weights cut short": (WEIGHTS, cut_short, "model.safetensors has [0-9,]+ bytes, and its header wants"),
    "weights that go on": (WEIGHTS, make_longer, "model.safetensors has [0-9,]+ bytes, and its header wants"),
    "an empty file of weights": (WEIGHTS, lambda f: f.write_bytes(b""), r"cut short or no safetensors.*\(0 b"),
    "junk for weights": (WEIGHTS, lambda f: f.write_bytes(bytes(range(256))), "cut short or no safetensors"),
    "a link to nowhere": (WEIGHTS, make_link, "is a link to .*elsewhere, which is not there"),
    "no weights": (WEIGHTS, lambda f: f.unlink(), "holds no weights: wanted model.safetensors"),
    "TensorFlow's weights": (WEIGHTS, lambda f: f.rename(f.parent / "tf_model.h5"), "found tf_model.h5"),
    "pickled weights": (
        WEIGHTS, lambda f: f.rename(f.parent / "pytorch_model.bin"), r"MultiTaskModel\.from_pretrained\("
    ),
    "a part missing": (WEIGHTS, lambda f: shard(f.parent).unlink(), "model-00002-of-.*which the index names"),
    "a part cut short": (WEIGHTS, lambda f: cut_short(shard(f.parent)), "model-00002-of-.* its header wants"),
    "a pointer for a part": (
        WEIGHTS, lambda f: shard(f.parent).write_text(POINTER), "model-00002-of-.*is a git-lfs pointer"
    ),
    "a broken index": (
        WEIGHTS, lambda f: (shard(f.parent), (f.parent / f"{f.name}.index.json").write_text("{")),
        "is no index of weights",
    ),
    "a pointer for the configuration": ("config.json", lambda f: f.write_text(POINTER), "config.json is a git-lfs"),
    "a configuration cut short": ("config.json", cut_short, "config.json is no configuration: "),
    "a configuration that is a list": ("config.json", lambda f: f.write_text("[]"), "it holds no JSON object"),
    "a configuration in Latin-1": ("config.json", lambda f: f.write_bytes(b'{"a": "\xe9"}'), "is no configuration"),
    "no configuration": ("config.json", lambda f: f.unlink(), "it has no config.json"),
    "a pointer for the tokenizer": ("tokenizer.json", lambda f: f.write_text(POINTER), "tokenizer.json is a git-lfs"),
    "a tokenizer cut short": ("tokenizer.json", cut_short, "the tokenizer of .* cannot be loaded"),
}  # fmt: skip


@pytest.mark.parametrize(("file", "damage", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_named_with_what_to_do(saved, specs, file, damage, message, capsys):
    damage(saved / file)
    with pytest.raises(InputError, match=message) as error:
        load(specs, "--model_name_or_path", str(saved))
    assert str(saved) in str(error.value) and "\n" not in str(error.value)
    assert cli(["predict", "--model", str(saved), "--text", "dull"]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_recipe_for_pickled_weights_works_for_a_saved_model(saved, make_model):
    torch.save(load_file(saved / "model.safetensors"), saved / "pytorch_model.bin")
    (saved / "model.safetensors").unlink()
    with pytest.raises(InputError, match="a pickle, which can run code") as error:
        MultiTaskModel.from_pretrained(saved)
    recipe = str(error.value).split("If you trust it: ")[1].split(", and the tokenizer")[0]
    eval(recipe.replace("NEW_FOLDER", str(saved.parent / "new")), {"MultiTaskModel": MultiTaskModel})
    found = MultiTaskModel.from_pretrained(saved.parent / "new").state_dict()
    assert all(torch.equal(value, found[name]) for name, value in make_model().state_dict().items())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}/savd", "no such folder .did you mean '{}/saved'."),
        ("{}/saved/", None),
        ("./not/there at all", "no such folder, and no Hub id, which is name or user/name"),
        ("{}/saved/config.json", "it is a file, wanted a model's folder"),
        ("{}/saved/checkpoint-7", "no such folder, and no Hub id"),
        ("savd", "no such folder .did you mean 'saved'."),
        ("nobody/nothing", "no such folder, and from the Hub: "),
        ("{}", "it has no config.json .did you mean '{}/saved'."),
    ],
)
def test_a_name_that_is_no_folder_is_answered_with_the_nearest(saved, specs, monkeypatch, name, message, capsys):
    monkeypatch.chdir(saved.parent)
    name = name.format(saved.parent)
    if message is None:
        load_config(name)
        return
    for open_it in (load_config, lambda n: load_model(n, []), lambda n: load(specs, "--model_name_or_path", n)):
        with pytest.raises(InputError, match=message.format(saved.parent)) as error:
            open_it(name)
        assert f"'{name}'" in str(error.value) and "alphanumeric" not in str(error.value)
    assert cli(["predict", "--model", name, "--text", "dull"]) == 2
    assert re.search(message.format(saved.parent), capsys.readouterr().err)


def test_a_folder_with_an_adapter_alone_is_told_so(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="holds an adapter: merge_and_unload"):
        load_model(tmp_path, [TOPIC])


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_bytes_stand_in_the_weights_it_loads_or_says_why(saved, data):
    file = saved / "model.safetensors"
    whole = file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    if data.draw(st.booleans()):
        content = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        place, byte = data.draw(st.integers(0, header - 1)), data.draw(st.integers(0, 255))
        content = whole[:place] + bytes([byte]) + whole[place + 1 :]
    try:
        file.write_bytes(content)
        MultiTaskModel.from_pretrained(saved)
    except InputError as error:
        assert str(saved) in str(error) and "\n" not in str(error)
    else:
        assert content[:8] == whole[:8] and len(content) == len(whole)
    finally:
        file.write_bytes(whole)


JUNK = st.sampled_from([None, "x", "", -1, 0, 3.5, True, [], {}, ["x"], {"x": 1}])


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_stands_in_the_configuration_it_loads_or_says_why(saved, data):
    file = saved / "config.json"
    whole = file.read_text()
    values = json.loads(whole)
    part = data.draw(st.sampled_from([values, values["encoder_config"], values["tasks"][0]]))
    part[data.draw(st.sampled_from(sorted(part)))] = data.draw(JUNK)
    try:
        file.write_text(json.dumps(values))
        model, tokenizer = MultiTaskModel.from_pretrained(saved), load_tokenizer(saved)
        load_model(saved, model.task_heads.values())
        if part is not values["encoder_config"]:  # of ours
            pipeline("multi-task-classification", model=model, tokenizer=tokenizer)("dull")
    except InputError as error:
        assert "\n" not in str(error)
    finally:
        file.write_text(whole)
