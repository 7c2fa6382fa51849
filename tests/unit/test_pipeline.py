"""The pipeline gives what a bare forward gives, in every form that people call it in."""

import logging

import pytest
import torch
from transformers import pipeline

from hf_mtl import InputError, TaskSpec
from hf_mtl.model.export_code import PIPELINE_TASK

TEXTS = ["dull", "a film that is great and a story that is dull but never long", "great", "a man sleeps"]
PAIRS = [("a man sleeps", "a man rests"), ("a dull film", "a great film and a story"), ("a man", "a dog")]


@pytest.fixture(scope="module")
def emotions():
    """A second task on single texts, with three classes."""
    return TaskSpec(
        name="emotions",
        kind="classification",
        text_columns=("text",),
        labels=("joy", "fear", "anger"),
        files={"train": "unused.csv"},
    )


@pytest.fixture
def model(make_model, specs, emotions):
    return make_model([*specs, emotions], dropout=0.3, max_seq_length=12)


@pytest.fixture
def pipe(model, tokenizer):
    return pipeline(PIPELINE_TASK, model=model.train(), tokenizer=tokenizer)


def bare(model, tokenizer, task, row):
    """One row's logits by a forward of its own."""
    texts = [row] if isinstance(row, str) else row
    tokens = tokenizer(*texts, truncation=True, max_length=12, return_tensors="pt")
    return model.eval()(task=task, **tokens).logits.detach()


def test_every_fitting_task_answers_as_a_bare_forward(pipe, model, tokenizer):
    answers = pipe(TEXTS, batch_size=2)
    assert [list(answer) for answer in answers] == [["reviews", "emotions"]] * len(TEXTS)
    for text, answer in zip(TEXTS, answers, strict=True):
        for task, found in answer.items():
            scores = bare(model, tokenizer, task, text).softmax(-1)[0]
            assert found["label"] == model.task_heads[task].labels[int(scores.argmax())]
            assert found["score"] == pytest.approx(float(scores.max()), abs=1e-6)  # padding: fp32 rounding
    for pair, answer in zip(PAIRS, pipe(PAIRS, batch_size=2), strict=True):
        value = model.decode("pairs", bare(model, tokenizer, "pairs", pair))
        assert answer == {"pairs": {"value": pytest.approx(float(value), abs=1e-5)}}


def test_one_encoder_pass_serves_every_task(pipe, model):
    calls = []
    hook = model.encoder.register_forward_hook(lambda *_: calls.append(1))
    pipe(TEXTS, batch_size=4)
    hook.remove()
    assert len(calls) == 1


def test_rows_of_like_length_share_a_pass_and_keep_their_order(pipe, model):
    shapes = []
    hook = model.encoder.register_forward_hook(lambda m, a, k, o: shapes.append(k["input_ids"].shape), with_kwargs=True)
    rows = ["dull", "a man sleeps and a dog sleeps", "great", "a dog sleeps and a man sleeps"]
    answers = pipe(rows, batch_size=2)
    hook.remove()
    assert shapes[0][1] > shapes[1][1]
    for row, answer in zip(rows, answers, strict=True):
        assert answer["reviews"]["score"] == pytest.approx(pipe(row)["reviews"]["score"], abs=1e-6)


def test_forms_of_input(pipe):
    one, other = PAIRS[0]
    assert pipe((one, other)) == pipe({"text": one, "text_pair": other}) == pipe([PAIRS[0]])[0]
    assert pipe({"text": one}) == pipe(one)
    assert pipe([]) == []
    lazily = pipe(iter(TEXTS))
    assert next(lazily) == pipe(TEXTS)[0]


def test_named_tasks_and_top_k(pipe, model, tokenizer):
    assert set(pipe("dull", task_name="reviews")) == {"label", "score"}
    assert list(pipe("dull", task_name=["emotions"])) == ["emotions"]
    ranked = pipe("dull", task_name="emotions", top_k=2)
    scores = bare(model, tokenizer, "emotions", "dull").softmax(-1)[0].sort(descending=True)
    assert [row["score"] for row in ranked] == pytest.approx(scores.values[:2].tolist())
    assert [row["label"] for row in ranked] == [("joy", "fear", "anger")[i] for i in scores.indices[:2]]
    always = pipeline(PIPELINE_TASK, model=model, tokenizer=tokenizer, task_name="emotions", top_k=1, batch_size=2)
    assert [row["label"] for row in always("dull")] == [ranked[0]["label"]]
    assert always("dull", top_k=None)[:2] == ranked and len(always("dull", top_k=None)) == 3


def test_tasks_left_out_are_named_once(pipe, caplog):
    with caplog.at_level(logging.WARNING, "hf_mtl"):
        pipe("dull")
        pipe("great")
    assert [record.getMessage() for record in caplog.records] == ["left out, as they take a pair of texts: pairs"]


def test_truncation_is_told(pipe, tokenizer, caplog):
    words = len(tokenizer("dull " * 10)["input_ids"])
    assert words == 12
    with caplog.at_level(logging.WARNING, "hf_mtl"):
        pipe(["dull " * 10], task_name="reviews")
        assert not caplog.records
        pipe(["dull " * 10, "dull " * 11], task_name="reviews")
    assert [record.getMessage() for record in caplog.records] == ["1 of 2 inputs were cut to 12 tokens"]


def test_truncation_of_a_single_input_is_told(pipe, caplog):
    with caplog.at_level(logging.WARNING, "hf_mtl"):
        pipe("dull " * 11, task_name="reviews")
    assert [record.getMessage() for record in caplog.records] == ["1 of 1 inputs were cut to 12 tokens"]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ("dull", {"task_name": "nothing"}, "unknown task_name 'nothing'"),
        ("dull", {"task_name": "pairs"}, "takes a pair of texts, got a text"),
        ("dull", {"top_k": 0}, "top_k is 0"),
        ("dull", {"task": "reviews"}, "did you mean 'task_name'"),
        (["dull", PAIRS[0]], {}, "row 0 is a text and row 1 is a pair of texts; wanted one or the other"),
        ([3], {}, "row 0 .*: found 3, wanted a text"),
        ({"txt": "dull"}, {}, "wanted a text"),
    ],
)
def test_what_it_refuses(pipe, rows, options, message):
    with pytest.raises(InputError, match=message):
        pipe(rows, **options)


def test_no_task_for_this_number_of_texts(make_model, specs, tokenizer):
    pipe = pipeline(PIPELINE_TASK, model=make_model(specs[1:]), tokenizer=tokenizer)
    with pytest.raises(InputError, match="no task takes a text; the tasks are pairs"):
        pipe("dull")


def test_a_value_is_in_the_range_of_its_label(make_model, tokenizer):
    model = make_model()
    torch.nn.init.constant_(model.heads["pairs"].bias, 100.0)
    assert pipeline(PIPELINE_TASK, model=model, tokenizer=tokenizer)(PAIRS[0]) == {"pairs": {"value": 5.0}}
