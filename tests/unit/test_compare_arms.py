"""An arm is the recipe with a few arguments changed; what cannot be one is refused before anything runs."""

import pytest
import yaml

from hf_mtl import InputError
from hf_mtl.compare.arms import check_arm_names, joint_arguments, parse_arms, parse_seeds, single_arguments
from hf_mtl.compare.runs import digest_of, list_runs, make_arm
from hf_mtl.training.argument_files import file_values
from hf_mtl.training.argument_parser import flag_values, parse_arguments

DEMO = {"model_name_or_path": "embedded:demo", "task_set": "demo", "max_steps": "20", "use_cpu": "true"}
TASKS = ("reviews", "pairs")


@pytest.mark.parametrize(
    ("text", "seeds"), [("1-5", [1, 2, 3, 4, 5]), ("1,2,7", [1, 2, 7]), ("1-3, 7,2", [1, 2, 3, 7]), ("0", [0])]
)
def test_seeds_are_numbers_and_ranges(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "5-1", "1..3", "1,,2", "1.5", "4294967296", "0-4294967295"])
def test_other_seeds_are_refused(text):
    with pytest.raises(InputError, match="wanted numbers from 0 to 4294967295, or ranges"):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sum", "wanted two arms or more"),
        ("", "has the arm ''"),
        ("sum,sum", "has 'sum' twice"),
        ("sum,../x", r"has the arm '../x'"),
        ("sum,compare.json", "has the arm 'compare.json'"),
    ],
)
def test_arms_that_are_no_comparison_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_arms(text)


def test_an_unknown_arm_is_told_with_the_nearest_name_and_the_list():
    with pytest.raises(InputError, match=r"unknown arm 'singel' \(did you mean 'single'\?\); .*pcgrad.*single.*slow"):
        check_arm_names(["sum", "singel"], {"slow": {}})


def test_a_methods_arm_leaves_the_options_of_the_recipes_method():
    recipe = {**DEMO, "gradient_method": "cagrad", "gradient_method_args": {"c": 0.2}}
    assert joint_arguments("cagrad", recipe, {}) == recipe
    assert joint_arguments("sum", recipe, {}) == {**DEMO, "gradient_method": "sum"}
    pcgrad = {**DEMO, "gradient_method_args": {"reduction": "mean"}}  # pcgrad is the default
    assert joint_arguments("pcgrad", pcgrad, {})["gradient_method_args"] == {"reduction": "mean"}
    blocks = {"sum": {"learning_rate": "1e-4"}, "slow": {"learning_rate": "1e-5"}}
    assert joint_arguments("sum", DEMO, blocks) == {**DEMO, "gradient_method": "sum", "learning_rate": "1e-4"}
    assert joint_arguments("slow", recipe, blocks) == {**recipe, "learning_rate": "1e-5"}


@pytest.mark.parametrize(
    ("choice", "value", "other"),
    [("task_sampling", "temperature", "uniform"), ("optimizer", "lion", "adamw"), ("optimizer", "lion", None)],
)
def test_an_arm_leaves_the_options_of_what_it_does_not_choose(choice, value, other):
    recipe = {**DEMO, choice: value, f"{choice}_args": {"x": 1}}
    assert joint_arguments("arm", recipe, {"arm": {"weight_decay": 0.1}})[f"{choice}_args"] == {"x": 1}
    assert joint_arguments("arm", recipe, {"arm": {choice: other}}) == {**DEMO, choice: other}
    own = {choice: other, f"{choice}_args": {"y": 2}}
    assert joint_arguments("arm", recipe, {"arm": own}) == {**DEMO, **own}


