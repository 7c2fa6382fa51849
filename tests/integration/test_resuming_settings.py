"""A resumed run whose settings are others: each is refused, kept, or applied, and the last two are said."""

import dataclasses
import json
import re
import shutil

import pytest
import torch
from transformers import BertConfig, BertModel

from hf_mtl import InputError, MultiTaskTrainer, MultiTaskTrainingArguments, load_model
from hf_mtl.training.checkpoints import write_manifest
from hf_mtl.training.resuming import APPLIED, KEPT, REFUSED

RUN = {
    "do_train": True,
    "use_cpu": True,
    "disable_tqdm": True,
    "max_steps": 3,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-3,
    "warmup_steps": 1,
    "unfreeze_schedule": "none",
    "eval_strategy": "no",
    "save_strategy": "steps",
    "save_steps": 2,
    "logging_steps": 1,
    "weight_decay": 0.01,
}

MEASURED = {"eval_strategy": "steps", "eval_steps": 2, "train_metric_rows": 0}


@pytest.fixture(scope="module")
def start(tmp_path_factory, specs, rows, tokenizer):
    """Trains, or builds to go on, from a small BERT in a folder of its own; keywords go to model and arguments."""
    folder = tmp_path_factory.mktemp("start")

    def encoder(seed: int, hidden_size: int):
        path = folder / f"encoder-{seed}-{hidden_size}"
        if not path.exists():
            torch.manual_seed(seed)
            sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
            config = BertConfig(vocab_size=len(tokenizer), hidden_size=hidden_size, **sizes)
            BertModel(config, add_pooling_layer=False).save_pretrained(path)
        return path

    def trainer(output_dir, *, tasks=None, seed=0, hidden_size=16, limit=64, model=None, **settings):
        tasks = tasks or specs
        of_the_model = {name: settings.pop(name) for name in ("pooling", "head_dropout") if name in settings}
        path = str(model or encoder(seed, hidden_size))
        model = load_model(path, [spec.head for spec in tasks], **of_the_model)
        model.config.max_seq_length = limit
        args = MultiTaskTrainingArguments(output_dir=str(output_dir), **{**RUN, **settings})
        scored = {name: part.select(range(4)) for name, part in rows["validation"].items()}
        return MultiTaskTrainer(model, args, tasks, rows["train"], scored, tokenizer)

    whole = trainer(folder / "whole")
    whole.train()
    return trainer, folder / "whole" / "checkpoint-2", whole


@pytest.fixture
def go_on(start, tmp_path, caplog):
    """Resumes the run of `start` with other settings; gives the trainer and what was said."""
    trainer, checkpoint, _ = start

    def resume(checkpoint=checkpoint, **settings):
        again = trainer(tmp_path / "again", **settings)
        with caplog.at_level("WARNING", logger="hf_mtl"):
            again.train(resume_from_checkpoint=str(checkpoint))
        return again, [m for m in caplog.messages if m.startswith(("kept", "changed", "resumed"))]

    return resume


def without_settings(checkpoint, folder):
    """A copy of a checkpoint as version 0.1.0 saved it."""
    old = shutil.copytree(checkpoint, folder / "checkpoint-2")
    (old / "settings.json").unlink()
    write_manifest(old)
    return old


def same_weights(one, other):
    others = other.model.state_dict()
    return all(torch.equal(value, others[name]) for name, value in one.model.state_dict().items())


def rates(trainer):
    return [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]


def test_every_setting_has_one_outcome():
    assert len({*REFUSED, *KEPT, *APPLIED}) == len(REFUSED) + len(KEPT) + len(APPLIED)


@pytest.mark.parametrize("old", [False, True])
def test_unchanged_it_ends_bit_equal_and_says_nothing(start, go_on, tmp_path, old):
    _, checkpoint, whole = start
    again, said = go_on(without_settings(checkpoint, tmp_path) if old else checkpoint)
    assert same_weights(again, whole) and not said
    assert not any(name.startswith("changed") for name in again.publisher.card_facts(again.record()).setup)


