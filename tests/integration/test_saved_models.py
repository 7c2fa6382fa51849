"""A saved model is opened as a whole or not at all; it takes more heads and more tokens, and nothing else is saved."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from run_start import load
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoTokenizer, pipeline

from hf_mtl import InputError, MultiTaskModel, load_model
from hf_mtl.cli import main as cli
from hf_mtl.model.heads import HeadSpec
from hf_mtl.pretrained import load_config
from hf_mtl.training import run

TOPIC = HeadSpec(name="topic", kind="classification", labels=("a", "b", "c"))


@pytest.fixture
def saved(make_model, tokenizer, tmp_path):
    """A sound saved model with its tokenizer."""
    folder = tmp_path / "saved"
    make_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def edit(folder, change):
    values = json.loads((folder / "config.json").read_text())
    change(values)
    (folder / "config.json").write_text(json.dumps(values))


def rewrite(folder, change):
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})


def without(part):
    return lambda folder: rewrite(folder, lambda t: {n: v for n, v in t.items() if part not in n})


def rename_task(folder):
    edit(folder, lambda values: values["tasks"][0].update(name="comments"))


def add_label(folder):
    edit(folder, lambda values: values["tasks"][0]["labels"].append("neither"))


def drop_task(folder):
    edit(folder, lambda values: values["tasks"].pop(0))


def add_head(folder):
    rewrite(folder, lambda t: {**t, "heads.topic.weight": torch.ones(3, 32), "heads.topic.bias": torch.ones(3)})


def set_layers(number):
    return lambda folder: edit(folder, lambda values: values["encoder_config"].update(num_hidden_layers=number))


def add_lora(folder):
    rename = {"query.weight": "query.base_layer.weight"}
    rewrite(folder, lambda t: {n.replace(*next(iter(rename.items()))): v for n, v in t.items()})


DAMAGE = {
    "a task renamed": (rename_task, r"lack heads\.comments\.bias.*beside them heads\.reviews\.bias"),
    "a task dropped": (drop_task, r"beside them heads\.reviews\.bias, heads\.reviews\.weight"),
    "a label more": (add_label, r"other shapes: heads\.reviews\.bias \(2,\) instead of \(3,\)"),
    "a head's tensors dropped": (without("heads.reviews"), r"lack heads\.reviews\.bias, heads\.reviews\.weight"),
    "a bias dropped": (without("heads.pairs.bias"), r"lack heads\.pairs\.bias"),
    "a head more": (add_head, r"beside them heads\.topic\.bias, heads\.topic\.weight"),
    "a layer dropped": (without("layer.1."), r"lack encoder\.encoder\.layer\.1\..* and \d+ more"),
    "a layer less configured": (set_layers(1), r"beside them encoder\.encoder\.layer\.1\."),
    "a layer more configured": (set_layers(3), r"lack encoder\.encoder\.layer\.2\."),
    "a LoRA adapter": (add_lora, r"lack .*query\.weight.*base_layer.*merge_and_unload"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_model_that_is_not_whole_is_an_error_everywhere_that_names_the_tensors(damage, message, saved, capsys):
    damage(saved)
    heads = load_config(saved).heads.values()
    opened = {
        "training": lambda: load_model(saved, heads),
        "fresh heads": lambda: load_model(saved, [TOPIC]),
        "Python": lambda: MultiTaskModel.from_pretrained(saved),
        "the auto class": lambda: AutoModel.from_pretrained(saved),
    }
    for name, open_it in opened.items():
        with pytest.raises(InputError, match=rf"model '{saved}': config.json and the weights .* {message}") as error:
            open_it()
        assert "\n" not in str(error.value), name
    with pytest.raises(
        ValueError, match=message
    ):  # transformers' function puts what was raised into an error of its own
        pipeline("multi-task-classification", model=str(saved))
    assert cli(["predict", "--model", str(saved), "--text", "dull"]) == 2
    assert re.search(message, capsys.readouterr().err)


REMOTE = """
import sys
from transformers import AutoModel
try:
    AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
except ValueError as error:
    assert type(error).__name__ == "InputError" and "hf_mtl" not in sys.modules
    print(error)
