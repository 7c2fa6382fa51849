"""Files of a user's own: imported once, before the arguments are parsed, and named where they cannot be."""

import json
import re

import numpy as np
import pytest
from datasets import Dataset

from hf_mtl import InputError, TaskKind, TaskSpec, load_tasks, plugins, register_kind, register_metric
from hf_mtl.cli import main as cli
from hf_mtl.data import token_cache
from hf_mtl.data.task_shares import register_task_sampling, task_shares
from hf_mtl.gradients.method import GRADIENT_METHODS
from hf_mtl.plugins import load_plugin, plugins_digest
from hf_mtl.tasks.kinds import KINDS
from hf_mtl.tasks.metrics import task_scores
from hf_mtl.training.argument_parser import parse_arguments

pytestmark = pytest.mark.usefixtures("plugins_of_this_test")

METHOD = """
import torch
from hf_mtl import register_gradient_method
@register_gradient_method("{name}")
def method(gramian, generator):
    return torch.ones(len(gramian), dtype=gramian.dtype)
"""
SAMPLING = """
import numpy as np
from hf_mtl import register_task_sampling
@register_task_sampling("{name}")
def sampling(sizes, progress, *, first):
    return np.array([first] + [1.0] * (len(sizes) - 1))
"""
STARS = """
from hf_mtl import register_kind
from hf_mtl.tasks.kind_classification import Classification
@register_kind("stars")
class Stars(Classification):
    pass
"""


def write(folder, name, code):
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / name
    path.write_text(code, encoding="utf-8")
    return path


def test_a_plugin_is_imported_once(tmp_path):
    path = write(tmp_path, "counted.py", "import sys\nsys.counted = getattr(sys, 'counted', 0) + 1\n")
    assert load_plugin(path) is load_plugin(str(path))
    assert plugins.sys.counted == 1


def test_two_plugins_of_one_name_are_two(tmp_path):
    one, two = (load_plugin(write(tmp_path / name, "own.py", f"NAME = {name!r}")) for name in ("a", "b"))
    assert (one.NAME, two.NAME) == ("a", "b")


def test_the_file_beside_a_plugin_is_found_and_its_folder_is_searched_no_longer(tmp_path):
    write(tmp_path, "helper_of_mine.py", "VALUE = 3")
    assert load_plugin(write(tmp_path, "own.py", "from helper_of_mine import VALUE")).VALUE == 3
    assert str(tmp_path) not in plugins.sys.path


def test_a_neighbour_that_is_another_module_in_this_process_is_named(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, "helper_of_mine.py", f"VALUE = {name!r}")
        write(tmp_path / name, "own.py", "from helper_of_mine import VALUE")
    load_plugin(tmp_path / "a" / "own.py")
    with pytest.raises(InputError, match=r"imports 'helper_of_mine', which is .*/a/helper_of_mine\.py .*; rename"):
        load_plugin(tmp_path / "b" / "own.py")


BROKEN = {
    "not there": (None, "is not there"),
    "a syntax error": ("def", "SyntaxError: "),
    "an error": ("1 / 0", "ZeroDivisionError: division by zero"),
    "a module that is not there": ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
    "a name that is taken": (METHOD.format(name="pcgrad"), "gradient_method 'pcgrad' is registered already"),
}


