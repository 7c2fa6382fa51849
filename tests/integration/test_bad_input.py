"""One table of what users get wrong: each is an InputError that names the thing, and leaves no output folder."""

import dataclasses
import json
import runpy
import shutil
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, T5Config, T5Model

import run_glue_mtl
from hf_mtl import InputError, TaskSpec
from hf_mtl.training.run import main

TEXTS = ["the film is good", "the film is dull", "the plot works", "the plot bores"]
REVIEWS = pd.DataFrame({"text": TEXTS, "label": [1, 0, 1, 0]})
PAIRS = pd.DataFrame({"one": TEXTS, "two": TEXTS[::-1], "score": [0.0, 2.5, 5.0, 1.0]})
TASKS = {
    "tasks": {
        "reviews": {
            "kind": "classification",
            "text_columns": ["text"],
            "labels": ["bad", "good"],
            "files": {"train": "reviews.parquet", "validation": "reviews.parquet"},
        },
        "pairs": {
            "kind": "regression",
            "text_columns": ["one", "two"],
            "label_column": "score",
            "label_range": [0, 5],
            "files": {"train": "pairs.parquet", "validation": "pairs.parquet"},
        },
    }
}


@pytest.fixture(scope="session")
def models(tmp_path_factory, tokenizer) -> Path:
    """Folders with a good two-layer encoder and with models that are no encoders."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    encoder = BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **small))
    encoder.save_pretrained(folder / "encoder")
    encoder.save_pretrained(folder / "no_tokenizer")
    encoder.config.save_pretrained(folder / "no_weights")
    GPT2Model(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2)).save_pretrained(folder / "gpt2")
    t5 = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5Model(t5).save_pretrained(folder / "t5")
    for name in ("encoder", "no_weights", "gpt2", "t5"):
        tokenizer.save_pretrained(folder / name)
    (folder / "empty").mkdir()
    return folder


@pytest.fixture
def start(tmp_path, models, monkeypatch):
    """Writes good data and good arguments, each of which keywords replace, and starts the command."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a file")

    def start(*flags: str, reviews=REVIEWS, pairs=PAIRS, tasks=TASKS, output="out", model="encoder", do="train"):
        reviews.to_parquet(tmp_path / "reviews.parquet")
        pairs.to_parquet(tmp_path / "pairs.parquet")
        (tmp_path / "tasks.yaml").write_text(tasks if isinstance(tasks, str) else json.dumps(tasks))
        arguments = {
            "model_name_or_path": str(models / model) if model in {p.name for p in models.iterdir()} else model,
            "task_set": "tasks.yaml",
            "output_dir": output,
            "unfreeze_schedule": "0:0,1:2",
            "per_device_train_batch_size": 4,
            "max_steps": 1,
        }
        argv = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
        main([*argv, "--use_cpu", "--disable_tqdm=true", *([f"--do_{do}"] if do else []), *flags])

    return start


def edited(task: str, **changes) -> dict:
    """The declarations with some keys of one task replaced."""
    return {"tasks": {**TASKS["tasks"], task: {**TASKS["tasks"][task], **changes}}}


def files(**splits: str) -> dict:
    return {"files": {"train": "reviews.parquet", "validation": "reviews.parquet", **splits}}


