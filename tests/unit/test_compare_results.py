"""compare.json holds every run once, is there whole at any moment, and tells scores that are not finite."""

import dataclasses
import json
import math
import shutil

import pytest
import yaml

from hf_mtl import InputError
from hf_mtl.compare.report import report
from hf_mtl.compare.results import Results, differences
from hf_mtl.compare.runs import list_runs, make_arm

DEMO = {"model_name_or_path": "embedded:demo", "task_set": "demo", "max_steps": "20", "use_cpu": "true"}


@pytest.fixture(scope="module")
def arms():
    return [make_arm(name, DEMO, {}) for name in ("sum", "pcgrad")]


REVIEWS = {"kind": "classification", "text_columns": ["text"], "labels": ["bad", "good"], "label_column": "label"}


def add(results, run, accuracy, **options):
    scores = {"eval_reviews_accuracy": accuracy, "eval_pairs_pearson": 0.5}
    results.add(run, scores, **{"seconds": 2.0, "memory": 2**30, "test": False, **options})


def test_a_run_is_there_once_and_the_file_goes_on_from_what_it_held(tmp_path, arms):
    results = Results(tmp_path / "new")
    runs = list_runs(arms, [1, 2])
    assert [results.entry(run.key) for run in runs] == [None] * 4
    add(results, runs[0], 0.8)
    add(results, runs[1], 0.9)
    add(results, runs[0], 0.7)
    results.write(arms)
    again = Results(tmp_path / "new")
    again.check(arms, with_test=False)
    assert [again.entry(run.key) is None for run in runs] == [False, False, True, True]
    assert again.entry(runs[0].key)["metrics"]["eval_reviews_accuracy"] == 0.7
    assert again.runs == results.runs and len(again.runs) == 2
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["compare.json"]


def test_a_write_that_is_cut_off_leaves_what_was_there(tmp_path, arms, monkeypatch):
    results = Results(tmp_path)
    add(results, list_runs(arms, [1])[0], 0.8)
    results.write(arms)
    before = (tmp_path / "compare.json").read_text()

    def fail(*args, **options):
        args[1].write('{"runs": [')
        raise OSError("No space left on device")

    monkeypatch.setattr("hf_mtl.compare.results.json.dump", fail)
    with pytest.raises(OSError, match="No space"):
        results.write(arms)
    assert (tmp_path / "compare.json").read_text() == before


def test_a_score_that_is_not_finite_is_no_seed_less(tmp_path, arms):
    results = Results(tmp_path)
    for run, accuracy in zip(list_runs(arms, [1, 2, 3]), (0.8, 0.9, 0.8, math.nan, 0.8, 0.9), strict=True):
        add(results, run, accuracy)
    results.write(arms)

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    content = json.loads((tmp_path / "compare.json").read_text(), parse_constant=refuse)
    row = content["differences"][0]
    assert (row["mean"], row["low"], row["high"], row["seeds"], row["verdict"]) == (None, None, None, 3, "undecided")
    assert math.isnan(differences(Results(tmp_path), arms)[0][3].mean)
    assert "reviews cannot be compared with sum, as a score is not finite" in report("x", results, arms)


def test_a_run_of_a_task_that_is_gone_is_refused(tmp_path, arms):
    singles = make_arm("single", DEMO, {})
    results = Results(tmp_path)
    add(results, list_runs([singles], [1])[0], 0.8)
    (tmp_path / "other").mkdir()
    results.runs[0]["task"] = "polarity"
    with pytest.raises(InputError, match=r"arm 'single', seed 1, task 'polarity' is no run of this recipe"):
        results.check([singles, arms[0]], with_test=False)


def test_a_run_twice_in_the_file_is_refused(tmp_path, arms):
    results = Results(tmp_path)
    add(results, list_runs(arms, [1])[0], 0.8)
    results.write(arms)
    content = json.loads((tmp_path / "compare.json").read_text())
    (tmp_path / "compare.json").write_text(json.dumps({**content, "runs": content["runs"] * 2}))
    with pytest.raises(InputError, match="arm 'sum', seed 1 is there twice"):
        Results(tmp_path)


