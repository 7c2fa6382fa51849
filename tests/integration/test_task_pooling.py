"""`pooling` of one task: training, packed pass, saved model and pipeline take it, and the other tasks the model's."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from packed_steps import assert_same, batches_of
from plain_steps import assert_step_is_backward_of
from transformers import pipeline

from hf_mtl import InputError, MultiTaskModel, MultiTaskTrainer, load_model, load_tasks

TEXTS = ["the cast is tedious", "the story is brilliant , and the cast truly shines"]


@pytest.fixture
def tasks(specs):
    """Reviews, read at the first token, and pairs, as the model pools."""
    return [dataclasses.replace(specs[0], pooling="cls"), specs[1]]


@pytest.fixture
def make(tasks, rows, make_model, make_arguments, tokenizer):
    def trainer(**arguments):
        return MultiTaskTrainer(
            model=make_model(tasks, pooling="mean"),
            args=make_arguments(**arguments),
            tasks=tasks,
            train_dataset=rows["train"],
            eval_dataset=rows["validation"],
            processing_class=tokenizer,
        )

    return trainer


def plain_logits(model, task, inputs):
    """By hand: the encoder, the first token or the mean of the real ones, a linear layer."""
    mask = inputs["attention_mask"]
    hidden = model.encode(**{name: inputs[name] for name in ("input_ids", "token_type_ids", "attention_mask")})
    mean = (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    head = model.heads[task]
    return F.linear(hidden[:, 0] if task == "reviews" else mean, head.weight, head.bias)


def test_a_task_file_names_it(tmp_path):
    text = (
        "tasks: {{t: {{kind: classification, files: {{train: a.csv}}, text_columns: x, labels: [a, b], pooling: {}}}}}"
    )
    (tmp_path / "tasks.yaml").write_text(text.format("cls"))
    assert load_tasks(str(tmp_path / "tasks.yaml"))[0].head.pooling == "cls"
    (tmp_path / "tasks.yaml").write_text(text.format("clss"))
    with pytest.raises(InputError, match=r"unknown pooling for task 't': 'clss' .did you mean 'cls'"):
        load_tasks(str(tmp_path / "tasks.yaml"))


def test_a_step_equals_a_plain_forward_with_that_pooling(make):
    trainer = make(gradient_method="sum", learning_rate=1e-9)
    (batch,) = batches_of(trainer)

    def loss(trainer):
        reviews, pairs = (plain_logits(trainer.model, task, batch[task]) for task in ("reviews", "pairs"))
        of_pairs = F.mse_loss(pairs.squeeze(1), batch["pairs"]["labels"] - 2.5)
        return F.cross_entropy(reviews, batch["reviews"]["labels"]) + of_pairs

    assert_step_is_backward_of(trainer, batch, loss)


def test_the_packed_pass_takes_it(make, monkeypatch):
    trainer = make()
    assert_same(trainer, batches_of(trainer), monkeypatch)


def test_a_saved_model_keeps_it_and_the_pipeline_answers_by_it(make, tasks, tokenizer, tmp_path):
    trainer = make()
    trainer.train()
    trainer.save_final()
    heads = [task.head for task in tasks]
    for model in (load_model(tmp_path / "out", heads), MultiTaskModel.from_pretrained(tmp_path / "out")):
        assert (model.config.pooling, model.task_heads["reviews"].pooling) == ("mean", "cls")
        assert {name: head.pooling for name, head in model.heads.items()} == {"reviews": "cls", "pairs": "mean"}
        inputs = tokenizer(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=True)
        with torch.no_grad():
            wanted = plain_logits(model.eval(), "reviews", inputs).softmax(dim=1)
        pipe = pipeline("multi-task-classification", model=model, tokenizer=tokenizer)
        found = pipe(TEXTS, task_name="reviews", top_k=None)
        for row, answer in zip(wanted, found, strict=True):
            scores = {each["label"]: each["score"] for each in answer}
            torch.testing.assert_close(torch.tensor([scores[name] for name in tasks[0].labels]), row)
    with pytest.raises(InputError, match=r"task 'reviews' is saved in .*pooling='cls'.* and is declared as"):
        load_model(tmp_path / "out", [dataclasses.replace(head, pooling=None) for head in heads])
