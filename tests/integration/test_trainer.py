"""The trainer around the step: evaluation, best model, resume, refusals."""

import gc
import json
import math
import multiprocessing
import warnings

import numpy as np
import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerCallback

from hf_mtl import InputError, MultiTaskModel, MultiTaskTrainer
from hf_mtl.data.tokenization import TaskCollator, TaskRows
from hf_mtl.errors import PushError
from hf_mtl.gradients.combine import combine_gradients
from hf_mtl.tasks.metrics import task_scores
from hf_mtl.training.step_statistics import StepStatistics


class Evaluations(TrainerCallback):
    """Keeps what `on_evaluate` is told."""

    def __init__(self):
        self.seen = []

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.seen.append(dict(metrics))


class EvaluateAfterStep3(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_evaluate = state.global_step == 3


def test_on_evaluate_fires_once_with_every_tasks_metrics(make_trainer):
    watch = Evaluations()
    make_trainer(callbacks=[watch], eval_strategy="steps", eval_steps=2).train()
    assert len(watch.seen) == 2
    for metrics in watch.seen:
        for prefix in ("eval", "train"):
            main = [metrics[f"{prefix}_reviews_accuracy"], metrics[f"{prefix}_pairs_pearson"]]
            assert f"{prefix}_pairs_spearman" in metrics
            assert metrics[f"{prefix}_average"] == pytest.approx(np.mean(main), abs=1e-12)


def test_metrics_are_those_of_a_bare_loop(make_trainer, rows, tokenizer, specs):
    trainer = make_trainer(per_device_eval_batch_size=7)
    metrics = trainer.evaluate()
    for spec in specs:
        split = rows["validation"][spec.name]
        model = trainer.model.eval()
        decoded, losses = [], []
        for row in split:
            inputs = {k: torch.tensor([row[k]]) for k in ("input_ids", "token_type_ids")}
            with torch.no_grad():
                out = model(task=spec.name, labels=torch.tensor([row["labels"]]), **inputs)
            decoded.append(model.decode(spec.name, out.logits).item())
            losses.append(out.loss.item())
        wanted = task_scores(spec, np.array(decoded), np.array(split["labels"]))
        for name, value in wanted.items():
            assert metrics[f"eval_{spec.name}_{name}"] == pytest.approx(value, abs=1e-5)
        assert metrics[f"eval_{spec.name}_loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_early_stopping_and_the_best_model_see_the_average(make_trainer):
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 12}
    stop = EarlyStoppingCallback(early_stopping_patience=2, early_stopping_threshold=1.0)  # nothing improves by 100 %
    trainer = make_trainer(callbacks=[stop], load_best_model_at_end=True, **settings)
    trainer.train()
    assert trainer.state.global_step == 3
    averages = [row["eval_average"] for row in trainer.state.log_history if "eval_average" in row]
    assert trainer.state.best_metric == max(averages)


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
    assert trainer.card_facts().metrics["step"] == 2
    again = trainer.evaluate()
    told = trainer.card_facts().metrics
    assert all(told[f"eval_{name}"] == again[f"eval_{name}"] for name in ("average", "reviews_loss", "pairs_loss"))
    trainer.state.log_history = [row for row in trainer.state.log_history if row["step"] <= 2 or "train_runtime" in row]
    assert trainer.card_facts().metrics["step"] == 2
    trainer.state.best_model_checkpoint = None  # as after going on from the Hub's checkpoint: none is loaded then
    assert trainer.card_facts().metrics == {}


def test_the_card_tells_no_scores_of_other_weights(make_trainer):
    trainer = make_trainer(callbacks=[EvaluateAfterStep3()])
    trainer.train()
    assert any("eval_average" in row for row in trainer.state.log_history)
    assert trainer.card_facts().metrics == {}
    average = trainer.evaluate()["eval_average"]
    assert trainer.card_facts().metrics["eval_average"] == average


def test_a_card_of_an_evaluation_tells_no_set_up(make_trainer):
    trainer = make_trainer()
    average = trainer.evaluate()["eval_average"]
    facts = trainer.card_facts()
    assert facts.setup == {} and facts.metrics["eval_average"] == average
    trainer.train()
    assert trainer.card_facts().setup["optimizer steps"] == "4"


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
    assert trainer.card_facts().conflicts is None
    trainer.train()
    assert 0 < sum(found) < 11  # else this would show nothing
    assert trainer.card_facts().conflicts == pytest.approx(sum(found) / 11)
    found.clear()
    trainer.train()  # anew
    assert trainer.card_facts().conflicts == pytest.approx(sum(found) / 11)


def test_a_model_card_is_written_without_a_push_and_keeps_what_a_person_wrote(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.train()
    trainer.create_model_card()
    card = tmp_path / "out" / "README.md"
    card.write_text(card.read_text() + "\nNot for medicine.\n")
    trainer.evaluate()
    trainer.create_model_card()
    assert "Not for medicine." in card.read_text() and "## Scores" in card.read_text()


def test_losses_alone_are_predicted_too(make_trainer, rows):
    trainer = make_trainer(prediction_loss_only=True)
    output = trainer.predict({"pairs": rows["validation"]["pairs"]})["pairs"]
    assert output.predictions is None and output.metrics["test_pairs_loss"] > 0
    assert "eval_pairs_pearson" in trainer.evaluate()


def test_the_collator_gets_columns_and_with_rows_of_ones_own_a_list(make_trainer, monkeypatch):
    class Sevens(TaskRows):
        def __getitems__(self, indices):
            return [{**row, "input_ids": np.full_like(row["input_ids"], 7)} for row in super().__getitems__(indices)]

    given, real = [], TaskCollator.__call__
    monkeypatch.setattr(TaskCollator, "__call__", lambda self, rows: given.append(rows) or real(self, rows))
    trainer = make_trainer()
    next(iter(trainer.get_train_dataloader()))
    assert given and all(set(rows) == {"reviews", "pairs"} for rows in given)
    given.clear()
    trainer.train_dataset = Sevens(trainer.train_dataset.tasks)
    batch = next(iter(trainer.get_train_dataloader()))["pairs"]
    assert given and all(isinstance(rows, list) for rows in given)
    assert (batch["input_ids"][batch["attention_mask"] == 1] == 7).all()


def test_a_collator_of_ones_own_gets_a_list_of_rows(make_trainer, tokenizer):
    class Own(TaskCollator):
        def __call__(self, rows):
            assert isinstance(rows, list)
            labels = [row.pop("labels") for row in rows]  # as many do
            batches = super().__call__(rows)
            first = len(batches["reviews"]["input_ids"])
            batches["reviews"]["labels"] = torch.tensor(labels[:first]).long()
            batches["pairs"]["labels"] = torch.tensor(labels[first:]).float()
            return batches

    trainer, wanted = make_trainer(), list(make_trainer().get_train_dataloader())
    trainer.data_collator = Own(tokenizer)
    found = list(trainer.get_train_dataloader())
    assert len(found) == len(wanted)
    for mine, own in zip(wanted, found, strict=True):
        for task, batch in mine.items():
            assert all(torch.equal(value, own[task][name]) for name, value in batch.items())


def test_the_training_sample_is_the_same_rows_every_time(make_trainer):
    trainer = make_trainer()
    first, second = trainer._train_sample(), trainer._train_sample()
    assert {name: len(split) for name, split in first.items()} == {"reviews": 16, "pairs": 16}
    assert [first[n]["input_ids"] for n in first] == [second[n]["input_ids"] for n in second]


def test_a_constant_prediction_scores_zero_with_one_warning(make_trainer, caplog):
    trainer = make_trainer(train_metric_rows=0)
    torch.nn.init.zeros_(trainer.model.heads["pairs"].weight)
    with caplog.at_level("WARNING", logger="hf_mtl"), warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = trainer.evaluate()
    assert metrics["eval_pairs_pearson"] == metrics["eval_pairs_spearman"] == 0.0
    assert math.isfinite(metrics["eval_average"])
    assert len([r for r in caplog.records if "are equal" in r.message]) == 1


def test_each_tasks_loss_is_logged_and_adds_up(make_trainer):
    trainer = make_trainer(logging_steps=2)
    trainer.train()
    lines = [row for row in trainer.state.log_history if "loss" in row]
    assert len(lines) == 2
    for row in lines:
        # the Trainer rounds its own loss to four digits in some releases
        assert row["loss"] == pytest.approx(row["loss_reviews"] + row["loss_pairs"], abs=1e-4)
        assert row["conflicts"] in (0, 0.5, 1)  # of two steps


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


RESUMED = [
    ("pcgrad", 5, {"eval_strategy": "no"}),
    ("pcgrad_reference", 5, {}),
    ("gradvac", 5, {"task_sampling": "annealed", "dataloader_num_workers": 1, "eval_strategy": "no"}),
    ("gradvac", "epoch's end", {"task_sampling": "annealed"}),
    ("nash_mtl", "epoch's end", {"task_sampling": "temperature", "task_sampling_args": '{"temperature": 3}'}),
    ("mgda", 5, {"task_sampling": "capped", "task_sampling_args": '{"cap": 60}', "train_sampling_strategy": "random"}),
    ("sum", 5, {"task_sampling": "proportional"}),
    ("cagrad", 5, {"task_sampling": "square_root"}),
    ("famo", 5, {"task_sampling": "explicit", "task_sampling_args": '{"weights": {"reviews": 1, "pairs": 2}}'}),
]


@pytest.mark.parametrize(("method", "step", "arguments"), RESUMED)
def test_a_resumed_run_ends_bit_equal(make_trainer, make_model, tmp_path, method, step, arguments):
    settings = {
        "gradient_method": method,
        "max_steps": 14,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": None,
        "per_device_train_batch_size": 12,
        "gradient_accumulation_steps": 2,
        "unfreeze_schedule": "0:0,0.4:1,1.2:all",
        "eval_strategy": "epoch",
        **arguments,
    }
    whole = make_trainer(make_model(dropout=0.1), **settings)
    whole.train()
    if step == "epoch's end":
        step = -(-len(whole.batch_sampler) // 2)
    again = make_trainer(make_model(dropout=0.1, seed=9), **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{step}"))
    wanted = weights(whole)
    assert all(torch.equal(value, wanted[name]) for name, value in weights(again).items())
    states = [t.optimizer.state_dict()["state"] for t in (whole, again)]
    assert states[0].keys() == states[1].keys()
    for before, after in zip(states[0].values(), states[1].values(), strict=True):
        assert all(torch.equal(torch.as_tensor(before[key]), torch.as_tensor(after[key])) for key in before)
    logs = [[untimed(row) for row in t.state.log_history] for t in (whole, again)]
    assert logs[0] == logs[1]


def untimed(row):
    """A log row without what depends on the clock, and without the loss of the session."""
    return {k: v for k, v in row.items() if not k.endswith(("runtime", "_per_second")) and k != "train_loss"}


def test_a_run_that_was_through_is_not_trained_further(make_trainer, make_model, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "epoch", "max_steps": 4}
    whole = make_trainer(**settings)
    whole.train()
    again = make_trainer(make_model(seed=9), **settings)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4
    wanted = weights(whole)
    assert all(torch.equal(value, wanted[name]) for name, value in weights(again).items())
    assert [untimed(r) for r in again.state.log_history if "loss" in r or "eval_average" in r] == [
        untimed(r) for r in whole.state.log_history if "loss" in r or "eval_average" in r
    ]


def test_a_checkpoint_of_another_method_is_refused_by_one_that_remembers(make_trainer, tmp_path):
    make_trainer(save_strategy="steps", save_steps=4).train()
    with pytest.raises(InputError, match="holds no state of gradient_method 'gradvac'"):
        make_trainer(gradient_method="gradvac").train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))


def test_a_checkpoint_that_holds_another_methods_memory_is_refused(make_trainer, tmp_path):
    make_trainer(gradient_method="famo", save_strategy="steps", save_steps=4).train()
    with pytest.raises(InputError, match="was saved with gradient_method 'famo', found 'pcgrad'"):
        make_trainer(gradient_method="pcgrad").train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))


