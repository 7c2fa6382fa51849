"""A saved model works where only torch and transformers are installed: the model, the pipeline, the encoder alone."""

import importlib.metadata
import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModel, pipeline
from without_package import BLOCK

from hf_mtl import InputError, MultiTaskModel
from hf_mtl.model.export_code import PIPELINE_TASK

USE = """
import sys, torch
from transformers import AutoModel, AutoTokenizer, pipeline
for name in ("hf_mtl", "scipy", "datasets", "evaluate"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(name + " is installed here")
source, folder = sys.argv[1:]
expected = torch.load(folder + "/expected.pt")
tokens = expected["tokens"]
def check(source):
    model = AutoModel.from_pretrained(source, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    for task, logits in expected["logits"].items():
        assert torch.equal(model(task=task, **tokens).logits, logits), task
    return model
model = check(source)
pipe = pipeline("multi-task-classification", model=source, trust_remote_code=True)
assert type(pipe).__module__.startswith("transformers_modules.")
assert [pipe("dull"), pipe(("a man sleeps", "a man rests"))] == expected["answers"]
tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=True)
model.save_pretrained(folder + "/again")
tokenizer.save_pretrained(folder + "/again")
check(folder + "/again")
model.save_encoder(folder + "/encoder")
vectors = AutoModel.from_pretrained(folder + "/encoder")(**tokens).last_hidden_state.mean(1)
assert torch.equal(vectors, model.embed(**tokens))
print("equal")
"""
SENTENCE_TRANSFORMERS = """
import sys, torch
from sentence_transformers import SentenceTransformer
folder = sys.argv[1]
for pooling, (texts, vectors) in torch.load(folder + "/vectors.pt").items():
    model = SentenceTransformer(folder + "/" + pooling)
    torch.testing.assert_close(model.encode(texts, convert_to_tensor=True), vectors, atol=1e-5, rtol=1e-5)
    assert model.max_seq_length == 24, model.max_seq_length
print("equal")
"""


@pytest.fixture
def saved(tmp_path, make_model, tokenizer):
    """A saved model with what it answers here beside it."""
    model = make_model(max_seq_length=24).eval()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    tokens = dict(tokenizer("a dull film", return_tensors="pt"))
    pipe = pipeline(PIPELINE_TASK, model=str(tmp_path / "model"))
    expected = {
        "tokens": tokens,
        "logits": {task: model(task=task, **tokens).logits.detach() for task in ("reviews", "pairs")},
        "answers": [pipe("dull"), pipe(("a man sleeps", "a man rests"))],
    }
    torch.save(expected, tmp_path / "expected.pt")
    return tmp_path


def run(interpreter, code, *arguments, home):
    """Run code in a process that sees neither this checkout nor any server."""
    environment = {
        "PATH": os.environ["PATH"],
        "HF_HOME": str(home / "home"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [interpreter, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "equal" in done.stdout, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def test_a_saved_model_works_without_the_package(saved):
    run(sys.executable, BLOCK + USE, saved / "model", saved, home=saved)


@pytest.mark.slow
def test_a_saved_model_works_in_a_clean_environment(saved, make_model, tokenizer):
    subprocess.run([sys.executable, "-m", "venv", saved / "venv"], check=True)
    python = saved / "venv" / "bin" / "python"
    versions = [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in ("torch", "transformers")]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *versions], check=True)
    run(python, USE, saved / "model", saved, home=saved)

    subprocess.run([python, "-m", "pip", "install", "--quiet", "sentence-transformers"], check=True)
    vectors, texts = {}, ["dull", "a great film and a long story about a man " * 5]
    for pooling in ("mean", "cls", "max"):
        model = make_model(pooling=pooling, max_seq_length=24).eval()
        model.save_encoder(saved / pooling, tokenizer)
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=24, return_tensors="pt")
        vectors[pooling] = texts, model.embed(**tokens).detach()
    torch.save(vectors, saved / "vectors.pt")
    run(python, SENTENCE_TRANSFORMERS, saved, home=saved)


def test_the_encoder_of_a_model_that_was_built_from_a_configuration_can_be_saved(saved, tokenizer):
    config = AutoModel.from_pretrained(saved / "model").config
    MultiTaskModel(config).save_encoder(saved / "encoder", tokenizer)
    AutoModel.from_config(config).save_encoder(saved / "other")
    assert (saved / "other" / "tokenizer.json").read_bytes() == (saved / "encoder" / "tokenizer.json").read_bytes()


def test_the_package_prefers_its_own_code(saved):
    for trust in (None, True):
        model = AutoModel.from_pretrained(saved / "model", trust_remote_code=trust)
        pipe = pipeline(PIPELINE_TASK, model=str(saved / "model"), trust_remote_code=trust)
        assert type(model) is type(pipe.model) is MultiTaskModel
        assert type(pipe).__module__ == "hf_mtl.model.pipeline"


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_the_encoder_alone_says_how_it_is_pooled(tmp_path, make_model, tokenizer, pooling):
    make_model(pooling=pooling, max_seq_length=24).save_encoder(tmp_path, tokenizer)
    modes = json.loads((tmp_path / "1_Pooling" / "config.json").read_text())
    assert modes.pop("word_embedding_dimension") == 32
    assert {mode for mode, is_on in modes.items() if is_on} == {
        {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens"}[pooling]
    }
    assert json.loads((tmp_path / "sentence_bert_config.json").read_text())["max_seq_length"] == 24
    assert [row["path"] for row in json.loads((tmp_path / "modules.json").read_text())] == ["", "1_Pooling"]


def test_an_encoder_without_a_tokenizer_is_refused(tmp_path, make_model):
    with pytest.raises(InputError, match="needs the tokenizer"):
        make_model().save_encoder(tmp_path)
