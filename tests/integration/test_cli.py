"""`hf-mtl`: the same numbers as the model's, from and to any file, in constant memory, and on where it stopped."""

import contextlib
import importlib.metadata
import io
import json
import os
import pty
import re
import resource
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from hf_mtl.cli import main
from hf_mtl.data.tokenization import tokenize
from hf_mtl.errors import PushError
from hf_mtl.inference import predict_command, prediction, resumable_output

pytestmark = pytest.mark.usefixtures("transformers_speaks_again")

TEXTS = ["dull", '"great" is a film', '"a dull film', "NA", "a man, a dog", "great"] * 3


@pytest.fixture
def saved(tmp_path, make_model, tokenizer):
    """A saved model; its folder."""
    model = make_model(max_seq_length=12)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path, texts, other=None):
    frame = pd.DataFrame({"number": range(len(texts)), "text": texts, **({"text_pair": other} if other else {})})
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif path.suffix == ".txt":
        path.write_text("\n".join(texts) + "\n")
    elif path.suffix == ".tsv":
        path.write_text("number\ttext\n" + "".join(f"{i}\t{text}\n" for i, text in enumerate(texts)))
    else:
        frame.to_csv(path, index=False)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "txt"])
def test_every_format_gives_the_same_answers(saved, tmp_path, make_model, tokenizer, suffix):
    write(tmp_path / f"in.{suffix}", TEXTS)
    code = main(
        ["predict", "--model", str(saved), "--input", str(tmp_path / f"in.{suffix}"), "--output", f"{tmp_path}/o"]
    )
    assert code == 0
    found = lines(tmp_path / "o")
    assert [row["index"] for row in found] == list(range(len(TEXTS)))
    model = make_model().eval()
    for text, row in zip(TEXTS, found, strict=True):
        scores = model(task="reviews", **tokenizer(text, return_tensors="pt")).logits.detach().softmax(-1)[0]
        assert row["reviews"]["score"] == pytest.approx(float(scores.max()), abs=1e-6)


def test_command_line_trainer_and_forward_agree(saved, tmp_path, make_trainer, specs, tokenizer):
    from hf_mtl.data.raw_rows import load_rows

    raw = load_rows(specs[1], "validation").select(range(40))
    raw.to_parquet(tmp_path / "in.parquet")
    columns = specs[1].text_columns
    arguments = ["predict", "--model", str(saved), "--task", "pairs", "--input", f"{tmp_path}/in.parquet", "--columns"]
    assert main([*arguments, *columns, "--output", f"{tmp_path}/out.jsonl", "--batch-size", "8"]) == 0
    found = torch.tensor([row["pairs"]["value"] for row in lines(tmp_path / "out.jsonl")])
    trainer = make_trainer()
    rows = {"pairs": tokenize(specs[1], raw, tokenizer, 12)}
    logits = torch.from_numpy(trainer.predict(rows)["pairs"].predictions)
    torch.testing.assert_close(found, trainer.model.decode("pairs", logits), atol=1e-5, rtol=0)


def test_a_stopped_run_goes_on(saved, tmp_path, monkeypatch, capsys):
    write(tmp_path / "in.csv", TEXTS * 20)
    arguments = ["predict", "--model", str(saved), "--input", f"{tmp_path}/in.csv", "--batch-size", "1", "--output"]
    assert main([*arguments, f"{tmp_path}/whole.jsonl"]) == 0

    answered = []
    real = prediction.answer_lines

    def stop_after(limit):
        def counting(*args, **kwargs):
            for number, item in enumerate(real(*args, **kwargs)):
                if number == limit:
                    raise KeyboardInterrupt
                answered.append(item[1])
                yield item

        return counting

    monkeypatch.setattr(predict_command, "answer_lines", stop_after(70))
    assert main([*arguments, f"{tmp_path}/out.jsonl"]) == 130
    assert not (tmp_path / "out.jsonl").exists()
    with open(tmp_path / "out.jsonl.part", "ab") as stream:
        stream.write(b'{"index": 70, "revi')  # what a killed process may leave
    monkeypatch.setattr(predict_command, "answer_lines", stop_after(10**6))
    assert main([*arguments, f"{tmp_path}/out.jsonl"]) == 0
    assert "going on after 70 rows" in capsys.readouterr().err
    assert len(answered) == 360
    assert [r["index"] for r in lines(tmp_path / "out.jsonl")] == list(range(360))
    for row, other in zip(lines(tmp_path / "out.jsonl"), lines(tmp_path / "whole.jsonl"), strict=True):
        assert row["reviews"]["label"] == other["reviews"]["label"]
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.jsonl"]


