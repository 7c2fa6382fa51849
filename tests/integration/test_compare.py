"""`hf-mtl compare` runs every arm with every seed once, and tells what came out; its runs are short scripts here."""

import json
import logging
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from compare_runs import RECIPE, same_numbers, script_command
from scipy import stats

from hf_mtl import InputError
from hf_mtl.cli import main as cli
from hf_mtl.compare import children, compare_command
from hf_mtl.compare.compare_command import main

ARMS = "arms:\n  single: {pairs: {learning_rate: 5.0e-5, weight_decay: 0.0001}}\n  slow: {learning_rate: 1e-5}\n"


@pytest.fixture
def compare(tmp_path, monkeypatch, capsys):
    """Runs `hf-mtl compare` on a recipe in a folder of its own; gives what it prints."""
    monkeypatch.setattr(children, "COMMAND", script_command(tmp_path))
    monkeypatch.setattr(children, "POLL_SECONDS", 0.005)
    monkeypatch.setattr(logging.getLogger("hf_mtl"), "level", logging.WARNING)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE + ARMS)

    def run(arms="sum,pcgrad,mgda", seeds="1-3", *flags, out="out"):
        capsys.readouterr()
        main([str(recipe), "--arms", arms, "--seeds", seeds, "--output_dir", str(tmp_path / out), *flags])
        return capsys.readouterr().out

    return run


@pytest.fixture
def content(tmp_path):
    """What compare.json holds."""
    return lambda out="out": json.loads((tmp_path / out / "compare.json").read_text())


def keys(content):
    return [(run["arm"], run["seed"], run["task"]) for run in content["runs"]]


def no_runs(monkeypatch):
    monkeypatch.setattr(children, "COMMAND", ["false"])


