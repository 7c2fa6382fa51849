"""The head of multi_label: its loss, its thresholds, how they are fitted and what it answers."""

import itertools

import numpy as np
import pytest
import torch

from hf_mtl import HeadSpec, InputError, MultiTaskModel, load_model
from hf_mtl.model.head_multi_label import MultiLabelHead, best_threshold
from hf_mtl.model.heads import HEADS

NAMES = ("sport", "politics", "weather")


def spec(**changes):
    return HeadSpec(**{"name": "topics", "kind": "multi_label", "labels": NAMES, **changes})


def head_of(width=8, **changes):
    torch.manual_seed(0)
    return MultiLabelHead(spec(**changes), width)


# ---- loss ----


@pytest.mark.parametrize("rows", [1, 2, 7, 33])
@pytest.mark.parametrize("labels", [NAMES, ("one",), tuple(map(str, range(20)))])
def test_the_loss_and_its_gradient_are_the_plain_formula(rows, labels):
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, 5, 8, generator=generator)
    wanted = torch.randint(0, 2, (rows, len(labels)), generator=generator)
    results = []
    for plain in (False, True):
        head = head_of(labels=labels)
        logits = head(hidden, torch.ones(rows, 5, dtype=torch.long))
        total, units = head.loss(logits, wanted)
        assert units == head.num_units(wanted) == rows
        p = logits.sigmoid()
        losses = -(wanted * p.log() + (1 - wanted) * (1 - p).log())  # (rows, labels)
        loss = losses.mean(dim=1).mean() if plain else total / units
        loss.backward()
        results.append([loss.detach(), head.weight.grad, head.bias.grad])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)  # log(sigmoid) in fp32 on one side


def test_the_loss_of_a_fresh_head_does_not_grow_with_its_labels():
    losses = []
    for number in (2, 50):
        head = head_of(labels=tuple(map(str, range(number))))
        total, units = head.loss(torch.zeros(4, number), torch.ones(4, number))
        losses.append((total / units).item())
    assert losses == pytest.approx([np.log(2)] * 2, abs=1e-6)


def test_logits_in_half_precision_have_a_loss_in_fp32():
    total, _ = head_of().loss(torch.full((2, 3), 20.0, dtype=torch.bfloat16), torch.zeros(2, 3))
    assert total.dtype == torch.float32 and total.item() == pytest.approx(40, abs=1e-3)


# ---- declaration ----

