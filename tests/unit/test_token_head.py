"""The head of tags: its loss and gradient, what it keeps of a batch, and its answers."""

import pytest
import torch
from token_rows import TAGS, task
from transformers import pipeline

from hf_mtl import InputError, MultiTaskModel
from hf_mtl.model.head_token_classification import TokenClassificationHead
from hf_mtl.model.pipeline_inputs import Words

WIDTH = 8


@pytest.fixture
def head():
    torch.manual_seed(0)
    return TokenClassificationHead(task().head, WIDTH, "mean", 0.0)


def batch_of(rows, tokens, seed=0):
    """Encoder's vectors, labels with -100 for some tokens, and the words' numbers where there are labels."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, tokens, WIDTH, generator=generator)
    labels = torch.randint(0, len(TAGS), (rows, tokens), generator=generator)
    labels[torch.rand(rows, tokens, generator=generator) < 0.4] = -100
    numbers = torch.where(labels == -100, 0, (labels != -100).cumsum(dim=1))
    return hidden, labels, numbers


@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (3, 7), (16, 40)])
def test_the_loss_and_its_gradient_are_the_plain_formula(head, rows, tokens):
    hidden, labels, _ = batch_of(rows, tokens)
    labels[0, 0] = 1
    total, units = head.loss(head(hidden, torch.ones(rows, tokens)), labels)
    assert units == head.num_units(labels) == (labels != -100).sum()
    (total / units).backward()
    weight, bias = head.weight.detach().double().requires_grad_(), head.bias.detach().double().requires_grad_()
    losses = [
        -(hidden[row, token].double() @ weight.T + bias).log_softmax(dim=0)[labels[row, token]]
        for row in range(rows)
        for token in range(tokens)
        if labels[row, token] != -100
    ]
    plain = torch.stack(losses).mean()
    plain.backward()
    found = (total / units, head.weight.grad, head.bias.grad)
    for ours, wanted in zip(found, (plain, weight.grad, bias.grad), strict=True):
        torch.testing.assert_close(ours.double(), wanted, rtol=1e-5, atol=1e-7)  # fp32 against fp64


def test_tokens_without_any_label_have_no_loss_and_no_gradient(head, make_model):
    hidden, labels, _ = batch_of(2, 5)
    total, units = head.loss(head(hidden, None), torch.full_like(labels, -100))
    assert total.item() == 0 and units == 0
    model = make_model([task()])
    ids = torch.ones(2, 5, dtype=torch.long)
    output = model(task="ner", input_ids=ids, labels=torch.full_like(ids, -100))
    output.loss.backward()
    assert output.loss == 0 and output.units == 0 and output.logits.shape == (2, 5, len(TAGS))
    assert not any(p.grad is not None and p.grad.any() for p in model.parameters())


def test_dropout_is_before_the_layer():
    head = TokenClassificationHead(task().head, WIDTH, "mean", 0.999)
    hidden = batch_of(4, 6)[0]
    assert torch.equal(head(hidden, None)[0, 0], head.bias)  # all but certain
    head.eval()
    torch.testing.assert_close(head(hidden, None), hidden @ head.weight.T + head.bias)


def test_evaluation_keeps_tags_numbers_and_losses_of_rows(head):
    """Batches of several widths, joined as the Trainer does: padded with -100."""
    kept, labels, total, units = [], [], 0.0, 0
    for seed, (rows, tokens) in enumerate([(3, 9), (4, 6), (1, 2)]):
        hidden, own, numbers = batch_of(rows, tokens, seed)
        own[0, 0] = 2
        numbers = torch.where(own == -100, 0, (own != -100).cumsum(dim=1))
        logits = head(hidden, None).detach()
        tags, places, losses = head.keep(logits, own, {"word_numbers": numbers})
        assert (tags.dtype, places.dtype, losses.dtype) == (torch.int32, torch.int32, torch.float32)
        assert torch.equal(tags == -100, numbers == 0)
        assert torch.equal(tags[numbers > 0].long(), head.decode(logits)[numbers > 0])
        loss, count = head.loss(logits, own)
        total, units = total + loss.item(), units + int(count)
        pad = {"pad": (0, 9 - tokens), "value": -100}
        kept.append([*(torch.nn.functional.pad(each, **pad) for each in (tags, places)), losses])
        labels.append(torch.nn.functional.pad(own, **pad))
    kept, labels = tuple(map(torch.cat, zip(*kept, strict=True))), torch.cat(labels)
    assert head.kept_loss(kept, labels).item() == pytest.approx(total / units, rel=1e-6)
    assert torch.equal(head.kept_predictions(kept) == -100, labels == -100)
    words = head.kept_answers(kept)
    for row, tags in zip(words, kept[0], strict=True):
        assert row[row != -100].tolist() == tags[tags != -100].tolist()
    assert head.keep(logits, None, {"word_numbers": numbers})[2].tolist() == [0.0]


def test_a_word_without_a_token_keeps_its_place(head):
    numbers = torch.tensor([[0, 1, 0, 3, 0], [0, 2, 0, 0, 0]])
    logits = torch.zeros(2, 5, len(TAGS))
    logits[..., 1] = 1.0
    assert head.kept_answers(head.keep(logits, None, {"word_numbers": numbers})).tolist() == [
        [1, -100, 1],
        [-100, 1, -100],
    ]


# ---- answers ----


@pytest.fixture
def pipe(make_model, tokenizer):
    """Tags a word by its first token: words of people and places, as the layer's rows below say."""

    def make(labels=TAGS, tags=None, **options):
        model = make_model([task(labels=labels, **options)]).eval()
        pipe = pipeline("multi-task-classification", model=model, tokenizer=tokenizer)
        by_id = {tokenizer(word)["input_ids"][1]: labels.index(tag) for word, tag in (tags or {}).items()}
        outside = labels.index("O")

        def forward(hidden, mask):
            index = torch.tensor([[by_id.get(each, outside) for each in row] for row in seen[-1].tolist()])
            return 3.0 * torch.nn.functional.one_hot(index, len(labels)) + 0.001 * index[..., None]

        seen, real = [], model.encode
        model.encode = lambda input_ids, *args, **inputs: seen.append(input_ids) or real(input_ids, *args, **inputs)
        model.heads["ner"].forward = forward
        return pipe

    return make