def test_three_arms_with_three_seeds(compare, content, tmp_path):
    printed = compare("single,sum,pcgrad")
    found = content()
    one = [("single", "reviews"), ("single", "pairs"), ("sum", None), ("pcgrad", None)]
    assert keys(found) == [(arm, seed, task) for seed in (1, 2, 3) for arm, task in one]
    assert all(run["seconds"] > 0 and run["memory"] > 2**20 for run in found["runs"])
    assert found["runs"][2]["metrics"] == {
        "eval_reviews_accuracy": pytest.approx(0.81),
        "eval_pairs_pearson": pytest.approx(0.68),
        "eval_pairs_spearman": pytest.approx(0.6),
        "eval_average": 0.5,
    }
    assert set(found["runs"][1]["metrics"]) == {"eval_pairs_pearson", "eval_pairs_spearman", "eval_average"}
    rows = {(row["arm"], row["task"]): row for row in found["differences"]}
    assert list(rows) == [("sum", "reviews"), ("sum", "pairs"), ("pcgrad", "reviews"), ("pcgrad", "pairs")]
    # `single` has the methods' scores, and 0.01 more on pairs, whose block has a weight decay of 0.0001.
    interval = stats.ttest_1samp([0.011, 0.008, 0.013], 0).confidence_interval(0.95)
    row = rows["pcgrad", "pairs"]
    assert (row["low"], row["high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert row | {"low": 0, "high": 0} == {
        "arm": "pcgrad",
        "against": "single",
        "task": "pairs",
        "metric": "pearson",
        "mean": pytest.approx(0.032 / 3),
        "low": 0,
        "high": 0,
        "seeds": 3,
        "verdict": "better",
    }
    assert (rows["sum", "pairs"]["mean"], rows["sum", "pairs"]["verdict"]) == (pytest.approx(-0.01), "worse")
    assert (rows["sum", "reviews"]["mean"], rows["sum", "reviews"]["verdict"]) == (0.0, "undecided")
    assert printed.strip() == (tmp_path / "out" / "compare.md").read_text().strip()
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_says_what_was_measured_in_a_sentence_for_each_arm(compare):
    printed = compare("single,sum,pcgrad", "1-2")
    assert "| sum | 81.50 ± 0.71 (2) | 67.00 ± 1.41 (2) | 60.00 ± 0.00 (2) |" in printed
    assert "| pcgrad | pairs | pearson | +0.95 points | - | 2 | undecided |" in printed
    assert (
        "pairs is 0.95 points above single: no difference can be told with 2 seeds; it would take about 3;" in printed
    )
    printed = compare("single,sum,pcgrad", "3")
    (line,) = [line for line in printed.splitlines() if line.startswith("- pcgrad: ")]
    assert "pairs pearson is 68.07 with a standard deviation of 1.91 over 3 seeds; " in line
    assert "pairs is 1.07 points above single (95 % interval +0.44 to +1.69), which is better; " in line
    assert " a seed takes 0 s and 0." in line and line.endswith(" GiB of memory at most.")


def test_runs_have_the_arms_arguments_and_neither_trackers_nor_the_hub(compare, tmp_path):
    compare("single,slow", "2", "--weight_decay", "0.0002", "--train_metric_rows=8")
    single, slow = (
        json.loads((tmp_path / "out" / folder / "arguments.json").read_text())
        for folder in ("single/seed-2/pairs", "slow/seed-2")
    )
    assert slow == {
        "model_name_or_path": "embedded:demo",
        "task_set": "demo",
        "max_steps": "20",
        "learning_rate": "1e-5",
        "use_cpu": "true",
        "weight_decay": "0.0002",
        "train_metric_rows": "8",
        "save_strategy": "no",
        "seed": 2,
        "output_dir": str(tmp_path / "out" / "slow" / "seed-2"),
        "do_train": True,
        "do_eval": True,
        "do_predict": False,
        "push_to_hub": False,
        "report_to": "none",
        "enable_jit_checkpoint": False,
        "disable_tqdm": True,
    }
    assert (single["alone"], single["learning_rate"], single["weight_decay"]) == ("pairs", 5e-5, 0.0001)


def test_the_best_models_checkpoints_are_made_and_removed(compare, tmp_path):
    flags = ["--load_best_model_at_end", "--eval_strategy", "steps", "--eval_steps", "5", "--save_strategy", "steps"]
    compare("sum,pcgrad", "1", *flags, "--save_steps", "5")
    folder = tmp_path / "out" / "sum" / "seed-1"
    assert json.loads((folder / "arguments.json").read_text())["save_strategy"] == "steps"
    assert sorted(path.name for path in folder.iterdir() if path.name != ".hf_mtl.lock") == [
        "all_results.json",
        "arguments.json",
        "model.safetensors",
        "run.log",
    ]


@pytest.mark.parametrize("parallel", ["2", "5"])
def test_parallel_runs_give_the_same_numbers(compare, content, parallel):
    compare()
    compare("sum,pcgrad,mgda", "1-3", "--parallel", parallel, out="parallel")
    assert same_numbers(content("parallel")) == same_numbers(content())


def test_a_finished_run_is_not_repeated_even_without_its_folder(compare, content, tmp_path, monkeypatch):
    printed, before = compare(), content()
    for arm in ("sum", "pcgrad", "mgda"):
        shutil.rmtree(tmp_path / "out" / arm)
    with monkeypatch.context() as patch:
        no_runs(patch)
        assert compare() == printed and content() == before
    compare("sum,pcgrad,mgda,slow", "1-3")
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["slow"]
    compare("sum,pcgrad", "5")
    assert keys(content())[-2:] == [("sum", 5, None), ("pcgrad", 5, None)]
    assert [row["seeds"] for row in content()["differences"]] == [4, 4]  # every seed that both arms have


def test_no_secret_is_written_and_runs_have_the_token_nevertheless(compare, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    compare("sum,mgda", "1")
    assert "they have a token: True" in next((tmp_path / "out").rglob("run.log")).read_text()
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert written and not [path for path in written if b"hf_token_of_mine" in path.read_bytes()]


def test_the_first_arm_is_what_the_others_are_compared_with(compare, content, monkeypatch):
    compare("sum,mgda", "1-3")
    (before, _) = content()["differences"]
    no_runs(monkeypatch)
    compare("mgda,sum", "1-3")
    after, _ = content()["differences"]
    assert (before["arm"], before["against"], after["arm"], after["against"]) == ("mgda", "sum", "sum", "mgda")
    assert after["mean"] == -before["mean"] and (before["verdict"], after["verdict"]) == ("worse", "better")


def test_a_run_that_fails_is_named_with_its_log_and_the_others_are_kept(compare, content, tmp_path, monkeypatch):
    monkeypatch.setenv("FAILS", "2")
    with pytest.raises(InputError) as error:
        compare("sum,pcgrad", "1-3")
    log = str(tmp_path / "out" / "sum" / "seed-2" / "run.log")
    assert str(error.value).startswith(f"arm 'sum', seed 2 ended with status 3; {log!r} ends with the lines below")
    assert "ValueError: as it was asked to" in str(error.value)
    assert keys(content()) == [("sum", 1, None), ("pcgrad", 1, None)]
    monkeypatch.delenv("FAILS")
    compare("sum,pcgrad", "1-3")
    compare("sum,pcgrad", "1-3", out="whole")
    assert same_numbers(content()) == same_numbers(content("whole"))


def test_a_run_that_was_run_with_other_arguments_is_refused_with_what_changed(compare, content, tmp_path):
    compare("sum,slow", "1")
    before = content()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("max_steps: 20", "max_steps: 30"))
    with pytest.raises(InputError, match=r"arm 'sum', seed 1 was run with other arguments: max_steps was 20 and is 30"):
        compare("sum,slow", "1-2")
    recipe.write_text(recipe.read_text().replace("max_steps: 30", "max_steps: 20").replace("1e-5", "3e-5"))
    with pytest.raises(InputError, match=r"'slow', seed 1 .* learning_rate was 1e-05 and is 3e-05; choose another"):
        compare("sum,slow", "1-2")
    assert content() == before
    compare("sum,pcgrad", "1-2")  # these are as they were
    kept = [run for run in content()["runs"] if run["arm"] != "slow"]
    (tmp_path / "out" / "compare.json").write_text(json.dumps({**content(), "runs": kept}))
    compare("sum,slow", "1")
    assert content()["arguments"][content()["runs"][-1]["arguments"]]["learning_rate"] == 3e-5


def test_test_splits_are_scored_only_when_asked_for(compare, content):
    assert "On the test rows" not in compare("sum,pcgrad", "1")
    assert not [name for run in content()["runs"] for name in run["metrics"] if name.startswith("test_")]
    with pytest.raises(InputError, match="arm 'sum', seed 1 was run without --with-test; leave it out, choose"):
        compare("sum,pcgrad", "1", "--with-test")
    printed = compare("sum,pcgrad", "1", "--with-test", out="tested")
    assert "On the test rows:\n\n| arm |" in printed and "| sum | 71.00 (1) |" in printed
    assert content("tested")["runs"][0]["metrics"]["test_pairs_pearson"] == pytest.approx(0.58)
    assert "On the test rows" in compare("sum,pcgrad", "1", out="tested")


def test_results_of_the_plain_form_count(compare, content, tmp_path, monkeypatch):
    """As a person would write them: what the names promise, and nothing else."""
    scores = {"eval_reviews_accuracy": 0.9, "eval_pairs_pearson": 0.5}
    runs = [{"arm": arm, "seed": 1, "task": None, "metrics": scores, "seconds": 9.0} for arm in ("sum", "pcgrad")]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "compare.json").write_text(json.dumps({"runs": runs, "differences": []}))
    no_runs(monkeypatch)
    assert "| sum | 90.00 (1) | 50.00 (1) | - |" in compare("sum,pcgrad", "1")