def test_a_checkpoint_may_be_the_model_that_the_run_begins_with(start, go_on):
    _, checkpoint, whole = start
    again, said = go_on(model=checkpoint)
    assert same_weights(again, whole) and not said


@pytest.mark.parametrize("old", [False, True], ids=["with settings", "of version 0.1.0"])
@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"hidden_size": 32}, "another encoder: hidden_size was 16 and is 32"),
        ({"pooling": "cls"}, "pooling was mean and is cls"),
        ({"optim": "sgd"}, "another optimizer: SGD needs|optimizer class was torch.*AdamW and is torch.*SGD"),
        ({"optimizer": "lion"}, "another optimizer: Lion needs|optimizer class was torch.*AdamW and is .*Lion"),
        ({"gradient_method": "gradvac"}, "holds no state of gradient_method 'gradvac'"),
    ],
)
def test_what_the_state_has_no_meaning_for_is_refused(start, go_on, tmp_path, changed, named, old):
    checkpoint = without_settings(start[1], tmp_path) if old else start[1]
    with pytest.raises(InputError, match=named):
        go_on(checkpoint, **changed)
    assert not list((tmp_path / "again").glob("checkpoint-*"))


def test_other_weights_of_the_same_shape_are_another_encoder(go_on):
    with pytest.raises(InputError, match="the same kind of encoder with other weights at the start"):
        go_on(seed=1)


def test_a_head_with_other_labels_is_refused(go_on, specs):
    reviews, pairs = specs
    other = [dataclasses.replace(reviews, labels=reviews.labels[::-1]), pairs]
    with pytest.raises(InputError, match=r"the head of task 'reviews' as .*found"):
        go_on(tasks=other)


def test_a_default_of_a_head_that_is_written_out_goes_on_as_before(start, go_on, specs):
    reviews, pairs = specs
    same = [dataclasses.replace(reviews, pooling="mean"), dataclasses.replace(pairs, loss="mse", pair_encoding="joint")]
    again, said = go_on(tasks=same)
    assert same_weights(again, start[2]) and not said


def test_another_metric_is_refused_where_a_best_one_was_measured_by_it(start, go_on, tmp_path):
    trainer = start[0]
    trainer(tmp_path / "first", **MEASURED).train()
    with pytest.raises(InputError, match="metric_for_best_model was eval_average and is eval_loss"):
        go_on(tmp_path / "first" / "checkpoint-2", **MEASURED, metric_for_best_model="eval_loss")
    go_on(metric_for_best_model="eval_loss")  # nothing was measured there


def by_rank(specs):
    """The tasks, pairs with another main metric."""
    return [specs[0], dataclasses.replace(specs[1], main_metric="spearman")]


@pytest.mark.parametrize("changed", ["main metric", "scored tasks"])
def test_other_main_metrics_are_refused_where_a_best_one_was_measured(start, tmp_path, specs, changed):
    trainer = start[0]
    trainer(tmp_path / "out", **MEASURED).train()
    again = trainer(tmp_path / "out", tasks=by_rank(specs) if changed == "main metric" else None, **MEASURED)
    if changed == "scored tasks":
        again.settings.scored = ["reviews"]
    with pytest.raises(InputError, match=r"other settings: main metrics was \{.*\} and is \{"):
        again.train(resume_from_checkpoint=True)
    old = tmp_path / "out" / "checkpoint-2"
    content = json.loads((old / "settings.json").read_text())
    del content["settings"]["main metrics"]
    (old / "settings.json").write_text(json.dumps(content))
    write_manifest(old)
    again.train(resume_from_checkpoint=str(old))


