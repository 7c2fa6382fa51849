"""Files from elsewhere run no code, and files of a run hold no secret and stay in its folder."""

import json
import pickle
from pathlib import Path

import pytest
import torch
import yaml
from transformers import BertConfig, BertModel

from hf_mtl import InputError, load_tasks
from hf_mtl.training.argument_parser import parse_arguments
from hf_mtl.training.checkpoints import choose_checkpoint, write_manifest
from hf_mtl.training.run_model import load_model_and_tokenizer

TOKEN = "hf_thisIsASecretToken"


class Payload:
    """Unpickled, it writes a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.write_text, (Path(self.target), "the code ran")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "ran"


def test_a_checkpoint_holds_neither_the_token_nor_the_folder(make_trainer, tmp_path, capsys, caplog):
    trainer = make_trainer(hub_token=TOKEN, save_strategy="steps", save_steps=2)
    with caplog.at_level("DEBUG"):
        trainer.train()
        trainer.save_model()
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len([path for path in written if path.name == "model.safetensors"]) == 3
    for path in written:
        content = path.read_bytes()
        assert TOKEN.encode() not in content and str(tmp_path).encode() not in content, path
        assert path.name != "training_args.bin"
    output = capsys.readouterr()
    assert TOKEN not in output.out + output.err + caplog.text


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickle_in_a_checkpoint_is_not_run(make_trainer, tmp_path, target, name):
    """Also where the one who put it there has made a manifest for it."""
    settings = {"save_strategy": "steps", "save_steps": 2}
    make_trainer(**settings).train()
    checkpoint = tmp_path / "out" / "checkpoint-2"
    torch.save({"state": Payload(target)}, checkpoint / name)
    write_manifest(checkpoint)
    assert choose_checkpoint(str(checkpoint), "out") == str(checkpoint)
    with pytest.raises(pickle.UnpicklingError):
        make_trainer(**settings).train(resume_from_checkpoint=str(checkpoint))
    assert not target.exists()
    torch.load(checkpoint / name, weights_only=False)
    assert target.exists()  # the payload does work


@pytest.fixture
def encoder(tmp_path, tokenizer) -> Path:
    folder = tmp_path / "encoder"
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def arguments(*argv):
    model_args, _, _ = parse_arguments([*argv, "--output_dir", "out", "--use_cpu"])
    return model_args


def test_weights_load_from_safetensors_only(encoder, specs, target):
    load_model_and_tokenizer(arguments("--model_name_or_path", str(encoder)), specs)
    (encoder / "model.safetensors").unlink()
    torch.save({"x": Payload(target)}, encoder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"model_name_or_path .*encoder"):
        load_model_and_tokenizer(arguments("--model_name_or_path", str(encoder)), specs)
    torch.save(BertModel(BertConfig.from_pretrained(encoder)).state_dict(), encoder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"model_name_or_path .*encoder"):
        load_model_and_tokenizer(arguments("--model_name_or_path", str(encoder)), specs)
    assert not target.exists()


def test_code_that_a_model_brings_along_does_not_run_unless_asked(encoder, specs, target, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "")  # transformers asks
    config = json.loads((encoder / "config.json").read_text())
    auto_map = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    (encoder / "config.json").write_text(json.dumps({**config, "model_type": "evil", "auto_map": auto_map}))
    (encoder / "evil.py").write_text(f"from pathlib import Path\nPath({str(target)!r}).write_text('ran')\n")
    assert not arguments().trust_remote_code
    with pytest.raises(InputError, match=r"model_name_or_path .*encoder"):
        load_model_and_tokenizer(arguments("--model_name_or_path", str(encoder)), specs)
    assert not target.exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir"])
def test_yaml_makes_no_objects(tmp_path, target, tag):
    file = tmp_path / "file.yaml"
    file.write_text(f"tasks: {tag} [{target}]\n")
    with pytest.raises(InputError, match=r"file\.yaml"):
        load_tasks(str(file))
    _, data_args, _ = parse_arguments([str(file), "--output_dir", str(tmp_path / "out")])
    assert data_args.tasks == [str(target)]  # text is all that a file of arguments can hold
    assert not target.exists()
    yaml.unsafe_load(file.read_text())
    assert target.exists()  # the tag does work


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "..", ".", "a\\b", "", "a\nb", "a\0b", "C:x", ".hidden"])
def test_a_tasks_name_that_could_leave_the_folder_is_refused(tmp_path, name):
    file = tmp_path / "tasks.yaml"
    row = {"kind": "regression", "text_columns": ["text"], "label_range": [0, 1], "files": {"train": "x.csv"}}
    file.write_text(json.dumps({"tasks": {name: row}}))
    with pytest.raises(InputError, match="name"):
        load_tasks(str(file))