"""


def test_the_code_that_travels_with_it_refuses_it_too(saved, tmp_path):
    rename_task(saved)
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-c", REMOTE, str(saved)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert "lack heads.comments.bias, heads.comments.weight" in done.stdout


def test_a_task_that_the_saved_model_lacks_gets_a_fresh_head_said_once(saved, caplog):
    before = MultiTaskModel.from_pretrained(saved)
    with caplog.at_level("INFO", logger="hf_mtl"):
        model = load_model(saved, [TOPIC, before.task_heads["pairs"]])
    message = (
        f"loaded {saved}; fresh heads: topic; heads with their saved weights: pairs; saved heads left out: reviews"
    )
    assert caplog.messages == [message]
    assert list(model.heads) == list(model.config.heads) == ["topic", "pairs"]
    assert torch.equal(model.heads["pairs"].weight, before.heads["pairs"].weight)
    assert 0.005 < model.heads["topic"].weight.std() < 0.05 and not model.heads["topic"].bias.any()
    assert all(p.requires_grad for p in model.parameters())
    model.save_pretrained(saved.parent / "again")
    assert torch.equal(load_model(saved.parent / "again", [TOPIC]).heads["topic"].weight, model.heads["topic"].weight)


def wrap_lora(model):
    """As peft does around one layer."""
    attention = model.encoder.encoder.layer[0].attention.self

    class Lora(nn.Module):
        def __init__(self, base_layer):
            super().__init__()
            self.base_layer = base_layer
            self.lora_A = nn.ModuleDict({"default": nn.Linear(32, 2, bias=False)})

    attention.query = Lora(attention.query)


def wrap_whole(model):
    model.encoder = nn.ModuleDict({"base_model": nn.ModuleDict({"model": model.encoder})})


def compile_layer(model):
    model.encoder.encoder.layer[1] = torch.compile(model.encoder.encoder.layer[1], backend="eager")


def replace_head(model):
    model.heads["reviews"] = nn.Linear(32, 5)


def add_module(model):
    model.heads["topic"] = nn.Linear(32, 3)


UNSAVEABLE = {
    "LoRA in place": (wrap_lora, r"query\.base_layer\.bias.*merge_and_unload"),
    "LoRA around the encoder": (wrap_whole, r"encoder\.base_model\.model\..*merge_and_unload"),
    "a compiled layer": (compile_layer, r"_orig_mod\..*module\.compile"),
    "a head of another width": (replace_head, r"heads\.reviews\.bias \(5,\) instead of \(2,\)"),
    "a head that the configuration lacks": (add_module, r"beside them heads\.topic\.bias"),
}


@pytest.mark.parametrize(("change", "message"), UNSAVEABLE.values(), ids=UNSAVEABLE)
def test_what_could_not_be_loaded_is_not_saved(change, message, make_model, make_trainer, tmp_path):
    model = make_model()
    change(model)
    with pytest.raises(InputError, match=f"the model cannot be saved.*{message}"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    with pytest.raises(InputError, match=f"the model cannot be saved.*{message}|is compiled"):
        make_trainer(model)  # said before hours of training
    if "head" not in message:
        with pytest.raises((InputError, AttributeError)):
            model.save_encoder(tmp_path / "encoder")


def test_names_of_a_compiled_model_are_not_saved(make_model, tmp_path):
    model = make_model()
    state = {f"_orig_mod.{name}": value for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=r"_orig_mod\.encoder\..*module\.compile"):
        model.save_pretrained(tmp_path / "saved", state_dict=state)


@pytest.mark.parametrize("resize", ["model", "encoder"])
@pytest.mark.parametrize("num_tokens", [40, 1007])
def test_resized_embeddings_are_saved_and_come_back(make_model, tmp_path, resize, num_tokens):
    model = make_model()
    (model if resize == "model" else model.encoder).resize_token_embeddings(num_tokens)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["encoder_config"]["vocab_size"] == num_tokens
    again = MultiTaskModel.from_pretrained(tmp_path)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())
    load_model(tmp_path, [TOPIC])


@pytest.fixture
def larger(make_model, tokenizer, tmp_path):
    """An encoder's folder whose tokenizer has three tokens more than it."""
    folder = tmp_path / "larger"
    make_model().encoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    more = AutoTokenizer.from_pretrained(folder)
    more.add_tokens(["zzza", "zzzb", "zzzc"])
    more.save_pretrained(folder)
    return folder


def test_the_encoder_grows_to_its_tokenizer_where_that_is_asked_for(larger, specs, tokenizer, caplog):
    flags, old = ["--model_name_or_path", str(larger)], len(tokenizer)
    with pytest.raises(InputError, match=f"has {old + 3} tokens and its encoder knows {old}.*--resize_emb"):
        load(specs, *flags)
    with caplog.at_level("INFO", logger="hf_mtl"):
        (model, _), (same, _) = load(specs, *flags, "--resize_embeddings"), load(specs, *flags, "--resize_embeddings")
    assert f"embeddings for 3 more tokens, {old + 3} in all" in caplog.text
    before = AutoModel.from_pretrained(larger).get_input_embeddings().weight
    weight = model.encoder.get_input_embeddings().weight
    assert torch.equal(weight[:old], before) and weight[old:].std() > 0
    assert torch.equal(weight, same.encoder.get_input_embeddings().weight)  # every process draws them alike
    other, _ = load(specs, *flags, "--resize_embeddings", seed=1)
    assert not torch.equal(weight, other.encoder.get_input_embeddings().weight)


def test_an_encoder_with_room_to_spare_stays_as_it_is(make_model, tokenizer, specs, tmp_path):
    model = make_model()
    model.encoder.resize_token_embeddings(len(tokenizer) + 60)
    model.encoder.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = load(specs, "--model_name_or_path", str(tmp_path), "--resize_embeddings")
    assert model.config.encoder_config.vocab_size == len(tokenizer) + 60


def test_a_run_with_more_tokens_trains_resumes_and_predicts(larger, tmp_path, capsys):
    out = tmp_path / "out"
    flags = (
        f"--model_name_or_path {larger} --task_set demo --output_dir {out} --do_train --use_cpu --resize_embeddings "
    )
    flags += "--unfreeze_schedule none --save_strategy steps --save_steps 2 "
    flags += "--eval_strategy no --disable_tqdm true"
    run.main([*flags.split(), "--max_steps", "2"])
    run.main([*flags.split(), "--max_steps", "4", "--resume_from_checkpoint", "latest"])
    assert json.loads((out / "trainer_state.json").read_text())["global_step"] == 4
    assert cli(["predict", "--model", str(out), "--text", "zzza dull", "--json"]) == 0
    assert "reviews" in capsys.readouterr().out
    load_model(out, [TOPIC])  # without the flag: the saved encoder has them all


def test_the_folder_of_a_plain_encoder_is_no_saved_model(larger):
    with pytest.raises(InputError, match=r"no encoder_config.*load_model\(name, heads\) puts heads on a plain encoder"):
        MultiTaskModel.from_pretrained(larger)
