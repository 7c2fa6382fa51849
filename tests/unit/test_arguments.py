"""The command line: the recipe's defaults, files of arguments, flags over them, and what is refused."""

import json
import shlex

import pytest

from hf_mtl import InputError, MultiTaskTrainingArguments
from hf_mtl.training.argument_parser import parse_arguments
from hf_mtl.training.publishing import describe_setup
from hf_mtl.training.run import say_what_is_next


@pytest.fixture
def parse(tmp_path):
    """Arguments of a file's content, a mapping for JSON and text for YAML, and of flags."""

    def parse(content: str | dict, *flags: str):
        path = tmp_path / ("a.json" if isinstance(content, dict) else "a.yaml")
        path.write_text(json.dumps(content) if isinstance(content, dict) else content, encoding="utf-8")
        return parse_arguments([str(path), *flags, "--use_cpu"])

    return parse


@pytest.mark.parametrize(("pinned", "given", "non_blocking"), [
    (True, None, True), (False, None, False), (True, {"non_blocking": False}, False),
])  # fmt: skip
def test_batches_are_copied_without_waiting_from_pinned_memory_unless_said_otherwise(
    tmp_path, pinned, given, non_blocking
):
    args = MultiTaskTrainingArguments(output_dir=str(tmp_path), dataloader_pin_memory=pinned, accelerator_config=given)
    assert args.accelerator_config.non_blocking is non_blocking


def test_the_defaults_are_the_recipe():
    model, data, training = parse_arguments(["--use_cpu"])
    assert model.model_name_or_path == "sentence-transformers/all-mpnet-base-v2"
    assert (model.pooling, model.head_dropout, model.model_revision) == (None, None, "main")
    assert model.trust_remote_code is False
    assert (data.task_set, data.tasks, data.dataset_name, data.max_seq_length) == ("glue", ["sst2", "stsb"], None, 512)
    assert training.per_device_train_batch_size == 64
    assert training.num_train_epochs == 4
    assert (training.learning_rate, training.warmup_steps) == (2e-5, 100)
    assert training.lr_scheduler_type == "linear"
    assert training.optim == "adamw_torch_fused"
    assert training.optimizer is None
    assert (training.gradient_method, training.task_sampling) == ("pcgrad", "equal")
    assert training.unfreeze_schedule == "0:0,1:3,2:6"
    assert training.gradient_method_args == training.optimizer_args == {}
    assert not (training.do_train or training.do_eval or training.do_predict)


def test_training_evaluates_and_saves_every_epoch_and_prediction_alone_does_not():
    training = parse_arguments(["--use_cpu", "--do_train"])[2]
    assert (training.eval_strategy, training.save_strategy, training.do_eval) == ("epoch", "epoch", True)
    predicting = parse_arguments(["--use_cpu", "--do_predict", "--load_best_model_at_end"])[2]
    assert (predicting.eval_strategy, predicting.do_eval) == ("no", False)


def test_the_two_tasks_of_the_recipe_are_glues_only():
    assert parse_arguments(["--use_cpu", "--task_set", "demo"])[1].tasks is None
    assert parse_arguments(["--use_cpu", "--tasks", "rte", "cola"])[1].tasks == ["rte", "cola"]


YAML = """
    # a comment
    model_name_or_path: some/model
    tasks: [rte, cola]
    learning_rate: 2e-5
    unfreeze_schedule: 0:3
    model_revision: 1:30
    num_train_epochs: 3
    do_train: true
    do_predict: yes
    bf16: false
    head_dropout: 0.25
    run_name: null
    hub_model_id: ~
    data_seed:
    optimizer: lion
    optimizer_args: {betas: [9e-1, 0.98], maximize: True}
    gradient_method_args: '{"reduction": "mean"}'
    lr_scheduler_type: cosine_with_restarts
    lr_scheduler_kwargs:
      num_cycles: 2
"""
JSON = {
    "model_name_or_path": "some/model",
    "tasks": ["rte", "cola"],
    "learning_rate": 2e-5,
    "unfreeze_schedule": "0:3",
    "model_revision": "1:30",
    "num_train_epochs": 3,
    "do_train": True,
    "do_predict": True,
    "bf16": False,
    "head_dropout": 0.25,
    "run_name": None,
    "hub_model_id": None,
    "data_seed": None,
    "optimizer": "lion",
    "optimizer_args": {"betas": [9e-1, 0.98], "maximize": True},
    "gradient_method_args": '{"reduction": "mean"}',
    "lr_scheduler_type": "cosine_with_restarts",
    "lr_scheduler_kwargs": {"num_cycles": 2},
}


