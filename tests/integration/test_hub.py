"""Runs push to a Hub-compatible server on loopback, and other processes load from there and go on from there."""

import importlib.metadata
import re
import shlex
import subprocess
import sys

import pandas as pd
import pytest
import torch
from hub_server import READ_TOKEN, TOKEN, git, run, serve
from huggingface_hub import ModelCard
from transformers import AutoModel
from without_package import BLOCK

from hf_mtl.tasks.demo import demo_encoder_config, demo_rows

HOST = "host-of-maria"
TASKS = """
tasks:
  reviews:
    kind: classification
    files: {train: reviews.csv, validation: reviews.csv}
    text_columns: [sentence]
    labels: [negative, positive]
  pairs:
    kind: regression
    files: {train: pairs.csv, validation: pairs.csv}
    text_columns: [sentence1, sentence2]
    label_range: [0, 5]
"""
LOAD = """
import sys, torch
from transformers import AutoModel, AutoTokenizer
def logits(source, **options):
    model = AutoModel.from_pretrained(source, trust_remote_code=True, **options)
    print(type(model).__module__)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=True, **options)
    pairs = tokenizer("a man sleeps", "a man rests", return_tensors="pt")
    return model(task="pairs", **pairs).logits, model(task="reviews", **tokenizer("dull", return_tensors="pt")).logits
here, name, *pinned = sys.argv[1:]
def check(here, there):
    for one, other in zip(here, there):
        assert torch.equal(one, other), (one, other)
if pinned:
    try:
        AutoModel.from_pretrained(name, trust_remote_code=True, token=False)
    except OSError as error:
        print("refused:", str(error).splitlines()[0])
    folder, revision = pinned
    check(logits(folder), logits(name, revision=revision))
    assert not torch.equal(logits(folder)[0], logits(here)[0])
check(logits(here), logits(name))
print("equal")
"""
PIPELINE = """
import sys
from transformers import pipeline
rows = "dull", ("a man sleeps", "a man rests")
here, there = (pipeline("multi-task-classification", model=source, trust_remote_code=True) for source in sys.argv[1:])
assert [here(row) for row in rows] == [there(row) for row in rows]
print(type(there).__module__, there("dull"))
"""
PACKAGE = """
import os, sys, torch
from transformers import AutoModel, AutoTokenizer
from hf_mtl import MultiTaskModel
from hf_mtl.inference.predict_command import _weights
here, name, revision, commit, folder = sys.argv[1:]
assert _weights(name, "main") == commit
token = os.environ.pop("HF_TOKEN")
pair = "a man sleeps", "a man rests"
tokens = AutoTokenizer.from_pretrained(here)(*pair, return_tensors="pt")
models = MultiTaskModel.from_pretrained(here), MultiTaskModel.from_pretrained(name, token=token)
assert torch.equal(*(model(task="pairs", **tokens).logits for model in models))
first = MultiTaskModel.from_pretrained(name, token=token, revision=revision)
first.save_encoder(folder)
assert torch.equal(AutoModel.from_pretrained(folder)(**tokens).last_hidden_state.mean(1), first.embed(**tokens))
assert AutoTokenizer.from_pretrained(folder)(*pair)["input_ids"] == tokens["input_ids"][0].tolist()
"""


@pytest.fixture
def home(tmp_path):
    """A home and a host with telling names: a short one is in any file by chance."""
    (tmp_path / "home-of-maria" / "site").mkdir(parents=True)
    (tmp_path / "home-of-maria" / "site" / "sitecustomize.py").write_text(
        f"import platform, socket\nsocket.gethostname = platform.node = lambda: {HOST!r}\n"
    )
    return tmp_path / "home-of-maria"