def test_an_arm_with_another_optimizer_leaves_all_that_is_of_the_recipes():
    stock = {**DEMO, "optim": "adamw_torch", "optim_args": "a=1", "adam_beta2": 0.98}
    assert joint_arguments("arm", stock, {"arm": {"optimizer": "lion"}}) == {**DEMO, "optimizer": "lion"}
    assert joint_arguments("arm", stock, {"arm": {"optim": "sgd"}}) == {**DEMO, "optim": "sgd", "adam_beta2": 0.98}
    named = {**DEMO, "optimizer": "lion", "optimizer_args": {"betas": [0.9, 0.98]}}
    assert joint_arguments("arm", named, {"arm": {"optim": "sgd"}}) == {**DEMO, "optim": "sgd"}
    assert make_arm("arm", named, {"arm": {"optim": "sgd"}}).settings[None]["optim"] == "sgd"
    with pytest.raises(InputError, match="optimizer is 'lion', and these would not act on it: optim 'sgd'"):
        make_arm("arm", DEMO, {"arm": {"optim": "sgd", "optimizer": "lion"}})


def test_single_has_changes_for_all_tasks_and_for_one():
    block = {"weight_decay": 0.1, "pairs": {"learning_rate": 5e-5, "max_steps": 2000}}
    recipe = {**DEMO, "gradient_method_args": {"reduction": "mean"}}
    common = {**DEMO, "gradient_method": "sum", "weight_decay": 0.1}
    assert single_arguments("reviews", recipe, block, TASKS) == {**common, "alone": "reviews"}
    own = {"learning_rate": 5e-5, "max_steps": 2000, "alone": "pairs"}
    assert single_arguments("pairs", recipe, block, TASKS) == {**common, **own}


@pytest.mark.parametrize(
    ("watched", "kept"), [("eval_pairs_pearson", "pairs"), ("eval_loss", "both"), ("pairs_mse", "pairs")]
)
def test_single_watches_no_other_tasks_metric(watched, kept):
    recipe = {**DEMO, "metric_for_best_model": watched, "greater_is_better": "true"}
    assert single_arguments("pairs", recipe, {}, TASKS)["metric_for_best_model"] == watched
    found = single_arguments("reviews", recipe, {}, TASKS)
    assert found["metric_for_best_model"] == (watched if kept == "both" else "eval_average")
    assert ("greater_is_better" in found) == (kept == "both")


def test_the_runs_are_listed_seed_by_seed(tmp_path):
    arms = [make_arm(name, DEMO, {}) for name in ("single", "sum")]
    runs = list_runs(arms, [3, 1])
    found = [str(run.folder(tmp_path).relative_to(tmp_path)) for run in runs]
    one = ["single/seed-3/reviews", "single/seed-3/pairs", "sum/seed-3"]
    assert found == [*one, *(folder.replace("3", "1") for folder in one)]


@pytest.mark.parametrize(
    ("name", "blocks", "message"),
    [
        (
            "slow",
            {"slow": {"learning_rte": 1}},
            r"unknown argument in arm 'slow': 'learning_rte' \(did you mean 'learn",
        ),
        ("slow", {"slow": {"learning_rate": "fast"}}, "learning_rate"),
        ("slow", {"slow": {"max_steps": 0.5}}, "max_steps"),
        ("slow", {"slow": {"tasks": ["review"]}}, r"unknown task 'review' \(did you mean 'reviews'"),
        ("single", {"single": {"pears": {"max_steps": 3}}}, r"task in arms, single: 'pears' \(did you mean 'pairs'"),
        (
            "single",
            {"single": {"pairs": {"max_stps": 3}}},
            "unknown argument in arm 'single', task 'pairs': 'max_stps'",
        ),
        ("single", {"single": {"tasks": ["pairs"]}}, "there is one task, 'pairs'"),
    ],
)
def test_arguments_of_an_arm_are_checked_at_once(name, blocks, message):
    with pytest.raises(InputError, match=message):
        make_arm(name, DEMO, blocks)


def test_an_identity_goes_by_what_is_meant_and_by_the_task_file(tmp_path):
    tasks = tmp_path / "tasks.yaml"
    row = {"kind": "classification", "dataset": "embedded:demo", "config": "reviews", "text_columns": ["sentence"]}
    tasks.write_text(yaml.safe_dump({"tasks": {"reviews": {**row, "labels": ["negative", "positive"]}}}))
    recipe = {**DEMO, "task_set": str(tasks), "learning_rate": "2e-3"}

    def digest(**changes):
        return digest_of(make_arm("sum", {**recipe, **changes}, {}).identities[None])

    first = digest()
    assert digest(learning_rate="0.002") == first == digest(output_dir="elsewhere", seed="7", report_to="none")
    assert digest(learning_rate="0.003") != first
    tasks.write_text(
        yaml.safe_dump({"tasks": {"reviews": {**row, "labels": ["negative", "positive"], "loss_weight": 2}}})
    )
    assert digest() != first