@pytest.mark.parametrize(
    ("gain", "deviation", "words"),
    [
        (0.0, 0.0, "+0.00 to +0.00): no difference can be told with 3 seeds; it would take more than 1,000; "),
        (
            0.001,
            0.01,
            "(95 % interval -2.38 to +2.58): no difference can be told with 3 seeds; it would take about 387",
        ),
        (-0.2, 0.01, "reviews is 20.00 points below sum (95 % interval -22.48 to -17.52), which is worse"),
    ],
)
def test_the_sentence_says_what_can_be_told(tmp_path, arms, gain, deviation, words):
    results = Results(tmp_path)
    for run in list_runs(arms, [1, 2, 3]):
        change = gain + deviation * (run.seed - 2) if run.arm.name == "pcgrad" else 0
        add(results, run, 0.7 + change, seconds=3000)
    text = report("x", results, arms)
    assert words in text and "a seed takes 50 min and 1.00 GiB of memory at most." in text


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": {"eval_reviews_accuracy": "n/a"}},
        {"memory": "1 GB"},
        {"arguments": ["x"]},
        {"seconds": float("nan")},
        {"seed": 1.9},
        {"arm": None, "metrics": None},
    ],
)
def test_a_file_that_somebody_edited_is_told_by_a_sentence(tmp_path, arms, change):
    results = Results(tmp_path)
    add(results, list_runs(arms, [1])[0], 0.8)
    results.write(arms)
    content = json.loads((tmp_path / "compare.json").read_text())
    content["runs"][0] |= change
    (tmp_path / "compare.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="cannot be read as the results of a comparison"):
        Results(tmp_path)


def written(folder, recipe):
    """Write results of a recipe's run into a folder; gives a check whether a run now would be the same."""
    results = Results(folder)
    add(results, list_runs([make_arm("sum", recipe, {})], [1])[0], 0.8)
    results.write([make_arm("sum", recipe, {})])
    return lambda: Results(folder).check([make_arm("sum", recipe, {})], with_test=False)


@pytest.mark.parametrize("lever", ["model_name_or_path", "teachers"])
def test_other_weights_by_the_same_name_are_other_arguments(tmp_path, lever):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"first")
    recipe = DEMO | {lever: str(folder) if lever == "model_name_or_path" else {"reviews": str(folder)}}
    check = written(tmp_path / "out", recipe)
    check()
    (folder / "model.safetensors").write_bytes(b"other")
    with pytest.raises(InputError, match=f"seed 1 was run with other arguments: weights of {folder} was "):
        check()
    (folder / "config.json").unlink()  # the folder is gone, and its weights are not known any more
    check()


@pytest.mark.parametrize("source", ["files", "a pattern", "dataset", "dataset_name"])
def test_other_rows_in_the_same_files_are_other_runs(tmp_path, source):
    data, tasks = tmp_path / "data", tmp_path / "tasks.yaml"
    data.mkdir()
    for split in ("train", "validation"):
        (data / f"{split}.csv").write_text("text,label\nfine,good\npoor,bad\n")
    files = {"train": str(data / "train.csv"), "validation": str(data / "valid*.csv")}
    of_task = {"dataset": str(data)} if source.startswith("dataset") else {"files": files}
    tasks.write_text(yaml.safe_dump({"tasks": {"reviews": {**REVIEWS, **of_task}}}))
    recipe = DEMO | {"task_set": str(tasks)} | ({"dataset_name": str(data)} if source == "dataset_name" else {})
    check = written(tmp_path / "out", recipe)
    check()
    changed = data / ("validation.csv" if source == "a pattern" else "train.csv")
    changed.write_text("text,label\nfine,good\npoor,good\n")
    with pytest.raises(
        InputError, match="seed 1 was run with other arguments: the rows of task 'reviews' have changed; "
    ):
        check()
    shutil.rmtree(data)  # the rows are gone, as in a copy of the results alone
    if source == "files":
        check()


def test_results_that_do_not_know_their_rows_count(tmp_path):
    data, tasks = tmp_path / "data.csv", tmp_path / "tasks.yaml"
    data.write_text("text,label\nfine,good\npoor,bad\n")
    tasks.write_text(yaml.safe_dump({"tasks": {"reviews": {**REVIEWS, "files": {"train": str(data)}}}}))
    arm = make_arm("sum", DEMO | {"task_set": str(tasks)}, {})
    identity = {name: value for name, value in arm.identities[None].items() if not name.startswith("rows of")}
    assert len(identity) == len(arm.identities[None]) - 1
    results = Results(tmp_path / "out")
    add(results, list_runs([dataclasses.replace(arm, identities={None: identity})], [1])[0], 0.8)
    results.write([arm])
    Results(tmp_path / "out").check([arm], with_test=False)
