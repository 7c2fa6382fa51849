"""Tasks of pairs whose texts go through the encoder apart: steps, runs, saved models, pipeline and command line."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from packed_steps import assert_same, batches_of
from plain_steps import flat, relative_error
from transformers import AutoModel, AutoTokenizer, pipeline
from without_package import BLOCK

import run_glue_mtl
from hf_mtl import MultiTaskModel, MultiTaskTrainer
from hf_mtl.cli import main as cli
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.data.task_rows import TaskRows
from hf_mtl.data.tokenization import tokenize
from hf_mtl.model.pooling import pool
from hf_mtl.tasks.labels import read_labels

WAYS = {
    "similarity": {"kind": "similarity"},
    "similarity, bce": {"kind": "similarity", "loss": "bce"},
    "separate": {"pair_encoding": "separate"},
    "separate, cls": {"pair_encoding": "separate", "pooling": "cls", "loss": "mae"},
}
PAIRS = [("The doctor bought the car.", "The physician purchased it."), ("A dog.", "No cat sleeps in the house.")]


@pytest.fixture(params=WAYS)
def tasks(request, specs):
    """The demo's tasks, with another declaration of pairs."""
    return [specs[0], dataclasses.replace(specs[1], metrics=(), main_metric="", **WAYS[request.param])]


@pytest.fixture
def make_own_trainer(tasks, rows, make_model, make_arguments, tokenizer):
    def make(model=None, **arguments):
        data = {}
        for split in ("train", "validation"):
            raw = load_rows(tasks[1], split).select(range(40))
            pairs = tokenize(tasks[1], raw, tokenizer, 64, read_labels(tasks[1], raw, split))
            data[split] = {"reviews": rows[split]["reviews"], "pairs": pairs}
        model = model or make_model(tasks)
        arguments = make_arguments(**arguments)
        return MultiTaskTrainer(model, arguments, tasks, data["train"], data["validation"], tokenizer)

    return make


@pytest.mark.parametrize("kernels", ["auto", "off"])
def test_a_step_has_the_gradient_of_the_mean_losses(make_own_trainer, kernels):
    trainer = make_own_trainer(gradient_method="sum", gradient_accumulation_steps=2, cpu_kernels=kernels)
    trainer.current_gradient_accumulation_steps = 2
    batches = batches_of(trainer, 2)
    fewer = len(batches[1]["pairs"]["labels"]) // 2
    batches[1]["pairs"] = {
        name: value[: fewer if name in ("labels", "sequences_per_row") else 2 * fewer]
        for name, value in batches[1]["pairs"].items()
    }
    rows = [len(batch["pairs"]["labels"]) for batch in batches]
    assert rows[0] != rows[1]  # micro-batches of unequal size
    assert len(batches[0]["pairs"]["input_ids"]) == 2 * rows[0]
    trainer.step.begin(0)
    for number, batch in enumerate(batches):
        trainer.accelerator.gradient_state._set_sync_gradients(number == 1)
        trainer.training_step(trainer.model, batch)
    model = trainer.model
    found = flat([p.grad for p in model.parameters()])
    model.zero_grad()
    for task in trainer.tasks:
        sums = [model(task=task, **batch[task]).loss * len(batch[task]["labels"]) for batch in batches]
        (sum(sums) / sum(len(batch[task]["labels"]) for batch in batches)).backward()
    assert relative_error(found, flat([p.grad for p in model.parameters()])) < 1e-5


def test_the_packed_pass_takes_it(make_own_trainer, monkeypatch):
    trainer = make_own_trainer()
    assert_same(trainer, batches_of(trainer, 2), monkeypatch)


def test_evaluation_is_that_of_plain_forwards(make_own_trainer, tokenizer):
    trainer = make_own_trainer()
    found = trainer.evaluate()
    losses, sizes, values = [], [], []
    for batch in trainer.get_eval_dataloader(TaskRows({"pairs": trainer.eval_dataset["pairs"]})):
        output = trainer.model(task="pairs", **batch["pairs"])
        losses.append(output.loss.item() * len(batch["pairs"]["labels"]))
        sizes.append(len(batch["pairs"]["labels"]))
        values += trainer.model.decode("pairs", output.logits).tolist()
    assert found["eval_pairs_loss"] == pytest.approx(sum(losses) / sum(sizes), rel=1e-5)
    assert len(values) == 40
    answers = trainer.evaluator.decoded("pairs", trainer.predict({"pairs": trainer.eval_dataset["pairs"]})["pairs"][0])
    assert answers.tolist() == pytest.approx(values, abs=1e-5)


