"""Tags of words beside another task: exact steps, evaluation, and a run from the command line to its last use."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from packed_steps import assert_same, of_family
from plain_steps import flat, relative_error
from small_tokenizers import MAKERS
from token_rows import TAGS, tagged_rows, task
from transformers import AutoConfig, pipeline
from without_package import BLOCK

import run_glue_mtl
from hf_mtl import InputError, MultiTaskConfig, MultiTaskModel, MultiTaskTrainer, load_task_data
from hf_mtl.cli import main as cli
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.kernels.packed_pass import FAMILIES
from hf_mtl.model.pipeline_inputs import Words
from hf_mtl.tasks.metrics import task_scores


@pytest.fixture
def tagged(tokenizer):
    """Split -> tokenised rows of the task."""
    rows = {"train": tagged_rows(60), "validation": tagged_rows(33, seed=1)}
    data = load_task_data([task()], tokenizer, max_length=24, rows={"ner": rows})
    return {split: found["ner"] for split, found in data.items()}


@pytest.fixture
def make_tag_trainer(specs, rows, tagged, make_model, make_arguments, tokenizer):
    """A trainer on tags and reviews; keywords go to the arguments."""

    def make(model=None, callbacks=(), **arguments):
        tasks = [task(), specs[0]]
        data = {split: {"ner": tagged[split], "reviews": rows[split]["reviews"]} for split in tagged}
        args = make_arguments(**arguments)
        return MultiTaskTrainer(
            model or make_model(tasks), args, tasks, data["train"], data["validation"], tokenizer, callbacks=callbacks
        )

    return make


# ---- steps ----


@pytest.mark.parametrize("kernels", ["auto", "off"])
def test_micro_batches_weigh_by_their_words(make_tag_trainer, kernels):
    """The gradient is that of the sum of all words' losses over all words of the step."""
    options = {"gradient_accumulation_steps": 3, "cpu_kernels": kernels}
    trainer = make_tag_trainer(gradient_method="sum", **options)
    trainer.current_gradient_accumulation_steps = 3
    batches = [batch for batch, _ in zip(trainer.get_train_dataloader(), range(3), strict=False)]
    counts = [int((batch["ner"]["labels"] != -100).sum()) for batch in batches]
    assert len(set(counts)) > 1 and any((batch["ner"]["attention_mask"] == 0).any() for batch in batches)
    trainer.step.begin(0)
    for number, batch in enumerate(batches):
        trainer.accelerator.gradient_state._set_sync_gradients(number == 2)
        trainer.training_step(trainer.model, batch)
    model = trainer.model
    found = {name: p.grad.clone() for name, p in model.named_parameters() if "reviews" not in name}
    model.zero_grad()
    losses = []
    for batch in batches:  # row by row, so without padding
        inputs = batch["ner"]
        for row, length in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
            one = {name: inputs[name][row : row + 1, :length] for name in ("input_ids", "token_type_ids")}
            logits, labels = model(task="ner", **one).logits[0], inputs["labels"][row, :length]
            losses += [F.cross_entropy(logits[at], labels[at]) for at in (labels != -100).nonzero().flatten()]
    assert len(losses) == sum(counts)
    torch.stack(losses).mean().backward()
    heads = {name: p.grad.clone() for name, p in model.named_parameters() if "heads.ner" in name}
    reviews = torch.stack([model(task="reviews", **batch["reviews"]).loss * 4 for batch in batches])
    (reviews.sum() / sum(len(batch["reviews"]["labels"]) for batch in batches) * 1.0).backward()
    for name, wanted in heads.items():
        assert relative_error(found[name], wanted) < 1e-5, name
    shared = [name for name in found if name.startswith("encoder.")]
    wanted = dict(model.named_parameters())
    assert relative_error(flat([found[n] for n in shared]), flat([wanted[n].grad for n in shared])) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_the_packed_pass_gives_the_same_gradients(family, make_tag_trainer, specs, tokenizer, monkeypatch):
    own = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48}
    config = AutoConfig.for_model(family, pad_token_id=1, max_position_embeddings=66, **own)
    if family == "bert":
        config.pad_token_id = tokenizer.pad_token_id
    trainer = make_tag_trainer(of_family(config, [task(), specs[0]], tokenizer))
    batches = [batch for batch, _ in zip(trainer.get_train_dataloader(), range(2), strict=False)]
    assert_same(trainer, batches, monkeypatch)