@pytest.mark.parametrize(("code", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_plugin_that_cannot_be_imported_is_named_with_the_reason(tmp_path, code, reason):
    path = tmp_path / "own.py"
    if code is not None:
        write(tmp_path, "own.py", code)
    with pytest.raises(InputError, match=f"plugin '{path}'.*{reason}"):
        parse_arguments(["--output_dir", "out", "--plugin", str(path)])


def test_what_is_no_python_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"is no Python file; wanted the path of a file such as my_kind\.py"):
        load_plugin(write(tmp_path, "own.txt", ""))


# ---- arguments ----


def test_the_flag_is_read_before_the_arguments_that_need_it(tmp_path):
    method = write(tmp_path, "method.py", METHOD.format(name="all_alike"))
    sampling = write(tmp_path, "sampling.py", SAMPLING.format(name="first_more"))
    flags = ["--gradient_method", "all_alike", "--task_sampling", "first_more", "--task_sampling_args", '{"first": 3}']
    with pytest.raises(InputError, match=r"unknown gradient_method 'all_alike'.*--plugin FILE\.py"):
        parse_arguments(["--output_dir", "out", *flags])
    _, data, args = parse_arguments(["--output_dir", "out", *flags, "--plugin", str(method), str(sampling)])
    assert data.plugin == [str(method), str(sampling)]
    assert args.gradient_method == "all_alike" and "all_alike" in GRADIENT_METHODS


@pytest.mark.parametrize("form", ["yaml", "json"])
@pytest.mark.parametrize("several", [False, True])
def test_the_key_of_a_file_of_arguments_does_too_and_the_flag_overrides_it(tmp_path, form, several):
    one, two = (write(tmp_path, f"{name}.py", METHOD.format(name=name)) for name in ("one", "two"))
    values = {"output_dir": "out", "gradient_method": "one", "plugin": [str(one)] if several else str(one)}
    path = write(tmp_path, f"run.{form}", json.dumps(values))
    assert parse_arguments([str(path)])[1].plugin == [str(one)]
    plugins.LOADED.clear()
    del GRADIENT_METHODS["one"]
    with pytest.raises(InputError, match="unknown gradient_method 'one'"):
        parse_arguments([str(path), "--plugin", str(two)])


def test_a_task_file_imports_nothing(tmp_path):
    own = write(tmp_path, "own.py", "raise AssertionError")
    row = "{kind: classification, text_columns: text, labels: [a, b], files: {train: a.csv}"
    for content in (f"plugin: {own}\ntasks: {{t: {row}}}}}", f"tasks: {{t: {row}, plugin: {own}}}}}"):
        with pytest.raises(InputError, match=r"unknown key .*'plugin'"):
            load_tasks(str(write(tmp_path, "tasks.yaml", content)))


FORMS = {
    "one flag": ["--plugin", "{0}", "{1}"],
    "a flag for each": ["--plugin", "{0}", "--plugin", "{1}"],
    "with equals signs": ["--plugin={0}", "--plugin={1}"],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("command", ["train", "tasks", "predict"])
def test_several_plugins_stand_behind_one_flag_or_several(tmp_path, capsys, form, command):
    paths = [str(write(tmp_path, f"{name}.py", METHOD.format(name=name))) for name in ("one", "two")]
    words = [word.format(*paths) for word in form]
    if command == "train":
        arguments = parse_arguments([*words, "--output_dir", "out", "--gradient_method", "one", "--seed", "7"])
        assert arguments[1].plugin == paths and arguments[2].seed == 7
    elif command == "tasks":
        assert cli(["tasks", *words, "demo", "--json"]) == 0 and "reviews" in capsys.readouterr().out
    else:
        assert cli(["predict", *words, "--model", str(tmp_path / "none"), "--text", "a"]) == 2
    assert {"one", "two"} <= GRADIENT_METHODS.keys()


def test_a_file_of_arguments_may_follow_the_plugin(tmp_path):
    own = str(write(tmp_path, "own.py", METHOD.format(name="own")))
    path = str(write(tmp_path, "run.yaml", "output_dir: out\ngradient_method: own\nplugin: other.py\n"))
    _, data, args = parse_arguments(["--plugin", own, path, "--seed", "7"])
    assert (data.plugin, args.gradient_method, args.seed) == ([own], "own", 7)
    with pytest.raises(InputError, match="'demo' belongs to no flag; a recipe, or a YAML or JSON file, comes first"):
        parse_arguments(["--plugin", own, "--output_dir", "out", "--do_train", "true", "demo"])


def test_a_flag_without_a_file_is_an_error(capsys):
    with pytest.raises(InputError, match="argument --plugin"):
        parse_arguments(["--output_dir", "out", "--plugin", "--do_train"])
    with pytest.raises(SystemExit):
        cli(["tasks", "demo", "--plugin"])
    assert "argument --plugin" in capsys.readouterr().err


def test_a_relative_path_is_one_from_the_current_folder_and_the_error_names_the_whole(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    path = write(tmp_path / "runs", "run.yaml", "output_dir: out\nplugin: own.py\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"plugin 'own\.py' \({tmp_path}/own\.py\) is not there"):
        parse_arguments([str(path)])
    write(tmp_path, "own.py", "")
    assert parse_arguments([str(path)])[1].plugin == ["own.py"]


@pytest.mark.parametrize("order", [("one.py", "two.py"), ("two.py", "one.py")])
def test_a_plugin_that_another_one_imports_may_be_given_too(tmp_path, order):
    write(tmp_path, "one.py", METHOD.format(name="one"))
    write(tmp_path, "two.py", "import one\n" + METHOD.format(name="two"))
    loaded = [load_plugin(tmp_path / name) for name in order]
    two = loaded[order.index("two.py")]
    assert two.one is loaded[order.index("one.py")]
    assert {"one", "two"} <= GRADIENT_METHODS.keys()


# ---- what is registered ----


class SizeKind(TaskKind):
    """A kind on a built-in head, whose label is a text's number of characters."""

    head = KINDS["regression"].head
    metrics = ("size_error",)


def test_a_kind_and_a_metric_of_ones_own_are_those_of_a_task():
    @register_metric("size_error", kinds=["size"], unit="characters")
    def size_error(predictions, references):
        return np.abs(predictions - references).max()

    register_kind("size")(SizeKind)
    task = TaskSpec(name="t", kind="size", text_columns=("text",), label_range=(0, 9), files={"train": "a.csv"})
    assert task.metrics == ("size_error",)
    assert task.metric_title("size_error") == "size_error (characters)"
    assert task_scores(task, np.array([1.0, 2.5]), np.array([1.0, 4.0])) == {"size_error": 1.5}


def test_a_metric_that_was_added_to_a_kind_is_known_by_its_name():
    register_metric("last_row", kinds=["classification"])(lambda predictions, references: float(predictions[-1]))
    changes = {"kind": "classification", "labels": ("a", "b"), "text_columns": ("x",), "files": {"train": "a.csv"}}
    task = TaskSpec(name="t", metrics=("accuracy", "last_row"), **changes)
    assert task_scores(task, np.array([0, 1]), np.array([0, 0])) == {"accuracy": 0.5, "last_row": 1.0}


def test_names_that_are_taken_are_refused():
    with pytest.raises(InputError, match="kind 'regression' is registered already"):
        register_kind("regression")(SizeKind)
    with pytest.raises(InputError, match=r"metric 'f1' is registered already, by hf_mtl\.tasks\.metrics\.f1"):
        register_metric("f1", kinds=["size"])(lambda predictions, references: 0.0)
    with pytest.raises(InputError, match="task_sampling 'equal' is registered already"):
        register_task_sampling("equal")(lambda sizes, progress: np.ones(len(sizes)))


@pytest.mark.parametrize("kind", [object, type("NoHead", (TaskKind,), {}), lambda: None])
def test_what_is_no_kind_is_refused(kind):
    with pytest.raises(InputError, match="wanted a subclass of TaskKind with a head"):
        register_kind("mine")(kind)


def test_a_kind_without_a_metric_is_an_error_where_a_task_is_of_it():
    register_kind("bare")(type("Bare", (TaskKind,), {"head": KINDS["regression"].head}))
    with pytest.raises(InputError, match=r"kind 'bare' has no metric; add one with register_metric"):
        TaskSpec(name="t", kind="bare", text_columns=("x",), label_range=(0, 1), files={"train": "a.csv"})


def test_a_kind_that_is_not_registered_names_the_flag():
    with pytest.raises(InputError, match=r"unknown kind for task 't': 'mine'; choose from: .*; --plugin FILE\.py adds"):
        TaskSpec(name="t", kind="mine", text_columns=("x",), files={"train": "a.csv"})


def test_a_task_sampling_that_is_not_registered_names_the_flag():
    with pytest.raises(InputError, match=r"unknown task_sampling 'mine'; choose from: .*: --plugin FILE\.py"):
        task_shares("mine", {"a": 10}, [1.0], 8)


def test_a_task_sampling_of_ones_own_deals_the_rows():
    register_task_sampling("first_more")(lambda sizes, progress, *, first: np.array([first, 1.0]))
    shares = task_shares("first_more", {"a": 10, "b": 10}, [1.0, 1.0], 8, options={"first": 3})
    assert shares.tolist() == [6.0, 2.0]


NO_SHARES = {
    "zeros": [0, 0],
    "NaN": [1, float("nan")],
    "infinity": [1, float("inf")],
    "a sum beyond fp64": [1e308, 1e308],
    "one below zero": [2, -1],
    "one too few": [1],
    "one number": 1.0,
    "nothing": None,
    "names": ["a", "b"],
    "a mapping": {"a": 1, "b": 2},
}


@pytest.mark.parametrize("given", NO_SHARES.values(), ids=NO_SHARES)
def test_a_task_sampling_that_deals_no_shares_is_named_with_what_it_gave(given):
    register_task_sampling("odd")(lambda sizes, progress: given)
    with pytest.raises(
        InputError, match=r"task_sampling 'odd' gives .* for the sizes \{'a': 10, 'b': 5\}, wanted one fin"
    ):
        task_shares("odd", {"a": 10, "b": 5}, [1.0, 1.0], 8)


@pytest.mark.parametrize("given", [[3, 0], (3.0, 0.0), np.array([3, 0], dtype=np.int8)])
def test_a_task_sampling_may_give_any_numbers_and_a_zero(given):
    register_task_sampling("first")(lambda sizes, progress: given)
    assert task_shares("first", {"a": 10, "b": 5}, [1.0, 1.0], 8).tolist() == [7, 1]


@pytest.mark.parametrize("error", [ValueError("nothing to deal"), KeyError("a"), ZeroDivisionError("division by zero")])
def test_what_a_task_sampling_raises_is_told_with_its_name(tmp_path, capsys, error):
    code = f"""
from hf_mtl import register_task_sampling
@register_task_sampling("broken")
def broken(sizes, progress):
    raise {error!r}
"""
    path = write(tmp_path, "sampling.py", code)
    load_plugin(path)
    told = f"task_sampling 'broken' cannot deal the sizes {{'a': 10, 'b': 5}}: {type(error).__name__}: {error}"
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        task_shares("broken", {"a": 10, "b": 5}, [1.0, 1.0], 8)
    flags = ["--plugin", str(path), "--task_sampling", "broken", "--use_cpu", "--output_dir", str(tmp_path / "out")]
    assert cli(["train", "demo", *flags, "--disable_tqdm=true", "--max_steps=1"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("hf-mtl: task_sampling 'broken' cannot deal the sizes {'reviews': ")
    assert last.endswith(f": {type(error).__name__}: {error}")


def test_what_a_task_sampling_says_itself_stays_as_it_is():
    def refuse(sizes, progress):
        raise InputError("weights is 3, wanted a mapping")

    register_task_sampling("refusing")(refuse)
    with pytest.raises(InputError, match=r"^weights is 3, wanted a mapping$"):
        task_shares("refusing", {"a": 10}, [1.0], 8)


def test_an_option_of_a_task_sampling_with_a_default_may_be_left_out():
    register_task_sampling("more")(lambda sizes, progress, *, first=3.0: np.array([first, 1.0]))
    assert task_shares("more", {"a": 10, "b": 10}, [1.0, 1.0], 8).tolist() == [6, 2]
    register_task_sampling("needy")(lambda sizes, progress, *, first: np.array([first, 1.0]))
    with pytest.raises(InputError, match="task_sampling 'needy' needs 'first' in task_sampling_args"):
        task_shares("needy", {"a": 10, "b": 10}, [1.0, 1.0], 8)


@pytest.mark.parametrize("function", [lambda sizes: [1], lambda: [1], lambda a, b, c: [1], 3])
def test_what_cannot_be_called_as_a_task_sampling_is_refused_when_registered(function):
    with pytest.raises(InputError, match=r"task_sampling 'odd' cannot be called with \(sizes, progress\): "):
        register_task_sampling("odd")(function)


# ---- the cache of tokens ----


def test_tokens_are_kept_by_the_code_of_the_plugins(tmp_path, specs, tokenizer):
    def file():
        return token_cache.token_file(specs[0], Dataset.from_dict({"text": ["a"]}), tokenizer, 16)

    without = file()
    helper = write(tmp_path, "helper_of_mine.py", "VALUE = 3")
    load_plugin(write(tmp_path, "own.py", "from helper_of_mine import VALUE"))
    names, digest = [without, file()], plugins_digest()
    helper.write_text("VALUE = 4")
    assert plugins_digest() != digest
    assert len({*names, file()}) == 3


def test_a_kind_with_a_built_in_head_is_named_beside_the_weights(tmp_path, make_model):
    """Else its model would open nowhere without the plugin."""
    load_plugin(write(tmp_path, "stars.py", STARS))
    task = TaskSpec(name="rating", kind="stars", text_columns=["text"], labels=["one", "two"])
    make_model([task]).save_pretrained(tmp_path / "saved")
    code = (tmp_path / "saved" / "extra_heads.py").read_text()
    assert "from .head_classification import ClassificationHead" in code
    assert code.endswith("EXTRA_HEADS = {'stars': ClassificationHead}\n")


def test_a_plugin_that_exits_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"own.py' cannot be imported: SystemExit: 0"):
        load_plugin(write(tmp_path, "own.py", "raise SystemExit(0)"))