CASES = {
    # tasks
    "an unknown task": (["--tasks", "review"], {}, r"unknown task 'review' \(did you mean 'reviews'"),
    "an unknown task set": (["--task_set", "gleu"], {}, r"task_set 'gleu' \(did you mean 'glue'"),
    "no such task file": (["--task_set", "no.yaml"], {}, "'no.yaml' cannot be read"),
    "malformed YAML": ([], {"tasks": "tasks: [a"}, "'tasks.yaml' cannot be read"),
    "an unknown key": ([], {"tasks": edited("reviews", label="x")}, "'tasks.yaml': .*'reviews'.*'label'"),
    # methods and optimizers
    "an unknown gradient method": (["--gradient_method", "pcgard"], {}, "gradient_method 'pcgard'.*'pcgrad'"),
    "an unknown option of it": (["--gradient_method_args", '{"reduce": 1}'], {}, "'reduce'.*'reduction'"),
    "options that are no JSON": (["--gradient_method_args", "mean"], {}, "gradient_method_args 'mean'"),
    "an unknown optimizer": (["--optimizer", "lionn"], {}, "optimizer 'lionn'.*'lion'"),
    "a refused optimizer": (["--optimizer", "lbfgs"], {}, "optimizer 'lbfgs' cannot be used here: .*closure"),
    "an option it does not take": (["--optimizer", "lion", "--optimizer_args", '{"x": 1}'], {}, "'lion'.*'x'"),
    "a sampling without its options": (["--task_sampling", "capped"], {}, "task_sampling 'capped' needs 'cap'"),
    "options of a sampling that are none": (["--task_sampling_args", "[1]"], {}, "task_sampling_args '.1.' is no JSON"),
    "a loss weight of an unknown task": (["--loss_weights", '{"revews": 2}'], {}, "loss_weights: 'revews'.*'reviews'"),
    "a loss weight below 0": (["--loss_weights", '{"reviews": -1}'], {}, "loss_weights of task 'reviews' is -1"),
    "an unknown sampling": (["--task_sampling", "equl"], {}, "task_sampling 'equl'.*'equal'"),
    # data
    "a dataset without the text column": (
        [],
        {"tasks": edited("reviews", text_columns=["sentence"])},
        "'reviews', split 'train': no column 'sentence'; the columns are 'text', 'label'",
    ),
    "a dataset without the label column": (
        [],
        {"tasks": edited("reviews", label_column="class")},
        "'reviews', split 'train': no label column 'class'; the columns are 'text', 'label'",
    ),
    "a label outside the classes": (
        [],
        {"reviews": REVIEWS.assign(label=[1, 0, 2, 0])},
        r"'reviews', split 'train': label 2 in row 2 .*\['bad', 'good'\]",
    ),
    "a label outside the range": (
        [],
        {"pairs": PAIRS.assign(score=[0.0, 5.5, 1, 1])},
        r"'pairs', split 'train': label 5.5 in row 1 .*\[0.0, 5.0\]",
    ),
    "an empty split": ([], {"reviews": REVIEWS.head(0)}, "'reviews', split 'train': the split is empty"),
    "NaN labels": ([], {"pairs": PAIRS.assign(score=[0, 1, 1, float("nan")])}, "'pairs'.*label (nan|None) in row 3"),
    "a text column that is not text": ([], {"pairs": PAIRS.assign(two=[1, 2, 3, 4])}, "'pairs'.*'two'.*wanted text"),
    "null text": ([], {"reviews": REVIEWS.assign(text=["a", None, "b", "c"])}, "'reviews'.*'text'.*no text in row 1"),
    "an unknown way with bad rows": (["--on_bad_row", "skp"], {}, "on_bad_row 'skp' .did you mean 'skip'"),
    "all rows bad": (["--on_bad_row", "skip"], {"reviews": REVIEWS.assign(label=7)}, "none of the 4 rows .*'reviews"),
    "a missing file": ([], {"tasks": edited("reviews", **files(train="no.csv"))}, "'reviews': cannot load .*no.csv"),
    "a missing split": (
        [],
        {"tasks": edited("reviews", files={"test": "reviews.parquet"})},
        "no split 'train'; it has 'test'",
    ),
    "a dataset that is not there": (["--dataset_name", "no/such", "--task_set", "glue"], {}, "cannot load 'no/such"),
    # model
    "a decoder": ([], {"model": "gpt2"}, "gpt2.*no text encoder"),
    "an encoder and decoder": ([], {"model": "t5"}, "t5.*no text encoder"),
    "a folder without a config": ([], {"model": "empty"}, "model_name_or_path .*empty"),
    "a folder without weights": ([], {"model": "no_weights"}, "model_name_or_path .*no_weights"),
    "a folder without a tokenizer": ([], {"model": "no_tokenizer"}, "model_name_or_path .*no_tokenizer.*tokenizer"),
    "a hub id that is not there": ([], {"model": "nobody/nothing"}, "model_name_or_path 'nobody/nothing'"),
    # sizes and schedules
    "a batch smaller than the tasks": (["--per_device_train_batch_size", "1"], {}, "batch_size is 1 .*2 tasks"),
    "more layers than there are": (["--unfreeze_schedule", "0:0,1:3"], {}, "stage at 1 unfreezes 3 .* has 2"),
    "an unreadable schedule": (["--unfreeze_schedule", "0-3"], {}, "unfreeze_schedule '0-3' cannot be read"),
    # what to do and where
    "nothing to do": ([], {"do": ""}, "nothing to do; .*--do_train"),
    "an output folder below a file": ([], {"output": "file/out"}, "output_dir 'file/out' cannot be written"),
    "an output folder that is a file": ([], {"output": "file"}, "output_dir 'file' cannot be written"),
    "no checkpoint to go on from": (["--resume_from_checkpoint", "latest"], {}, "resume_from_checkpoint is 'latest'"),
    "no such checkpoint": (["--resume_from_checkpoint", "no/where"], {}, "resume_from_checkpoint is 'no/where'"),
    "going on without a training": (
        ["--do_eval", "--resume_from_checkpoint", "latest"],
        {"do": ""},
        "--resume_from_checkpoint goes on with a training: add --do_train; .* --model_name_or_path out",
    ),
    "a push of heads that are not trained": (
        ["--push_to_hub"],
        {"do": "eval"},
        "no trained heads for reviews, pairs, and would be pushed",
    ),
    "a negative learning rate": (["--learning_rate=-1"], {}, "learning_rate is -1.0, wanted a number >= 0"),
    "batches of no rows": (
        ["--per_device_eval_batch_size", "0"],
        {},
        "per_device_eval_batch_size is 0, wanted a whole number >= 1",
    ),
    "an unknown flag": (["--learning_rat", "1"], {}, "'--learning_rat'.*'--learning_rate'"),
}


