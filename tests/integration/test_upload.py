"""A push that fails, waits or is refused leaves the training, the files and the command that pushes them."""

import hashlib
import json
from concurrent.futures import Future

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import TrainerCallback

import hf_mtl.hub.upload
from hf_mtl import MultiTaskTrainingArguments
from hf_mtl.errors import PushError
from hf_mtl.hub.model_card import CardFacts
from hf_mtl.hub.upload import publish
from hf_mtl.training.hub_sync import CheckpointPusher, additions


def test_a_checkpoint_leaves_behind_what_belongs_to_this_machine(tmp_path):
    files = ["config.json", "model.safetensors", "modeling.py", "optimizer.pt", "training_args.bin", "events.log"]
    for name in files:
        (tmp_path / name).write_bytes(b"content")
    state = {"global_step": 3, "best_metric": 0.5, "best_model_checkpoint": str(tmp_path / "checkpoint-1")}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    top = {operation.path_in_repo for operation in additions(tmp_path, with_state=False)}
    assert top == {"config.json", "model.safetensors", "modeling.py"}
    whole = {operation.path_in_repo: operation for operation in additions(tmp_path, with_state=True)}
    kept = ["config.json", "model.safetensors", "modeling.py", "optimizer.pt", "trainer_state.json"]
    assert set(whole) == top | {f"last-checkpoint/{name}" for name in [*kept, "manifest.json"]}
    with whole["last-checkpoint/trainer_state.json"].as_file() as stream:
        assert json.loads(stream.read()) == {**state, "best_model_checkpoint": None}
    for name in kept:  # what arrives is what its manifest says
        with whole["last-checkpoint/manifest.json"].as_file() as stream:
            wanted = json.loads(stream.read())["sha256"][name]
        with whole[f"last-checkpoint/{name}"].as_file() as stream:
            assert hashlib.sha256(stream.read()).hexdigest() == wanted


def test_a_file_that_is_not_taken_leaves_the_reason_and_the_command(tmp_path, monkeypatch, specs):
    def upload(*args, **kwargs):  # as huggingface_hub tells it
        raise RuntimeError("Error while uploading 'model.safetensors' to the Hub.") from ConnectionError("gone.")

    monkeypatch.setattr(hf_mtl.hub.upload, "published_card", lambda *args: "")
    monkeypatch.setattr(hf_mtl.hub.upload, "upload", upload)
    with pytest.raises(PushError, match=r"'user/demo' was not pushed: gone\. The.*hf-mtl push"):
        publish(tmp_path, CardFacts(repo_id="user/demo", tasks=specs), message="")


def test_a_push_that_fails_lets_the_training_go_on(tmp_path, caplog):
    push = CheckpointPusher()
    push._push = Future()
    push._push.set_exception(RuntimeError("Error while uploading 'model.safetensors' to the Hub."))
    push.wait()
    assert "Error while uploading" in caplog.text


@pytest.mark.parametrize(("always", "begun"), [(False, 1), (True, 2)])
def test_a_checkpoint_is_left_out_while_another_is_under_way(tmp_path, monkeypatch, always, begun):
    pushes = []
    monkeypatch.setattr(
        "hf_mtl.training.hub_sync.HfApi.create_commit", lambda self, **options: pushes.append(Future()) or pushes[-1]
    )
    push = CheckpointPusher()
    push.repo_id = "user/demo"
    args = MultiTaskTrainingArguments(
        output_dir="out", push_to_hub=True, hub_strategy="every_save", hub_always_push=always, use_cpu=True
    )
    monkeypatch.setattr(push, "wait", lambda: [each.set_result(None) for each in pushes])
    for _ in range(2):
        push.push(tmp_path, args)
        assert push.in_use() == tmp_path
    assert len(pushes) == begun
    push._push.set_result(None)
    assert push.in_use() is None


def test_old_checkpoints_go_when_nobody_reads_them(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=4, save_strategy="steps", save_steps=1, save_total_limit=1)
    reading = {2: "checkpoint-1", 3: "checkpoint-1"}
    trainer.pusher.in_use = lambda: tmp_path / "out" / reading.get(trainer.state.global_step, "none")
    left = {}

    class Look(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            left[state.global_step] = sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*"))

    trainer.add_callback(Look())
    trainer.train()
    assert left[2] == ["checkpoint-1", "checkpoint-2"] and left[3] == ["checkpoint-1", "checkpoint-3"]
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-4"]


def test_a_card_that_cannot_be_fetched_stops_the_push_with_the_facts_on_disk(tmp_path, monkeypatch, specs):
    def silent(*args, **kwargs):
        raise LocalEntryNotFoundError("no answer")

    def upload(*args, **kwargs):
        raise AssertionError("uploaded over a card that was not read")

    monkeypatch.setattr(hf_mtl.hub.upload, "hf_hub_download", silent)
    monkeypatch.setattr(hf_mtl.hub.upload, "upload", upload)
    with pytest.raises(PushError, match=r"no answer.*hf-mtl push"):
        publish(tmp_path, CardFacts(repo_id="user/demo", tasks=specs), message="")
    assert "| reviews |" in (tmp_path / "README.md").read_text()
