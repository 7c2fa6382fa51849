"""Learning rates by depth in a run: those of a plain loop, bit for bit; over a resume; and what cannot have them."""

import pytest
import torch
from lever_runs import GradientTape, assert_same, end_of
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer

from hf_mtl import InputError, MultiTaskTrainer
from hf_mtl.training.learning_rates import check_rates
from hf_mtl.training.optimizers import optimizer_class

RATES = {"layer_lr_decay": 0.5, "head_lr_multiplier": 3.0}
RUN = {"weight_decay": 0.1, "max_grad_norm": 0.0, "max_steps": 6}
SAVING = {"save_strategy": "steps", "save_steps": 3, "save_total_limit": 0}


def rate_of(name, base):
    """What the two flags say, for the BERT of three layers of these tests."""
    if name.startswith("heads."):
        return base * 3.0
    if "embeddings" in name:
        return base * 0.5**3
    return base * 0.5 ** (2 - int(name.split(".")[3]))


def by_hand(model, gradients, make, base, factor_of):
    """A plain loop: an optimizer with a group for every parameter, fed with the gradients of a run."""
    no_decay = ("bias", "LayerNorm")
    groups = [
        {"params": [p], "lr": rate_of(name, base), "weight_decay": 0.0 if any(n in name for n in no_decay) else 0.1}
        for name, p in model.named_parameters()
    ]
    optimizer = make(groups)
    schedule = LambdaLR(optimizer, factor_of)
    for step in gradients:
        for name, parameter in model.named_parameters():
            parameter.grad = step[name]
        optimizer.step()
        schedule.step()
    return dict(model.named_parameters())


@pytest.mark.parametrize("schedule", ["none", "0:0,2:1,4:all steps"])
@pytest.mark.parametrize("optimizer", [None, "lion", "adan"])
def test_a_run_is_a_plain_loop_with_groups_written_by_hand(make_trainer, make_model, optimizer, schedule):
    tape = GradientTape()
    trainer = make_trainer(
        make_model(layers=3), callbacks=[tape], unfreeze_schedule=schedule, optimizer=optimizer, **RATES, **RUN
    )
    trainer.train()

    def make(groups):
        if optimizer is None:
            return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, fused=True)
        return optimizer_class(optimizer, {})(groups, lr=1e-3)

    wanted = by_hand(make_model(layers=3), tape.gradients, make, 1e-3, lambda step: 1 - step / 6)
    moved = dict(make_model(layers=3).named_parameters())
    for name, found in trainer.model.named_parameters():
        assert torch.equal(found, wanted[name]), name
        assert not torch.equal(found, moved[name]), name


def test_off_the_groups_are_the_trainers(make_trainer, make_model, caplog):
    with caplog.at_level("INFO", logger="hf_mtl"):
        trainer = make_trainer(make_model(layers=3), weight_decay=0.1)
        found = trainer.create_optimizer().param_groups
    trainer.optimizer = None
    wanted = Trainer.create_optimizer(trainer).param_groups
    assert len(found) == len(wanted) == 2
    for one, other in zip(found, wanted, strict=True):
        assert list(map(id, one.pop("params"))) == list(map(id, other.pop("params")))
        assert one == other
    assert "learning rates by depth" not in caplog.text


def test_the_log_has_a_table_and_the_base_rate(make_trainer, make_model, caplog):
    with caplog.at_level("INFO", logger="hf_mtl"):
        trainer = make_trainer(make_model(layers=3), **RATES, max_steps=4)
        trainer.train()
    assert "learning rates by depth:\ndepth " in caplog.text and "layer 3 and above" in caplog.text
    logged = [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]
    assert logged == [1e-3 * (1 - step / 4) for step in range(4)]
    trainer.create_model_card()
    with open(f"{trainer.args.output_dir}/README.md") as card:
        assert "0.001, 0 warm-up steps, linear, layer_lr_decay is 0.5 and head_lr_multiplier is 3" in card.read()


def test_heads_alone_may_have_a_rate_of_their_own(make_trainer):
    trainer = make_trainer(head_lr_multiplier=5.0)
    groups = trainer.create_optimizer().param_groups
    of_heads = {id(p) for p in trainer.model.heads.parameters()}
    assert [group["lr"] for group in groups] == [1e-3, 1e-3, 5e-3, 5e-3]
    assert {id(p) for group in groups[2:] for p in group["params"]} == of_heads


@pytest.mark.parametrize("optimizer", [None, "lion"])
def test_the_base_rate_is_logged_where_nothing_trains_at_it(make_trainer, make_model, optimizer):
    model = make_model()
    model.encoder.requires_grad_(False)
    trainer = make_trainer(model, head_lr_multiplier=5.0, max_steps=2, optimizer=optimizer)
    trainer.train()
    assert [row["learning_rate"] for row in trainer.state.log_history if "loss" in row] == [1e-3, 5e-4]
    assert not torch.equal(model.heads["pairs"].weight, make_model().heads["pairs"].weight)