def test_a_saved_model_answers_alike_with_and_without_the_package(make_own_trainer, tokenizer, tmp_path):
    trainer = make_own_trainer(max_steps=3)
    trainer.train()
    trainer.save_model(tmp_path / "model")
    model = MultiTaskModel.from_pretrained(tmp_path / "model")
    pipe = pipeline(
        "multi-task-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(tmp_path / "model")
    )
    answers = pipe(PAIRS, task_name="pairs")
    code = (
        f"{BLOCK}\nimport json\nfrom transformers import pipeline\n"
        f"pipe = pipeline('multi-task-classification', model={str(tmp_path / 'model')!r}, trust_remote_code=True)\n"
        f"print(json.dumps(pipe({PAIRS!r}, task_name='pairs')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    alone = json.loads(done.stdout.splitlines()[-1])
    assert [row["value"] for row in alone] == pytest.approx([row["value"] for row in answers], abs=1e-6)


def test_training_goes_on_with_ends_bit_equal(make_own_trainer, tmp_path):
    whole = make_own_trainer(max_steps=4, save_strategy="steps", save_steps=2)
    whole.train()
    again = make_own_trainer(max_steps=4, save_strategy="steps", save_steps=2)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


TASKS = """
tasks:
  pairs: {{kind: similarity, text_columns: [a, b], label_range: [0, 5], metrics: [pearson, spearman],
           files: {{train: {0}/rows.jsonl, validation: {0}/rows.jsonl, test: {0}/rows.jsonl}}}}
"""


def test_the_command_line(tmp_path, capsys):
    rows = [{"a": one, "b": other, "label": 5.0 * (number % 2)} for number, (one, other) in enumerate(PAIRS * 8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "tasks.yaml").write_text(TASKS.format(tmp_path))
    flags = (
        f"--task_set {tmp_path}/tasks.yaml --model_name_or_path embedded:demo --output_dir {tmp_path}/out --do_train"
    )
    flags += " --do_eval --do_predict --max_steps 30 --learning_rate 1e-3 --unfreeze_schedule none --use_cpu"
    run_glue_mtl.main([*flags.split(), "--eval_strategy", "no", "--save_strategy", "no", "--disable_tqdm", "true"])
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["eval_pairs_pearson"] > 0.9 and "eval_pairs_spearman" in results
    written = (tmp_path / "out" / "predictions" / "pairs.tsv").read_text().splitlines()[1:]
    assert "pipeline_tag: sentence-similarity" in (tmp_path / "out" / "README.md").read_text()
    capsys.readouterr()
    one, other = PAIRS[0]
    cli(["predict", "--model", f"{tmp_path}/out", "--text", one, "--text-pair", other, "--json"])
    answer = json.loads(capsys.readouterr().out)["pairs"]
    assert answer["value"] == pytest.approx(float(written[0].split("\t")[1]), abs=1e-4)
    output = tmp_path / "answers.jsonl"
    call = ["predict", "--model", f"{tmp_path}/out", "--input", f"{tmp_path}/rows.jsonl", "--columns", "a", "b"]
    cli([*call, "--output", str(output)])
    values = [json.loads(line)["pairs"]["value"] for line in output.read_text().splitlines()]
    assert values == pytest.approx([float(line.split("\t")[1]) for line in written], abs=1e-4)
    cli(["tasks", f"{tmp_path}/tasks.yaml", "--model", f"{tmp_path}/out", "--json"])
    (facts,) = json.loads(capsys.readouterr().out)
    assert facts["kind"] == "similarity" and facts["splits"]["train"]["labels"]["mean"] == 2.5


def test_the_encoder_that_is_saved_gives_the_cosines_that_were_trained(specs, make_model, tokenizer, tmp_path):
    task = dataclasses.replace(specs[1], kind="similarity", metrics=(), main_metric="")
    model = make_model([task]).eval()
    model.save_encoder(tmp_path, tokenizer)
    encoder, own = AutoModel.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    pipe = pipeline("multi-task-classification", model=model, tokenizer=tokenizer)
    for (one, other), answer in zip(PAIRS, pipe(PAIRS, task_name="pairs"), strict=True):
        batch = own([one, other], padding=True, return_tensors="pt")
        vectors = pool(encoder(**batch).last_hidden_state, batch["attention_mask"], "mean")
        assert answer["value"] == pytest.approx(5 * F.cosine_similarity(vectors[:1], vectors[1:]).item(), abs=1e-4)