@pytest.fixture
def flags(home, tokenizer):
    """Of a short run on local files; an output folder is to be added."""
    data = home / "secret-data"
    data.mkdir()
    (data / "tasks.yaml").write_text(TASKS)
    for task in ("reviews", "pairs"):
        pd.DataFrame(demo_rows(task, "validation")).head(64).to_csv(data / f"{task}.csv", index=False)
    encoder = home / "secret-encoder"
    torch.manual_seed(0)
    AutoModel.from_config(demo_encoder_config(len(tokenizer)), add_pooling_layer=False).save_pretrained(encoder)
    tokenizer.save_pretrained(encoder)
    return (
        f"run_glue_mtl.py --model_name_or_path {encoder} --task_set {data}/tasks.yaml --do_train --max_steps 4 "
        "--per_device_train_batch_size 16 --use_cpu --unfreeze_schedule none --warmup_steps 0 --eval_strategy no "
        "--gradient_method gradvac --lr_scheduler_type constant --push_to_hub --hub_model_id user/demo "
    )


def test_a_pushed_run_loads_everywhere_tells_nothing_and_goes_on(tmp_path, home, flags):
    out = home / "secret-out"
    with serve(tmp_path / "hub", home) as client:
        saving = "--do_eval --save_strategy steps --save_steps 2 --hub_strategy checkpoint --hub_always_push "
        code, text = run(f"{flags} {saving} --hub_private_repo true --output_dir {out}".split(), client)
        assert code == 0 and "MultiTaskModel.from_pretrained('user/demo')" in text, text

        repository = tmp_path / "hub" / "models" / "user" / "demo"
        log = git(repository, "log", "--format=%H %s", "main").decode().splitlines()
        commits = {title: commit for commit, _, title in (line.partition(" ") for line in log)}
        names = git(repository, "ls-tree", "-r", "--name-only", "main").decode().split()
        top = {"config.json", "model.safetensors", "tokenizer.json", "README.md", "training_curves.png", "modeling.py"}
        kept = {"optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth", "gradient_method.json"}
        assert top | {f"last-checkpoint/{name}" for name in kept} <= set(names)
        assert not [name for name in names if name.endswith("training_args.bin")]
        assert not [name for name in names if name.endswith((".bin", ".pt", ".pth")) and "last-checkpoint/" not in name]
        (tmp_path / "README.md").write_bytes(git(repository, "show", "main:README.md"))
        card = ModelCard.load(tmp_path / "README.md")
        results = (out / "all_results.json").read_text()
        assert len(card.data.eval_results) == 2
        for row in card.data.eval_results:
            assert f'"eval_{row.dataset_name}_{row.metric_type}": {row.metric_value!r}' in results

        # On from the checkpoint of step 2, to the same weights: a second push.
        fetch = "from huggingface_hub import snapshot_download as get; import sys; get('user/demo', "
        fetch += "revision=sys.argv[1], local_dir=sys.argv[2], allow_patterns='last-checkpoint/*')"
        code, text = run(["-c", fetch, commits["Training in progress, checkpoint-2"], str(home / "fetched")], client)
        assert code == 0, text
        more = f"--resume_from_checkpoint {home}/fetched/last-checkpoint --output_dir {home}/again"
        code, text = run(f"{flags} {more}".split(), client)
        assert code == 0 and "gradvac" in git(repository, "show", "main:README.md").decode(), text
        assert (home / "again" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()

        large = [path.read_bytes() for path in (tmp_path / "hub" / "lfs").rglob("*") if path.is_file()]
        every_commit = git(repository, "log", "--format=%H", "main").decode().split()
        small = [
            git(repository, "show", f"{commit}:{name}")
            for commit in every_commit
            for name in git(repository, "ls-tree", "-r", "--name-only", commit).decode().split()
        ]
        assert len(large) > 4 and len(every_commit) > len(commits)
        for secret in (TOKEN, str(tmp_path), "secret-", home.name, HOST):
            assert not [data for data in [*large, *small] if secret.encode() in data], secret

        clean = {key: value for key, value in client.items() if key != "PYTHONPATH"}
        pinned = [str(out / "checkpoint-2"), commits["Training in progress, checkpoint-2"]]
        code, text = run(["-c", BLOCK + LOAD, str(out), "user/demo", *pinned], clean, home)
        assert code == 0 and "transformers_modules.user" in text and "equal" in text, text
        assert "refused: user/demo" in text, text

        code, text = run(["-c", BLOCK + PIPELINE, str(out), "user/demo"], clean, home)
        assert code == 0 and "transformers_modules.user" in text, text
        revisions = [pinned[1], git(repository, "rev-parse", "main").decode().strip()]
        code, text = run(["-c", PACKAGE, str(out), "user/demo", *revisions, str(home / "encoder")], client)
        assert code == 0, text
        predict = ["-m", "hf_mtl.cli", "predict", "--text", "dull", "--json", "--model"]
        answers = [run([*predict, source], client) for source in (str(out), "user/demo")]
        assert answers[0] == answers[1] and answers[0][0] == 0 and '"reviews"' in answers[0][1], answers
    code, text = run(["-c", BLOCK + LOAD, str(out), "user/demo"], {**clean, "HF_HUB_OFFLINE": "1"}, home)
    assert code == 0 and "equal" in text, text


# In a process of its own, where HF_ENDPOINT counts: publishes, changes the card on the Hub, pushes again.
PUSH_TWICE = """
import sys
from pathlib import Path
import yaml
from huggingface_hub import HfApi, hf_hub_download
from hf_mtl import load_tasks
from hf_mtl.hub.model_card import CardFacts
from hf_mtl.errors import PushError
from hf_mtl.hub.upload import publish, push_folder
folder, how, licence = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
folder.mkdir()
(folder / "config.json").write_text("{}")
HfApi().create_repo("user/demo")
facts = {"repo_id": "user/demo", "tasks": load_tasks("demo"), "setup": {"seed": "1"}, "licence": licence}
try:
    publish(folder, CardFacts(**facts, metrics={"eval_reviews_accuracy": 0.25}), message="first")
except PushError as error:
    sys.exit(str(error))
_, front, body = Path(hf_hub_download("user/demo", "README.md")).read_text().split("---\\n", 2)
header = yaml.safe_load(front)
header.update({"license": "mit", "pipeline_tag": "sentence-similarity", "tags": [*header["tags"], "mine"]})
header["model-index"][0]["results"].append({"task": {"type": "other"}, "dataset": {"name": "mine", "type": "user/mine"},
                                            "metrics": [{"type": "accuracy", "value": 0.5}]})
card = f"---\\n{yaml.safe_dump(header)}---\\n{body}\\nNot for medicine.\\n"
HfApi().upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id="user/demo")
if how == "hf-mtl push":
    push_folder(folder, "user/demo")
else:
    publish(folder, CardFacts(**facts, metrics={"eval_reviews_accuracy": 0.75}), message="second")
"""


@pytest.mark.parametrize(("how", "accuracy"), [("hf-mtl push", 0.25), ("publish", 0.75)])
def test_what_was_changed_on_the_hub_survives_the_next_push(tmp_path, home, how, accuracy):
    with serve(tmp_path / "hub", home) as client:
        code, text = run(["-c", PUSH_TWICE, str(tmp_path / "out"), how, "apache-2.0"], client)
    assert code == 0, text
    (tmp_path / "README.md").write_bytes(git(tmp_path / "hub" / "models" / "user" / "demo", "show", "main:README.md"))
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.license, card.data.pipeline_tag) == ("mit", "sentence-similarity") and "mine" in card.data.tags
    assert {row.dataset_name: row.metric_value for row in card.data.eval_results} == {"reviews": accuracy, "mine": 0.5}
    assert card.text.count("Not for medicine.") == card.text.count("## Training") == 1