@pytest.mark.parametrize("kind", ["linear", "reduce_lr_on_plateau", "cosine_with_min_lr"])
def test_a_resumed_run_ends_bit_equal(make_trainer, make_model, tmp_path, kind):
    settings = {**RATES, **RUN, **SAVING, "lr_scheduler_type": kind, "eval_strategy": "steps", "eval_steps": 1}
    settings["lr_scheduler_kwargs"] = {"min_lr_rate": 0.1} if kind == "cosine_with_min_lr" else None
    whole = make_trainer(make_model(layers=3, dropout=0.1), **settings)
    whole.train()
    again = make_trainer(make_model(layers=3, dropout=0.1, seed=3), **{**settings, "output_dir": str(tmp_path / "b")})
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    assert_same(end_of(again), end_of(whole))


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (RATES, {"layer_lr_decay": 0.9, "head_lr_multiplier": 3.0}, "layer_lr_decay 0.5 (asked for: 0.9); a new run"),
        (RATES, {}, "layer_lr_decay 0.5 (asked for: 1.0), head_lr_multiplier 3.0 (asked for: 1.0); a new run"),
        ({}, {"head_lr_multiplier": 3.0}, "head_lr_multiplier 1.0 (asked for: 3.0); a new run"),
    ],
)
def test_rates_are_kept_from_the_checkpoint_which_is_said(make_trainer, tmp_path, caplog, before, now, said):
    whole = make_trainer(**before, **SAVING, max_steps=6)
    whole.train()
    again = make_trainer(**{**now, **SAVING, "max_steps": 6, "output_dir": str(tmp_path / "b")})
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    assert f"kept from the checkpoint: {said}" in caplog.text
    assert_same(end_of(again), end_of(whole))


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1), None


def test_an_optimizer_that_is_there_keeps_its_groups(make_model, make_arguments, make_trainer, specs, rows, tokenizer):
    """So it can neither get rates by depth nor go on with the state of a run that had them."""
    args = make_arguments(**RATES)
    with pytest.raises(InputError, match=r"layer_lr_decay is 0.5 and head_lr_multiplier is 3: optimizers has"):
        MultiTaskTrainer(model := make_model(), args, specs, rows["train"], None, tokenizer, optimizers=sgd(model))
    trainer = make_trainer(**RATES, **SAVING, optim="sgd")
    trainer.train()
    model = make_model()
    own = MultiTaskTrainer(model, make_arguments(), specs, rows["train"], None, tokenizer, optimizers=sgd(model))
    with pytest.raises(InputError, match=r"has other groups of parameters: layer_lr_decay was 0.5 and is 1.0"):
        own.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-3")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"optimizer": "prodigy"}, "'prodigy' does not step by the rate of each group"),
        ({"optimizer": "dadaptadam"}, "'dadaptadam' does not step by the rate of each group"),
        ({"optimizer": "AdaFactor"}, "'AdaFactor' does not step by the rate of each group"),
    ],
)
def test_an_optimizer_without_a_rate_is_refused(make_trainer, settings, reason):
    with pytest.raises(InputError, match=f"layer_lr_decay is 0.9, and optimizer {reason}"):
        make_trainer(layer_lr_decay=0.9, **settings)


def test_adafactor_with_a_rate_of_the_trainers_is_taken(make_trainer):
    options = '{"relative_step": false, "scale_parameter": false}'
    trainer = make_trainer(layer_lr_decay=0.5, optimizer="adafactor", optimizer_args=options)
    assert {group["lr"] for group in trainer.create_optimizer().param_groups} == {1e-3, 5e-4, 2.5e-4}


def test_a_class_without_a_rate_is_refused(make_model, make_arguments, specs, rows, tokenizer):
    given = (torch.optim.SGD, {"momentum": 0.9})
    with pytest.raises(InputError, match="optimizer 'SGD' has no rate; give lr"):
        MultiTaskTrainer(
            make_model(),
            make_arguments(**RATES),
            specs,
            rows["train"],
            None,
            tokenizer,
            optimizer_cls_and_kwargs=given,
        )


def test_an_encoder_without_layers_is_refused(make_model, make_arguments):
    model = make_model()
    model.encoder.config.num_hidden_layers = 7
    with pytest.raises(InputError, match=r"layer_lr_decay is 0.9: the encoder BertModel has no list of 7 layers"):
        check_rates(model, make_arguments(layer_lr_decay=0.9), given=False)
    check_rates(model, make_arguments(head_lr_multiplier=2.0), given=False)


def test_engines_that_shard_are_refused(make_trainer, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match=r"head_lr_multiplier is 2: DeepSpeed and FSDP make groups"):
        make_trainer(head_lr_multiplier=2.0, gradient_method="fixed")
