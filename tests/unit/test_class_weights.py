"""`class_weights` and `label_smoothing`: the loss is torch's over rows, and a head keeps its weights."""

import json
import logging

import pytest
import torch
import torch.nn.functional as F

from hf_mtl import HeadSpec, InputError, TaskSpec, load_model, load_tasks
from hf_mtl.model.configuration import MultiTaskConfig
from hf_mtl.model.heads import HEADS

LABELS = ("bad", "good", "neither")
GIVEN = (0.5, 2.0, 3.5)


def spec_of(kind="classification", **options):
    return HeadSpec(name="sentiment", kind=kind, labels=LABELS, **options)


def head_of(spec, seed=0):
    torch.manual_seed(seed)
    return HEADS[spec.kind](spec, 8)


def batch(rows=21):
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, 5, 8, generator=generator)
    return hidden, torch.ones(rows, 5), torch.randint(0, 3, (rows,), generator=generator)


# ---- the loss ----


@pytest.mark.parametrize("weights", [None, GIVEN], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("smoothing", [None, 0.0, 0.1, 0.9])
@pytest.mark.parametrize("rows", [1, 2, 21])
def test_loss_and_gradient_are_torchs_over_the_rows(weights, smoothing, rows):
    hidden, mask, labels = batch(rows)
    found = []
    for how in ("head", "torch"):
        head = head_of(spec_of(class_weights=weights, label_smoothing=smoothing))
        logits = head(hidden, mask)
        if how == "head":
            total, units = head.loss(logits, labels)
            assert units == head.num_units(labels) == rows
            loss = total / units
        else:
            weight = None if weights is None else torch.tensor(weights)
            options = {"weight": weight, "label_smoothing": smoothing or 0.0, "reduction": "none"}
            loss = F.cross_entropy(logits, labels, **options).sum() / rows
        loss.backward()
        found.append([loss.detach(), head.weight.grad, head.bias.grad])
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-7)  # the order of one division


def test_the_loss_is_a_few_lines_of_logarithms():
    """A row's label has 1 - s + s / K of its target and every other class s / K, and each term its class's weight."""
    hidden, mask, labels = batch()
    head = head_of(spec_of(class_weights=GIVEN, label_smoothing=0.3))
    logits = head(hidden, mask)
    targets = 0.7 * F.one_hot(labels, 3) + 0.1
    wanted = -(torch.tensor(GIVEN) * targets * logits.log_softmax(dim=1)).sum()
    torch.testing.assert_close(head.loss(logits, labels)[0], wanted)


def test_a_rows_loss_does_not_depend_on_the_other_rows_of_its_batch():
    """Torch's own mean divides by the weights' sum, and so lets a row of a rare class count less beside others."""
    hidden, mask, _ = batch(2)
    head = head_of(spec_of(class_weights=GIVEN))
    logits = head(hidden, mask)

    def share(labels):
        """Of the first row in the mean loss of both, by rows and by torch's own mean."""
        row = F.cross_entropy(logits[:1], torch.tensor(labels[:1]), weight=torch.tensor(GIVEN), reduction="sum")
        second = F.cross_entropy(logits[1:], torch.tensor(labels[1:]), weight=torch.tensor(GIVEN), reduction="sum")
        total, units = head.loss(logits, torch.tensor(labels))
        mean = F.cross_entropy(logits, torch.tensor(labels), weight=torch.tensor(GIVEN))
        return (total / units - second / 2).item(), (mean * row / (row + second)).item()

    (by_rows, by_torch), (by_rows_too, by_torch_too) = share([0, 0]), share([0, 2])
    assert by_rows == pytest.approx(by_rows_too, abs=1e-6)
    assert by_torch != pytest.approx(by_torch_too, rel=0.5)


def test_an_ordinal_rows_loss_is_times_its_classs_weight():
    hidden, mask, labels = batch()
    plain, weighted = head_of(spec_of("ordinal")), head_of(spec_of("ordinal", class_weights=GIVEN))
    logits = weighted(hidden, mask)
    torch.testing.assert_close(logits, plain(hidden, mask))
    wanted = -(torch.tensor(GIVEN)[labels] * logits.gather(1, labels[:, None]).squeeze(1)).sum()
    torch.testing.assert_close(weighted.loss(logits, labels)[0], wanted)


# ---- balanced ----


@pytest.mark.parametrize("kind", ["classification", "ordinal"])
@pytest.mark.parametrize("form", [list, torch.tensor], ids=["list", "tensor"])
def test_balanced_weights_are_n_over_k_times_n_c(kind, form):
    head = head_of(spec_of(kind, class_weights="balanced"))
    assert head.class_weights.tolist() == [1, 1, 1]
    labels = [0] * 6 + [1] * 3 + [2]
    head.prepare(form(labels))
    assert head.class_weights.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    assert head.class_weights[torch.tensor(labels)].mean().item() == pytest.approx(1)
    head.prepare(form([0, 1, 2]))  # of other rows
    assert head.class_weights.tolist() == [1, 1, 1]


def test_a_class_that_never_occurs_has_weight_1_and_is_named(caplog):
    head = head_of(spec_of(class_weights="balanced"))
    with caplog.at_level(logging.WARNING, logger="hf_mtl"):
        head.prepare([0, 0, 2])
    assert head.class_weights.tolist() == pytest.approx([0.5, 1, 1])
    assert "task 'sentiment': no training row has the label 'good'" in caplog.text and len(caplog.records) == 1


def test_given_weights_and_none_are_left_as_they_are():
    given, without = head_of(spec_of(class_weights=GIVEN)), head_of(spec_of())
    for head in (given, without):
        head.prepare([0, 0, 2])
    assert given.class_weights.tolist() == list(GIVEN) and without.class_weights is None


# ---- what a task may declare ----