@pytest.mark.parametrize("content", [YAML, JSON], ids=["yaml", "json"])
def test_a_file_says_what_flags_would(parse, content):
    model, data, training = parse(content)
    assert (model.model_name_or_path, model.head_dropout) == ("some/model", 0.25)
    assert data.tasks == ["rte", "cola"]
    assert training.learning_rate == 2e-5
    assert (training.unfreeze_schedule, model.model_revision) == ("0:3", "1:30")
    assert training.num_train_epochs == 3
    assert (training.do_train, training.do_predict, training.bf16) == (True, True, False)
    assert (training.run_name, training.hub_model_id, training.data_seed) == (None, None, None)
    assert training.optimizer == "lion"
    wanted = {"betas": [0.9, 0.98], "maximize": True}
    assert training.optimizer_args == wanted
    assert training.gradient_method_args == {"reduction": "mean"}
    assert training.lr_scheduler_kwargs == {"num_cycles": 2}


@pytest.mark.parametrize("content", [YAML, JSON], ids=["yaml", "json"])
def test_a_flag_overrides_the_file(parse, content):
    flags = ["--learning_rate", "1e-3", "--tasks", "sst2", "--do_train=false", "--optimizer_args", "{}"]
    model, data, training = parse(content, *flags)
    assert training.learning_rate == 1e-3
    assert data.tasks == ["sst2"]
    assert training.do_train is False
    assert training.optimizer_args == {}
    assert (training.unfreeze_schedule, model.model_revision) == ("0:3", "1:30")


def test_a_flag_whose_value_ends_like_a_file_is_no_file():
    assert parse_arguments(["--task_set=mine.yaml", "--use_cpu"])[1].task_set == "mine.yaml"


@pytest.mark.parametrize("value", ["true", "True", "yes"])
def test_booleans_of_yaml_are_true(parse, value):
    assert parse(f"do_train: {value}\n")[2].do_train is True


@pytest.mark.parametrize("value", ["false", "False", "no"])
def test_booleans_of_yaml_are_false(parse, value):
    assert parse(f"do_train: {value}\n")[2].do_train is False


@pytest.mark.parametrize("content", ["seed: null\n", "seed:\n", {"seed": None}])
def test_null_for_an_argument_that_takes_none_is_refused_and_not_ignored(parse, content):
    with pytest.raises(InputError, match="seed is null; give a value, or leave the line out"):
        parse(content)


@pytest.mark.parametrize("content", ["learning_rat: 1\n", {"learning_rat": 1}])
def test_an_unknown_key_names_its_file_and_the_closest(parse, content):
    with pytest.raises(InputError, match=r"a\.(yaml|json)': 'learning_rat' \(did you mean 'learning_rate'\?\)"):
        parse(content)


@pytest.mark.parametrize("flags", [["--learning_rat", "1"], ["--learning_rat=1e-5"], ["--do_train", "--learning_rat"]])
def test_an_unknown_flag_names_the_closest(flags):
    with pytest.raises(InputError, match=r"'--learning_rat' \(did you mean '--learning_rate'\?\)"):
        parse_arguments([*flags, "--use_cpu"])


@pytest.mark.parametrize(
    "flags, problem",
    [
        (["--learning_rate", "fast"], "--learning_rate.*'fast'"),
        (["--do_train", "--eval_strategy", "epochs"], "epochs"),
        (["--do_train", "maybe"], "maybe"),
        (["--tasks"], "--tasks"),
        (["--max_seq_length", "4"], "max_seq_length is 4, wanted at least 8"),
        (["--do_train", "--load_best_model_at_end", "--save_strategy", "steps"], "load_best_model_at_end"),
        (["--gradient_method", "pcgard"], "unknown gradient_method 'pcgard'.*'pcgrad'"),
        (
            ["--gradient_method", "cagrad", "--gradient_method_args", '{"radios": 1}'],
            "cagrad': 'radios'; choose from: c",
        ),
        (["--unfreeze_schedule", "0:0;1:3"], "unfreeze_schedule '0:0;1:3' cannot be read"),
        (["--task_sampling", "equals"], "unknown task_sampling 'equals'.*'equal'"),
        (["--task_sampling", "temperature"], "'temperature' needs 'temperature' in task_sampling_args"),
        (["--task_sampling", "capped", "--task_sampling_args", '{"cop": 2}'], "capped': 'cop'"),
        (["--optimizer", "lionn"], "unknown optimizer 'lionn'.*'lion'"),
        (["--do_train=true", "sst2"], "'sst2' belongs to no flag"),
        (["sst2", "--do_train"], "'sst2' belongs to no flag"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_its_flag(flags, problem):
    with pytest.raises(InputError, match=problem):
        parse_arguments([*flags, "--use_cpu"])


@pytest.mark.parametrize(
    "name, content", [("a.yaml", "a: [1"), ("a.yaml", "- 1"), ("a.yaml", ""), ("a.json", "{a: 1}"), ("a.yml", None)]
)
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=f"argument file .*{name}"):
        parse_arguments([str(tmp_path / name)])


@pytest.mark.parametrize("text", ["[1]", "{reduction: mean}", "mean", "3"])
@pytest.mark.parametrize("name", ["gradient_method_args", "optimizer_args", "task_sampling_args", "loss_weights"])
def test_options_that_are_no_json_object_are_refused(name, text):
    with pytest.raises(InputError, match=f"{name} .* is no JSON"):
        parse_arguments([f"--{name}", text, "--use_cpu"])


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"unfreeze_schedule": None}, "unfreeze_schedule None"),
        ({"optimizer_args": 3}, "optimizer_args .* no JSON"),
    ],
)
def test_arguments_that_are_no_text_are_refused(tmp_path, given, problem):
    with pytest.raises(InputError, match=problem):
        MultiTaskTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **given)


