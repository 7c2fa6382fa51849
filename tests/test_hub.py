"""A run pushes to a Hub-compatible server on loopback, and another process loads the model from there by its name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOKEN = "hf_loopback_write"
LOAD = """
import sys, torch
from transformers import AutoTokenizer
from hf_mtl import MultiTaskModel
def logits(source):
    model, tokenizer = MultiTaskModel.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    pairs = tokenizer("a man sleeps", "a man rests", return_tensors="pt")
    return model(task="pairs", **pairs).logits, model(task="reviews", **tokenizer("dull", return_tensors="pt")).logits
for here, there in zip(logits(sys.argv[1]), logits(sys.argv[2])):
    assert torch.equal(here, there), (here, there)
print("equal")
"""


@pytest.fixture
def hub(tmp_path):
    """The environment of a client of a fresh server."""
    environment = {**os.environ, "LOCAL_HUB_TOKEN": TOKEN}
    command = [sys.executable, str(ROOT / "tests" / "local_hub.py"), "--port", "0", "--root", str(tmp_path / "hub")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            client = {
                **os.environ,
                "HF_ENDPOINT": server.stdout.readline().strip(),
                "HF_TOKEN": TOKEN,
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_OFFLINE": "0",
                "HF_HOME": str(tmp_path / "home"),
            }
            yield client
        finally:
            server.terminate()


def run(arguments, environment, **options):
    result = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, **options
    )
    return result.returncode, result.stdout + result.stderr


def git(repository, *arguments):
    return subprocess.run(["git", *arguments], cwd=repository, capture_output=True, check=True).stdout


def test_what_a_run_pushes_loads_by_name_and_tells_nothing_of_this_machine(hub, tmp_path):
    out = tmp_path / "out"
    flags = f"--model_name_or_path embedded:demo --task_set demo --do_train --max_steps 2 --use_cpu --output_dir {out}"
    flags += " --unfreeze_schedule none --train_metric_rows 8 --push_to_hub --hub_model_id user/demo"
    code, text = run(["run_glue_mtl.py", *flags.split()], hub)
    assert code == 0, text
    assert "MultiTaskModel.from_pretrained('user/demo')" in text
    assert (out / "model.safetensors").exists()

    code, text = run(["-c", LOAD, str(out), "user/demo"], hub)
    assert code == 0 and "equal" in text, text

    repository = next((tmp_path / "hub").rglob("HEAD")).parent
    names = git(repository, "ls-tree", "-r", "--name-only", "main").decode().split()
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "training_curves.png"} <= set(names)
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
    large = [p.read_bytes() for p in (tmp_path / "hub").rglob("lfs/**/*") if p.is_file()]
    assert large
    for data in [*large, *(git(repository, "show", f"main:{name}") for name in names)]:
        for secret in (TOKEN, str(tmp_path), str(Path.home())):
            assert secret.encode() not in data


def test_a_wrong_token_stops_the_run_before_it_trains(hub, tmp_path):
    flags = (
        f"--model_name_or_path embedded:demo --task_set demo --do_train --max_steps 2 --output_dir {tmp_path / 'out'}"
    )
    flags += " --use_cpu --unfreeze_schedule none --push_to_hub --hub_model_id user/demo --hub_token hf_wrong"
    code, text = run(["run_glue_mtl.py", *flags.split()], hub)
    assert code != 0 and "step 1/2" not in text
    assert "hub_model_id 'user/demo'" in text and "hf_wrong" not in text