@pytest.mark.parametrize("changed", ["tasks", "heads"])
def test_a_checkpoint_of_the_same_tasks_in_another_order_is_refused(
    make_trainer, make_model, make_arguments, specs, rows, tokenizer, tmp_path, changed
):
    make_trainer(save_strategy="steps", save_steps=4).train()
    order = {"tasks": specs, "heads": specs, changed: specs[::-1]}
    trainer = MultiTaskTrainer(
        make_model(order["heads"]),
        make_arguments(max_steps=8),
        order["tasks"],
        rows["train"],
        processing_class=tokenizer,
    )
    with pytest.raises(InputError, match=f"has the {changed} reviews, pairs, found pairs, reviews"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))


def test_checkpoints_hold_no_token_and_load_as_models(make_trainer, tmp_path):
    make_trainer(save_strategy="steps", save_steps=4).train()
    folder = tmp_path / "out" / "checkpoint-4"
    assert {"model.safetensors", "tokenizer.json", "trainer_state.json"} <= {p.name for p in folder.iterdir()}
    assert json.loads((folder / "config.json").read_text())["model_type"] == "hf_mtl"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"per_device_train_batch_size": 1}, "per_device_train_batch_size is 1 and there are 2 tasks"),
        ({"gradient_method": "pcgard"}, "unknown gradient_method 'pcgard' .did you mean 'pcgrad'"),
        ({"gradient_method_args": '{"reductoin": "sum"}'}, "'reductoin' .did you mean 'reduction'"),
        ({"gradient_method": "sum", "gradient_method_args": '{"reduction": "sum"}'}, "takes no options"),
        ({"optimizer": "lbfgs"}, "optimizer 'lbfgs' cannot be used here"),
        ({"optimizer": "adamm"}, "unknown optimizer 'adamm'"),
        ({"optimizer": "lion", "optimizer_args": '{"bettas": 1}'}, "optimizer 'lion'"),
        ({"unfreeze_schedule": "0:9"}, "unfreezes 9 layers and the encoder has 2"),
        ({"task_sampling": "fair"}, "unknown task_sampling 'fair'"),
        ({"train_sampling_strategy": "sequential"}, "train_sampling_strategy is 'sequential'"),
        ({"accelerator_config": {"split_batches": True}}, "split_batches"),
        ({"accelerator_config": {"dispatch_batches": True}}, "dispatch_batches"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is 0.1, wanted 0"),
        ({"include_for_metrics": ["inputs"]}, "include_for_metrics: metrics are taken from"),
        ({"label_names": ["label"]}, "label_names: metrics are taken from"),
        ({"batch_eval_metrics": True}, "batch_eval_metrics: metrics are taken from"),
        ({"push_to_hub": True, "hub_strategy": "all_checkpoints"}, "hub_strategy is 'all_checkpoints'"),
    ],
)
def test_what_cannot_be_right_is_refused_when_the_trainer_is_built(make_trainer, tmp_path, arguments, named):
    with pytest.raises(InputError, match=named):
        make_trainer(**arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("argument", ["train_dataset", "eval_dataset"])
def test_a_task_without_rows_is_refused(make_model, make_arguments, specs, rows, tokenizer, argument):
    given = {"train_dataset": rows["train"], "eval_dataset": rows["validation"]}
    given[argument] = {**given[argument], "pairs": given[argument]["pairs"].select([])}
    with pytest.raises(InputError, match=f"task 'pairs': {argument} has no rows of it"):
        MultiTaskTrainer(make_model(), make_arguments(), specs, **given, processing_class=tokenizer)


def test_a_loss_function_that_would_not_be_called_is_refused(make_model, make_arguments, specs):
    with pytest.raises(InputError, match="compute_loss_func would not be called"):
        MultiTaskTrainer(make_model(), make_arguments(), specs, compute_loss_func=lambda *given: None)


def test_rows_of_other_tasks_are_not_scored(make_model, make_arguments, specs, rows, tokenizer):
    trainer = MultiTaskTrainer(
        make_model(), make_arguments(), specs[:1], rows["train"], rows["validation"], processing_class=tokenizer
    )
    assert set(trainer.eval_dataset) == {"reviews"}
    assert "eval_pairs_pearson" not in trainer.evaluate()


def test_evaluation_keeps_no_rows_and_no_workers(make_trainer, rows):
    trainer = make_trainer(dataloader_num_workers=1, dataloader_persistent_workers=True)
    trainer.evaluate()
    trainer.predict({"pairs": rows["validation"]["pairs"]})["pairs"]
    gc.collect()
    assert not trainer.accelerator._dataloaders
    assert not multiprocessing.active_children()


def test_a_model_without_the_tasks_head_is_refused(make_model, make_arguments, specs, rows, tokenizer):
    with pytest.raises(InputError, match="task 'pairs': the model's head is None"):
        MultiTaskTrainer(
            make_model(specs[:1]),
            make_arguments(),
            specs,
            rows["train"],
            rows["validation"],
            processing_class=tokenizer,
        )