def test_help_says_what_the_arguments_mean(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "How the tasks' gradients are combined: aligned_mtl, cagrad",
        "Peak learning rate.",
        "equal, proportional",
    ):
        assert words in text


@pytest.mark.parametrize("half, told", [({}, "fp32, 42"), ({"bf16": True}, "bf16, 42"), ({"fp16": True}, "fp32, 42")])
def test_the_setup_tells_the_precision_that_a_cpu_computes_in(make_arguments, make_model, half, told):
    assert describe_setup(make_arguments(**half), make_model().config, 1, 8)["precision, seed"] == told


def test_the_commands_that_a_run_prints_can_be_pasted(tmp_path, capsys):
    out, task_set = str(tmp_path / "my out"), "my tasks.yaml"
    flags = ["--output_dir", out, "--do_train", "--task_set", task_set, "--tasks", "a b", "c", "--dataset_name", "x y"]
    _, data, args = parse_arguments(flags)
    say_what_is_next(args, data, "hf-mtl train")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("predict: ")]
    words = shlex.split(line)
    assert words[words.index("--output_dir") + 1] == words[words.index("--model_name_or_path") + 1] == out
    assert words[words.index("--task_set") + 1] == task_set and words[words.index("--dataset_name") + 1] == "x y"
    assert words[words.index("--tasks") + 1 :][:2] == ["a b", "c"]


def test_what_is_refused_later_is_not_offered():
    with pytest.raises(InputError, match=r"unknown hub_strategy 'never'.*; choose from: checkpoint, end, every_save$"):
        parse_arguments(["--output_dir", "out", "--hub_strategy", "never"])


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--optim", "sgd"], "optim 'sgd' .default 'adamw_torch_fused'.;"),
        (
            ["--adam_beta2", "0.98", "--optim_args", "a=1"],
            "optim_args 'a=1' .*, adam_beta2 0.98 .default 0.999.; leave",
        ),
    ],
)
def test_arguments_of_another_optimizer_are_refused(flags, named):
    with pytest.raises(InputError, match=f"optimizer is 'lion', and these would not act on it: {named}"):
        parse_arguments(["--use_cpu", "--optimizer", "lion", *flags])
    parse_arguments(["--use_cpu", *flags])
    parse_arguments(["--use_cpu", "--optimizer", "lion", "--adam_beta1", "0.9"])


def test_options_in_a_file_go_with_the_choice_that_they_are_of(parse):
    stock = {"adam_beta2": 0.98, "optim_args": "a=1"}
    args = parse(stock, "--optimizer", "lion")[2]
    assert (args.optimizer, args.adam_beta2, args.optim_args) == ("lion", 0.999, None)
    args = parse(stock, "--learning_rate", "1e-4")[2]
    assert (args.adam_beta2, args.optim_args) == (0.98, "a=1")
    named = {"optimizer": "lion", "optimizer_args": {"betas": [0.9, 0.98]}}
    assert parse(named, "--optimizer=lion")[2].optimizer_args == named["optimizer_args"]
    args = parse(named, "--optim", "sgd")[2]
    assert (args.optim, args.optimizer, args.optimizer_args) == ("sgd", None, {})
    method = {"gradient_method": "cagrad", "gradient_method_args": {"c": 0.2}}
    assert parse(method, "--gradient_method", "sum")[2].gradient_method_args == {}
