"""The trainer's rows, collators and logged losses, and what is refused when it is built."""

import numpy as np
import pytest
import torch

from hf_mtl import InputError, MultiTaskTrainer
from hf_mtl.data.collator import TaskCollator
from hf_mtl.data.task_rows import TaskRows


def test_rows_of_ones_own_reach_the_collator(make_trainer):
    class Sevens(TaskRows):
        def __getitems__(self, indices):
            return [{**row, "input_ids": np.full_like(row["input_ids"], 7)} for row in super().__getitems__(indices)]

    trainer = make_trainer()
    trainer.train_dataset = Sevens(trainer.train_dataset.tasks)
    batch = next(iter(trainer.get_train_dataloader()))["pairs"]
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


def test_each_tasks_loss_is_logged_and_adds_up(make_trainer):
    trainer = make_trainer(logging_steps=2)
    trainer.train()
    lines = [row for row in trainer.state.log_history if "loss" in row]
    assert len(lines) == 2
    for row in lines:
        # the Trainer rounds its own loss to four digits in some releases
        assert row["loss"] == pytest.approx(row["loss_reviews"] + row["loss_pairs"], abs=1e-4)
        assert row["conflicts"] in (0, 0.5, 1)  # of two steps


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
        (
            {"label_smoothing_factor": 0.1},
            "label_smoothing_factor is 0.1, wanted 0: it is an option of a task; write label_smoothing: 0.1 into",
        ),
        ({"include_for_metrics": ["inputs"]}, "include_for_metrics: metrics are taken from"),
        ({"label_names": ["label"]}, "label_names: metrics are taken from"),
        ({"batch_eval_metrics": True}, "batch_eval_metrics: metrics are taken from"),
        ({"eval_do_concat_batches": False}, "eval_do_concat_batches false: metrics are taken from"),
        ({"eval_use_gather_object": True}, "eval_use_gather_object: metrics are taken from"),
        ({"bf16_full_eval": True}, "bf16_full_eval would turn the trained model itself into half .* use --bf16"),
        (
            {"optim": "galore_adamw_layerwise", "optim_target_modules": "all"},
            "optim is 'galore_adamw_layerwise', which",
        ),
        ({"optim": "adalomo"}, "optim is 'adalomo', which steps inside a task's backward"),
        ({"prediction_loss_only": True, "do_predict": True}, "prediction_loss_only would leave do_predict nothing"),
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
