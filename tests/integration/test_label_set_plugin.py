"""A kind with a head of its own, from a file beside the package: trained, evaluated, saved, and used everywhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModel, pipeline

import run_glue_mtl
from hf_mtl import InputError, MultiTaskModel, MultiTaskTrainer, load_model, load_tasks, plugins
from hf_mtl.cli import main as cli
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.data.tokenization import tokenize
from hf_mtl.hub.upload import published
from hf_mtl.model.heads import HEADS
from hf_mtl.plugins import load_plugin
from hf_mtl.tasks.demo import demo_rows
from hf_mtl.tasks.kinds import KINDS
from hf_mtl.tasks.labels import read_labels

PLUGIN = Path(__file__).parents[2] / "examples" / "plugins" / "label_set.py"
LABELS = ["praise", "blame", "long"]
TASKS = """
tasks:
  topics: {{kind: label_set, text_columns: text, label_column: topics, labels: [praise, blame, long],
            metrics: [label_f1, exact_match], files: {{train: {0}/train.jsonl, validation: {0}/validation.jsonl,
            test: {0}/test.jsonl}}}}
  pairs: {{kind: regression, text_columns: [sentence1, sentence2], label_range: [0, 5],
           files: {{train: {0}/pairs.jsonl, validation: {0}/pairs.jsonl}}}}
"""

pytestmark = pytest.mark.usefixtures("plugins_of_this_test")


def labelled_rows(split, number):
    """Texts of the demo with the list of what is true of each."""
    texts, labels = (demo_rows("reviews", split)[key][:number] for key in ("sentence", "label"))
    return [
        {"text": text, "topics": [["blame", "praise"][label]] + (["long"] if len(text.split()) > 8 else [])}
        for text, label in zip(texts, labels, strict=True)
    ]


@pytest.fixture
def task_file(tmp_path):
    for split, number in (("train", 160), ("validation", 40), ("test", 12)):
        rows = labelled_rows(split, number)
        if split == "test":
            rows[3]["topics"] = None
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    pairs = Dataset.from_dict(demo_rows("pairs", "train")).select(range(40))
    pairs.to_json(tmp_path / "pairs.jsonl")
    (tmp_path / "tasks.yaml").write_text(TASKS.format(tmp_path))
    return tmp_path / "tasks.yaml"


@pytest.fixture
def trained(task_file, tmp_path):
    """The output of a run from the command line."""
    flags = f"--plugin {PLUGIN} --task_set {task_file} --model_name_or_path embedded:demo --output_dir {tmp_path}/out "
    flags += "--do_train --do_eval --do_predict --max_steps 40 --learning_rate 2e-3 --unfreeze_schedule none --use_cpu "
    flags += "--eval_strategy steps --eval_steps 20 --save_strategy steps --save_steps 20 --disable_tqdm true"
    run_glue_mtl.main(flags.split())
    return tmp_path / "out"


def forget_plugin():
    """As in a process that was started without the plugin."""
    del HEADS["label_set"], KINDS["label_set"]
    plugins.LOADED.clear()


BLOCK = """
import sys
for name in ("hf_mtl", "datasets", "evaluate", "accelerate"):
    sys.modules[name] = None  # which is how Python notes that there is no such module
"""
USE = """
import json, sys, torch
from transformers import AutoModel, pipeline
folder, expected = sys.argv[1], json.load(open(sys.argv[2]))
pipe = pipeline("multi-task-classification", model=folder, trust_remote_code=True)
assert pipe(expected["texts"], task_name="topics") == expected["answers"]
ids, logits = torch.ones(2, 5, dtype=torch.long), []
for source in (folder, folder + "/again"):
    model = AutoModel.from_pretrained(source, trust_remote_code=True)
    assert type(model.heads["topics"]).__module__.startswith("transformers_modules."), type(model.heads["topics"])
    logits.append(model(task="topics", input_ids=ids).logits)
    model.save_pretrained(folder + "/again")