BAD = [
    ({"labels": None}, "labels is None, wanted one or more different names"),
    ({"labels": ()}, "wanted one or more different names"),
    ({"labels": ("a", "a")}, "wanted one or more different names"),
    ({"label_range": (0.0, 1.0)}, "label_range belongs to regression"),
    ({"thresholds": 1.5}, "thresholds is 1.5, wanted a number from 0 to 1"),
    ({"thresholds": True}, "wanted a number from 0 to 1"),
    ({"thresholds": float("nan")}, "wanted a number from 0 to 1"),
    ({"thresholds": "best"}, "thresholds is 'best', wanted .* or 'fit'"),
    ({"thresholds": (0.5, 0.5)}, r"thresholds is \(0.5, 0.5\), wanted .* a list of one for each of the 3 labels"),
    ({"thresholds": (0.5, 0.5, -0.1)}, "wanted a number from 0 to 1"),
    ({"class_weights": "balanced"}, "a task of kind 'multi_label' has no class_weights"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_what_a_task_cannot_declare_is_refused(changes, message):
    with pytest.raises(InputError, match=f"task 'topics': .*{message}"):
        spec(**changes)


@pytest.mark.parametrize("thresholds", [None, 0, 1, 0.3, (0.1, 0.2, 0.9), "fit"])
def test_thresholds_are_written_and_read(thresholds, make_model, tmp_path):
    make_model([type("Task", (), {"head": spec(thresholds=thresholds)})]).save_pretrained(tmp_path)
    assert MultiTaskModel.from_pretrained(tmp_path).task_heads["topics"].thresholds == thresholds


# ---- decisions ----


def logits_of(*probabilities):
    return torch.logit(torch.tensor(probabilities))


def test_a_label_is_predicted_above_its_threshold_only():
    logits = torch.cat([logits_of((0.9, 0.4, 0.6)), torch.zeros(1, 3)])
    assert head_of().decode(logits).tolist() == [[1, 0, 1], [0, 0, 0]]
    assert head_of(thresholds=0.3).decode(logits).tolist() == [[1, 1, 1], [1, 1, 1]]
    assert head_of(thresholds=(0.95, 0.3, 0.5)).decode(logits).tolist() == [[0, 1, 1], [0, 1, 0]]
    assert head_of(thresholds=1).decode(logits).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_answers_are_the_labels_over_their_thresholds_the_likeliest_first():
    head, logits = head_of(), logits_of((0.6, 0.2, 0.9), (0.1, 0.2, 0.3))
    first, second = head.answer(logits)
    assert [each["label"] for each in first["labels"]] == ["weather", "sport"]
    assert [each["score"] for each in first["labels"]] == pytest.approx([0.9, 0.6])
    assert second == {"labels": []}
    assert [[each["label"] for each in row["labels"]] for row in head.answer(logits, top_k=2)] == [
        ["weather", "sport"],
        ["weather", "politics"],
    ]
    assert [len(row["labels"]) for row in head.answer(logits, top_k=None)] == [3, 3]
    assert [len(row["labels"]) for row in head.answer(logits, top_k=9)] == [3, 3]


def test_answers_and_predictions_agree_and_equally_likely_labels_are_in_their_order():
    head = head_of(thresholds=(0.2, 0.5, 0.7))
    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    for row, predicted in zip(head.answer(logits), head.decode(logits).tolist(), strict=True):
        assert {each["label"] for each in row["labels"]} == {
            n for n, there in zip(NAMES, predicted, strict=True) if there
        }
    assert [each["label"] for each in head.answer(torch.ones(1, 3))[0]["labels"]] == list(NAMES)


def test_what_evaluation_keeps_gives_probabilities_that_differ_where_fp32_has_1():
    scores = head_of().kept_scores(torch.tensor([[20.0, 25.0, 0.0]]))
    assert scores[0, 0] < scores[0, 1] < 1 and scores[0, 2] == 0.5


# ---- fitted thresholds ----


def plain_f1(scores, labels, threshold):
    predicted = scores > np.float32(threshold)
    both, total = (predicted & labels).sum(), predicted.sum() + labels.sum()
    return 2 * both / total if total else 0.0


@pytest.mark.parametrize("seed", range(40))
def test_a_fitted_threshold_has_the_best_f1_of_all_and_is_the_middle_nearest_to_one_half(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 30))
    labels = rng.random(size) < rng.random()
    labels[rng.integers(size)] = True
    scores = (rng.random(size) if seed % 2 else rng.integers(1, 8, size) / 8).astype(np.float32)  # with ties
    found = best_threshold(torch.from_numpy(scores), torch.from_numpy(labels).float())
    # Every threshold of a fine grid and every score itself does no better.
    tried = [plain_f1(scores, labels, cut) for cut in (*np.linspace(0, 1, 500), *scores, found)]
    assert plain_f1(scores, labels, found) == max(tried)
    edges = [0.0, *sorted(set(map(float, scores)))]
    middles = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
    best = [cut for cut in middles if plain_f1(scores, labels, cut) == max(tried)]
    assert found == pytest.approx(min(best, key=lambda cut: (abs(cut - 0.5), cut)), abs=1e-7)  # kept in fp32


CASES = [
    ([0.2, 0.4, 0.6, 0.8], [0, 0, 1, 1], 0.5),
    ([0.1, 0.2, 0.3], [0, 1, 1], 0.15),
    ([0.7, 0.8], [1, 1], 0.35),  # between 0 and the lowest
    ([0.1, 0.9], [0, 0], 0.5),  # without positives
    ([0.3, 0.3], [1, 0], 0.15),
    ([0.0, 0.0], [1, 0], 0.5),  # no threshold lets 0 be above it
    ([0.9], [1], 0.45),
]


@pytest.mark.parametrize(("scores", "labels", "wanted"), CASES)
def test_known_thresholds(scores, labels, wanted):
    assert best_threshold(torch.tensor(scores), torch.tensor(labels).float()) == pytest.approx(wanted, abs=1e-7)


def test_neighbours_in_fp32_are_told_apart():
    low = torch.tensor(0.6)
    high = torch.nextafter(low, torch.tensor(1.0))
    for pair in ([low, high], [high, torch.nextafter(high, torch.tensor(1.0))]):
        scores = torch.stack(pair)
        cut = best_threshold(scores, torch.tensor([0.0, 1.0]))
        assert (scores > torch.tensor(cut)).tolist() == [False, True]


def test_fitting_sets_the_buffer_and_changes_predictions():
    head = head_of(thresholds="fit")
    assert head.state_dict()["fitted_thresholds"].tolist() == [0.5] * 3 and head.fitted == "thresholds"
    logits = logits_of((0.3, 0.9, 0.1), (0.2, 0.8, 0.2), (0.1, 0.7, 0.3))
    labels = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert head.decode(logits).tolist() == [[0, 1, 0], [0, 1, 0], [0, 1, 0]]
    head.fit(logits, labels)
    assert head.thresholds().tolist() == pytest.approx([0.15, 0.85, 0.5])
    assert head.decode(logits).tolist() == labels.tolist()
    assert not any(parameter is head.fitted_thresholds for parameter in head.parameters())


def test_thresholds_that_are_given_are_not_fitted_and_are_no_weights():
    head = head_of(thresholds=(0.1, 0.2, 0.3))
    head.fit(torch.randn(5, 3), torch.ones(5, 3))
    assert head.thresholds().tolist() == pytest.approx([0.1, 0.2, 0.3]) and head.fitted == ""
    assert set(head.state_dict()) == {"weight", "bias"}


def test_scores_that_are_no_numbers_leave_the_thresholds_as_they_are():
    head = head_of(thresholds="fit")
    head.fit(torch.tensor([[float("nan"), 1.0, 1.0]]), torch.ones(1, 3))
    assert head.thresholds().tolist() == [0.5] * 3


# ---- saved models ----


def topics(**changes):
    return type("Task", (), {"head": spec(**changes)})


def test_fitted_thresholds_are_saved_and_come_back(make_model, tmp_path):
    model = make_model([topics(thresholds="fit")])
    model.heads["topics"].fitted_thresholds.copy_(torch.tensor([0.1, 0.4, 0.8]))
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path, [spec(thresholds="fit")])
    for other in (MultiTaskModel.from_pretrained(tmp_path), again):
        assert other.heads["topics"].thresholds().tolist() == model.heads["topics"].thresholds().tolist()
    again.set_heads([spec(thresholds="fit"), HeadSpec(name="more", kind="regression", label_range=(0, 1))])
    assert again.heads["topics"].thresholds().tolist() == model.heads["topics"].thresholds().tolist()


def test_a_model_goes_on_with_other_thresholds_and_its_weights(make_model, tmp_path):
    model = make_model([topics(thresholds="fit")])
    model.heads["topics"].fitted_thresholds.fill_(0.2)
    model.save_pretrained(tmp_path / "fit")
    fixed = load_model(tmp_path / "fit", [spec(thresholds=0.7)])
    assert torch.equal(fixed.heads["topics"].weight, model.heads["topics"].weight)
    assert fixed.heads["topics"].thresholds().tolist() == pytest.approx([0.7] * 3)
    fixed.save_pretrained(tmp_path / "fixed")
    fitting = load_model(tmp_path / "fixed", [spec(thresholds="fit")])
    assert torch.equal(fitting.heads["topics"].weight, model.heads["topics"].weight)
    assert fitting.heads["topics"].thresholds().tolist() == [0.5] * 3


def test_the_head_goes_with_every_copy_of_the_code(make_model):
    assert HEADS["multi_label"] is MultiLabelHead
    assert "head_files" not in make_model([topics()]).config.to_dict()
