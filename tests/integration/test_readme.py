"""Every block of the README runs: as written, or with the model, data, output and step flags of `REPLACED`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoTokenizer, BertConfig, BertModel

from hf_mtl.tasks.demo import demo_rows
from hf_mtl.tasks.task_file import read_task_file

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.S)
SHORT = "--use_cpu --max_steps 4 --train_metric_rows 16"
REPLACED = {
    "pip install . ": "pip install --no-deps --target INSTALLED . ",  # the tests' environment has the rest
    "accelerate launch run_glue_mtl.py demo": f"accelerate launch run_glue_mtl.py demo --output_dir DEMO_OUT {SHORT}",
    "--output_dir out": f"--output_dir OUT --model_name_or_path MODEL --dataset_name DATA {SHORT}",
    '"sentence-transformers/all-mpnet-base-v2"': '"MODEL"',
    'load_tasks("glue", tasks=["sst2", "stsb"])': 'load_tasks("glue", tasks=["sst2", "stsb"], dataset="DATA")',
    'MultiTaskTrainingArguments(output_dir="out", do_train=True)': "MultiTaskTrainingArguments("
    'output_dir="OTHER_OUT", do_train=True, max_steps=2, use_cpu=True)',
    '_pretrained("out")': '_pretrained("OUT")',
    'model="out"': 'model="OUT"',
    '"encoder"': '"ENCODER"',
    "hf-mtl predict": "python -m hf_mtl.cli predict",  # as the console script, which may be of another checkout
    "hf-mtl tasks my_tasks.yaml": "python -m hf_mtl.cli tasks glue --task sst2 --dataset-name DATA",
    "--model out": "--model OUT",
    "--input reviews.csv": "--input DATA/sst2/test.parquet",
    "--output answers.jsonl": "--output ANSWERS",
}


def blocks(language):
    return [text for found, text in BLOCKS if found == language]


@pytest.fixture(scope="module")
def places(tmp_path_factory, tokenizer):
    """Folders: a small encoder of six layers, data laid out like nyu-mll/glue, and where results go."""
    folder = tmp_path_factory.mktemp("readme")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=6, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    layout = ["---", "configs:"]
    for name, task in (("sst2", "reviews"), ("stsb", "pairs")):
        layout += [f"- config_name: {name}", "  data_files:"]
        (folder / "data" / name).mkdir(parents=True)
        for split in ("train", "validation", "test"):
            pd.DataFrame(demo_rows(task, split)).head(80).to_parquet(folder / "data" / name / f"{split}.parquet")
            layout += [f"  - split: {split}", f"    path: {name}/{split}.parquet"]
    (folder / "data" / "README.md").write_text("\n".join([*layout, "---", ""]))
    names = {
        "DEMO_OUT": "demo",
        "OTHER_OUT": "other",
        "OUT": "out",
        "MODEL": "model",
        "DATA": "data",
        "INSTALLED": "installed",
        "ENCODER": "encoder",
        "ANSWERS": "answers.jsonl",
    }
    return {key: str(folder / name) for key, name in names.items()}


def run(text, places, interpreter):
    """Run a block with `REPLACED` and the folders put in, from the repository's root."""
    for old, new in REPLACED.items():
        text = text.replace(old, new)
    text = re.sub("|".join(places), lambda found: places[found[0]], text)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HF_DATASETS_CACHE": f"{places['DATA']}/../cache",
    }
    done = subprocess.run([*interpreter, text], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def test_every_replacement_is_used():
    for old in REPLACED:
        assert old in README, old


def test_the_blocks_run_in_order(places):
    """Install and demo; the test command is this very run; the real job; its result; the Python API."""
    demo, tests, job, command = blocks("bash")
    assert "python -m pytest" in tests
    output = run(demo, places, ["bash", "-ec"])
    assert "pairs pearson" in output and (Path(places["DEMO_OUT"]) / "training_curves.png").exists()
    for file in ("sets/glue.yaml", "recipes/demo.yaml"):
        assert (Path(places["INSTALLED"]) / "hf_mtl" / "tasks" / file).exists()
    run(job, places, ["bash", "-ec"])
    assert (Path(places["OUT"]) / "predictions" / "stsb.tsv").exists()
    api, use = blocks("python")
    output = run(use, places, [sys.executable, "-c"])
    assert "{'sst2': {'label': '" in output and "{'stsb': {'value': " in output
    assert (Path(places["ENCODER"]) / "modules.json").exists()
    output = run(command, places, ["bash", "-ec"])
    assert "first row:" in output and len(Path(places["ANSWERS"]).read_text().splitlines()) == 80
    run(api, places, [sys.executable, "-c"])
    assert AutoTokenizer.from_pretrained(places["OUT"])


def test_the_yaml_block_of_the_docs_declares_two_tasks(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8"), flags=re.S)
    (tmp_path / "my_tasks.yaml").write_text(text)
    urgency, quality = read_task_file(tmp_path / "my_tasks.yaml")
    assert urgency.labels == ("low", "high") and urgency.files["train"] == str(tmp_path / "tickets_train.csv")
    assert quality.main_metric == "spearman" and quality.sampling_weight == 0.5


def test_the_yaml_blocks_about_files_and_splits_are_keys_of_a_task(tmp_path):
    (tmp_path / "data" / "2024").mkdir(parents=True)
    (tmp_path / "saved" / "test").mkdir(parents=True)
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "data.md").read_text(encoding="utf-8"), flags=re.S)
    found = []
    for block in blocks:
        row = {"kind": "classification", "text_columns": "text", "labels": ["bad", "good"], **yaml.safe_load(block)}
        (tmp_path / "my_tasks.yaml").write_text(yaml.safe_dump({"tasks": {"t": row}}))
        found += read_task_file(tmp_path / "my_tasks.yaml")
    files, slices, cut = found
    assert (
        files.files["train"][0] == str(tmp_path / "data/2023/*.csv.gz") and slices.splits["test"] == "test+extra[:500]"
    )
    assert (cut.validation_fraction, cut.group_column, cut.max_rows) == (0.1, "author", {"train": 10000})


def test_every_test_that_the_promises_name_is_there():
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    source = None
    for name in re.findall(r"`((?:test_\w+\.py)?(?:::test_\w+)?)`", text):
        file, _, test = name.partition("::")
        if file:
            (path,) = (ROOT / "tests").glob(f"*/{file}")  # one, whichever of the folders it is in
            source = path.read_text(encoding="utf-8")
        assert source is not None, name
        assert not test or f"def {test}(" in source, name
