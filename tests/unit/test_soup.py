"""A greedy soup: which checkpoints are the best, which go in, and the mean of their weights."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from hf_mtl.errors import CheckpointError
from hf_mtl.training.soup import best_checkpoints, greedy_soup, mean_weights

NAN = float("nan")


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of five steps; the one of step 4 was cut off."""
    for step in (2, 4, 6, 8, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if step != 4:
            (tmp_path / f"checkpoint-{step}" / "manifest.json").write_text("{}")
    return tmp_path


def saved(folder, history):
    """The history, which every checkpoint got as far as its step."""
    for path in folder.iterdir():
        before = [row for row in history if row["step"] <= int(path.name.removeprefix("checkpoint-"))]
        (path / "trainer_state.json").write_text(json.dumps({"log_history": before}))
    return history


def rows(scores):
    return [{"step": step, "loss": 1.0} for step in scores] + [
        {"step": step, "eval_average": score} for step, score in scores.items()
    ]


def names(found):
    return [(path.name, score) for path, score in found]


def test_the_best_are_whole_and_scored_and_the_later_of_equals_comes_first(folder):
    history = saved(folder, rows({2: 0.5, 4: 0.9, 6: 0.5, 8: NAN, 12: 0.8}))
    assert names(best_checkpoints(folder, history, 3)) == [("checkpoint-6", 0.5), ("checkpoint-2", 0.5)]
    history = saved(folder, rows({2: 0.1, 6: 0.4, 8: 0.3, 10: 0.2}))
    assert names(best_checkpoints(folder, history, 2)) == [("checkpoint-6", 0.4), ("checkpoint-8", 0.3)]
    assert best_checkpoints(folder, history, 0) == best_checkpoints(folder, [], 3) == []


def test_a_later_evaluation_of_other_weights_is_not_the_checkpoints(folder):
    history = [*saved(folder, rows({10: 0.2, 2: 0.3})), {"step": 10, "eval_average": 0.9}]
    assert names(best_checkpoints(folder, history, 1)) == [("checkpoint-2", 0.3)]


def test_a_checkpoint_of_an_earlier_run_has_not_the_score_of_its_step_now(folder):
    saved(folder, rows({2: 0.1, 6: 0.2}))  # and the run that went on from step 2 saved none at step 6
    assert names(best_checkpoints(folder, rows({2: 0.1, 6: 0.9}), 2)) == [("checkpoint-2", 0.1)]


SCORES = st.sampled_from([0.1, 0.2, 0.3, 0.4, NAN])


@settings(max_examples=100)
@given(st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=1, max_size=5), st.data())
def test_what_goes_in_is_what_the_paper_says(tmp_path_factory, alone, data):
    """Wortsman et al. 2022, recipe 1: sorted by score, added where the mean is no worse than the soup so far."""
    folder = tmp_path_factory.getbasetemp()
    best = [(folder / f"checkpoint-{i}", score) for i, score in enumerate(sorted(alone, reverse=True))]
    scores = {}

    def score_of(paths):
        return scores.setdefault(tuple(paths), data.draw(SCORES))

    chosen, score = greedy_soup(best, score_of)
    ingredients = []
    for path, of_path in best:
        with_it = of_path if not ingredients else scores[(*ingredients, path)]
        without = scores.get(tuple(ingredients), best[0][1]) if len(ingredients) > 1 else best[0][1]
        if not ingredients or with_it >= without:
            ingredients.append(path)
    assert chosen == ingredients
    assert score == (scores[tuple(chosen)] if len(chosen) > 1 else best[0][1])
    assert score >= best[0][1]


def test_every_step_of_the_way_is_logged(tmp_path, caplog):
    best = [(tmp_path / "checkpoint-4", 0.5), (tmp_path / "checkpoint-2", 0.4), (tmp_path / "checkpoint-6", 0.3)]
    with caplog.at_level("INFO", logger="hf_mtl"):
        greedy_soup(best, lambda paths: {2: 0.45, 1: 0.0}.get(len(paths), 0.5))
    assert caplog.messages == [
        "soup: checkpoint-2 (eval_average 0.4000) is left out: with it 0.4500, without it 0.5000",
        "soup: checkpoint-6 (eval_average 0.3000) is left out: with it 0.4500, without it 0.5000",
    ]


def test_the_mean_is_that_of_fp64_and_counts_are_the_first_ones(tmp_path):
    generator, models = torch.Generator().manual_seed(0), []
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        weights = {"a": torch.randn(5, 3, generator=generator), "b": torch.randn(2, generator=generator).bfloat16()}
        models.append({**weights, "count": torch.tensor([number, 7])})
    save_file(models[0], tmp_path / "0" / "model.safetensors")
    for file in ("ema_raw.safetensors", "other.safetensors"):  # no part of the model
        save_file({"a": torch.full((5, 3), 1e6)}, tmp_path / "0" / file)
    save_file(models[1], tmp_path / "1" / "model.safetensors")
    save_file({"a": models[2]["a"]}, tmp_path / "2" / "model-00001-of-00002.safetensors")
    save_file({n: models[2][n] for n in ("b", "count")}, tmp_path / "2" / "model-00002-of-00002.safetensors")
    found = mean_weights([tmp_path / str(number) for number in range(3)])
    wanted = np.mean([model["a"].numpy().astype(np.float64) for model in models], axis=0).astype(np.float32)
    assert np.array_equal(found["a"].numpy(), wanted)
    assert found["b"].dtype == torch.bfloat16 and found["count"].tolist() == [0, 7]
    alone = mean_weights([tmp_path / "1"])
    assert all(torch.equal(alone[name], tensor) for name, tensor in models[1].items())


def test_a_folder_without_weights_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="checkpoint-2 has no weights that this process can read"):
        mean_weights([tmp_path / "checkpoint-2"])