def test_a_card_that_the_hub_refuses_leaves_the_reason_and_the_command(tmp_path, home):
    with serve(tmp_path / "hub", home) as client:
        code, text = run(["-c", PUSH_TWICE, str(tmp_path / "out"), "publish", "no such licence"], client)
    assert code == 1 and "Traceback" not in text, text
    assert '"license" must be one of' in text and f"hf-mtl push {tmp_path}/out user/demo" in text


@pytest.mark.parametrize("token", ["hf_wrong", READ_TOKEN])
def test_a_token_that_cannot_write_stops_the_run_before_it_trains(tmp_path, home, flags, token):
    with serve(tmp_path / "hub", home) as client:
        assert run(["-c", "import huggingface_hub as h; h.create_repo('user/demo')"], client)[0] == 0
        code, text = run(f"{flags} --logging_steps 1 --output_dir {tmp_path}/out --hub_token {token}".split(), client)
    assert code != 0 and "step 1/4" not in text and "Traceback" not in text
    assert "hub_model_id 'user/demo'" in text and token not in text, text
    assert token != READ_TOKEN or "may only read" in text


USE_CARD = """
import sys
from pathlib import Path
from huggingface_hub import hf_hub_download
card = Path(hf_hub_download("user/demo", "README.md", revision=sys.argv[1])).read_text()
exec(card.split("```")[1].removeprefix("python"))
"""