def test_an_identity_goes_by_the_arms_own_plugins(tmp_path, plugins_of_this_test):
    files = [tmp_path / "one.py", tmp_path / "other.py"]
    for file in files:
        file.write_text("VALUE = 3")
    blocks = {file.stem: {"plugin": [str(file)]} for file in files}
    first = make_arm("one", DEMO, blocks).identities[None]
    make_arm("other", DEMO, blocks)
    assert make_arm("one", DEMO, blocks).identities[None] == first
    assert "code of plugins" not in make_arm("sum", DEMO, {}).identities[None]
    files[1].write_text("VALUE = 4")
    assert make_arm("one", DEMO, blocks).identities[None] == first
    files[0].write_text("VALUE = 4")
    assert make_arm("one", DEMO, blocks).identities[None] != first


def test_train_ignores_the_arms_of_a_file_and_wants_a_mapping(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("learning_rate: 2e-3\narms: {slow: {learning_rate: 1e-5, optimizer_args: {betas: [0.9, 0.98]}}}\n")
    assert parse_arguments([str(file), "--output_dir", "out", "--use_cpu"])[2].learning_rate == 2e-3
    values, arms = file_values(file)
    assert values == {"learning_rate": "2e-3"}
    assert arms == {"slow": {"learning_rate": "1e-5", "optimizer_args": {"betas": [0.9, 0.98]}}}
    for wrong in ("[sum]", "3", "{slow: 3}"):
        file.write_text(f"arms: {wrong}\n")
        with pytest.raises(InputError, match=r"arms is .*, wanted \{name: \{argument: value\}\}"):
            parse_arguments([str(file), "--output_dir", "out"])


def test_flags_become_the_values_of_a_file():
    words = ["--max-steps", "5", "--use_cpu", "--tasks", "a", "b", "--no_bf16", "--max_steps=6", "--plugin=x.py"]
    wanted = {"max_steps": "6", "use_cpu": "true", "tasks": ["a", "b"], "bf16": "false", "plugin": ["x.py"]}
    assert flag_values(words) == wanted
    with pytest.raises(InputError, match=r"unknown argument '--max_stpes' \(did you mean '--max_steps'"):
        flag_values(["--max_stpes", "5"])
    with pytest.raises(InputError, match="argument 'stray' belongs to no flag"):
        flag_values(["stray"])


def test_a_soups_checkpoints_are_saved():
    saves = {"eval_strategy": "steps", "eval_steps": 10, "save_strategy": "steps", "save_steps": 10}
    blocks = {"soup": {"soup": 2, **saves}, "none": saves}
    assert make_arm("soup", DEMO, blocks).saving == {None} and make_arm("none", DEMO, blocks).saving == set()


def test_what_is_set_for_every_run_is_no_arms():
    with pytest.raises(InputError, match="arms has seed 3, which compare sets for every run"):
        make_arm("x", DEMO, {"x": {"seed": 3}})


def test_singles_own_method_and_sampling_have_their_own_options():
    recipe = {**DEMO, "gradient_method": "pcgrad", "gradient_method_args": {"reduction": "mean"}}
    block = {"gradient_method": "sum", "task_sampling": "capped", "task_sampling_args": {"cap": 100}}
    assert set(make_arm("single", recipe, {"single": block}).settings) == {"reviews", "pairs"}


def test_a_metric_is_that_of_the_longest_name_that_it_begins_with():
    recipe = {**DEMO, "metric_for_best_model": "eval_sst_b_pearson"}
    assert single_arguments("sst", recipe, {}, ("sst", "sst_b"))["metric_for_best_model"] == "eval_average"
    assert single_arguments("sst_b", recipe, {}, ("sst", "sst_b"))["metric_for_best_model"] == "eval_sst_b_pearson"
