"""Whole checkpoints: what the manifest notices, and which checkpoint a run goes on from."""

import json
import random
import re
import shutil
from pathlib import Path

import pytest
import torch
from transformers import BertConfig

from hf_mtl import (
    InputError,
    MultiTaskConfig,
    MultiTaskModel,
    MultiTaskTrainer,
    MultiTaskTrainingArguments,
)
from hf_mtl.model.export_code import modeling_code
from hf_mtl.training import checkpoints
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


def test_a_best_checkpoint_that_is_gone_is_told_at_the_resume(make_trainer, tmp_path, caplog):
    watched = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}

    def train(steps, score, resume=None):
        trainer = make_trainer(**watched, load_best_model_at_end=True, save_total_limit=0, max_steps=steps)
        evaluate = trainer.evaluate
        trainer.evaluate = lambda *args, **kwargs: {**evaluate(*args, **kwargs), "eval_average": score}
        trainer.train(resume_from_checkpoint=resume)

    train(1, 0.9)
    train(2, 0.5, resume=True)
    assert "best checkpoint" not in caplog.text
    shutil.rmtree(tmp_path / "out" / "checkpoint-1")
    train(3, 0.5, resume=True)
    assert "checkpoint-1, the best checkpoint so far (eval_average 0.9000), is not in" in caplog.text
    assert "unless a later one is better, the final model is that of the last step" in caplog.text


def test_later_checkpoints_than_the_one_to_go_on_from_are_named(saved, tmp_path, specs, rows, tokenizer, caplog):
    folder = shutil.copytree(saved, tmp_path / "out")
    (folder / "checkpoint-9").mkdir()  # cut off, so that it would be passed over

    def later(wanted):
        caplog.clear()
        trainer = tiny_trainer(folder, specs, rows, tokenizer)
        trainer.train(resume_from_checkpoint=wanted)
        return [message for message in caplog.messages if message.startswith("going on from")]

    assert not later(str(folder / "checkpoint-4")) and not later("latest")
    (line,) = later(str(folder / "checkpoint-2"))
    assert line.startswith("going on from checkpoint-2; of later steps there is checkpoint-4 in ")
    assert line.endswith("which --resume_from_checkpoint latest would take; move it away")