def test_an_output_goes_on_with_the_same_call_and_texts_only(saved, tmp_path, monkeypatch, capsys):
    write(tmp_path / "in.csv", TEXTS)
    arguments = ["predict", "--model", str(saved), "--input", f"{tmp_path}/in.csv", "--output", f"{tmp_path}/out.jsonl"]
    real = prediction.answer_lines

    def stop(*args, **kwargs):
        yield next(iter(real(*args, **kwargs)))
        raise KeyboardInterrupt

    monkeypatch.setattr(predict_command, "answer_lines", stop)
    assert main(arguments) == 130
    monkeypatch.undo()
    assert main([*arguments, "--top-k", "2"]) == 2
    assert "another call" in capsys.readouterr().err
    write(tmp_path / "in.csv", ["other", *TEXTS])
    assert main(arguments) == 2
    assert "answers other texts" in capsys.readouterr().err
    write(tmp_path / "in.csv", [*TEXTS, "one more"])
    assert main(arguments) == 0 and len(lines(tmp_path / "out.jsonl")) == len(TEXTS) + 1
    assert main(arguments) == 2
    assert "is there already" in capsys.readouterr().err


def test_rows_are_read_no_further_than_a_window_ahead(saved, monkeypatch):
    pipe = predict_command.load_pipeline(str(saved), "main")
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            assert taken <= 384, "wanted windows of 64 batches of 2"
            yield ("dull",)

    answers = prediction.answer_lines(pipe, endless(), None, batch_size=2)
    for _ in range(300):
        next(answers)
    assert taken > 256