PEOPLE = {"clever": "B-PER", "moving": "I-PER", "kitchen": "B-LOC", "garden": "I-LOC"}
SURE = torch.tensor([3.0, 0, 0, 0, 0]).softmax(dim=0)[0].item()


def test_words_get_their_tags(pipe):
    pipe = pipe(tags=PEOPLE)
    words = ["the", "clever", "\u200b", "moving", "kitchen", "", "garden", "."]
    tags = ["O", "B-PER", None, "I-PER", "B-LOC", None, "I-LOC", "O"]
    assert pipe({"words": words}, task_name="ner") == {"tags": tags}
    assert pipe([{"words": words}, Words(["clever"])], task_name="ner") == [{"tags": tags}, {"tags": ["B-PER"]}]
    assert pipe({"words": words}, task_name="ner", max_length=4) == {"tags": ["O", "B-PER", *[None] * 6]}
    assert [cut for _, cut in pipe.stream([{"words": words}, {"words": words[:1]}], max_length=4)] == [True, False]


def test_a_text_gets_its_entities(pipe):
    pipe, text = pipe(tags=PEOPLE), "The Clever  moving plot,\nkitchen: garden (moving) KITCHEN garden"
    answer = pipe(text, task_name="ner")
    assert list(answer) == ["entities"]
    found = [(each["label"], each["start"], each["end"], each["text"]) for each in answer["entities"]]
    assert found == [("PER", 4, 18, "Clever  moving"), ("LOC", 25, 32, "kitchen"), ("LOC", 50, 64, "KITCHEN garden")]
    assert all(text[e["start"] : e["end"]] == e["text"] for e in answer["entities"])
    assert [each["score"] for each in answer["entities"]] == pytest.approx([SURE] * 3, abs=1e-6)
    assert pipe(["   ", text, {"text": "the plot"}], task_name="ner") == [{"entities": []}, answer, {"entities": []}]
    mixed = pipe([text, {"words": ["clever"]}, "moving kitchen"], batch_size=2)
    assert [list(row["ner"]) for row in mixed] == [["entities"], ["tags"], ["entities"]]
    assert mixed[0]["ner"] == answer and mixed[2]["ner"]["entities"][0]["text"] == "kitchen"