def test_a_step_without_any_tagged_word_of_the_task(make_tag_trainer):
    trainer = make_tag_trainer()
    batch = next(iter(trainer.get_train_dataloader()))
    batch["ner"]["labels"].fill_(-100)
    trainer.current_gradient_accumulation_steps = 1
    trainer.step.begin(0)
    losses = trainer.training_step(trainer.model, batch)
    assert torch.isfinite(torch.as_tensor(losses)).all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in trainer.model.parameters())


# ---- evaluation ----


def test_scores_are_those_of_every_row_by_itself(make_tag_trainer, tagged, tokenizer):
    trainer = make_tag_trainer(per_device_eval_batch_size=5, max_steps=3)
    trainer.train()
    scores, model = trainer.evaluate(), trainer.model.eval()
    tags, labels, losses = [], [], []
    for row in tagged["validation"]:
        inputs = {name: torch.tensor([row[name]]) for name in ("input_ids", "token_type_ids")}
        with torch.no_grad():
            logits = model(task="ner", **inputs).logits[0]
        places = [at for at, label in enumerate(row["labels"]) if label != -100]
        tags.append(logits.argmax(dim=-1)[places].tolist())
        labels.append([row["labels"][at] for at in places])
        losses += F.cross_entropy(logits[places], torch.tensor(labels[-1]), reduction="none").tolist()
    width = max(map(len, labels))
    padded = [np.array([row + [-100] * (width - len(row)) for row in each]) for each in (tags, labels)]
    spec = task(metrics=("entity_f1", "token_accuracy"))
    wanted = task_scores(spec, *padded)
    assert scores["eval_ner_entity_f1"] == pytest.approx(wanted["entity_f1"], abs=1e-9)
    assert scores["eval_ner_loss"] == pytest.approx(np.mean(losses), rel=1e-5)

    predicted = trainer.predict({"ner": tagged["validation"]})["ner"]
    decoded = trainer.evaluator.decoded("ner", predicted.predictions)
    assert [row[row != -100].tolist() for row in decoded] == tags
    assert predicted.metrics["test_ner_entity_f1"] == pytest.approx(wanted["entity_f1"], abs=1e-9)
    kept, numbers, _ = predicted.predictions  # no logits
    assert kept.dtype == numbers.dtype == np.int32 and kept.shape == numbers.shape == predicted.label_ids.shape


def test_rows_without_tags_are_predicted_and_the_others_scored(make_tag_trainer, tokenizer):
    trainer, rows = make_tag_trainer(), tagged_rows(9, seed=2)
    some = [{**row, "tags": None if number in (2, 5) else row["tags"]} for number, row in enumerate(rows)]
    scores = []
    for given in (some, [row for row in some if row["tags"]], [{"words": row["words"]} for row in rows]):
        data = load_task_data([task()], tokenizer, splits=("test",), rows={"ner": {"test": given}})
        output = trainer.predict(data["test"])["ner"]
        assert len(trainer.evaluator.decoded("ner", output.predictions)) == len(given)
        scores.append({name: value for name, value in output.metrics.items() if name.endswith(("_f1", "ner_loss"))})
    assert scores[0] == pytest.approx(scores[1]) and scores[0].keys() == {"test_ner_entity_f1", "test_ner_loss"}
    assert scores[2] == {}


def as_given(rows, form):
    """Tokenised rows as people hold them."""
    if form == "dataset":
        return Dataset.from_list(rows.to_list())
    if form == "pandas":
        return Dataset.from_pandas(pd.DataFrame(rows.to_list()))
    return rows.map(lambda row: row)  # what `map` gives


