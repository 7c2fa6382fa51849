"""The moving average of weights: that of a plain loop, evaluated, saved and published; the raw weights train on."""

from fnmatch import fnmatch
from types import SimpleNamespace

import pytest
import torch
from lever_runs import Terminate, WeightTape, assert_same, end_of
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_mtl import InputError, MultiTaskModel, MultiTaskTrainer
from hf_mtl.hub.upload import published
from hf_mtl.training.checkpoints import checkpoint_error, checkpoints_in
from hf_mtl.training.hub_sync import RAW_FILE, additions
from hf_mtl.training.weight_average import AverageWeights, WeightAverage, decay_at

DECAY = 0.6
SAVING = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 0, "learning_rate": 0.01}
EVALUATED = {**SAVING, "eval_strategy": "steps", "eval_steps": 2}
SCHEDULES = ["none", "0:0,2:1,4:all steps", "0:all,3:1 steps"]


def named(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def averages(start, weights, decay=DECAY):
    """After every step, the average of a plain loop over all parameters, frozen or not."""
    average, result = {name: p.clone() for name, p in start.items()}, []
    for t, step in enumerate(weights, start=1):
        for name in average:
            average[name].lerp_(step[name], 1 - min(decay, (1 + t) / (10 + t)))
        result.append({name: p.clone() for name, p in average.items()})
    return result


@pytest.mark.parametrize("rates", [{}, {"layer_lr_decay": 0.5, "head_lr_multiplier": 3.0}], ids=["one rate", "rates"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_ends_with_the_average_of_a_plain_loop(make_trainer, make_model, schedule, rates):
    settings = {"unfreeze_schedule": schedule, "max_steps": 6, "learning_rate": 0.01, **rates}
    tape, raw = WeightTape(), WeightTape()
    trainer = make_trainer(callbacks=[tape], ema_decay=DECAY, **settings)
    trainer.train()
    make_trainer(callbacks=[raw], **settings).train()
    assert_same(tape.weights, raw.weights)  # training does not know of it
    *_, wanted = averages(named(make_model()), tape.weights)
    assert_same(named(trainer.model), wanted)
    assert not torch.equal(wanted["heads.pairs.weight"], raw.weights[-1]["heads.pairs.weight"])


def test_the_decay_of_an_update_is_small_at_first():
    assert [decay_at(t, 0.999) for t in (1, 2, 90)] == [2 / 11, 3 / 12, 91 / 100]
    assert decay_at(10**6, 0.999) == 0.999
    one, wanted = torch.nn.Linear(3, 1), torch.zeros(1, 3, dtype=torch.float64)
    average = WeightAverage(one)
    average.begin(0.3)
    with torch.no_grad():
        one.weight.zero_()
        average.include_what_trains()
        for t in range(1, 8):  # in fp64, from the formula
            one.weight.fill_(t**2 / 7)
            average.update()
            wanted = decay_at(t, 0.3) * wanted + (1 - decay_at(t, 0.3)) * t**2 / 7
    average.show()
    torch.testing.assert_close(one.weight.double(), wanted, rtol=1e-6, atol=0)  # fp32's rounding


def test_a_checkpoint_has_the_average_and_the_raw_weights_beside_it(make_trainer, make_model, tmp_path):
    tape = WeightTape()
    make_trainer(callbacks=[tape], ema_decay=DECAY, max_steps=6, unfreeze_schedule="0:0,3:all steps", **SAVING).train()
    wanted = averages(named(make_model()), tape.weights)
    for checkpoint in checkpoints_in(tmp_path / "out"):
        step = int(checkpoint.name.rpartition("-")[2])
        assert checkpoint_error(checkpoint) is None
        assert_same(named(MultiTaskModel.from_pretrained(checkpoint)), wanted[step - 1])
        raw = load_file(checkpoint / RAW_FILE)
        assert all(torch.equal(weight, tape.weights[step - 1][name]) for name, weight in raw.items())
        assert any("embeddings" in name for name in raw) == (step > 3)  # frozen until then
        with safe_open(checkpoint / RAW_FILE, "pt") as file:
            assert file.metadata() == {"updates": str(step)}


def test_what_is_evaluated_is_what_is_saved(make_trainer, tmp_path):
    trainer = make_trainer(ema_decay=DECAY, max_steps=6, eval_on_start=True, **EVALUATED)
    trainer.train()
    trainer.save_final()
    for folder, step in [(f"checkpoint-{step}", step) for step in (2, 4, 6)] + [(".", 6)]:
        saved = MultiTaskModel.from_pretrained(tmp_path / "out" / folder)
        scores = make_trainer(saved, output_dir=str(tmp_path / "b")).evaluate()
        logged = [row for row in trainer.state.log_history if row["step"] == step and "eval_average" in row]
        times = ("epoch", "_time", "_per_second", "runtime")
        names = [name for name in scores if name in logged[0] and not any(word in name for word in times)]
        assert len(logged) == 1 and len(names) > 4
        assert {name: logged[0][name] for name in names} == {name: scores[name] for name in names}
    rows = trainer.eval_dataset["pairs"]
    again = make_trainer(saved, output_dir=str(tmp_path / "b")).predict({"pairs": rows})["pairs"]
    assert (trainer.predict({"pairs": rows})["pairs"].predictions == again.predictions).all()


@pytest.mark.parametrize(("schedule", "best"), list(zip(SCHEDULES, (False, True, False), strict=True)))
def test_a_resumed_run_ends_bit_equal(make_trainer, make_model, tmp_path, schedule, best):
    settings = {**EVALUATED, "ema_decay": DECAY, "max_steps": 8, "unfreeze_schedule": schedule, "optimizer": "lion"}
    settings |= {"load_best_model_at_end": best, "gradient_accumulation_steps": 2, "early_stopping_patience": 3}
    whole = make_trainer(make_model(dropout=0.1), **settings)
    whole.train()
    for step in (2, 8):
        again = make_trainer(make_model(dropout=0.1, seed=3), **{**settings, "output_dir": str(tmp_path / "b")})
        again.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{step}"))
        assert_same(end_of(again), end_of(whole))


def test_sigterm_keeps_both(make_trainer, make_model, tmp_path):
    settings = {"ema_decay": DECAY, "max_steps": 7, "eval_strategy": "steps", "eval_steps": 2}
    whole = make_trainer(make_model(dropout=0.1), output_dir=str(tmp_path / "whole"), **settings)
    whole.train()
    with pytest.raises(SystemExit):
        make_trainer(make_model(dropout=0.1), callbacks=[Terminate(3)], **settings).train()
    again = make_trainer(make_model(dropout=0.1, seed=3), **settings)
    again.train(resume_from_checkpoint=True)
    assert_same(end_of(again), end_of(whole))


class BestAt2(TrainerCallback):
    """The evaluation after step 2 is the best one."""

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        metrics["eval_average"] = float(state.global_step == 2)


def test_the_best_model_is_the_average_of_its_step(make_trainer, make_model, tmp_path):
    tape = WeightTape()
    settings = {**EVALUATED, "save_total_limit": 1, "load_best_model_at_end": True, "max_steps": 6}
    trainer = make_trainer(callbacks=[tape, BestAt2()], ema_decay=DECAY, **settings)
    trainer.train()
    assert [path.name for path in checkpoints_in(tmp_path / "out")] == ["checkpoint-6", "checkpoint-2"]
    assert_same(named(trainer.model), averages(named(make_model()), tape.weights)[1])
    trainer.evaluate()
    assert_same(named(trainer.model), averages(named(make_model()), tape.weights)[1])


class Looks(MultiTaskTrainer):
    """Looks at the model's weights around its evaluation."""

    def evaluate(self, *args, **kwargs):
        before = named(self.model)
        scores = super().evaluate(*args, **kwargs)
        assert_same(named(self.model), before)
        self.seen.append((self.state.global_step, before))
        return scores


class Interferes(TrainerCallback):
    """Evaluates, predicts and saves whenever something happens in a step."""

    def interfere(self, args, state, control, **kwargs):
        before = named(self.trainer.model)
        self.trainer.evaluate({"pairs": self.trainer.eval_dataset["pairs"].select(range(2))}, metric_key_prefix="mid")
        self.trainer.predict({"pairs": self.trainer.eval_dataset["pairs"].select(range(2))})
        self.trainer.save_model(args.output_dir + "/mid")
        assert_same(named(self.trainer.model), before)

    on_step_begin = on_substep_end = on_pre_optimizer_step = on_optimizer_step = on_step_end = on_train_end = interfere


def test_evaluations_of_others_see_the_average_and_training_goes_on_from_the_raw_weights(
    make_model, make_arguments, specs, rows, tokenizer
):
    def run(callbacks):
        tape = WeightTape()
        args = make_arguments(ema_decay=DECAY, max_steps=4, gradient_accumulation_steps=2, **EVALUATED)
        trainer = Looks(
            make_model(), args, specs, rows["train"], rows["validation"], tokenizer, callbacks=[tape, *callbacks]
        )
        trainer.seen = []
        for callback in callbacks:
            callback.trainer = trainer
        trainer.train()
        return tape.weights, named(trainer.model), trainer.seen

    weights, end, seen = run([])
    wanted = averages(named(make_model()), weights)
    assert [step for step, _ in seen] == [2, 4]
    for step, found in seen:
        assert_same(found, wanted[step - 1])
    interfered, other_end, _ = run([Interferes()])
    assert_same(interfered, weights)
    assert_same(other_end, end)


@pytest.mark.parametrize(
    ("before", "now"), [(0.0, DECAY), (DECAY, 0.0), (DECAY, 0.3)], ids=["from none", "to none", "to another"]
)
def test_another_decay_holds_from_there_on_and_is_said(make_trainer, make_model, tmp_path, caplog, before, now):
    tape = WeightTape()
    settings = {**SAVING, "max_steps": 6}
    make_trainer(callbacks=[tape], ema_decay=before, **settings).train()
    again = make_trainer(make_model(seed=3), ema_decay=now, **{**settings, "output_dir": str(tmp_path / "b")})
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert f"changed from step 4 on: ema_decay was {before} and is {now}" in caplog.text
    if not now:
        wanted = tape.weights[-1]
    elif not before:
        wanted = averages(tape.weights[3], tape.weights[4:])[-1]
    else:
        wanted = averages(named(make_model()), tape.weights[:4])[-1]
        for t in (5, 6):
            for name, weight in tape.weights[t - 1].items():
                wanted[name].lerp_(weight, 1 - min(now, (1 + t) / (10 + t)))
    assert_same(named(again.model), wanted)
    assert (tmp_path / "b" / "checkpoint-6" / RAW_FILE).exists() == bool(now)


def test_the_raw_weights_go_to_the_hub_with_whole_checkpoints_only(make_trainer, tmp_path):
    make_trainer(ema_decay=DECAY, **SAVING).train()
    checkpoint = tmp_path / "out" / "checkpoint-4"
    assert not any(fnmatch(RAW_FILE, pattern) for pattern in published(checkpoint))
    model_only = [added.path_in_repo for added in additions(checkpoint, with_state=False)]
    whole = [added.path_in_repo for added in additions(checkpoint, with_state=True)]
    assert "model.safetensors" in model_only and not any(RAW_FILE in path for path in model_only)
    assert [path for path in whole if RAW_FILE in path] == [f"last-checkpoint/{RAW_FILE}"]


def test_a_second_training_begins_an_average_of_its_own(make_trainer):
    tape = WeightTape()
    trainer = make_trainer(callbacks=[tape], ema_decay=DECAY, max_steps=3, learning_rate=0.01)
    trainer.train()
    start = named(trainer.model)
    tape.weights.clear()
    trainer.train()
    assert_same(named(trainer.model), averages(start, tape.weights)[-1])


def test_a_step_that_the_optimizer_skipped_is_none():
    one = torch.nn.Linear(3, 1)
    average = WeightAverage(one)
    average.begin(DECAY)
    average.include_what_trains()
    callback = AverageWeights(average, None)
    callback.on_optimizer_step(None, None, None, optimizer=SimpleNamespace(step_was_skipped=True))
    assert average.updates == 0
    callback.on_optimizer_step(None, None, None, optimizer=SimpleNamespace(step_was_skipped=False))
    assert average.updates == 1


@pytest.mark.parametrize("name", ["schedulefreeadamw", "splus"])
def test_an_optimizer_that_averages_itself_is_refused(make_trainer, name):
    with pytest.raises(InputError, match=r"ema_decay is 0.6, and optimizer '\w+' averages weights itself"):
        make_trainer(ema_decay=DECAY, optimizer=name)


def test_engines_that_shard_are_refused(make_trainer, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match=r"ema_decay is 0.6: under DeepSpeed and FSDP"):
        make_trainer(ema_decay=DECAY, gradient_method="fixed")


def test_the_card_tells_of_it(make_trainer, tmp_path):
    trainer = make_trainer(ema_decay=0.999)
    trainer.train()
    trainer.create_model_card()
    text = (tmp_path / "out" / "README.md").read_text()
    assert "their exponential moving average, decay 0.999" in text