def test_a_score_is_the_mean_over_the_words(pipe):
    pipe = pipe(tags=PEOPLE)
    head = pipe.model.heads["ner"]
    real, factor = head.forward, torch.tensor([1.0, 1.0, 0.5, 1.0, 1.0, 1.0])
    head.forward = lambda hidden, mask: real(hidden, mask) * factor[: hidden.shape[1], None]
    (entity,) = pipe("clever moving", task_name="ner")["entities"]
    unsure = torch.tensor([1.5, 0, 0, 0, 0]).softmax(dim=0)[0].item()
    assert entity["score"] == pytest.approx((SURE + unsure) / 2, abs=1e-6)


def test_without_a_scheme_every_word_that_is_not_outside_is_an_entity(pipe):
    labels = ("NOUN", "O", "VERB")
    pipe = pipe(labels, {"kitchen": "NOUN", "garden": "NOUN", "works": "VERB"}, metrics=("token_accuracy",))
    found = pipe("the kitchen garden works", task_name="ner")["entities"]
    assert [(each["label"], each["text"]) for each in found] == [
        ("NOUN", "kitchen"),
        ("NOUN", "garden"),
        ("VERB", "works"),
    ]


def test_bioes(pipe):
    labels = ("O", "B-PER", "I-PER", "E-PER", "S-PER")
    pipe = pipe(labels, {"clever": "B-PER", "moving": "I-PER", "dull": "E-PER", "film": "S-PER"})
    found = pipe("film clever moving dull film clever moving plot dull", task_name="ner")["entities"]
    assert [each["text"] for each in found] == ["film", "clever moving dull", "film"]


def test_other_tasks_read_words_as_a_text(make_model, tokenizer, specs):
    model = make_model([task(), specs[0]]).eval()
    pipe = pipeline("multi-task-classification", model=model, tokenizer=tokenizer)
    both = pipe({"words": ["the", "plot", "works"]})
    assert list(both) == ["ner", "reviews"] and len(both["ner"]["tags"]) == 3
    alone = pipe("the plot works")
    assert both["reviews"] == alone["reviews"] and list(alone["ner"]) == ["entities"]
    with pytest.raises(InputError, match="task 'ner' takes a text, got a pair"):
        pipe(("a", "b"), task_name="ner")


def test_a_slow_tokenizer_is_refused_with_the_task(make_model, tokenizer):
    class Slow:
        is_fast, name_or_path = False, "old"

    head = make_model([task()]).heads["ner"]
    for rows in ([Words(["a"])], [("a",)]):
        with pytest.raises(InputError, match="task 'ner': the tokenizer 'old' is a slow one"):
            head.encode(head.spec, rows, Slow(), 8)


def test_a_saved_head_comes_back(make_model, tmp_path):
    model = make_model([task()])
    model.save_pretrained(tmp_path)
    again = MultiTaskModel.from_pretrained(tmp_path)
    assert [name for name in again.state_dict() if name.startswith("heads.")] == ["heads.ner.weight", "heads.ner.bias"]
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert again.task_heads["ner"] == task().head
