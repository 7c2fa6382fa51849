"""A recipe is found by its name alone, a file by its suffix; every recipe can be parsed."""

import dataclasses
from pathlib import Path

import pytest

from hf_mtl import InputError, load_tasks
from hf_mtl.cli import main as cli
from hf_mtl.compare.arms import joint_arguments
from hf_mtl.training.argument_files import file_values
from hf_mtl.training.argument_parser import parse_arguments
from hf_mtl.training.recipes import RECIPES, recipe_names, with_recipe
from hf_mtl.training.run import main


def test_the_first_word_may_be_a_recipe():
    demo = str(RECIPES / "demo.yaml")
    assert with_recipe(["demo", "--max_steps", "5"]) == [demo, "--max_steps", "5"]
    for argv in ([], ["--do_train"], ["my.yaml", "--do_train"], ["dir/my.json"], ["./demo.yaml"], ["my.toml"]):
        assert with_recipe(argv) == argv


def test_a_file_of_a_recipes_name_makes_no_difference(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").write_text("seed: 1\n")
    assert with_recipe(["demo"]) == [str(RECIPES / "demo.yaml")]


@pytest.mark.parametrize("name", ["dmeo", "demo/", "glue", "folder/demo", ""])
def test_a_name_that_is_no_recipe_lists_them(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"unknown recipe .*choose from: FILE.json, FILE.yaml, best, demo"):
        main([name, "--do_train"])
    assert cli(["train", name]) == 2
    assert "hf-mtl: unknown recipe" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_can_be_parsed_and_overridden(name):
    _, data_args, args = parse_arguments(with_recipe([name, "--seed", "7", "--use_cpu"]))
    assert args.do_train and args.seed == 7 and data_args.task_set


def test_what_is_measured_as_best_is_the_recipe():
    """The arm of the benchmark differs from it in where and how often it evaluates and saves, and in nothing else."""
    values, arms = file_values(Path(__file__).parents[2] / "benchmarks" / "joint_training" / "one_pass.yaml")
    measured = joint_arguments("best", values, arms)
    recipe, _ = file_values(RECIPES / "best.yaml")
    others = {name for name in {*measured, *recipe} if str(measured.get(name)) != str(recipe.get(name))}
    looks = {"eval_strategy", "eval_steps", "save_strategy", "save_steps", "logging_steps", "train_metric_rows"}
    assert others == looks | {"output_dir", "do_train", "do_eval", "do_predict"}


def test_sst2_stsb_is_glues_with_stsb_as_similarity():
    found, of_glue = load_tasks("sst2_stsb"), load_tasks("glue", tasks=["sst2", "stsb"])
    assert [spec.kind for spec in found] == ["classification", "similarity"]
    assert [dataclasses.replace(spec, kind=other.kind) for spec, other in zip(found, of_glue, strict=True)] == of_glue
