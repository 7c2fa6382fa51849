"""Every argument that a run cannot use is one sentence that names it, from flags, YAML, JSON and Python."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_mtl import InputError, MultiTaskTrainingArguments
from hf_mtl.data.task_rows import TaskRows
from hf_mtl.training.argument_checks import NUMBERS, TRACKERS
from hf_mtl.training.argument_parser import parse_arguments

UNUSABLE = {
    "gradient_accumulation_steps": [0, -1],
    "per_device_train_batch_size": [0, -8],
    "per_device_eval_batch_size": [0],
    "eval_accumulation_steps": [0],
    "max_bad_steps": [0, -1],
    "early_stopping_patience": [0, -1],
    "save_total_limit": [-1],
    "train_metric_rows": [-1],
    "torch_empty_cache_steps": [0],
    "ddp_bucket_cap_mb": [0],
    "ddp_timeout": [0],
    "dataloader_num_workers": [-1],
    "dataloader_prefetch_factor": [0],
    "seed": [-1, 2**32],
    "data_seed": [-1, 2**32],
    "max_steps": [0, -2],
    "num_train_epochs": [0, -1, "nan", "inf"],
    "logging_steps": [0, -1, 1.5, "nan"],
    "eval_steps": [0, -1, 2.5],
    "save_steps": [0, -1, "inf"],
    "eval_delay": [-1, "nan"],
    "learning_rate": [-1e-5, "nan", "inf"],
    "weight_decay": [-0.1, "nan"],
    "max_grad_norm": [-1, "nan", "inf"],
    "warmup_steps": [-1, "nan", "inf"],
    "adam_beta1": [1, -0.1, "nan"],
    "adam_beta2": [1, "nan"],
    "adam_epsilon": [-1e-8, "nan"],
    "neftune_noise_alpha": [0, "nan"],
    "layer_lr_decay": [0, -0.5, 1.1, "nan"],
    "soup": [1, -1],
    "ema_decay": [1, -0.1, "nan"],
    "head_lr_multiplier": [0, -1, "nan", "inf"],
    "head_dropout": [1, -0.1, "nan"],
    "max_seq_length": [7, 0, -1],
}
ON = ["--use_cpu", "--do_train", "--eval_strategy", "steps", "--save_strategy", "steps"]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in UNUSABLE.items() for value in values])
def test_a_number_that_cannot_be_used_names_its_flag(tmp_path, name, value):
    with pytest.raises(InputError, match=f"{name} is .*, wanted"):
        parse_arguments([f"--{name}={value}", *ON])
    (tmp_path / "a.yaml").write_text(f"{name}: {value}\n")
    with pytest.raises(InputError, match=f"{name} is .*, wanted"):
        parse_arguments([str(tmp_path / "a.yaml"), *ON])


def test_every_number_is_tried():
    assert NUMBERS.keys() | {"logging_steps", "eval_steps", "save_steps"} == UNUSABLE.keys() - {
        "head_dropout",
        "max_seq_length",
    }


NUMBER = st.one_of(st.integers(-3, 10), st.floats(-2, 2), st.sampled_from([float("nan"), float("inf"), 2**31, 2**32]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([*NUMBERS, "logging_steps", "eval_steps", "save_steps"]), value=NUMBER)
def test_any_number_is_taken_or_refused_by_name(tmp_path, name, value):
    given = {"do_train": True, "use_cpu": True, "eval_strategy": "steps", "save_strategy": "steps", name: value}
    if name == "dataloader_prefetch_factor":
        given["dataloader_num_workers"] = 1
    try:
        assert getattr(MultiTaskTrainingArguments(output_dir=str(tmp_path), **given), name) == value
    except InputError as error:
        assert name in str(error)


@pytest.mark.parametrize("name", ["seed", "data_seed"])
def test_the_largest_seed_is_one(name):
    parse_arguments(["--use_cpu", f"--{name}", str(2**32 - 1)])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eval_strategy", "epochs"),
        ("save_strategy", "bets"),
        ("logging_strategy", "step"),
        ("hub_strategy", "evry_save"),
        ("lr_scheduler_type", "linaer"),
        ("optim", "adamv"),
        ("include_num_input_tokens_seen", "padded"),
        ("report_to", "tensorbord"),
        ("pooling", "meen"),
        ("debug", "overflow"),
        ("log_level", "loud"),
    ],
)
def test_a_name_that_is_none_names_its_flag(tmp_path, name, value):
    with pytest.raises(InputError, match=f"{name}|DebugOption"):
        parse_arguments([*ON, f"--{name}={value}"])
    if name in MultiTaskTrainingArguments.__dataclass_fields__ and name not in ("debug", "log_level"):
        with pytest.raises(InputError, match=f"unknown {name} '{value}'.*choose from"):
            MultiTaskTrainingArguments(output_dir=str(tmp_path), use_cpu=True, do_train=True, **{name: value})


@pytest.mark.parametrize(
    ("kind", "text", "named"),
    [
        ("linear", '{"num_cycles": 2}', "'linear' .*num_cycles"),
        ("polynomial", '{"power": "much"}', "'polynomial' with lr_scheduler_kwargs .*much"),
        ("constant", '{"factor": 2}', "'constant' takes no options, found"),
        ("warmup_stable_decay", "{}", "num_decay_steps"),
        ("cosine_with_min_lr", "{}", "min_lr"),
        ("reduce_lr_on_plateau", '{"factor": 2}', "[Ff]actor"),
        ("greedy", '{"smoothe": true}', "smoothe"),
        ("linear", "{", "lr_scheduler_kwargs '{' is no JSON"),
        ("linear", "num_cycles=2", "lr_scheduler_kwargs 'num_cycles=2' is no JSON"),
        ("linear", "[1]", r"lr_scheduler_kwargs '\[1\]' is no JSON object"),
        ("cosine", '{"num_cycles": 1, "num_cycles": 2}', "'num_cycles' is there twice"),
    ],
)
def test_options_of_a_schedule_are_tried_before_anything_is_loaded(kind, text, named):
    with pytest.raises(InputError, match=named):
        parse_arguments([*ON, "--lr_scheduler_type", kind, "--lr_scheduler_kwargs", text])


@pytest.mark.parametrize("text", ["{", "no/such/file", '{"split_batch": true}'])
def test_other_options_of_the_trainer_are_read_or_refused(text):
    with pytest.raises(InputError, match=r"accelerator_config|split_batch"):
        parse_arguments(["--use_cpu", "--accelerator_config", text])


# ---- a key or a flag that is there twice ----


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "learning_rate: 1e-5\nseed: 1\nlearning_rate: 1e-4\n"),
        ("a.yml", "optimizer_args: {weight_decay: 0.1, weight_decay: 0.2}\n"),
        ("a.yaml", "optimizer_args:\n  betas: [0.9, 0.98]\n  eps: 1\n  eps: 2\n"),
        ("a.json", '{"learning_rate": 1e-5, "learning_rate": 1e-4}'),
        ("a.json", '{"optimizer_args": {"eps": 1, "eps": 2}}'),
    ],
)
def test_a_key_twice_is_refused_with_the_file(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=rf"{name}' cannot be read: '(learning_rate|weight_decay|eps)' is there twice"):
        parse_arguments([str(tmp_path / name), "--use_cpu"])


@pytest.mark.parametrize("name", ["gradient_method_args", "optimizer_args", "task_sampling_args", "loss_weights"])
def test_a_key_twice_in_options_is_refused(name):
    with pytest.raises(InputError, match=f"{name} .*'a' is there twice"):
        parse_arguments([f"--{name}", '{"a": 1, "a": 2}', "--use_cpu"])


@pytest.mark.parametrize(
    "flags",
    [
        ["--seed", "1", "--seed", "2"],
        ["--seed=1", "--seed", "2"],
        ["--seed", "1", "--tasks", "sst2", "--seed", "1"],
        ["--do-train", "--do_train"],
        ["--enable_jit_checkpoint", "--no_enable_jit_checkpoint"],
    ],
)
def test_of_a_flag_twice_the_last_value_holds_which_is_said(flags, caplog):
    with caplog.at_level("WARNING", logger="hf_mtl"):
        parse_arguments([*flags, "--use_cpu"])
    (line,) = caplog.messages
    assert line.startswith("--") and line.endswith("is given more than once; the last value holds")


def test_a_flag_over_a_file_is_not_twice(tmp_path, caplog):
    (tmp_path / "a.yaml").write_text("seed: 1\n")
    with caplog.at_level("WARNING", logger="hf_mtl"):
        assert parse_arguments([str(tmp_path / "a.yaml"), "--seed", "2", "--use_cpu"])[2].seed == 2
    assert not caplog.messages


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_file_that_is_nested_without_end_is_refused(tmp_path, suffix):
    (tmp_path / f"a.{suffix}").write_text("[" * 100_000)
    with pytest.raises(InputError, match="cannot be read"):
        parse_arguments([str(tmp_path / f"a.{suffix}")])


# ---- data loaders and memory ----

has_contexts = pytest.mark.skipif(
    not hasattr(MultiTaskTrainingArguments, "dataloader_multiprocessing_context"), reason="transformers 5.17"
)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataloader_persistent_workers"], "dataloader_persistent_workers is True, and dataloader_num_workers is 0"),
        pytest.param(
            ["--dataloader_multiprocessing_context", "spawn"],
            "dataloader_multiprocessing_context is 'spawn', and",
            marks=has_contexts,
        ),
    ],
)
def test_what_workers_have_wants_workers(flags, message):
    with pytest.raises(InputError, match=message):
        parse_arguments(["--use_cpu", *flags])


@has_contexts
def test_an_unknown_way_to_start_workers_is_named_in_python_too(make_arguments):
    with pytest.raises(InputError, match=r"dataloader_multiprocessing_context 'spwan' .did you mean 'spawn'"):
        make_arguments(dataloader_multiprocessing_context="spwan", dataloader_num_workers=1)


@has_contexts
def test_loaders_have_what_was_asked_for(make_trainer, rows):
    workers = {"dataloader_num_workers": 1, "dataloader_multiprocessing_context": "spawn"}
    trainer = make_trainer(**workers, dataloader_in_order=False, dataloader_persistent_workers=True)
    train, scored = trainer.get_train_dataloader(), trainer.get_eval_dataloader(TaskRows(rows["validation"]))
    for loader in (train, scored):
        assert loader.multiprocessing_context.get_start_method() == "spawn"
    assert (train.in_order, train.persistent_workers) == (False, True)
    assert scored.in_order and not scored.persistent_workers


def test_the_devices_cache_is_emptied_as_asked_for(make_trainer, monkeypatch):
    emptied = []
    monkeypatch.setattr("hf_mtl.training.trainer.clear_device_cache", lambda: emptied.append(1))
    make_trainer(torch_empty_cache_steps=2, max_steps=4, gradient_accumulation_steps=2).train()
    assert len(emptied) == 4  # both micro-batches of steps 0 and 2


# ---- trackers ----


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed_is_named_with_its_package(monkeypatch, name):
    monkeypatch.setattr("hf_mtl.training.argument_checks._is_installed", lambda module: False)
    with pytest.raises(
        InputError, match=f"report_to is '{name}', which is not installed; pip install {TRACKERS[name][1]}"
    ):
        parse_arguments(["--use_cpu", "--report_to", name])


def test_trackers_that_are_there_and_none_are_taken(monkeypatch, make_arguments):
    parse_arguments(["--use_cpu", "--report_to", "none"])
    monkeypatch.setattr("hf_mtl.training.argument_checks._is_installed", lambda module: True)
    assert parse_arguments(["--use_cpu", "--report_to", "wandb"])[2].report_to == ["wandb"]
    assert make_arguments(report_to=["wandb", "mlflow"]).report_to == ["wandb", "mlflow"]


def test_an_optimizer_that_is_not_installed_is_named_with_its_package(make_trainer, monkeypatch):
    monkeypatch.setattr("transformers.trainer_optimizer.is_bitsandbytes_available", lambda: False)
    with pytest.raises(InputError, match=r"optim is 'adamw_bnb_8bit': .*bitsandbytes"):
        make_trainer(optim="adamw_bnb_8bit")


# ---- tokens ----


def real_tokens(trainer, steps, count):
    batches = iter(trainer.get_train_dataloader())
    return sum(count(batch) for _ in range(steps) for batch in next(batches).values())


@pytest.mark.parametrize(
    ("flag", "count"),
    [
        ("all", lambda batch: batch["input_ids"].numel()),
        (True, lambda batch: batch["input_ids"].numel()),
        ("non_padding", lambda batch: int(batch["attention_mask"].sum())),
    ],
)
def test_tokens_of_all_tasks_are_counted_over_a_resume_too(make_trainer, tmp_path, flag, count):
    run = {"include_num_input_tokens_seen": flag, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    run["gradient_accumulation_steps"] = 2
    trainer = make_trainer(**run)
    trainer.train()
    wanted = real_tokens(trainer, 8, count)
    assert trainer.state.num_input_tokens_seen == wanted > 0
    seen = [row["num_input_tokens_seen"] for row in trainer.state.log_history if "loss" in row]
    assert seen[-1] == wanted and seen == sorted(set(seen))
    assert trainer.args.include_num_input_tokens_seen == ("all" if flag is True else flag)
    again = make_trainer(**run)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert again.state.num_input_tokens_seen == wanted


def test_without_the_flag_nothing_is_counted(make_trainer):
    trainer = make_trainer(max_steps=1)
    trainer.train()
    assert not any("num_input_tokens_seen" in row for row in trainer.state.log_history)


def test_two_processes_count_the_tokens_of_both(tmp_path):
    from worker_runs import launch

    run = {
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "include_num_input_tokens_seen": "all",
        "save_strategy": "no",
    }
    run |= {"unfreeze_schedule": "none", "save_strategy": "steps", "save_steps": 2}
    counted = {}
    for processes in (1, 2):
        done = launch(tmp_path, f"p{processes}", processes, **run, gradient_accumulation_steps=3 - processes)
        assert done.returncode == 0, done.stderr[-3000:]
        state = json.loads((tmp_path / f"p{processes}" / "checkpoint-2" / "trainer_state.json").read_text())
        counted[processes] = state["num_input_tokens_seen"]
    assert counted[1] == counted[2] > 0