@pytest.mark.parametrize("form", ["dataset", "pandas", "map"])
def test_tokenised_rows_with_none_for_labels_have_no_label(make_tag_trainer, tagged, form):
    trainer, whole = make_tag_trainer(), tagged["validation"]
    given = [{**row, "labels": None if number in (0, 5, 32) else row["labels"]} for number, row in enumerate(whole)]
    some = as_given(Dataset.from_list(given), form)
    assert some["labels"][0] is None
    output = trainer.predict({"ner": some})["ner"]
    kept = trainer.predict({"ner": whole.select([n for n, row in enumerate(given) if row["labels"]])})["ner"]
    for name in ("test_ner_entity_f1", "test_ner_loss"):
        assert output.metrics[name] == pytest.approx(kept.metrics[name], rel=1e-5)
    all_tags = trainer.evaluator.decoded("ner", trainer.predict({"ner": whole})["ner"].predictions)
    assert np.array_equal(trainer.evaluator.decoded("ner", output.predictions), all_tags)
    assert (output.label_ids[[0, 5, 32]] == -100).all()

    none = as_given(Dataset.from_list([{**row, "labels": None} for row in given]), form)
    output = trainer.predict({"ner": none})["ner"]
    assert np.array_equal(trainer.evaluator.decoded("ner", output.predictions), all_tags)
    assert not [name for name in output.metrics if name.endswith(("_f1", "_loss"))]
    with pytest.raises(InputError, match="no label in row 0"):
        trainer.evaluate({"ner": some})
    cut = Dataset.from_list([{**row, "labels": row["labels"] and row["labels"][1:]} for row in given])
    with pytest.raises(InputError, match=r"in row 1 .*, 'labels' is for \d+ tokens and there are"):
        trainer.predict({"ner": cut})


# ---- a run from the command line ----

FILES = "files: {{train: {0}/train.jsonl, validation: {0}/validation.jsonl, test: {0}/test.jsonl}}"
TASK_FILE = f"""
tasks:
  ner: {{{{kind: token_classification, text_columns: words, label_column: tags, labels: [{", ".join(TAGS)}],
        metrics: [entity_f1, token_accuracy], {FILES}}}}}
  reviews: {{{{kind: classification, text_columns: [sentence], labels: [bad, good],
            files: {{{{train: {{0}}/reviews.jsonl, validation: {{0}}/reviews.jsonl}}}}}}}}
"""
USE = """
import json, sys
from transformers import AutoModel, pipeline
folder, expected = sys.argv[1], json.load(open(sys.argv[2]))
pipe = pipeline("multi-task-classification", model=folder, trust_remote_code=True)
assert type(pipe.model).__module__.startswith("transformers_modules.")
for row, wanted in zip(expected["rows"], expected["answers"], strict=True):
    found = pipe(row, task_name="ner")
    for one, other in zip(found.get("entities", ()), wanted.get("entities", ()), strict=True):
        assert abs(one["score"] - other["score"]) < 1e-5  # another number of threads
        one["score"] = other["score"]
    assert found == wanted, (found, wanted)
print("equal")
"""
TEXT = "The clever moving plot, and the kitchen garden works."


