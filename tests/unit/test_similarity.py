"""Heads of values and of pairs that are read apart: outputs, losses and gradients against plain formulas."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset

from hf_mtl import HeadSpec, InputError
from hf_mtl.data.collator import TaskCollator
from hf_mtl.data.given_rows import checked_rows
from hf_mtl.data.task_rows import TaskRows
from hf_mtl.data.tokenization import tokenize
from hf_mtl.model.encoding import encode, encode_apart, padded
from hf_mtl.model.head_similarity import SimilarityHead
from hf_mtl.model.pooling import pool

PAIRS = [("a dull film", "a long and dull film"), ("great", "the cast never disappoints"), ("one two three", "two")]
LOSSES = {
    "mse": lambda values, labels: ((values - labels) ** 2).sum(),
    "mae": lambda values, labels: (values - labels).abs().sum(),
    "huber": lambda values, labels: torch.where(
        (values - labels).abs() <= 1, 0.5 * (values - labels) ** 2, (values - labels).abs() - 0.5
    ).sum(),
}


def spec_of(kind="similarity", **options):
    return HeadSpec(name="pairs", kind=kind, label_range=(0, 5), num_texts=2, **options)


def two_vectors(model, tokenizer, pair):
    """The two texts' vectors, each encoded alone."""
    batches = [padded(encode([(text,)], tokenizer, 64).rows, tokenizer) for text in pair]
    return [model.embed(**batch)[0] for batch in batches]


@pytest.fixture
def model_of(make_model, specs):
    def make(**changes):
        changes = {"metrics": (), "main_metric": "", **changes}
        return make_model([dataclasses.replace(specs[1], **changes)]).eval()

    return make


def batch_of(tokenizer):
    return padded(encode_apart(PAIRS, tokenizer, 64).rows, tokenizer)


def test_the_output_of_a_fresh_head_is_the_cosine_from_the_middle_in_fifths(model_of, tokenizer):
    model = model_of(kind="similarity")
    outputs = model(task="pairs", **batch_of(tokenizer))
    cosines = torch.stack([F.cosine_similarity(*two_vectors(model, tokenizer, pair), dim=0) for pair in PAIRS])
    torch.testing.assert_close(outputs.logits.squeeze(-1), 5 * (cosines - 0.5), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.decode("pairs", outputs.logits), (5 * cosines).clamp(0, 5), atol=1e-5, rtol=1e-5)


def test_cosine_0_and_1_are_the_ends_of_the_range():
    head = SimilarityHead(HeadSpec(name="a", kind="similarity", label_range=(1, 10), num_texts=2), 2)
    hidden = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0]]).unsqueeze(1)
    values = head.decode(head(hidden, torch.ones(4, 1)))
    torch.testing.assert_close(values, torch.tensor([1.0, 10]))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", ["similarity", "regression"])
def test_losses_over_the_range_are_those_of_the_plain_formulas(model_of, tokenizer, kind, name):
    model, labels = model_of(kind=kind, loss=name, label_range=(-2, 8)), torch.tensor([-2.0, 3.5, 8.0])
    rows = batch_of(tokenizer) if kind == "similarity" else padded(encode(PAIRS, tokenizer, 64).rows, tokenizer)
    outputs = model(task="pairs", labels=labels, **rows)
    values = outputs.logits.squeeze(-1) * 2 + 3  # a fifth of the range is 2
    expected = LOSSES[name]((values - 3) / 2, (labels - 3) / 2) / 3
    torch.testing.assert_close(outputs.loss, expected)
    assert outputs.units == 3


@pytest.mark.parametrize("kind", ["similarity", "regression"])
def test_bce_takes_labels_as_fractions_of_the_range(model_of, tokenizer, kind):
    model, labels = model_of(kind=kind, loss="bce", label_range=(-2, 8)), torch.tensor([-2.0, 3.5, 8.0])
    rows = batch_of(tokenizer) if kind == "similarity" else padded(encode(PAIRS, tokenizer, 64).rows, tokenizer)
    outputs = model(task="pairs", labels=labels, **rows)
    fractions, wanted = outputs.logits.squeeze(-1).sigmoid(), (labels + 2) / 10
    expected = -(wanted * fractions.log() + (1 - wanted) * (1 - fractions).log()).mean()
    torch.testing.assert_close(outputs.loss, expected)
    torch.testing.assert_close(model.decode("pairs", outputs.logits), fractions * 10 - 2)


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_pairs_that_are_read_apart(model_of, tokenizer, kind):
    labels = {"labels": ("no", "yes"), "label_range": None} if kind == "classification" else {}
    model = model_of(kind=kind, pair_encoding="separate", **labels)
    logits = model(task="pairs", **batch_of(tokenizer)).logits
    head = model.heads["pairs"]
    for row, pair in enumerate(PAIRS):
        u, v = two_vectors(model, tokenizer, pair)
        expected = F.linear(torch.cat([u, v, (u - v).abs(), u * v]), head.weight, head.bias)
        torch.testing.assert_close(logits[row], expected, atol=1e-5, rtol=1e-5)


