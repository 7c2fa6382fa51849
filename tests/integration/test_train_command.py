"""`hf-mtl train` does what run_glue_mtl.py does, from any folder, with the exit codes of `hf-mtl`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_mtl.training.run import main

ROOT = Path(__file__).parent.parent.parent
SHORT = ["--use_cpu", "--disable_tqdm=true", "--train_metric_rows=16", "--max_steps=20"]
COMMANDS = {
    "hf-mtl train": [sys.executable, "-m", "hf_mtl.cli", "train"],
    "accelerate launch run_glue_mtl.py": [sys.executable, str(ROOT / "run_glue_mtl.py")],
}
WITHOUT_MATPLOTLIB = """
import sys

class Blocked:
    def find_spec(self, name, *args):
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where tokens are kept from one run to the next."""
    return tmp_path_factory.mktemp("tokens")


def run(command, folder, *flags, cache=None):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_DATASETS_CACHE": str(cache or folder)}
    return subprocess.run([*command, *flags], cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture
def empty(tmp_path):
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_demo_runs_from_an_empty_folder(empty, cache, name):
    done = run(COMMANDS[name], empty, "demo", *SHORT, cache=cache)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "pairs           pearson" in done.stdout and f"predict: {name} --model_name_or_path out/demo " in done.stdout
    assert [path.name for path in empty.iterdir()] == ["out"]
    for file in ("model.safetensors", "README.md", "training_curves.png", "predictions/pairs.tsv"):
        assert (empty / "out" / "demo" / file).is_file()


@pytest.mark.parametrize(("name", "code"), list(zip(COMMANDS, (2, 1), strict=True)))
def test_a_wrong_argument_has_the_commands_own_exit_code_and_name(empty, name, code):
    done = run(COMMANDS[name], empty, "demo", "--max_stpes=20")
    assert done.returncode == code
    program = "hf-mtl" if code == 2 else "run_glue_mtl.py"
    assert done.stderr.splitlines()[-1].startswith(f"{program}: unknown argument '--max_stpes' (did you mean '--max_st")
    assert not list(empty.iterdir())


def test_without_matplotlib_a_run_ends_well_with_a_line_that_says_so(empty, cache):
    code = f"{WITHOUT_MATPLOTLIB}\nfrom hf_mtl.cli import run\nrun()"
    done = run([sys.executable, "-c", code, "train"], empty, "demo", *SHORT, cache=cache)
    assert done.returncode == 0, done.stderr[-3000:]
    line = "out/demo/training_curves.png is not drawn: No module named 'matplotlib'; pip install matplotlib"
    assert done.stdout.splitlines().count(line) == 1
    assert "in out/demo: README.md, all_results.json, predictions" in done.stdout
    assert "training_curves" not in (empty / "out" / "demo" / "README.md").read_text()


CHANGES = """
import csv, importlib, logging, os, pkgutil, random, sys, warnings
import numpy, torch, transformers, datasets

def state():
    numbers = numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate()
    levels = {name: found.level for name, found in logging.root.manager.loggerDict.items() if hasattr(found, "level")}
    threads = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    filters = [entry for entry in warnings.filters if "hf_mtl" in str(entry)]
    return csv.field_size_limit(), dict(os.environ), numbers, threads, logging.root.handlers, levels, filters

def changed(before, after):
    return before[:-2] != after[:-2] or any(after[-2].get(name, level) != level for name, level in before[-2].items())

import hf_mtl
before = state()
for module in pkgutil.walk_packages(hf_mtl.__path__, "hf_mtl."):
    importlib.import_module(module.name)
import hf_mtl.cli
print("changed" if changed(before, state()) else "as it was", state()[0], "matplotlib" in sys.modules)
own = {name: level for name, level in state()[-2].items() if name.startswith("hf_mtl") and level}
print(own, state()[-1])
"""


def test_importing_sets_nothing_global(tmp_path):
    done = run([sys.executable, "-c", CHANGES], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == ["as it was 131072 False", "{} []"]


def test_drawing_leaves_the_backend_that_the_user_chose(tmp_path):
    code = """
import matplotlib
matplotlib.use("svg")
from pathlib import Path
from hf_mtl.tasks.task_file import load_tasks
from hf_mtl.training.training_curves import plot_curves
plot_curves([{"step": 1, "loss_reviews": 0.5}], load_tasks("demo"), {1: "all"}, Path("curves.png"))
import sys
print(matplotlib.get_backend(), "matplotlib.pyplot" in sys.modules)
"""
    done = run([sys.executable, "-c", code], tmp_path)
    assert done.stdout.split() == ["svg", "False"], done.stderr[-3000:]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_begins_with_the_command_that_was_called(command, capsys):
    with pytest.raises(SystemExit):
        main(["--help"], command=command)
    assert capsys.readouterr().out.startswith(f"usage: {command} [RECIPE | FILE.yaml")
