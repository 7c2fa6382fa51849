"""Settings of optimizers, early stopping and the metric that decides: each acts, or a sentence says why not."""

import pytest
import torch
from lever_runs import assert_same
from safetensors.torch import load_file
from torch.optim.lr_scheduler import LambdaLR
from transformers import EarlyStoppingCallback, TrainerCallback

from hf_mtl import InputError, MultiTaskTrainer
from hf_mtl.training.argument_checks import MOST, NUMBERS
from hf_mtl.training.argument_parser import parse_arguments
from hf_mtl.training.resuming import rates, say_kept_rates

SAVING = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 0, "max_steps": 3}
EVALUATED = {**SAVING, "eval_strategy": "steps", "eval_steps": 1, "train_metric_rows": 0}


def warnings(caplog, start):
    return [line for line in caplog.messages if line.startswith(start)]


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ('{"weight_decay": 0.2}', "--weight_decay"),
        ('{"lr": 1}', "--learning_rate"),
        ('{"lr": null}', "--learning_rate"),
    ],
)
def test_what_the_trainer_gives_an_optimizer_is_no_option_of_it(make_arguments, options, flag):
    with pytest.raises(InputError, match=f"give {flag}, and leave it out"):
        make_arguments(optimizer="lion", optimizer_args=options)


def test_options_of_no_optimizer_are_refused(make_arguments):
    with pytest.raises(InputError, match=r"optimizer_args is .*, and no --optimizer is named"):
        make_arguments(optimizer_args='{"betas": [0.9, 0.98]}')


def test_options_that_an_optimizer_keeps_to_itself_are_kept_too(make_trainer, tmp_path):
    first = {**SAVING, "optimizer": "adan", "optimizer_args": '{"max_grad_norm": 0.5}', "max_steps": 1}
    make_trainer(**first).train()
    again = make_trainer(**{**first, "max_steps": 2, "optimizer_args": '{"max_grad_norm": 0.1}'})
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))
    assert again.args.options("optimizer_args") == {"max_grad_norm": 0.5}
    assert again.optimizer_cls_and_kwargs[1]["max_grad_norm"] == 0.5
    assert getattr(again.optimizer, "optimizer", again.optimizer).max_grad_norm == 0.5


@pytest.fixture
def make_own(make_model, make_arguments, specs, rows, tokenizer):
    """A trainer with options of `Trainer` beside the usual ones; `optimizers` may be a function of the model."""

    def make(arguments=None, **given):
        model = make_model()
        if callable(given.get("optimizers")):
            given["optimizers"] = given["optimizers"](model)
        args = make_arguments(**(arguments or {}))
        return MultiTaskTrainer(model, args, specs, rows["train"], rows["validation"], tokenizer, **given)

    return make


@pytest.mark.parametrize("with_schedule", [False, True])
def test_rates_of_ones_own_optimizer_that_are_kept_are_said(make_own, tmp_path, caplog, with_schedule):
    def own(rate):
        def make(model):
            optimizer = torch.optim.SGD(model.parameters(), lr=rate)
            return optimizer, LambdaLR(optimizer, lambda step: 1 / (1 + step)) if with_schedule else None

        return make

    make_own({**SAVING, "max_steps": 1}, optimizers=own(0.1)).train()
    for rate, said in ((0.1, []), (0.5, ["kept from the checkpoint: learning_rate 0.1 (asked for: 0.5); a new run"])):
        caplog.clear()
        again = make_own({**SAVING, "max_steps": 2}, optimizers=own(rate))
        again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))
        assert [line[: len(said[0])] if said else line for line in warnings(caplog, "kept")] == said
        assert rates(again.optimizer) == [0.1]


def test_rates_of_several_groups_are_listed(caplog):
    say_kept_rates([0.1, 0.2], [0.1, 0.2])
    assert not caplog.messages
    say_kept_rates([0.1, 0.2], [0.1, 0.1])
    assert "learning_rate [0.1, 0.2] (asked for: 0.1)" in caplog.text


class SameScore(TrainerCallback):
    """Gives every evaluation the same score."""

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        metrics["eval_average"] = 0.5


@pytest.mark.parametrize("own", [False, True])
def test_less_patience_than_is_used_up_already_is_told_as_that(make_trainer, tmp_path, caplog, own):
    def trainer(patience):
        settings = {} if own else {"early_stopping_patience": patience}
        callbacks = [SameScore(), *([EarlyStoppingCallback(patience)] if own else [])]
        return make_trainer(callbacks=callbacks, **EVALUATED, **settings)

    def resumed(patience):
        caplog.clear()
        trainer(patience).train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
        return caplog.text

    trainer(5).train()
    text = resumed(1)
    assert "changed from step 3 on: early_stopping_patience was 5 and is 1" in text
    assert "early_stopping_patience is 1, and the last 2 evaluations up to step 3 brought no new best one" in text
    assert "had ended" not in text


def test_a_run_that_early_stopping_had_ended_is_told_as_that(make_trainer, tmp_path, caplog):
    settings = {**EVALUATED, "early_stopping_patience": 1}
    make_trainer(callbacks=[SameScore()], **settings).train()
    caplog.clear()
    make_trainer(callbacks=[SameScore()], **settings).train(str(tmp_path / "out" / "checkpoint-2"))
    assert "early stopping had ended this run at step 2" in caplog.text