@pytest.mark.parametrize("written", ["{", "[]", '{"runs": [{"arm": "sum"}]}', '{"runs": 3}'])
def test_a_damaged_file_of_results_is_refused(compare, tmp_path, written):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "compare.json").write_text(written)
    with pytest.raises(InputError, match=r"compare.json' cannot be read as the results of a comparison"):
        compare()
    assert (tmp_path / "out" / "compare.json").read_text() == written


def test_a_folder_with_something_else_is_refused(compare, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").write_text("weights")
    with pytest.raises(InputError, match=r"out' is not empty and has no compare.json"):
        compare()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file' is a file; choose another"):
        compare(out="file")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("sum", "1"), "wanted two arms or more"),
        (("sum,pcgrda", "1"), r"unknown arm 'pcgrda' \(did you mean 'pcgrad'\?\)"),
        (("sum,pcgrad", "1-"), "--seeds is '1-'"),
        (
            ("single,sum", "1", "--tasks", "pairs"),
            "arm 'single' trains each task alone, and there is one task, 'pairs'",
        ),
        (("sum,pcgrad", "1", "--seed", "4"), "--seed is '4'; wanted --seeds"),
        (("sum,pcgrad", "1", "--parallel", "0"), "--parallel is 0"),
        (("sum,pcgrad", "1", "--max_stpes=3"), r"unknown argument '--max_stpes' \(did you mean '--max_steps'"),
        (("sum,pcgrad", "1", "--learning_rate", "-1"), "learning_rate is -1"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_written(compare, tmp_path, flags, message):
    with pytest.raises(InputError, match=message):
        compare(*flags)
    assert not (tmp_path / "out").exists()


def test_without_an_output_folder_it_says_so(compare, tmp_path):
    with pytest.raises(InputError, match="output_dir is not given; wanted --output_dir, or the recipe's"):
        main([str(tmp_path / "recipe.yaml"), "--arms", "sum,mgda", "--seeds", "1"])


def test_the_command_has_the_exit_codes_of_the_others(compare, tmp_path, capsys):
    recipe = str(tmp_path / "recipe.yaml")
    words = ["compare", recipe, "--seeds", "1", "--output_dir", str(tmp_path / "out")]
    assert cli([*words, "--arms", "sum"]) == 2
    assert capsys.readouterr().err.startswith("hf-mtl: --arms is 'sum'")
    assert cli([*words, "--arms", "sum,mgda"]) == 0
    assert "## Against sum" in capsys.readouterr().out


def test_a_recipe_may_be_a_packaged_one(compare, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["demo", "--arms", "sum,mgda", "--seeds", "1", "--use_cpu"])
    assert capsys.readouterr().out.startswith("# demo: sum, mgda\n")
    assert (tmp_path / "out" / "demo" / compare_command.REPORT).is_file()


def test_a_comparison_that_the_user_stops_ends_its_runs_and_says_how_to_go_on(compare, tmp_path, monkeypatch, capsys):
    (tmp_path / "sleep.py").write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)\n")
    monkeypatch.setattr(children, "COMMAND", [sys.executable, "-S", str(tmp_path / "sleep.py")])
    logs = [tmp_path / "out" / arm / "seed-1" / "run.log" for arm in ("sum", "mgda")]

    def stop(self):
        if all(log.exists() and log.read_text().endswith("\n") for log in logs):
            raise KeyboardInterrupt

    monkeypatch.setattr(children.Children, "ended", stop)
    words = ["compare", str(tmp_path / "recipe.yaml"), "--arms", "sum,mgda", "--seeds", "1", "--parallel", "2"]
    assert cli([*words, "--output_dir", str(tmp_path / "out")]) == 130
    assert "hf-mtl: stopped; the same command goes on with the runs that are left" in capsys.readouterr().err
    for log in logs:
        with pytest.raises(ProcessLookupError):
            os.kill(int(log.read_text()), 0)


