"""Checkpoints that can be trusted: sealed, checked before use, never half replaced, and one run per folder."""

import json
import logging
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, TrainerCallback

import hf_mtl.training.checkpoint_callbacks
from hf_mtl import (
    InputError,
    MultiTaskConfig,
    MultiTaskModel,
    MultiTaskTrainer,
    MultiTaskTrainingArguments,
)
from hf_mtl.errors import CheckpointError
from hf_mtl.model.export_code import modeling_code
from hf_mtl.training import checkpoints
from hf_mtl.training.checkpoint_callbacks import say_if_order_differs
from hf_mtl.training.checkpoints import MANIFEST, checkpoint_error, checkpoints_in, choose_checkpoint

EVERY_2 = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": None}


@pytest.fixture(scope="module")
def saved(tmp_path_factory, specs, rows, tokenizer) -> Path:
    """An output folder with checkpoints of steps 2 and 4, of a method with memory."""
    folder = tmp_path_factory.mktemp("saved")
    tiny_trainer(folder, specs, rows, tokenizer).train()
    return folder


def tiny_trainer(folder, specs, rows, tokenizer, **arguments):
    """A short run of two tiny tasks, on a tiny model with dropout."""
    torch.manual_seed(0)
    encoder = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
    )
    args = MultiTaskTrainingArguments(
        output_dir=str(folder),
        do_train=True,
        use_cpu=True,
        max_steps=4,
        per_device_train_batch_size=8,
        unfreeze_schedule="none",
        gradient_method="gradvac",
        eval_strategy="no",
        disable_tqdm=True,
        **EVERY_2,
        **arguments,
    )
    model = MultiTaskModel(MultiTaskConfig(encoder, [spec.head for spec in specs]))
    return MultiTaskTrainer(model, args, specs, rows["train"], rows["validation"], tokenizer)


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy of `saved` to damage."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


NAMES = sorted(
    [
        "config.json",
        "data_order.json",
        "gradient_method.json",
        "manifest.json",
        "model.safetensors",
        "optimizer.pt",
        "rng_state.pth",
        "scheduler.pt",
        "settings.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "trainer_state.json",
        *(f"{module}.py" for module in modeling_code()),  # the code that reads the model, beside it
    ]
)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    place = random.Random(str(file)).randrange(len(content))
    content[place] ^= 1 << place % 8
    file.write_bytes(content)


DAMAGE = {
    "flipped": flip_a_bit,
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "emptied": lambda file: file.write_bytes(b""),
    "gone": Path.unlink,
}


# ---- the manifest ----


def test_every_file_of_a_checkpoint_is_in_the_manifest(saved):
    for checkpoint in checkpoints_in(saved):
        assert sorted(path.name for path in checkpoint.iterdir()) == NAMES
        sums = json.loads((checkpoint / MANIFEST).read_text())["sha256"]
        assert sorted([*sums, MANIFEST]) == NAMES
        assert checkpoint_error(checkpoint) is None


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_taken(folder, name, damage, caplog):
    DAMAGE[damage](folder / "checkpoint-4" / name)
    # A flipped digest in the manifest accuses the file it belongs to.
    named = name if name != MANIFEST else r"[\w.]+"
    with pytest.raises(InputError, match=f"resume_from_checkpoint is '.*checkpoint-4': (no )?{named}"):
        choose_checkpoint(str(folder / "checkpoint-4"), str(folder))
    with caplog.at_level("WARNING", logger="hf_mtl"):
        assert choose_checkpoint("latest", str(folder)) == str(folder / "checkpoint-2")
    (line,) = caplog.messages
    assert re.search(f"checkpoint-4 is passed over: (no )?{named}", line)


def test_a_bit_flipped_anywhere_in_the_manifest_is_noticed(folder):
    manifest = folder / "checkpoint-4" / MANIFEST
    whole = manifest.read_bytes()
    for place in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        manifest.write_bytes(changed)
        assert checkpoint_error(manifest.parent) is not None, (place, bytes(changed[place - 5 : place + 5]))


@pytest.mark.parametrize("text", ["[]", "{}", '{"sha256": 3}', '{"sha256": ["a"]}', '{"sha256": {}}', "null", "\0"])
def test_a_manifest_of_another_shape_is_refused(folder, text):
    (folder / "checkpoint-4" / MANIFEST).write_text(text)
    assert checkpoint_error(folder / "checkpoint-4") is not None


def test_weights_in_another_form_than_safetensors_are_refused(folder):
    checkpoint = folder / "checkpoint-4"
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    checkpoints.write_manifest(checkpoint)
    assert checkpoint_error(checkpoint) == "no weights in safetensors form"


def test_a_checkpoint_of_the_weights_alone_is_no_place_to_go_on_from(folder):
    (folder / "checkpoint-4" / "optimizer.pt").unlink()
    checkpoints.write_manifest(folder / "checkpoint-4")
    assert checkpoint_error(folder / "checkpoint-4") == "optimizer was not saved with it"


def test_when_none_holds_each_is_named_and_nothing_starts_from_scratch(folder, specs, rows, tokenizer):
    (folder / "checkpoint-2" / MANIFEST).unlink()
    flip_a_bit(folder / "checkpoint-4" / "optimizer.pt")
    (folder / "checkpoint-x").mkdir()
    (folder / "checkpoint-9").write_text("no folder")
    trainer = tiny_trainer(folder, specs, rows, tokenizer)
    wanted = "'latest': .*checkpoint-4: optimizer.pt is not what was saved; .*checkpoint-2: no manifest.json"
    with pytest.raises(InputError, match=wanted):
        trainer.train(resume_from_checkpoint=True)
    with pytest.raises(InputError, match="'nowhere': no checkpoint there"):
        trainer.train(resume_from_checkpoint="nowhere")
    assert trainer.state.global_step == 0