assert torch.equal(*logits)
print("equal")
"""
TEXTS = ["A dull film.", "The script is clever, and the cast never disappoints anyone who came to see it."]


def test_from_training_to_a_process_without_the_package(trained, task_file, tmp_path, capsys):
    results = json.loads((trained / "all_results.json").read_text())
    assert results["eval_topics_label_f1"] > 0.6  # 0.5 by chance
    assert {"eval_topics_exact_match", "test_topics_label_f1", "eval_pairs_pearson"} <= results.keys()
    written = (trained / "predictions" / "topics.tsv").read_text().splitlines()
    assert written[0] == "index\tprediction" and len(written) == 13
    assert {name for line in written[1:] for name in line.split("\t")[1].split(", ")} <= {*LABELS, ""}

    # Beside the weights: the head, without an import of the package, and the file that names it.
    assert json.loads((trained / "config.json").read_text())["head_files"] == {"label_set": "label_set_head.py"}
    code = (trained / "label_set_head.py").read_text()
    assert "from .heads import Head, HeadSpec" in code and "import hf_mtl" not in code and "from hf_mtl" not in code
    assert (
        (trained / "extra_heads.py")
        .read_text()
        .endswith("from .label_set_head import LabelSetHead\n\nEXTRA_HEADS = {'label_set': LabelSetHead}\n")
    )
    assert {"label_set_head.py", "extra_heads.py"} <= set(published(trained))
    assert "label_set.py" not in published(trained)

    # Where hf_mtl is imported the registered class wins, with trust_remote_code too.
    for trust in (None, True):
        model = AutoModel.from_pretrained(trained, trust_remote_code=trust)
        assert type(model) is MultiTaskModel
        assert type(model.heads["topics"]) is load_plugin(PLUGIN).LabelSetHead
    pipe = pipeline("multi-task-classification", model=str(trained))
    answers = pipe(TEXTS, task_name="topics")
    assert all({"label", "score"} == answer.keys() and answer["score"] > 0.5 for row in answers for answer in row)
    assert [[each["label"] for each in row] for row in pipe(TEXTS, task_name="topics", top_k=2)] != []
    assert all(len(row) == 3 for row in pipe(TEXTS, task_name="topics", top_k=None))

    (tmp_path / "expected.json").write_text(json.dumps({"texts": TEXTS, "answers": answers}))
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""}
    command = [sys.executable, "-c", BLOCK + USE, str(trained), str(tmp_path / "expected.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=600)
    assert done.returncode == 0 and "equal" in done.stdout, done.stderr[-3000:]

    # The command line, with the flag.
    capsys.readouterr()
    flags = ["--model", str(trained), "--text", TEXTS[0], "--task", "topics"]
    assert cli(["predict", *flags, "--json", "--plugin", str(PLUGIN)]) == 0
    found = json.loads(capsys.readouterr().out)["topics"]
    assert [each["label"] for each in found] == [each["label"] for each in answers[0]]
    assert cli(["predict", *flags, "--plugin", str(PLUGIN)]) == 0
    assert cli(["tasks", str(task_file), "--json", "--plugin", str(PLUGIN), "--task", "topics"]) == 0
    (described,) = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert described["splits"]["train"]["labels"].keys() == set(LABELS)
    assert described["splits"]["test"]["labels"]["without_label"] == 1
    assert cli(["tasks", "--plugin", str(PLUGIN), str(task_file), "--task", "topics"]) == 0
    assert "topics: label_set, praise, blame, long" in capsys.readouterr().out

    # And without it.
    forget_plugin()
    message = r"'topics' is of kind 'label_set', which is not registered; its head is in 'label_set_head\.py'"
    for opened in (MultiTaskModel.from_pretrained, AutoModel.from_pretrained, lambda name: load_model(name, [])):
        with pytest.raises(InputError, match=rf"{message}.*--plugin FILE\.py"):
            opened(str(trained))
    assert cli(["predict", *flags]) == 2
    assert "--plugin FILE.py" in capsys.readouterr().err


@pytest.fixture
def task(task_file):
    load_plugin(PLUGIN)
    return load_tasks(str(task_file), tasks=["topics"])[0]


def tokens(task, split, tokenizer, number=None):
    rows = load_rows(task, split)
    rows = rows if number is None else rows.select(range(number))
    return tokenize(task, rows, tokenizer, 32, read_labels(task, rows, split))


def test_a_batch_holds_several_labels_of_each_row_and_the_loss_is_their_mean(
    task, make_model, make_arguments, tokenizer
):
    rows = {"topics": tokens(task, "train", tokenizer, 24)}
    trainer = MultiTaskTrainer(make_model([task]), make_arguments(), [task], rows, rows, processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))["topics"]
    assert batch["labels"].shape == (8, 3) and batch["labels"].dtype == torch.float32
    out = trainer.model.eval()(task="topics", **batch)
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(out.logits, batch["labels"])
    torch.testing.assert_close(out.loss, wanted)
    assert out.units == 8
    scores = trainer.evaluate()
    labels = np.array(rows["topics"]["labels"][:])
    decoded = trainer.model.decode("topics", torch.from_numpy(trainer.predict(rows)["topics"].predictions)).numpy()
    assert scores["eval_topics_label_f1"] == pytest.approx(
        2 * (decoded * labels).sum() / (decoded.sum() + labels.sum()), abs=1e-9
    )


def test_the_gradient_of_every_part_of_the_head_is_the_plain_one(
    task, specs, rows, make_model, make_arguments, tokenizer
):
    both = {"topics": tokens(task, "train", tokenizer, 24), "reviews": rows["train"]["reviews"]}
    tasks = [task, specs[0]]
    args = make_arguments(gradient_method="sum", learning_rate=1e-9)
    trainer = MultiTaskTrainer(make_model(tasks), args, tasks, both, processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.create_optimizer_and_scheduler(4)
    trainer.current_gradient_accumulation_steps = 1
    trainer.step.begin(0)
    trainer.training_step(trainer.model, batch)
    found = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
    trainer.model.zero_grad()
    sum(trainer.model(task=name, **inputs).loss for name, inputs in batch.items()).backward()
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_rows_without_labels_are_predicted_and_the_others_scored(task, make_model, make_arguments, tokenizer):
    trainer = MultiTaskTrainer(
        make_model([task]), make_arguments(), [task], {"topics": tokens(task, "train", tokenizer, 24)},
        processing_class=tokenizer,
    )  # fmt: skip
    test = tokens(task, "test", tokenizer)
    output = trainer.predict({"topics": test})["topics"]
    assert output.predictions.shape == (12, 3) and "test_topics_label_f1" in output.metrics
    some = Dataset.from_dict({**test[:], "labels": [None if n == 3 else row for n, row in enumerate(test["labels"])]})
    again = trainer.predict({"topics": some})["topics"]
    assert again.metrics["test_topics_label_f1"] == output.metrics["test_topics_label_f1"]
    unlabelled = Dataset.from_dict({**test[:], "labels": [None] * 12})
    assert "test_topics_label_f1" not in trainer.predict({"topics": unlabelled})["topics"].metrics
    with pytest.raises(InputError, match="'topics': eval_dataset: no label in row 3"):
        trainer.evaluate({"topics": some})


def test_a_bad_list_is_named_and_skipped_where_that_is_asked_for(task, tmp_path, caplog):
    rows = [*labelled_rows("train", 4), {"text": "a", "topics": ["praise", "music"]}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    with pytest.raises(InputError, match=r"label \['praise', 'music'\] in row 4 .* is not a list of names from"):
        read_labels(task, load_rows(task, "train"), "train")
    assert len(load_rows(task, "train", "skip")) == 4
    assert "row 4: label ['praise', 'music']" in caplog.text


def test_a_saved_head_of_ones_own_trains_on(task, make_model, tokenizer, tmp_path):
    model = make_model([task])
    model.save_pretrained(tmp_path / "saved")
    again = load_model(tmp_path / "saved", [task.head])
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())
    assert [name for name in again.state_dict() if name.startswith("heads.")] == [
        f"heads.topics.{layer}.{part}" for layer in ("hidden", "output") for part in ("weight", "bias")
    ]


@pytest.mark.parametrize("label", [[1, 0], [7, 0, 1]])
def test_labels_that_are_not_one_of_two_for_each_name_are_refused(task, make_model, make_arguments, tokenizer, label):
    train = tokens(task, "train", tokenizer, 24).remove_columns("labels").add_column("labels", [label] * 24)
    with pytest.raises(InputError, match=r"label \[.*\] in row 0 .*wanted 0 or 1 for each of"):
        MultiTaskTrainer(make_model([task]), make_arguments(), [task], train, processing_class=tokenizer)