def test_without_matplotlib_there_is_no_picture_and_one_line_says_so(compare, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with caplog.at_level(logging.WARNING, logger="hf_mtl"):
        compare()
    assert len([line for line in caplog.messages if "compare.png is not drawn" in line]) == 1
    assert (tmp_path / "out" / "compare.md").exists() and not (tmp_path / "out" / "compare.png").exists()


def test_the_page_is_true(compare, content, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")
    recipe, command, row = (
        re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.M | re.S) for language in ("yaml", "bash", "json")
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(recipe[0])
    assert cli(shlex.split(command[0])[1:]) == 0
    found = content(Path("out") / "glue")
    assert {(run["arm"], run["task"]) for run in found["runs"]} == {
        ("single", "sst2"),
        ("single", "stsb"),
        ("sum", None),
        ("pcgrad", None),
        ("lighter", None),
    }
    assert list(found["differences"][1]) == list(json.loads(row[0]))
    assert "- lighter: sst2 accuracy is 90.00 with" in capsys.readouterr().out
    arguments = json.loads((tmp_path / "out/glue/single/seed-3/stsb/arguments.json").read_text())
    assert (arguments["max_steps"], arguments["learning_rate"], arguments["alone"]) == (400, 5e-5, "stsb")
    for name in re.findall(r"^\| `(--[\w-]+)", page, flags=re.M):
        assert name in compare_command.command_parser("hf-mtl compare").format_help() or name == "--output_dir"