@pytest.mark.parametrize("flags, changes, message", CASES.values(), ids=CASES)
def test_wrong_input_is_refused_by_name_before_any_folder_is_made(start, flags, changes, message):
    with pytest.raises(InputError, match=message):
        start(*flags, **changes)
    assert not Path("out").exists()
    assert Path("file").read_text() == "a file"


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "output_dir 'out' is not empty; .*--resume_from_checkpoint latest"),
        (["--resume_from_checkpoint", "latest"], "resume_from_checkpoint is 'latest': no checkpoint there"),
    ],
)
def test_a_folder_that_holds_something_is_left_as_it_is(start, flags, message):
    Path("out").mkdir()
    Path("out/notes.txt").write_text("mine")
    with pytest.raises(InputError, match=message):
        start(*flags)
    assert [path.name for path in Path("out").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("flags", [["--do_eval"], ["--do_predict"]])
def test_evaluation_and_prediction_refuse_too(start, flags):
    with pytest.raises(InputError, match="no text encoder"):
        start(*flags, do="", model="t5")
    assert not Path("out").exists()


def test_the_same_arguments_without_a_mistake_train(start):
    """Else the table above might be refused for something else."""
    start("--save_strategy", "no")
    assert Path("out/model.safetensors").is_file()
    before = {path: path.read_bytes() for path in Path("out").iterdir() if path.is_file()}
    for do in ("eval", "predict"):
        with pytest.raises(InputError, match="no trained heads for reviews, pairs, and would write into the trained"):
            start(do=do)
    assert before == {path: path.read_bytes() for path in Path("out").iterdir() if path.is_file()}
    renamed = {"tasks": {"critiques": TASKS["tasks"]["reviews"], "pairs": TASKS["tasks"]["pairs"]}}
    for do in ("eval", "predict"):
        with pytest.raises(InputError, match=r"for critiques, and fresh ones answer at random; its heads are reviews"):
            start(do=do, model="out", tasks=renamed, output="elsewhere")
    assert not Path("elsewhere").exists()
    start("--unfreeze_schedule", "0:0,1:9", model="out", do="eval")  # of no concern where nothing is trained
    assert "eval_average" in json.loads(Path("out/eval_results.json").read_text())


def test_a_stop_from_the_keyboard_is_told_in_a_line(monkeypatch, capsys):
    def stop(argv, *, command):
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_mtl.training.run.parse_arguments", stop)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(run_glue_mtl.__file__, run_name="__main__")
    assert end.value.code == 130
    assert capsys.readouterr().err == (
        "run_glue_mtl.py: stopped; --resume_from_checkpoint latest goes on from a checkpoint\n"
    )


# ---- generated input ----

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["label", "text"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
KEYS = st.sampled_from([field.name for field in dataclasses.fields(TaskSpec)] + ["unknown"])
TEXT = st.text(max_size=8) | st.just("the film is good")


@st.composite
def declarations(draw):
    """A file of tasks with some keys of good tasks replaced or new, as text that is mostly YAML."""
    tasks = {name: {**row, **draw(st.dictionaries(KEYS, VALUES, max_size=1))} for name, row in TASKS["tasks"].items()}
    content = draw(VALUES) if draw(st.integers(0, 14)) == 0 else draw(st.sampled_from([{"tasks": tasks}, TASKS, TASKS]))
    text = yaml.safe_dump(content)
    place = draw(st.integers(0, len(text))) if draw(st.integers(0, 7)) == 0 else None
    return text if place is None else text[:place] + draw(st.sampled_from("[{:&*!|'\"\t\0-")) + text[place:]


@st.composite
def frames(draw, columns, labels, bad):
    """Four rows whose cells may be bad; a column may have another type or be missing."""
    kinds = {**dict.fromkeys(columns, TEXT), **labels}
    faulty = draw(st.sampled_from([None, *kinds]))  # one column at most: else no fault but the first would be met
    cells = {
        name: draw(st.lists(kind | bad if name == faulty else kind, min_size=4, max_size=4))
        for name, kind in kinds.items()
    }
    if faulty is not None and draw(st.integers(0, 3)) == 0:
        cells[faulty] = draw(st.sampled_from([[1, 2, 3, 4], ["a", "b", "c", "d"], [None] * 4]))
    return pd.DataFrame(cells)


@pytest.mark.filterwarnings("ignore:.*constant:Warning")
@contextmanager
def at_most(seconds):
    """Fails a test that takes longer; a hang would else hold up all tests."""

    def hangs(number, frame):
        raise AssertionError(f"still running after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_hang_is_noticed():
    with pytest.raises(AssertionError, match="still running"), at_most(seconds=0.05):
        time.sleep(5)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    tasks=declarations(),
    reviews=frames(["text"], {"label": st.sampled_from([0, 1])}, st.none()),
    pairs=frames(["one", "two"], {"score": st.floats(0, 5)}, st.none()),
    on_bad_row=st.sampled_from(["error", "skip"]),
)
def test_generated_input_trains_or_is_refused(start, tasks, reviews, pairs, on_bad_row):
    """Any other error fails the test, and so does an output folder after a refusal, and a hang."""
    shutil.rmtree("out", ignore_errors=True)
    flags = ["--on_bad_row", on_bad_row, "--save_strategy", "no", "--eval_strategy", "no"]
    try:
        with at_most(seconds=120):
            start(*flags, tasks=tasks, reviews=reviews, pairs=pairs)
    except InputError as error:
        event("refused: " + str(error)[:40])
        assert str(error) and not Path("out").exists()
    else:
        event("trained")
        assert Path("out/model.safetensors").is_file()