def test_other_main_metrics_go_on_where_nothing_was_or_is_measured(start, go_on, tmp_path, specs):
    again, _ = go_on(tasks=by_rank(specs), **MEASURED)
    assert again.state.global_step == 3
    start[0](tmp_path / "out", **MEASURED).train()
    unmeasured = start[0](tmp_path / "out", tasks=by_rank(specs))
    unmeasured.settings.scored = []
    unmeasured.train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"learning_rate": 0.01}, r"learning_rate 0.001 \(asked for: 0.01\)"),
        ({"lr_scheduler_type": "constant"}, r"lr_scheduler_type linear \(asked for: constant\)"),
        ({"lr_scheduler_type": "cosine", "warmup_steps": 0}, "linear .*warmup_steps 1"),
        ({"adam_beta1": 0.5, "adam_epsilon": 1e-3}, r"adam_beta1 0.9 .*adam_epsilon 1e-08 \(asked for: 0.001\)"),
    ],
)
def test_rate_schedule_and_the_optimizers_options_are_kept_and_said(start, go_on, changed, said):
    whole = start[2]
    again, (line,) = go_on(**changed)
    assert re.search(f"^kept from the checkpoint: .*{said}", line)
    assert same_weights(again, whole) and rates(again) == rates(whole)
    assert (
        again.publisher.card_facts(again.record()).setup == whole.publisher.card_facts(whole.record()).setup
    )  # which tells what was used


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"head_dropout": 0.5}, "head_dropout was 0.1 and is 0.5"),
        ({"weight_decay": 0.5}, "weight_decay was 0.01 and is 0.5"),
        ({"loss_weights": '{"pairs": 3}'}, 'loss weights was .*"pairs": 1.0} and is .*"pairs": 3}'),
        ({"limit": 32}, "max_seq_length was 64 and is 32"),
        ({"gradient_method": "sum"}, "gradient_method was pcgrad and is sum"),
        ({"max_grad_norm": 0.01}, "max_grad_norm was 1.0 and is 0.01"),
    ],
)
def test_the_rest_applies_and_is_said_in_log_and_card(start, go_on, changed, said):
    again, (line,) = go_on(**changed)
    assert re.search(f"^changed from step 2 on: {said}$", line)
    assert re.search(said, again.publisher.card_facts(again.record()).setup["changed at step 2"])
    assert same_weights(again, start[2]) is ("limit" in changed)  # rows are short


def test_weight_decay_acts_on_what_decays(go_on):
    again, _ = go_on(weight_decay=0.5)
    assert [group["weight_decay"] for group in again.optimizer.param_groups] == [0.5, 0.0]


def test_a_longer_run_follows_its_schedule_over_all_of_its_steps(go_on):
    again, (line,) = go_on(max_steps=5)
    assert line == "changed from step 2 on: max_steps was 3 and is 5"
    assert again.state.global_step == 5
    assert rates(again)[3:] == pytest.approx([0.5e-3, 0.25e-3])  # the rate of the next step lies in the checkpoint


def test_changes_are_told_after_a_further_resume_too(go_on, tmp_path):
    go_on(head_dropout=0.5, max_steps=4)
    again, _ = go_on(tmp_path / "again" / "checkpoint-4", head_dropout=0.2, max_steps=5)
    setup = again.publisher.card_facts(again.record()).setup
    assert "head_dropout was 0.1 and is 0.5" in setup["changed at step 2"]
    assert "head_dropout was 0.5 and is 0.2" in setup["changed at step 4"]


def test_steps_between_saves_and_lines_are_those_asked_for(go_on, tmp_path):
    again, _ = go_on(save_steps=1, logging_steps=3, max_steps=4)
    assert sorted(path.name for path in (tmp_path / "again").glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]
    assert [row["step"] for row in again.state.log_history if "loss" in row] == [1, 2, 3]


def test_a_checkpoints_settings_name_no_folder(start):
    text = (start[1] / "settings.json").read_text()
    assert str(start[1].parents[1]) not in text and "/" not in json.dumps(json.loads(text)["settings"])
