"""What a trainer's card tells, and what a push from Python leaves."""

import sys

import pytest
import torch
from transformers import TrainerCallback

from hf_mtl import MultiTaskModel
from hf_mtl.errors import PushError
from hf_mtl.gradients.combine import combine_gradients
from hf_mtl.training.step_statistics import StepStatistics


class EvaluateAfterStep3(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_evaluate = state.global_step == 3


def test_the_card_tells_the_scores_of_the_weights_that_the_model_has(make_trainer):
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer = make_trainer(load_best_model_at_end=True, metric_for_best_model="eval_reviews_loss", **settings)
    best = iter([3.0, 1.0, 2.0, 4.0])
    evaluate = trainer.evaluate

    def scored(*args, **kwargs):
        metrics = evaluate(*args, **kwargs)
        return {**metrics, "eval_reviews_loss": next(best)}

    trainer.evaluate = scored
    trainer.train()
    del trainer.evaluate
    assert trainer.state.best_global_step == 2
    assert trainer.publisher.card_facts(trainer.record()).metrics["step"] == 2
    again = trainer.evaluate()
    told = trainer.publisher.card_facts(trainer.record()).metrics
    assert all(told[f"eval_{name}"] == again[f"eval_{name}"] for name in ("average", "reviews_loss", "pairs_loss"))
    trainer.state.log_history = [row for row in trainer.state.log_history if row["step"] <= 2 or "train_runtime" in row]
    assert trainer.publisher.card_facts(trainer.record()).metrics["step"] == 2
    trainer.state.best_model_checkpoint = None  # as after going on from the Hub's checkpoint: none is loaded then
    assert trainer.publisher.card_facts(trainer.record()).metrics == {}


def test_the_card_tells_no_scores_of_other_weights(make_trainer):
    trainer = make_trainer(callbacks=[EvaluateAfterStep3()])
    trainer.train()
    assert any("eval_average" in row for row in trainer.state.log_history)
    assert trainer.publisher.card_facts(trainer.record()).metrics == {}
    average = trainer.evaluate()["eval_average"]
    assert trainer.publisher.card_facts(trainer.record()).metrics["eval_average"] == average


def test_a_card_of_an_evaluation_tells_no_set_up(make_trainer):
    trainer = make_trainer()
    average = trainer.evaluate()["eval_average"]
    facts = trainer.publisher.card_facts(trainer.record())
    assert facts.setup == {} and facts.metrics["eval_average"] == average
    trainer.train()
    assert trainer.publisher.card_facts(trainer.record()).setup["optimizer steps"] == "4"


def test_a_push_from_python_draws_the_curves_of_a_training(make_trainer, tmp_path, monkeypatch):
    tokens = []
    monkeypatch.setattr(
        "hf_mtl.training.publishing.publish", lambda *args, token, **kwargs: tokens.append(token) or "pushed"
    )
    curves = tmp_path / "out" / "training_curves.png"
    trainer = make_trainer(unfreeze_schedule="0:0,0.1:all", hub_token="hf_given")
    trainer.hub_model_id = "user/demo"
    trainer.evaluate()
    assert trainer.push_to_hub() == "pushed" and not curves.exists()
    trainer.train()
    curves.write_bytes(b"of an earlier training")
    assert trainer.push_to_hub() == "pushed" and curves.stat().st_size > 10_000
    assert tokens == ["hf_given", "hf_given"]


def test_a_push_without_matplotlib_says_so_once(make_trainer, monkeypatch, caplog):
    monkeypatch.setattr("hf_mtl.training.publishing.publish", lambda *args, **kwargs: "pushed")
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    trainer = make_trainer(hub_token="hf_given")
    trainer.hub_model_id = "user/demo"
    trainer.train()
    trainer.draw_curves()
    assert trainer.push_to_hub() == "pushed"
    assert len([message for message in caplog.messages if "matplotlib" in message]) == 1


def test_a_push_that_does_not_even_begin_leaves_the_model_and_the_command(make_trainer, tmp_path):
    trainer = make_trainer(hub_model_id="user/demo")
    trainer.train()
    with pytest.raises(PushError, match=f"to push it later: hf-mtl push {tmp_path}/out user/demo$"):
        trainer.push_to_hub()  # tests have no Hub
    with pytest.raises(PushError, match=f"hf-mtl push {tmp_path}/out user/demo --revision two --private$"):
        trainer.push_to_hub(private=True, revision="two")
    assert "pairs" in MultiTaskModel.from_pretrained(tmp_path / "out").task_heads
    assert 'model="user/demo"' in (tmp_path / "out" / "README.md").read_text()


def test_steps_whose_gradients_were_not_compared_have_no_conflicts():
    counts = StepStatistics(["a", "b"])
    for losses in ([1.0, 4.0], [3.0, 2.0]):
        counts.add(0, [], torch.tensor(losses))
    assert counts.conflict_share([]) is None
    assert counts.line() == {"loss_a": 2.0, "loss_b": 3.0}
    assert counts.line() == {}


def test_the_share_of_conflicts_is_that_of_the_whole_run(make_trainer, monkeypatch):
    trainer = make_trainer(max_steps=11, logging_steps=4, logging_first_step=True)
    found = []

    def noting(gradients, *how):
        found.append(bool(gradients.conflict()))
        combine_gradients(gradients, *how)

    monkeypatch.setattr("hf_mtl.training.step.combine_gradients", noting)
    assert trainer.publisher.card_facts(trainer.record()).conflicts is None
    trainer.train()
    assert 0 < sum(found) < 11  # else this would show nothing
    assert trainer.publisher.card_facts(trainer.record()).conflicts == pytest.approx(sum(found) / 11)
    found.clear()
    trainer.train()  # anew
    assert trainer.publisher.card_facts(trainer.record()).conflicts == pytest.approx(sum(found) / 11)


def test_a_model_card_is_written_without_a_push_and_keeps_what_a_person_wrote(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.train()
    trainer.create_model_card()
    card = tmp_path / "out" / "README.md"
    card.write_text(card.read_text() + "\nNot for medicine.\n")
    trainer.evaluate()
    trainer.create_model_card()
    assert "Not for medicine." in card.read_text() and "## Scores" in card.read_text()