BALANCED = "wanted 'balanced' or a list of 3 numbers above 0, one for each of \\['bad', 'good', 'neither'\\]"
WRONG = {
    "a word": ({"class_weights": "fair"}, f"class_weights is 'fair', {BALANCED}"),
    "a number": ({"class_weights": 2.0}, f"class_weights is 2.0, {BALANCED}"),
    "too few": ({"class_weights": (1.0, 2.0)}, rf"class_weights is \[1.0, 2.0\], {BALANCED}"),
    "none": ({"class_weights": ()}, rf"class_weights is \[\], {BALANCED}"),
    "zero": ({"class_weights": (1.0, 0.0, 1.0)}, BALANCED),
    "negative": ({"class_weights": (1.0, -1.0, 1.0)}, BALANCED),
    "infinite": ({"class_weights": (1.0, float("inf"), 1.0)}, BALANCED),
    "not a number": ({"class_weights": (1.0, float("nan"), 1.0)}, BALANCED),
    "a truth value": ({"class_weights": (1.0, True, 1.0)}, BALANCED),
    "all of the label": ({"label_smoothing": 1.0}, r"label_smoothing is 1.0, wanted a number in \[0, 1\)"),
    "less than none": ({"label_smoothing": -0.1}, r"label_smoothing is -0.1, wanted a number in \[0, 1\)"),
    "no share": ({"label_smoothing": float("nan")}, r"label_smoothing is nan, wanted a number in \[0, 1\)"),
    "a word for a share": ({"label_smoothing": "much"}, r"label_smoothing is 'much', wanted a number in \[0, 1\)"),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_used_is_refused(options, message):
    with pytest.raises(InputError, match=f"task 'sentiment': .*{message}"):
        spec_of(**options)
    with pytest.raises(InputError, match=message):
        TaskSpec(name="sentiment", kind="classification", text_columns=("text",), labels=LABELS, **options)


def test_regression_has_neither():
    for option in ({"class_weights": "balanced"}, {"label_smoothing": 0.1}):
        with pytest.raises(InputError, match=rf"'regression' has no {next(iter(option))}; it is for classification"):
            HeadSpec(name="t", kind="regression", label_range=(0.0, 1.0), **option)


@pytest.mark.parametrize(
    "written, wanted", [("balanced", "balanced"), ("[1, 2.5, 1e-1]", (1.0, 2.5, 0.1)), ("[1, 1, 1]", (1.0, 1.0, 1.0))]
)
def test_a_task_file_has_them(tmp_path, written, wanted):
    (tmp_path / "tasks.yaml").write_text(
        "tasks: {sentiment: {kind: classification, files: {train: rows.csv}, text_columns: text, "
        f"labels: [bad, good, neither], class_weights: {written}, label_smoothing: 0.1}}}}"
    )
    (task,) = load_tasks(str(tmp_path / "tasks.yaml"))
    assert task.head == spec_of(class_weights=wanted, label_smoothing=0.1)


# ---- a saved model ----


def one_task(make_model, **options):
    return make_model([type("Task", (), {"head": spec_of(**options)})])


def test_the_weights_are_saved_only_where_they_are_asked_for(make_model, tmp_path):
    assert "heads.sentiment.class_weights" not in one_task(make_model, label_smoothing=0.1).state_dict()
    model = one_task(make_model, class_weights="balanced")
    model.heads["sentiment"].prepare([0, 0, 1, 2])
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path, [spec_of(class_weights="balanced")])
    assert again.heads["sentiment"].class_weights.tolist() == pytest.approx([4 / 6, 4 / 3, 4 / 3])
    saved = json.loads((tmp_path / "config.json").read_text())["tasks"]
    assert saved == [
        {"name": "sentiment", "kind": "classification", "labels": list(LABELS), "num_texts": 1,
         "class_weights": "balanced"}
    ]  # fmt: skip
    read = MultiTaskConfig(again.config.encoder_config, [{**saved[0], "class_weights": list(GIVEN)}])
    assert read.heads["sentiment"] == spec_of(class_weights=GIVEN)


CHANGES = [
    ({}, {"class_weights": GIVEN}, GIVEN),
    ({"class_weights": (3.0, 3.0, 1.0)}, {"class_weights": GIVEN}, GIVEN),
    ({"class_weights": "balanced"}, {"class_weights": GIVEN, "label_smoothing": 0.2}, GIVEN),
    ({"class_weights": GIVEN}, {"class_weights": "balanced"}, (1.0, 1.0, 1.0)),  # until it sees rows
    ({"class_weights": "balanced"}, {"class_weights": "balanced", "label_smoothing": 0.2}, (7.0, 8.0, 9.0)),
    ({"class_weights": GIVEN}, {"label_smoothing": 0.1}, None),
]


CASES = [("classification", *change) for change in CHANGES]
CASES += [("ordinal", *change) for change in CHANGES if "label_smoothing" not in change[1]]


@pytest.mark.parametrize(("kind", "before", "after", "wanted"), CASES)
def test_a_saved_model_trains_on_with_other_weights(make_model, tmp_path, kind, before, after, wanted):
    model = one_task(make_model, kind=kind, **before)
    if before.get("class_weights") == "balanced":
        model.heads["sentiment"].class_weights.copy_(torch.tensor([7.0, 8.0, 9.0]))
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.add_(1.0)
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path, [spec_of(kind, **after)])
    for name, parameter in model.heads.named_parameters():
        assert torch.equal(dict(again.heads.named_parameters())[name], parameter), name
    found = again.heads["sentiment"].class_weights
    assert found is None if wanted is None else found.tolist() == pytest.approx(list(wanted))
    again.save_pretrained(tmp_path / "again")
    load_model(tmp_path / "again", [spec_of(kind, **after)])
