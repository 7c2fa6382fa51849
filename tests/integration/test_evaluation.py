"""The trainer's evaluation and prediction: every task's metrics, once, over the rows of its tasks."""

import gc
import math
import multiprocessing
import warnings

import numpy as np
import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerCallback

from hf_mtl import MultiTaskTrainer
from hf_mtl.tasks.metrics import task_scores
from hf_mtl.training.evaluation import training_sample


class Evaluations(TrainerCallback):
    """Keeps what `on_evaluate` is told."""

    def __init__(self):
        self.seen = []

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.seen.append(dict(metrics))


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


def test_losses_alone_are_predicted_too(make_trainer, rows):
    trainer = make_trainer(prediction_loss_only=True)
    output = trainer.predict({"pairs": rows["validation"]["pairs"]})["pairs"]
    assert output.predictions is None and output.metrics["test_pairs_loss"] > 0
    assert "eval_pairs_pearson" in trainer.evaluate()


def test_the_training_sample_is_the_same_rows_every_time(make_trainer):
    trainer = make_trainer()
    first, second = (training_sample(trainer.train_dataset.tasks, 16, trainer.args.seed) for _ in range(2))
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