def test_a_batch_has_the_sequences_of_every_row_one_after_the_other(model_of, specs, tokenizer):
    spec = dataclasses.replace(specs[1], kind="similarity", metrics=(), main_metric="")
    raw = Dataset.from_dict({"sentence1": [a for a, _ in PAIRS], "sentence2": [b for _, b in PAIRS]})
    rows = tokenize(spec, raw, tokenizer, 64, torch.tensor([0.0, 1, 5]).double().numpy())
    alone = [len(encode([(text,)], tokenizer, 64).rows[0]["input_ids"]) for pair in PAIRS for text in pair]
    assert [length for row in rows["sequence_lengths"] for length in row] == alone
    assert rows["length"][:] == [a + b for a, b in zip(alone[::2], alone[1::2], strict=True)]
    tagged = TaskRows({"pairs": rows})
    batch = TaskCollator(tokenizer)(tagged.__getitems__([2, 0]))["pairs"]
    expected = padded(encode_apart([PAIRS[2], PAIRS[0]], tokenizer, 64).rows, tokenizer)
    assert batch["sequences_per_row"].tolist() == [2, 2]
    assert batch["labels"].tolist() == [5, 0]
    for name, tensor in expected.items():
        torch.testing.assert_close(batch[name], tensor)
    check = {"vocab_size": len(tokenizer), "positions": max(alone), "inputs": tokenizer.model_input_names}
    checked_rows(rows, spec, "rows", labelled=True, **check)  # the row is longer than a sequence may be
    with pytest.raises(InputError, match=rf"row 2 .* has {max(alone)} tokens, and the encoder takes {max(alone) - 1}"):
        checked_rows(rows, spec, "rows", labelled=True, **{**check, "positions": max(alone) - 1})
    wrong = rows.map(lambda row: {"sequence_lengths": [1, 2]})
    with pytest.raises(InputError, match=r"in row 0 .*'sequence_lengths' is \[1, 2\]"):
        checked_rows(wrong, spec, "rows", labelled=True, **check)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_texts": 1}, "similarity is that of two texts"),
        ({"label_range": None}, r"label_range is None, wanted \[lowest, highest\]"),
        ({"labels": ("a", "b")}, "labels belong to classification; similarity declares label_range"),
        ({"loss": "mes"}, r"loss for task 'pairs': 'mes' \(did you mean 'mse'"),
        ({"pair_encoding": "separate"}, "'similarity' has no pair_encoding; it is for classification"),
        ({"kind": "regression", "pair_encoding": "apart"}, "pair_encoding for task 'pairs': 'apart'"),
        ({"kind": "regression", "pair_encoding": "joint", "num_texts": 1}, "and there is one text"),
        ({"pooling": "last"}, "pooling for task 'pairs': 'last'"),
        ({"thresholds": 0.3}, "a task of kind 'similarity' has no thresholds"),
    ],
)
def test_what_a_head_cannot_be(change, message):
    with pytest.raises(InputError, match=message):
        HeadSpec(**{"name": "pairs", "kind": "similarity", "label_range": (0, 5), "num_texts": 2, **change})


def test_pooling_of_one_task(model_of, tokenizer):
    model = model_of(kind="similarity", pooling="cls")
    batch = batch_of(tokenizer)
    batch.pop("sequences_per_row")
    hidden = model.encode(**batch)
    one, other = pool(hidden, batch["attention_mask"], "cls").view(3, 2, -1).unbind(1)
    expected = 5 * (F.cosine_similarity(one, other) - 0.5)
    torch.testing.assert_close(model(task="pairs", **batch).logits.squeeze(-1), expected)
    assert model.config.pooling == "mean"
