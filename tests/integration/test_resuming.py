"""A resumed run ends bit-equal, and a checkpoint of another run is refused."""

import json

import pytest
import torch

from hf_mtl import InputError, MultiTaskTrainer


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