def test_steps_are_numbers_not_words(tmp_path):
    for step in (2, 10, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-10", "checkpoint-9", "checkpoint-2"]
    assert checkpoints_in(tmp_path / "nowhere") == []


# ---- what is removed, and when ----


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


# ---- a full disk ----


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


# ---- one run per folder ----

HOLD = (
    "import sys, time, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); "
    "print('held', flush=True); time.sleep(60)"
)


def test_a_second_run_is_refused_until_the_first_one_ends_however_it_ends(tmp_path, make_trainer, monkeypatch):
    monkeypatch.setattr(checkpoints, "LOCK_SECONDS", 0.2)
    trainer = make_trainer()
    lock = tmp_path / "out" / checkpoints.LOCK_FILE
    holder = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(holder, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        try:
            with pytest.raises(InputError, match="another run is training into it"):
                trainer.train()
        finally:
            first.kill()
    trainer.train()
    with subprocess.Popen(
        holder, stdout=subprocess.PIPE, text=True
    ) as next_one:  # training is over, if not the process
        assert next_one.stdout.readline() == "held\n"
        next_one.kill()


# ---- SIGTERM ----


class Terminate(TrainerCallback):
    """Sends SIGTERM to the own process in a step."""

    def __init__(self, step):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def end_of(trainer):
    """What two runs have to share to be called equal: weights, optimizer, schedule, log."""
    logs = [
        {k: v for k, v in row.items() if "_per_second" not in k and "runtime" not in k and k != "train_loss"}
        for row in trainer.state.log_history
    ]
    return trainer.model.state_dict(), trainer.optimizer.state_dict(), trainer.lr_scheduler.state_dict(), logs


def assert_same(found, wanted):
    assert type(found) is type(wanted)
    if isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted)
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in wanted:
            assert_same(found[key], wanted[key])
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    else:
        assert found == wanted


RUN = {"max_steps": 14, "gradient_accumulation_steps": 2, "unfreeze_schedule": "0:0,1:1,1.5:all", "learning_rate": 0.01}


@pytest.mark.parametrize("step", [3, 12, 14], ids=["mid-epoch", "end of an epoch", "last step"])
def test_sigterm_saves_and_the_run_goes_on_to_the_same_end(make_trainer, make_model, tmp_path, step):
    settings = {**RUN, "eval_strategy": "epoch", "gradient_method": "gradvac"}
    whole = make_trainer(make_model(dropout=0.1), output_dir=str(tmp_path / "whole"), **settings)
    whole.train()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        make_trainer(make_model(dropout=0.1), callbacks=[Terminate(step)], **settings).train()
    assert signal.getsignal(signal.SIGTERM) == before
    assert stopped.value.code == 143
    assert [p.name for p in checkpoints_in(tmp_path / "out")] == [f"checkpoint-{step}"]
    again = make_trainer(make_model(dropout=0.1, seed=3), **settings)
    again.train(resume_from_checkpoint=True)
    assert_same(end_of(again), end_of(whole))


def test_sigterm_is_left_alone_without_the_flag_and_outside_of_training(make_trainer):
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    class Look(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            seen.append(signal.getsignal(signal.SIGTERM))

    make_trainer(callbacks=[Look()], enable_jit_checkpoint=False, max_steps=1).train()
    trainer = make_trainer(callbacks=[Look()], max_steps=1)
    assert signal.getsignal(signal.SIGTERM) == before and trainer.args.enable_jit_checkpoint
    trainer.train()
    assert seen[0] == before != seen[1]
    assert signal.getsignal(signal.SIGTERM) == before


def test_training_in_a_thread_says_that_sigterm_is_not_caught(make_trainer, caplog):
    trainer = make_trainer(max_steps=1)
    with caplog.at_level(logging.WARNING, logger="hf_mtl"):
        thread = threading.Thread(target=trainer.train)
        thread.start()
        thread.join()
    assert trainer.state.global_step == 1
    assert any("SIGTERM cannot be caught" in message for message in caplog.messages)


# ---- another number of processes ----

ORDER = {"processes": 1, "gradient_accumulation_steps": 4, "batches_per_epoch": 8}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({}, None),
        (
            {"processes": 2, "gradient_accumulation_steps": 2},
            "the same batches in every step.*processes was 1 and is 2",
        ),
        ({"processes": 2}, "other batches than the run before.*processes was 1 and is 2"),
        ({"processes": 4, "gradient_accumulation_steps": 1, "batches_per_epoch": 12}, "other batches.*was 8 and is 12"),
    ],
)
def test_a_resumed_run_says_whether_its_batches_are_the_same(tmp_path, caplog, now, said):
    (tmp_path / "data_order.json").write_text(json.dumps(ORDER))
    with caplog.at_level("WARNING", logger="hf_mtl"):
        say_if_order_differs(tmp_path, {**ORDER, **now})
    if said is None:
        assert not caplog.messages
    else:
        (line,) = caplog.messages
        assert re.search(said, line)


def test_rows_sorted_in_stretches_of_another_length_are_other_batches(make_trainer, tmp_path, monkeypatch, caplog):
    trainer = make_trainer()
    trainer.get_train_dataloader()
    (tmp_path / "data_order.json").write_text(json.dumps(trainer.data_order()))
    monkeypatch.setattr("hf_mtl.training.trainer.GROUPED_BATCHES", 7)
    with caplog.at_level("WARNING", logger="hf_mtl"):
        say_if_order_differs(tmp_path, trainer.data_order())
    (line,) = caplog.messages
    assert re.search("other batches than the run before.*is 7", line)
