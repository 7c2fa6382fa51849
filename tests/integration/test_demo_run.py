"""The demo's promise: the command that the README gives learns both tasks, and answers the README's examples."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import pipeline

from hf_mtl.cli import main
from hf_mtl.hub.model_card import CardFacts, model_card
from hf_mtl.model.export_code import PIPELINE_TASK

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = re.compile(r"^print\(pipe\((.+)\)\)(?:  # (\{.+\}))?$", re.MULTILINE)
TASKS = {"sst2": "reviews", "stsb": "pairs"}  # of GLUE, and of the demo


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    launcher = [str(Path(sys.executable).parent / "accelerate"), "launch", "--num_processes", "1", "run_glue_mtl.py"]
    command = [*launcher, "demo", "--use_cpu", "--output_dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.slow
def test_the_demo_reaches_its_scores(trained):
    results = json.loads((trained / "all_results.json").read_text())
    assert results["eval_reviews_accuracy"] >= 0.90
    assert results["eval_pairs_pearson"] >= 0.85


@pytest.mark.slow
def test_the_demo_answers_the_readmes_examples(trained):
    pipe = pipeline(PIPELINE_TASK, model=str(trained))
    examples = [(ast.literal_eval(row), ast.literal_eval(answer)) for row, answer in EXAMPLE.findall(README)]
    assert {type(row) for row, _ in examples} == {str, tuple}
    for row, answer in examples:
        ((task, wanted),) = answer.items()
        found = pipe(row)[TASKS[task]]
        if "label" in wanted:
            assert (found["label"], found["score"]) == (wanted["label"], pytest.approx(wanted["score"], abs=0.05))
        else:
            assert found["value"] == pytest.approx(wanted["value"], abs=0.5)


@pytest.mark.slow
def test_the_demo_answers_the_readmes_command(trained, capsys):
    (text,) = re.findall(r'hf-mtl predict --model out --text "(.+)"', README)
    assert main(["predict", "--model", str(trained), "--text", text, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reviews"]["label"] == "positive"


def test_the_card_has_the_readmes_examples(specs):
    card = model_card(CardFacts(repo_id="user/name", tasks=specs))
    assert [row for row, _ in EXAMPLE.findall(card)] == [row for row, _ in EXAMPLE.findall(README)]
