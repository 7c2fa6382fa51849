"""Every callback sees the arguments with the user's values, whatever the trainer sets aside in between."""

import pytest
from transformers import TrainerCallback
from transformers.integrations import integration_utils

SETTINGS = {
    "max_steps": 4,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 1,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "eval_on_start": True,
    "load_best_model_at_end": True,
    "hub_strategy": "checkpoint",
    "include_num_input_tokens_seen": "all",
    "torch_compile": True,
    "torch_compile_backend": "eager",
    "lr_scheduler_type": "reduce_lr_on_plateau",
    "early_stopping_patience": 9,
}
EVENTS = [name for name in vars(TrainerCallback) if name.startswith("on_") and name != "on_init_end"]


class Watch(TrainerCallback):
    def __init__(self):
        self.seen = {}

    def note(self, event, args):
        self.seen.setdefault(event, []).append(args.to_dict())


for event in EVENTS:
    setattr(Watch, event, lambda self, args, state, control, event=event, **kwargs: self.note(event, args))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # from inside torch's tracer
def test_every_event_sees_the_users_values(make_trainer, make_arguments, monkeypatch):
    class Tracker(Watch):
        def setup(self, args, state, model, **kwargs):
            self.note("setup", args)

        def on_train_begin(self, args, state, control, model=None, **kwargs):
            self.setup(args, state, model)
            trackers.append(self)

    trackers, watch = [], Watch()
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", Tracker)
    monkeypatch.setattr("hf_mtl.training.arguments.check_trackers", lambda names: None)
    wanted = make_arguments(**SETTINGS, report_to=["tensorboard"]).to_dict()
    trainer = make_trainer(callbacks=[watch], **SETTINGS, report_to=["tensorboard"])
    assert trainer.args.to_dict() == wanted
    trainer.train()
    assert {"on_train_begin", "on_step_end", "on_save", "on_evaluate", "on_log", "on_train_end"} <= watch.seen.keys()
    assert len(watch.seen["on_save"]) == 4 and [len(each.seen["setup"]) for each in trackers] == [1]
    for each in (watch, *trackers):
        for event, dicts in each.seen.items():
            for found in dicts:
                assert found == wanted, (event, {k: (found[k], wanted[k]) for k in wanted if found[k] != wanted[k]})
    assert trainer.args.to_dict() == wanted


def test_a_resumed_run_too_and_it_is_not_evaluated_at_its_start_again(make_trainer):
    settings = {**SETTINGS, "torch_compile": False, "torch_compile_backend": None, "load_best_model_at_end": False}
    make_trainer(**settings).train()
    watch = Watch()
    again = make_trainer(callbacks=[watch], **{**settings, "max_steps": 5})
    wanted = again.args.to_dict()
    again.train("latest")
    assert all(found == wanted for dicts in watch.seen.values() for found in dicts)
    assert [row["step"] for row in again.state.log_history if "eval_average" in row] == [0, 1, 2, 3, 4, 5]
    assert again.evaluate()["eval_average"] > -1


def test_a_resumed_run_takes_scores_of_a_subclass_and_evaluations_of_a_callback(make_trainer):
    """Whoever evaluates gets scores, also before the first step of a run that is not evaluated at its start again."""
    settings = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    make_trainer(max_steps=2, eval_on_start=True, **settings).train()
    again, asked = make_trainer(max_steps=4, eval_on_start=True, **settings), []

    class Ask(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            asked.append(again.evaluate()["eval_average"])

    again.add_callback(Ask())
    again.train("latest")
    assert len(asked) == 1
    assert [row["step"] for row in again.state.log_history if "eval_average" in row] == [0, 2, 2, 4]
    assert not any(type(each).__name__ == "SkipStartEvaluation" for each in again.callback_handler.callbacks)


def test_the_last_checkpoint_stays_beside_the_best_one(make_trainer, tmp_path):
    """The Trainer itself would remove it at the end, with a limit of 1."""
    trainer = make_trainer(
        **{**SETTINGS, "torch_compile": False, "torch_compile_backend": None, "metric_for_best_model": "eval_loss"}
    )
    trainer.train()
    best = trainer.state.best_global_step
    assert {path.name for path in (tmp_path / "out").glob("checkpoint-*")} == {f"checkpoint-{n}" for n in (best, 4)}


def test_an_error_puts_the_values_back(make_trainer):
    class Fail(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            raise RuntimeError("in on_save")

    trainer = make_trainer(callbacks=[Fail()], max_steps=2, save_strategy="steps", save_steps=1, save_total_limit=3)
    wanted = trainer.args.to_dict()
    with pytest.raises(RuntimeError, match="in on_save"):
        trainer.train()
    assert trainer.args.to_dict() == wanted


def test_the_order_of_what_happens_around_a_save(make_trainer, monkeypatch, tmp_path):
    """Memory and settings, the order of the batches, the seal, old checkpoints, the push, the stop."""
    done = []
    trainer = make_trainer(max_steps=2, save_strategy="steps", save_steps=1, save_total_limit=1)
    manager = trainer.checkpoints

    def noted(name, real):
        return lambda *args: done.append(name) or real(*args)

    places = {
        "memory": "hf_mtl.training.trainer.save_method",
        "seal": "hf_mtl.training.checkpoint_callbacks.write_manifest",
        "old ones": "hf_mtl.training.checkpoint_callbacks.remove_old_checkpoints",
    }
    for name, place in places.items():
        module, attribute = place.rsplit(".", 1)
        real = getattr(__import__(module, fromlist=[attribute]), attribute)
        monkeypatch.setattr(place, noted(name, real))
    monkeypatch.setattr(trainer.settings, "write", noted("settings", trainer.settings.write))
    monkeypatch.setattr(manager, "data_order", lambda real=manager.data_order: done.append("order") or real())
    monkeypatch.setattr(manager.pusher, "push", noted("push", manager.pusher.push))
    step_end = type(manager).on_step_end

    def asked(self, *args, **kwargs):
        self._stop_asked = True
        step_end(self, *args, **kwargs)

    monkeypatch.setattr(type(manager), "on_step_end", asked)
    with pytest.raises(SystemExit) as stopped:
        trainer.train()
    assert stopped.value.code == 143
    assert done == ["memory", "settings", "order", "seal", "old ones", "push"]