def write_lines(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")


@pytest.fixture
def task_file(tmp_path):
    test = tagged_rows(8, seed=2)
    test[3]["tags"] = None
    test[4] = {"words": ["the", "\u200b", "kitchen", "garden"], "tags": ["O", "O", "B-LOC", "I-LOC"]}
    for split, rows in {"train": tagged_rows(200), "validation": tagged_rows(40, seed=1), "test": test}.items():
        write_lines(tmp_path / f"{split}.jsonl", rows)
    write_lines(tmp_path / "reviews.jsonl", [{"sentence": f"the plot {n}", "label": n % 2} for n in range(24)])
    (tmp_path / "tasks.yaml").write_text(TASK_FILE.format(tmp_path))
    return tmp_path / "tasks.yaml"


def flags_of(task_file, folder, *more):
    flags = f"--task_set {task_file} --model_name_or_path embedded:demo --output_dir {folder} --do_train --do_eval "
    flags += "--do_predict --learning_rate 3e-3 --unfreeze_schedule none --use_cpu --save_strategy steps "
    flags += "--per_device_train_batch_size 16 --max_seq_length 64 --eval_strategy steps --disable_tqdm true"
    return [*flags.split(), *more]


def test_from_training_to_a_process_without_the_package(task_file, tmp_path, capsys):
    out = tmp_path / "out"
    run_glue_mtl.main(flags_of(task_file, out, *["--max_steps", "60", "--save_steps", "30", "--eval_steps", "60"]))
    results = json.loads((out / "all_results.json").read_text())
    assert results["eval_ner_entity_f1"] > 0.8 and results["eval_ner_token_accuracy"] > 0.8
    assert {"test_ner_entity_f1", "test_ner_token_accuracy", "train_ner_entity_f1"} <= results.keys()
    written = (out / "predictions" / "ner.tsv").read_text().splitlines()
    assert written[0] == "index\tprediction" and len(written) == 9
    test = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    for number, (line, row) in enumerate(zip(written[1:], test, strict=True)):
        tags = line.removeprefix(f"{number}\t").split(" ")
        assert len(tags) == len(row["words"]) and {*tags} <= {*TAGS, "_"}
        assert ("_" in tags) == ("\u200b" in row["words"])
    assert "\u200b" in test[4]["words"] and written[5].split("\t")[1].split(" ")[1] == "_"
    header = (out / "README.md").read_text().split("---")[1]
    assert "type: token-classification" in header and "pipeline_tag: token" not in header  # of two kinds

    pipe = pipeline("multi-task-classification", model=str(out))
    rows = [TEXT, {"words": TEXT.split()}, {"words": test[4]["words"]}]
    answers = [pipe(row, task_name="ner") for row in rows]
    entities = answers[0]["entities"]
    assert [(e["label"], e["text"]) for e in entities] == [("PER", "clever moving"), ("LOC", "kitchen garden")]
    assert all(TEXT[e["start"] : e["end"]] == e["text"] and 0 < e["score"] <= 1 for e in entities)
    assert len(answers[1]["tags"]) == len(TEXT.split()) and answers[2]["tags"][1] is None
    assert [tag or "_" for tag in answers[2]["tags"]] == written[5].split("\t")[1].split(" ")

    (tmp_path / "expected.json").write_text(json.dumps({"rows": rows, "answers": answers}))
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""}
    command = [sys.executable, "-c", BLOCK + USE, str(out), str(tmp_path / "expected.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=600)
    assert done.returncode == 0 and "equal" in done.stdout, done.stderr[-3000:]

    capsys.readouterr()
    assert cli(["predict", "--model", str(out), "--task", "ner", "--text", TEXT, "--json"]) == 0
    assert [e["text"] for e in json.loads(capsys.readouterr().out)["ner"]["entities"]] == [e["text"] for e in entities]
    assert cli(["predict", "--model", str(out), "--task", "ner", "--text", TEXT]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in table[1:]] == [
        ["ner", "PER", "clever", "moving"],
        ["ner", "LOC", "kitchen", "garden"],
    ]
    assert cli(["predict", "--model", str(out), "--task", "ner", "--text", "the plot"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["ner", "-"]

    output = tmp_path / "answers.jsonl"
    files = ["--input", str(tmp_path / "test.jsonl"), "--output", str(output)]
    assert cli(["predict", "--model", str(out), *files, "--columns", "words"]) == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(8)) and lines[0].keys() == {"index", "ner", "reviews"}
    for line, row in zip(lines, written[1:], strict=True):
        assert " ".join(tag or "_" for tag in line["ner"]["tags"]) == row.split("\t")[1]
    write_lines(tmp_path / "texts.jsonl", [{"text": TEXT}, {"text": "the plot"}])
    capsys.readouterr()
    assert cli(["predict", "--model", str(out), "--task", "ner", "--input", str(tmp_path / "texts.jsonl")]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [[e["text"] for e in line["ner"]["entities"]] for line in lines] == [[e["text"] for e in entities], []]

    assert cli(["tasks", str(task_file), "--json", "--task", "ner", "--model", str(out)]) == 0
    (described,) = json.loads(capsys.readouterr().out.splitlines()[-1])
    counts = described["splits"]["train"]["labels"]
    assert list(counts) == list(TAGS) and sum(counts.values()) == sum(len(row["words"]) for row in tagged_rows(200))
    assert described["splits"]["test"]["labels"]["without_label"] == 1
    assert cli(["tasks", str(task_file), "--task", "ner"]) == 0
    assert "labels: O " in capsys.readouterr().out


def test_a_run_goes_on_where_it_was(task_file, tmp_path):
    """Bit for bit, tokens from the cache and evaluations between included."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    lines = ["--max_steps", "6", "--save_steps", "3", "--eval_steps", "3"]
    for folder in (whole, parts):
        run_glue_mtl.main(flags_of(task_file, folder, *lines))
    for path in (parts / "checkpoint-6").iterdir():
        path.unlink()
    (parts / "checkpoint-6").rmdir()
    run_glue_mtl.main(flags_of(task_file, parts, *lines, "--resume_from_checkpoint", "latest"))
    one, other = (MultiTaskModel.from_pretrained(folder).state_dict() for folder in (whole, parts))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


# ---- other tokenizers, other inputs ----


@pytest.mark.parametrize("name", ["RoBERTa", "XLM-R"])
def test_other_families_learn_and_answer(name, make_arguments):
    tokenizer = MAKERS[name]()
    rows = [{"words": ["the", "cast", "is", "dull"], "tags": ["O", "B-PER", "O", "B-LOC"]}] * 16
    data = load_task_data([task()], tokenizer, rows={"ner": {"train": rows, "validation": rows}})
    own = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48}
    config = AutoConfig.for_model("roberta", vocab_size=len(tokenizer), pad_token_id=0, type_vocab_size=2, **own)
    torch.manual_seed(0)
    model = MultiTaskModel(MultiTaskConfig(config, [task().head], head_dropout=0.0))
    args = make_arguments(max_steps=40, learning_rate=3e-3)
    trainer = MultiTaskTrainer(model, args, [task()], data["train"]["ner"], data["validation"]["ner"], tokenizer)
    trainer.train()
    assert trainer.evaluate()["eval_ner_entity_f1"] == 1.0
    pipe = pipeline("multi-task-classification", model=model, tokenizer=tokenizer)
    assert pipe(Words(rows[0]["words"]), task_name="ner") == {"tags": rows[0]["tags"]}
    found = pipe("the cast is dull", task_name="ner")["entities"]
    assert [(e["label"], e["start"], e["end"]) for e in found] == [("PER", 4, 8), ("LOC", 12, 16)]


CELLS = {
    "a number among words": (["a", 3], "column 'words' holds 3 instead of text in row 1"),
    "null among words": (["a", None], "column 'words' has no text in row 1"),
    "no words": ([], "column 'words' has no words in row 1"),
    "a number": (3, "column 'words' holds 3 instead of text in row 1"),
}


@pytest.mark.parametrize(("cell", "message"), CELLS.values(), ids=CELLS)
def test_predict_names_the_cell_that_holds_no_words(tmp_path, capsys, make_model, tokenizer, cell, message):
    model = make_model([task()])
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    write_lines(tmp_path / "rows.jsonl", [{"words": ["a"], "n": 1}, {"words": cell, "n": 1}])
    flags = ["predict", "--model", str(tmp_path / "saved"), "--input", str(tmp_path / "rows.jsonl")]
    assert cli(flags) == 2
    assert message in capsys.readouterr().err
    assert cli([*flags, "--columns", "words", "n"]) == 2  # a pair has no words
    assert "holds ['a'] instead of text in row 0" in capsys.readouterr().err


@pytest.mark.parametrize("row", [{"words": ["a", "film"]}, {"words": ["a", "film"], "tags": ["O", "O"]}])
def test_a_file_of_one_row_has_one_row(tmp_path, capsys, make_model, tokenizer, row):
    """Its lists are no columns."""
    make_model([task()]).save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    write_lines(tmp_path / "rows.jsonl", [row])
    assert cli(["predict", "--model", str(tmp_path / "saved"), "--input", str(tmp_path / "rows.jsonl")]) == 0
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert len(line["ner"]["tags"]) == 2
    if "tags" in row:
        spec = task(files={"train": str(tmp_path / "rows.jsonl")})
        assert load_rows(spec, "train")["words"][:] == [["a", "film"]]


def test_rows_of_the_pipeline_that_hold_no_words_are_refused(make_model, tokenizer):
    pipe = pipeline("multi-task-classification", model=make_model([task()]).eval(), tokenizer=tokenizer)
    for row in ({"words": []}, {"words": ["a", None]}, {"words": "a text"}):
        with pytest.raises(InputError, match=r"wanted a text, .*\{'words': \[one, other, \.\.\.\]\} too"):
            pipe(row)
