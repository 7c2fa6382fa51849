"""Sources of rows, encodings and a cut of validation rows in whole runs, and in `hf-mtl predict` and `tasks`."""

import gzip
import json
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import yaml

from hf_mtl.cli import main as hf_mtl
from hf_mtl.training.run import main

pytestmark = pytest.mark.usefixtures("transformers_speaks_again")

TEXTS = [f"a film of {number} minutes at the café" for number in range(60)]
FRAME = pd.DataFrame({"text": TEXTS, "label": ["bad", "good"] * 30, "author": [number % 9 for number in range(60)]})
ROW = {"kind": "classification", "text_columns": ["text"], "labels": ["bad", "good"]}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    FRAME[:30].to_csv("data/a.csv.gz", index=False, encoding="cp1252")
    FRAME[30:].to_csv("data/b.csv", index=False, encoding="cp1252")
    cut = {"encoding": "cp1252", "validation_fraction": 0.2, "group_column": "author", "max_rows": {"train": 32}}
    tasks = {"a": {**ROW, **cut, "files": {"train": "data/*"}}, "b": {**ROW, "files": {"train": "b.arrow"}}}
    Path("tasks.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    table = pa.Table.from_pandas(FRAME, preserve_index=False)
    with pa.ipc.new_file("b.arrow", table.schema) as writer:
        writer.write_table(table)
    return tmp_path


def run(*flags: str, model="embedded:demo", output="out", seed=1) -> dict:
    speed = ["--use_cpu", "--per_device_train_batch_size=8", "--per_device_eval_batch_size=8", "--disable_tqdm=true"]
    names = ["--model_name_or_path", model, "--task_set", "tasks.yaml", "--output_dir", output, f"--seed={seed}"]
    main([*names, *speed, "--unfreeze_schedule=none", "--learning_rate=1e-3", *flags])
    return json.loads(Path(output, "all_results.json").read_text())


def test_evaluation_alone_with_another_seed_has_the_validation_rows_of_the_training(capsys):
    trained = run("--do_train", "--do_eval", "--max_steps=6", seed=1)
    alone = run("--do_eval", model="out", output="other", seed=2)
    scores = [key for key in trained if key.startswith("eval_a_") and "second" not in key and "runtime" not in key]
    assert scores and {key: alone[key] for key in scores} == {key: trained[key] for key in scores}
    capsys.readouterr()
    assert hf_mtl(["tasks", "tasks.yaml", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)[0]["splits"]
    assert told["train"]["rows"] == 32 and 6 <= told["validation"]["rows"] <= 18
    assert "(20.0% held out)" in Path("out/README.md").read_text()


def test_a_resumed_run_goes_on_with_the_same_rows():
    run("--do_train", "--max_steps=4", "--save_steps=2", "--save_strategy=steps", output="whole")
    run("--do_train", "--max_steps=4", "--save_steps=2", "--save_strategy=steps", output="half")
    for path in Path("half/checkpoint-4").iterdir():
        path.unlink()
    Path("half/checkpoint-4").rmdir()
    run(
        "--do_train", "--max_steps=4", "--save_steps=2", "--save_strategy=steps", "--resume_from_checkpoint=latest",
        output="half",
    )  # fmt: skip
    weights = [Path(name, "model.safetensors").read_bytes() for name in ("whole", "half")]
    assert weights[0] == weights[1]


# ---- prediction ----


def answers(path: str, *flags: str) -> list[dict]:
    assert hf_mtl(["predict", "--model", "out", "--task", "a", "--input", path, "--output", "answers", *flags]) == 0
    lines = Path("answers").read_text().splitlines()
    Path("answers").unlink()
    return list(map(json.loads, lines))


def test_prediction_reads_the_same_formats_and_encodings(monkeypatch, capsys):
    run("--do_train", "--max_steps=1")
    FRAME.to_csv("plain.csv", index=False)
    wanted = answers("plain.csv")
    FRAME.to_csv("wide.csv", index=False, encoding="utf-16")
    FRAME.to_parquet("packed.parquet")
    for name in ("b.arrow", "packed.parquet"):
        Path(f"{name}.gz").write_bytes(gzip.compress(Path(name).read_bytes()))
    for name in ("b.arrow", "b.arrow.gz", "packed.parquet.gz"):
        assert answers(name) == wanted
    assert answers("wide.csv", "--encoding", "utf-16") == wanted
    content = Path("data/b.csv").read_bytes()
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(content)))
    found = answers("-", "--format", "csv", "--encoding", "cp1252")
    assert [row["a"] for row in found] == [row["a"] for row in wanted[30:]]
    capsys.readouterr()
    for flags, told in (
        (["data/b.csv"], "row 0 (the first row is 0) is no UTF-8: byte 0xe9 at offset"),
        (["wide.csv", "--encoding", "cp1252"], "begins like UTF-16"),
        (["plain.csv", "--encoding", "utf8x"], "--encoding is 'utf8x', which Python knows no text encoding by"),
        (["-", "--format", "arrow"], "arrow cannot be read from standard input; wanted a file"),
    ):
        assert hf_mtl(["predict", "--model", "out", "--task", "a", "--input", *flags]) == 2
        assert told in capsys.readouterr().err