def test_standard_input_and_output(saved, monkeypatch, capsys):
    rows = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(rows.encode())))
    assert main(["predict", "--model", str(saved), "--input", "-", "--task", "reviews", "--top-k", "2"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(found) == len(TEXTS) and {len(row["reviews"]) for row in found} == {2}


def test_one_text_or_pair_as_a_table_or_json(saved, capsys, caplog):
    assert main(["predict", "--model", str(saved), "--text", "dull", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert main(["predict", "--model", str(saved), "--text", "dull"]) == 0
    assert f"reviews         {answer['reviews']['label']}" in capsys.readouterr().out
    assert "left out, as they take a pair of texts: pairs" in caplog.text
    assert main(["predict", "--model", str(saved), "--text", "a man", "--text-pair", "a dog", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)["pairs"]["value"]
    assert main(["predict", "--model", str(saved), "--text", "a man", "--text-pair", "a dog"]) == 0
    assert f"{value:.4f}" in capsys.readouterr().out
    assert main(["predict", "--model", str(saved), "--text", "dull " * 30, "--task", "reviews"]) == 0
    assert "1 of 1 inputs were cut to 12 tokens" in caplog.text


def test_the_console_command_shows_a_bar_in_a_terminal(saved, tmp_path):
    file = tmp_path / "in.parquet"
    write(file, TEXTS)
    command = [*console(), "predict", "--model", saved, "--input", file, "--output", tmp_path / "out"]
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    process = subprocess.Popen(command, stderr=slave)
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # which is how a terminal ends on Linux
        while part := os.read(master, 4096):
            shown += part
    os.close(master)
    assert process.wait() == 0
    assert f"{len(TEXTS)}/{len(TEXTS)}" in shown.decode() and "rows" in shown.decode()
    assert len(lines(tmp_path / "out")) == len(TEXTS)


def test_the_console_command_in_a_pipe_that_closes_ends_quietly(saved, tmp_path):
    write(tmp_path / "in.csv", TEXTS * 100)  # more than a pipe holds
    command = [*console(), "predict", "--model", saved, "--task", "reviews", "--input", tmp_path / "in.csv"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert json.loads(process.stdout.readline())["index"] == 0
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
        assert process.wait(timeout=60) == 141


def console():
    """What the installed command `hf-mtl` runs."""
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="hf-mtl")
    return [sys.executable, "-c", f"from {script.module} import {script.attr}; {script.attr}()"]


def test_a_wrong_call_does_not_stand_in_the_way_of_the_right_one(saved, tmp_path, capsys):
    write(tmp_path / "in.csv", TEXTS)
    call = ["predict", "--model", str(saved), "--input", f"{tmp_path}/in.csv", "--output", f"{tmp_path}/out", "--task"]
    assert main([*call, "review"]) == 2
    assert "did you mean 'reviews'" in capsys.readouterr().err
    assert main([*call, "reviews"]) == 0
    assert len(lines(tmp_path / "out")) == len(TEXTS)


def test_a_full_disk_is_told_and_what_was_written_is_gone_on_from(saved, tmp_path, monkeypatch, capsys):
    write(tmp_path / "in.csv", TEXTS * 20)
    call = ["predict", "--model", str(saved), "--input", f"{tmp_path}/in.csv", "--output", f"{tmp_path}/out"]
    monkeypatch.setattr(resumable_output, "STATE_EVERY", 50)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, most))
    try:
        assert main(call) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert "File too large" in capsys.readouterr().err
    assert main(call) == 0
    assert re.search(r"going on after \d+ rows", capsys.readouterr().err)
    assert [row["index"] for row in lines(tmp_path / "out")] == list(range(360))


def test_a_failed_push_has_exit_code_1(monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise PushError("not pushed")

    monkeypatch.setattr("hf_mtl.cli.push_folder", fail)
    assert main(["push", "out", "maria/model"]) == 1
    assert capsys.readouterr().err == "hf-mtl: not pushed\n"


def test_cut_rows_are_marked_and_counted(saved, tmp_path, capsys):
    write(tmp_path / "in.txt", ["dull", "dull " * 30])
    assert main(["predict", "--model", str(saved), "--input", f"{tmp_path}/in.txt", "--output", f"{tmp_path}/o"]) == 0
    assert [row.get("truncated") for row in lines(tmp_path / "o")] == [None, True]
    assert "1 were cut to 12 tokens" in capsys.readouterr().err


def test_a_model_of_an_older_version_whose_task_is_called_as_a_key(tmp_path, make_model, specs, tokenizer, capsys):
    model = make_model()
    model.set_heads([replace(specs[0].head, name="index"), specs[0].head])
    model.save_pretrained(tmp_path / "old")
    tokenizer.save_pretrained(tmp_path / "old")
    write(tmp_path / "in.txt", ["dull"])
    command = ["predict", "--model", f"{tmp_path}/old", "--input", f"{tmp_path}/in.txt"]
    assert main(command) == 2
    assert "task 'index': in a line of hf-mtl predict" in capsys.readouterr().err
    assert main([*command, "--task", "reviews"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == {"index", "reviews"}


BAD = {
    "in.csv": ("number,text\n1,dull\n2\n", "row 1 (the first row is 0) has 1 cells, the header has 2"),
    "wide.csv": ("text\ndull,film\n", "row 0 (the first row is 0) has 2 cells, the header has 1"),
    "in.jsonl": ('{"text": "dull"}\n{"text": null}\n', "has no text in row 1"),
    "half.jsonl": ('{"text": "\\ud83d"}\n', "holds half a surrogate pair, '\\ud83d', instead of text in row 0"),
    "broken.jsonl": ('{"text": "dull"}\n{"text"\n', "row 1 (the first row is 0) is no JSON"),
    "number.jsonl": ("3\n", "row 0 (the first row is 0) is no JSON object"),
    "columns.csv": ("subject,body\na,b\n", "name one, or two for a pair, with --columns"),
    "in.xml": ("<a/>", "name its format with --format"),
    "in.parquet": ("no parquet", "cannot be read"),
    "latin.txt": (b"caf\xe9\n", "row 0 (the first row is 0) is no UTF-8: byte 0xe9 at offset 3"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_input_is_refused_by_its_row(saved, tmp_path, capsys, name):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["predict", "--model", str(saved), "--input", str(tmp_path / name), "--output", f"{tmp_path}/o"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "NOWHERE", "--text", "dull"], "cannot be loaded"),
        (["--model", "ENCODER", "--text", "dull"], "wanted a multi-task model"),
        (["--model", "SAVED", "--text", "dull", "--task", "review"], "did you mean 'reviews'"),
        (["--model", "SAVED", "--input", "none.csv"], "cannot be read"),
        (["--model", "SAVED", "--text", "dull", "--batch-size", "0"], "--batch-size is 0"),
        (["--model", "SAVED", "--input", "-", "--text-pair", "dull"], "wanted --text too"),
        (["--model", "SAVED", "--text", "dull", "--output", "out.jsonl"], "--output is for the answers of --input"),
        (["--model", "SAVED", "--input", "-", "--columns", "a", "b", "c"], "names 3 columns"),
        (["--model", "SAVED", "--input", "-", "--top-k", "0"], "top_k is 0, wanted 1 or more"),
        (["tasks", "demo", "--model", "NOWHERE"], "cannot be loaded"),
        (["tasks", "demo", "--max-seq-length", "-3"], "max_seq_length is -3, wanted at least 8"),
        (["tasks", "--task", "sst2"], "belong to a task set"),
    ],
)
def test_flags_that_cannot_be_used(saved, tmp_path, make_model, tokenizer, capsys, flags, message):
    if "ENCODER" in flags:
        make_model().save_encoder(tmp_path / "encoder", tokenizer)
    places = {"SAVED": str(saved), "ENCODER": str(tmp_path / "encoder"), "NOWHERE": str(tmp_path / "nowhere")}
    command = [] if flags[0] == "tasks" else ["predict"]
    assert main([*command, *(places.get(flag, flag) for flag in flags)]) == 2
    assert message in capsys.readouterr().err


def test_tasks_lists_the_sets(capsys):
    assert main(["tasks"]) == 0
    text = capsys.readouterr().out
    assert "demo    reviews   classification" in text and "glue    stsb      regression" in text


def test_tasks_shows_what_a_file_means(tmp_path, saved, capsys):
    (tmp_path / "my.yaml").write_text(
        "tasks:\n  urgency:\n    kind: classification\n    files: {train: t.csv, test: u.csv}\n"
        "    text_columns: [text]\n    labels: [low, high]\n  worth:\n    kind: regression\n    files: {train: v.csv}\n"
        "    text_columns: [text]\n    label_range: [0, 5]\n"
    )
    frame = pd.DataFrame({"text": ["dull", "a great film " * 9, "great"], "label": ["low", "high", "low"]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame[["text"]].to_csv(tmp_path / "u.csv", index=False)
    frame.assign(label=[1.0, 2.0, 4.5]).to_csv(tmp_path / "v.csv", index=False)
    arguments = ["tasks", str(tmp_path / "my.yaml"), "--model", str(saved)]  # which cuts at 12
    assert main([*arguments, "--json"]) == 0
    task, worth = json.loads(capsys.readouterr().out)
    train = task["splits"]["train"]
    assert train["rows"] == 3 and train["labels"] == {"low": 2, "high": 1}
    assert train["tokens"]["longest"] > 12 and train["tokens"]["truncated_share"] == pytest.approx(1 / 3)
    assert train["first_row"] == {"text": "dull", "label": "low"}
    assert task["splits"]["test"]["labels"] == {"without_label": 3}
    assert worth["splits"]["train"]["labels"] == {"lowest": 1.0, "mean": 2.5, "highest": 4.5}
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "train: 3 rows" in text and "labels: low 2, high 1" in text and "33.3% of the rows are cut" in text
    assert main(["tasks", str(tmp_path / "my.yaml")]) == 0
    assert "--model DIR_OR_ID" in capsys.readouterr().out
    assert main(["tasks", "gleu"]) == 2


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path, make_model, tokenizer):
    make_model().save_encoder(tmp_path / "encoder", tokenizer)
    write(tmp_path / "in.parquet", TEXTS)
    script = Path(__file__).parents[2] / "benchmarks" / "predict_speed.py"
    flags = ["--encoder", f"{tmp_path}/encoder", "--texts", f"{tmp_path}/in.parquet:text", "--rows", "100"]
    environment = {**os.environ, "PYTHONPATH": str(script.parent.parent)}
    command = [sys.executable, str(script), *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "100 texts, two tasks" in done.stdout, done.stderr