def test_a_branch_that_is_not_there_is_made(tmp_path, home, flags):
    saving = "--save_strategy steps --save_steps 2 --hub_strategy every_save --hub_always_push --hub_revision dev"
    with serve(tmp_path / "hub", home) as client:
        code, text = run(f"{flags} {saving} --output_dir {home}/out".split(), client)
        assert code == 0 and "was not pushed" not in text, text
        assert "MultiTaskModel.from_pretrained('user/demo', revision='dev')" in text
        for _ in range(2):
            code, text = run(["-m", "hf_mtl.cli", "push", str(home / "out"), "user/demo", "--revision", "v1"], client)
            assert code == 0, text
        code, text = run(["-c", USE_CARD, "dev"], client)
        assert code == 0 and "{'reviews': {'label':" in text, text
    repository = tmp_path / "hub" / "models" / "user" / "demo"
    names = {b: git(repository, "ls-tree", "--name-only", b).decode().split() for b in ("main", "dev", "v1")}
    assert [branch for branch in names if "model.safetensors" in names[branch]] == ["dev", "v1"]
    assert "Training in progress, checkpoint-2" in git(repository, "log", "--format=%s", "dev").decode()


@pytest.mark.slow
@pytest.mark.parametrize("request_", ["PUT /_lfs/", "POST /api/models/user/demo/commit"])
def test_a_server_that_is_gone_leaves_the_result_and_the_command_that_pushes_it(tmp_path, home, flags, request_):
    out = home / "out"
    with serve(tmp_path / "hub", home, LOCAL_HUB_DIES_AT=request_) as client:
        code, text = run(f"{flags} --output_dir {out}".split(), client)
    assert code != 0 and "Traceback" not in text, text
    assert (out / "model.safetensors").exists() and (out / "training_curves.png").exists()
    (command,) = re.findall(r"to push it later: (hf-mtl .*)", text)
    with serve(tmp_path / "hub", home) as client:
        code, text = run(["-m", "hf_mtl.cli", *shlex.split(command)[1:]], client)
        assert code == 0, text
        code, text = run(["-c", "import hf_mtl" + LOAD, str(out), "user/demo"], client)
        assert code == 0 and "hf_mtl.model.modeling" in text and "equal" in text, text
        code, text = run(["-m", "hf_mtl.cli", "push", str(home), "user/demo"], client)
        assert code == 2 and "holds no model" in text


@pytest.mark.slow
def test_a_pushed_model_loads_in_a_clean_virtual_environment(tmp_path, home, flags):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    versions = [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in ("torch", "transformers")]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *versions], check=True)
    with serve(tmp_path / "hub", home) as client:
        code, text = run(f"{flags} --output_dir {home}/out".split(), client)
        assert code == 0, text
        clean = {key: value for key, value in client.items() if key != "PYTHONPATH"}
        for module in ("hf_mtl", "scipy", "datasets", "evaluate"):
            assert subprocess.run(
                [python, "-c", f"import {module}"], env=clean, capture_output=True, cwd=home
            ).returncode
        command = [python, "-c", LOAD, str(home / "out"), "user/demo"]
        done = subprocess.run(command, env=clean, cwd=home, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "transformers_modules.user" in done.stdout, done.stdout + done.stderr