@pytest.mark.parametrize(
    "settings", [{"early_stopping_patience": 1}, {"save_strategy": "best"}, {"load_best_model_at_end": True}]
)
def test_what_watches_a_metric_wants_one(make_arguments, settings):
    (name,) = settings
    with pytest.raises(InputError, match=f"{name}.*metric_for_best_model is None"):
        make_arguments(**{**EVALUATED, **settings}, metric_for_best_model=None)


def test_a_callback_that_watches_a_metric_wants_one(make_trainer):
    with pytest.raises(InputError, match=r"EarlyStoppingCallback: .*metric_for_best_model is None"):
        make_trainer(callbacks=[EarlyStoppingCallback()], **EVALUATED, metric_for_best_model=None)


@pytest.mark.parametrize("metric", [3, ["eval_average"], True])
def test_a_metric_is_a_name(make_arguments, metric):
    with pytest.raises(InputError, match=r"metric_for_best_model is .*wanted the name"):
        make_arguments(**EVALUATED, metric_for_best_model=metric)


def test_the_metric_of_a_task_without_validation_rows_is_told_as_that(
    make_model, make_arguments, specs, rows, tokenizer
):
    args = make_arguments(**EVALUATED, metric_for_best_model="eval_pairs_pearson", greater_is_better=True)
    scored = {"reviews": rows["validation"]["reviews"]}
    with pytest.raises(InputError, match=r"task 'pairs' has no validation rows; .*choose from: eval_average"):
        MultiTaskTrainer(make_model(), args, specs, rows["train"], scored, tokenizer)


OPTIMIZERS = [3, [], (3, None), (None, 3), (torch.optim.SGD, None), "sgd"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("callbacks", value) for value in ([3], ["x"], [int])),
        ("data_collator", 3),
        *(("optimizers", value) for value in OPTIMIZERS),
        *(("optimizer_cls_and_kwargs", value) for value in (3, (3, {}), (torch.optim.SGD, 3))),
        ("optimizer_cls_and_kwargs", (torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.1})),
    ],
)
def test_what_is_no_part_of_a_trainer_is_refused_by_name(make_own, name, value):
    with pytest.raises(InputError, match=f"^{name} (is|has) "):
        make_own(**{name: value})


def test_a_schedule_without_its_optimizer_is_refused(make_own):
    def alone(model):
        return None, LambdaLR(torch.optim.SGD(model.parameters(), lr=0.1), lambda step: 1.0)

    with pytest.raises(InputError, match="optimizers has a learning rate schedule alone"):
        make_own(optimizers=alone)


WHOLE = [name for name, (wanted, _) in NUMBERS.items() if str(MOST) in wanted]


@pytest.mark.parametrize("name", [*WHOLE, "max_seq_length"])
def test_a_count_beyond_any_is_refused(name):
    with pytest.raises(InputError, match=f"{name} is 1{'0' * 20}, wanted .*{MOST}"):
        parse_arguments(["--use_cpu", f"--{name}=1{'0' * 20}"])


@pytest.mark.parametrize("ending", ["yaml", "json"])
@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('"learning_rate": [1, 2]', "learning_rate is .*, wanted one value"),
        ('"seed": [1]', "seed is .*, wanted one value"),
        ('"seed": []', "seed is .*, wanted one value"),
        ('"do_train": [true]', "do_train is .*, wanted one value"),
        ('"tasks": []', "tasks is .*, wanted one or more values"),
        ('"learning_rate": null', "learning_rate is null; give a value"),
    ],
)
def test_a_file_gives_an_argument_what_it_takes(tmp_path, ending, line, named):
    file = tmp_path / f"a.{ending}"
    file.write_text(f"{{{line}}}")
    with pytest.raises(InputError, match=f"argument file '{file}': {named}"):
        parse_arguments([str(file), "--use_cpu"])


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_null_in_a_file_is_none_where_that_is_a_value(tmp_path, ending):
    file = tmp_path / f"a.{ending}"
    file.write_text('{"save_total_limit": null, "metric_for_best_model": null, "tasks": null, "report_to": ["none"]}')
    _, data, training = parse_arguments([str(file), "--use_cpu"])
    assert (training.save_total_limit, training.metric_for_best_model) == (None, None)
    assert data.tasks == ["sst2", "stsb"] and training.report_to == []
    assert parse_arguments([str(file), "--use_cpu", "--save_total_limit", "5"])[2].save_total_limit == 5


def copy_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture(params=["schedulefreeadamw", "splus"])
def averaging(request, make_trainer):
    """A trainer with an optimizer that averages weights itself; keywords go to the arguments."""
    return lambda **settings: make_trainer(optimizer=request.param, **{**SAVING, "learning_rate": 0.01, **settings})


def test_the_final_model_and_checkpoints_have_an_optimizers_own_average(averaging, tmp_path):
    trainer = averaging()
    trainer.train()
    after = copy_of(trainer.model)
    assert_same(load_file(tmp_path / "out" / "checkpoint-3" / "model.safetensors"), after)
    trainer.evaluate()
    assert_same(copy_of(trainer.model), after)
    again = averaging()
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert_same(copy_of(again.model), after)


def test_the_best_model_stays_what_it_was_with_an_optimizers_own_average(averaging, tmp_path):
    class StopAt3(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop |= state.global_step == 3

    watched = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "load_best_model_at_end": True}
    trainer = averaging(**watched, max_steps=9)
    trainer.add_callback(StopAt3())
    trainer.train()
    best = load_file(tmp_path / "out" / "checkpoint-2" / "model.safetensors")
    assert_same(copy_of(trainer.model), best)
    trainer.evaluate()
    assert_same(copy_of(trainer.model), best)
