"""Old checkpoints go when the new one is whole, the best one stays, and a full disk is said."""

import resource

import pytest
import torch
from transformers import TrainerCallback

import hf_mtl.training.checkpoint_callbacks
from hf_mtl.errors import CheckpointError
from hf_mtl.training import checkpoints
from hf_mtl.training.checkpoints import MANIFEST, checkpoint_error, checkpoints_in, choose_checkpoint

EVERY_2 = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": None}


@pytest.mark.parametrize("limit", [1, 2])
def test_old_checkpoints_go_only_when_the_new_one_is_sealed(make_trainer, tmp_path, monkeypatch, limit):
    seen = []

    def write(checkpoint):
        seen.append(sorted(p.name for p in checkpoint.parent.glob("checkpoint-*") if checkpoint_error(p) is None))
        checkpoints.write_manifest(checkpoint)

    monkeypatch.setattr(hf_mtl.training.checkpoint_callbacks, "write_manifest", write)
    for step in (1, 99):  # left by runs that were killed in a save
        (tmp_path / "out" / f"checkpoint-{step}").mkdir(parents=True)
    trainer = make_trainer(**{**EVERY_2, "save_total_limit": limit}, max_steps=8)
    trainer.train()
    assert seen == [
        [],
        ["checkpoint-2"],
        ["checkpoint-2", "checkpoint-4"][-limit:],
        ["checkpoint-4", "checkpoint-6"][-limit:],
    ]
    assert [p.name for p in checkpoints_in(tmp_path / "out")] == ["checkpoint-8", "checkpoint-6"][:limit]
    assert trainer.args.save_total_limit == limit


class Scores(TrainerCallback):
    """The first evaluation is the best one."""

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        metrics["eval_average"] = 1.0 / (1 + state.global_step)


def test_the_best_checkpoint_stays_and_is_loaded(make_trainer, tmp_path):
    trainer = make_trainer(
        callbacks=[Scores()],
        **{**EVERY_2, "save_total_limit": 1},
        max_steps=8,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
    )
    trainer.train()
    assert [p.name for p in checkpoints_in(tmp_path / "out")] == ["checkpoint-8", "checkpoint-2"]
    assert trainer.state.best_model_checkpoint == str(tmp_path / "out" / "checkpoint-2")
    best = type(trainer.model).from_pretrained(tmp_path / "out" / "checkpoint-2")
    for found, wanted in zip(trainer.model.parameters(), best.parameters(), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "optimizer.pt", "rng_state.pth", "trainer_state.json", MANIFEST]
)
def test_a_full_disk_is_said_and_the_older_checkpoint_stays(make_trainer, tmp_path, name):
    torn = tmp_path / "out" / "checkpoint-4"
    torn.mkdir(parents=True)
    (torn / (name + ".tmp" if name == MANIFEST else name)).symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"could not be written: .*Whole checkpoints: .*checkpoint-2\. Make room"):
        make_trainer(**EVERY_2).train()
    assert choose_checkpoint("latest", str(tmp_path / "out")) == str(tmp_path / "out" / "checkpoint-2")


class SmallFilesOnly(TrainerCallback):
    """From step 3 on, no file may be longer than 20 kB, as if the disk had no more."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))


def test_weights_that_do_not_fit_are_said_too(make_trainer, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(CheckpointError, match=r"could not be written: .*File too large.*checkpoint-2\. Make room"):
            make_trainer(callbacks=[SmallFilesOnly()], **{**EVERY_2, "save_total_limit": 1}).train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert choose_checkpoint("latest", str(tmp_path / "out")) == str(tmp_path / "out" / "checkpoint-2")


def test_another_error_of_training_is_left_as_it_is(tmp_path):
    with pytest.raises(RuntimeError, match=r"^shapes$") as caught, checkpoints.write_errors_named(str(tmp_path)):
        raise RuntimeError("shapes")
    assert not isinstance(caught.value, CheckpointError)
