"""What people hand to the pipeline is answered rightly, or refused in one sentence that names row or argument."""

import copy
import itertools
import json
import logging

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BertConfig, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from hf_mtl import InputError, MultiTaskConfig, MultiTaskModel
from hf_mtl.cli import main
from hf_mtl.data.collator import TaskCollator
from hf_mtl.data.task_rows import TaskRows
from hf_mtl.data.tokenization import tokenize
from hf_mtl.model.export_code import PIPELINE_TASK

TEXTS = ["dull", "a film that is great and a story that is dull", "great"]
HALF = "\ud800"


@pytest.fixture(scope="module")
def saved(tokenizer, specs, tmp_path_factory):
    """A folder of a model with a task on texts and one on pairs."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    folder = tmp_path_factory.mktemp("model")
    model = MultiTaskModel(MultiTaskConfig(config, [spec.head for spec in specs], pooling="cls", max_seq_length=24))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pipe(saved):
    return pipeline(PIPELINE_TASK, model=str(saved))


def wanted(pipe):
    return [pipe(text) for text in TEXTS]


def close(found, expected):
    assert [row["reviews"]["label"] for row in found] == [row["reviews"]["label"] for row in expected]
    scores = [row["reviews"]["score"] for row in expected]
    assert [row["reviews"]["score"] for row in found] == pytest.approx(scores, abs=1e-5)


class Items(torch.utils.data.Dataset):
    """A length and items, and no end but that."""

    def __len__(self):
        return len(TEXTS)

    def __getitem__(self, number):
        return TEXTS[number % len(TEXTS)]


ROWS = datasets.Dataset.from_dict({"text": TEXTS})
FORMS = {
    "list": TEXTS,
    "tuples": [(text,) for text in TEXTS],
    "numpy": np.array(TEXTS),
    "numpy objects": np.array(TEXTS, dtype=object),
    "pandas": pd.Series(TEXTS, index=[7, 8, 9]),
    "column": ROWS["text"],
    "dataset": ROWS,
    "KeyDataset": KeyDataset(ROWS, "text"),
    "torch dataset": Items(),
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_may_come_in_any_ordered_form(pipe, form):
    close(pipe(FORMS[form], batch_size=2), wanted(pipe))


def test_empty_inputs(pipe):
    assert pipe([]) == pipe(()) == pipe(np.array([])) == [] and list(pipe(iter([]))) == []
    assert set(pipe("")["reviews"]) == {"label", "score"}
    assert pipe([""])[0].keys() == pipe(np.str_("dull")).keys() == {"reviews"}


NO_TEXT = [None, 3, float("nan"), b"dull", {"txt": "dull"}, {"text": None}, ["a", "b", "c"], [], {"a"}, object()]


@pytest.mark.parametrize("value", [*NO_TEXT[:-4], {"dull"}, object(), pd.DataFrame({"text": TEXTS}), np.array("dull")])
def test_what_is_no_text_is_refused(pipe, value):
    with pytest.raises(InputError, match=r"^found .*, wanted a text, a pair") as error:
        pipe(value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("value", NO_TEXT)
@pytest.mark.parametrize("lazily", [False, True])
def test_a_row_that_is_no_text_is_named_by_its_number(pipe, value, lazily):
    rows = ["dull"] * 70 + [value]
    with pytest.raises(InputError, match=r"^row 70 \(the first row is 0\): found .*, wanted a text"):
        list(pipe(iter(rows) if lazily else rows, batch_size=1))


@pytest.mark.parametrize("row", [HALF, f"a{HALF}b", ("dull", HALF), {"text": HALF}])
def test_half_a_surrogate_is_refused(pipe, row):
    with pytest.raises(InputError, match=r"^found .*half a surrogate pair"):
        pipe(row)
    with pytest.raises(InputError, match=r"^row 1 .* found .*half a surrogate pair"):
        pipe([("dull", "dull") if isinstance(row, tuple) else "dull", row])
    assert pipe("🙂")["reviews"]  # a whole one


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.one_of(st.text(alphabet=st.characters()), st.none(), st.integers(), st.floats(), st.binary()), max_size=4
    )
)
def test_any_list_is_answered_or_refused_by_row(pipe, rows):
    try:
        answers = pipe(rows)
    except InputError as error:
        bad = [
            n for n, row in enumerate(rows) if not isinstance(row, str) or any("\ud800" <= c <= "\udfff" for c in row)
        ]
        assert str(error).startswith(f"row {bad[0]} ")
    else:
        assert len(answers) == len(rows)


BAD_OPTIONS = [
    *(("batch_size", value) for value in (0, -1, "8", True, 2.0)),
    *(("top_k", value) for value in (0, -1, "all", "3", True, False, 1.5, [1])),
    *(("max_length", value) for value in (0, -3, "32", True, 16.0)),
    *(("truncation", value) for value in (False, "do_not_truncate", "only_first", "no")),
    *(("padding", value) for value in ("left", 3)),
    *(("num_workers", value) for value in (-1, "2", True)),
    *(("task_name", value) for value in (3, [], ["reviews", 3], {"reviews": 1})),
]


@pytest.mark.parametrize(("name", "value"), BAD_OPTIONS, ids=str)
def test_wrong_options_are_refused_in_the_call_and_when_the_pipeline_is_made(pipe, name, value):
    with pytest.raises(InputError, match=f"^{name} is .*, wanted"):
        pipe("dull", **{name: value})
    with pytest.raises(InputError, match=f"^{name} is .*, wanted"):
        pipe(iter(["dull"]), **{name: value})  # at once, not with the first answer
    with pytest.raises(InputError, match=f"^{name} is .*, wanted"):
        pipeline(PIPELINE_TASK, model=pipe.model, tokenizer=pipe.tokenizer, **{name: value})


GOOD_OPTIONS = [
    *({"truncation": value} for value in (True, None, "longest_first")),
    *({"padding": value} for value in (True, False, "longest", "max_length")),
    *({"num_workers": value} for value in (0, 2, None)),
    *({"batch_size": value} for value in (1, None, np.int64(2))),
    {"top_k": "best"},
    {"truncation": True, "padding": True, "max_length": 512, "num_workers": 2, "batch_size": 8},
]


@pytest.mark.parametrize("options", GOOD_OPTIONS, ids=str)
def test_options_of_other_pipelines_are_taken(pipe, options):
    close(pipe(TEXTS, **options), wanted(pipe))
    close(pipeline(PIPELINE_TASK, model=pipe.model, tokenizer=pipe.tokenizer, **options)(TEXTS), wanted(pipe))


def test_top_k_of_whole_numbers(pipe):
    assert pipe("dull", top_k=np.int64(2)) == pipe("dull", top_k=None) == pipe("dull", top_k=9)


def test_max_length_lowers_the_limit_and_never_raises_it(pipe, caplog):
    long = "dull " * 40
    with caplog.at_level(logging.WARNING, "hf_mtl"):
        assert pipe([long], max_length=8) == pipe([" ".join(["dull"] * 6)])
        assert pipe([long], max_length=100) == pipe([long])
        always = pipeline(PIPELINE_TASK, model=pipe.model, tokenizer=pipe.tokenizer, max_length=8)
        assert always([long]) == pipe([long], max_length=8)
        assert always([long], max_length=100) == pipe([long])
    cut = [message.rsplit(" to ", 1)[1] for message in caplog.messages if "cut" in message]
    assert cut == [f"{limit} tokens" for limit in (8, 24, 24, 8, 8, 24, 24)]
    with pytest.raises(InputError, match="max_length is 2, wanted more than the 2 special tokens"):
        pipe("dull", max_length=2)
    with pytest.raises(InputError, match="max_length is 3, wanted more than the 3 special tokens"):
        pipe([("dull", "dull")], max_length=3)


def test_batches_are_padded_on_the_right(pipe, saved):
    """On the left, "cls" would read padding, and positions would count it."""
    left = AutoTokenizer.from_pretrained(saved, padding_side="left")
    own = pipeline(PIPELINE_TASK, model=pipe.model, tokenizer=left)
    close(own(TEXTS, batch_size=3), wanted(pipe))
    assert left.padding_side == "left"


def test_training_rows_are_padded_on_the_right(pipe, specs, tokenizer):
    left = copy.deepcopy(tokenizer)
    left.padding_side = "left"
    rows = tokenize(specs[0], datasets.Dataset.from_dict({"sentence": TEXTS}), left, 24)
    batch = TaskCollator(left)(TaskRows({"reviews": rows}).__getitems__([0, 1, 2]))["reviews"]
    vectors = pipe.model.embed(**batch)
    for text, vector in zip(TEXTS, vectors, strict=True):
        torch.testing.assert_close(pipe.model.embed(**tokenizer(text, return_tensors="pt"))[0], vector)


@pytest.mark.parametrize("save", ["encoder", "model"])
def test_what_is_saved_pads_on_the_right(pipe, tokenizer, tmp_path, save, make_trainer):
    left = copy.deepcopy(tokenizer)
    left.padding_side = "left"
    if save == "encoder":
        pipe.model.save_encoder(tmp_path / "saved", left)
    else:
        trainer = make_trainer()
        trainer.processing_class = left
        trainer.save_model(str(tmp_path / "saved"))
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").padding_side == "right" and left.padding_side == "left"


def test_a_tokenizer_without_a_padding_token_is_refused(pipe, tokenizer):
    own = copy.deepcopy(tokenizer)
    own.pad_token = None
    with pytest.raises(InputError, match="has no pad_token"):
        pipeline(PIPELINE_TASK, model=pipe.model, tokenizer=own)(TEXTS)


@pytest.mark.parametrize("flags", list(itertools.product(["--batch-size", "--top-k"], ["0", "-1"])), ids=" ".join)
def test_the_command_line_refuses_the_same_numbers(saved, capsys, flags):
    assert main(["predict", "--model", str(saved), "--text", "dull", *flags]) == 2
    assert (
        f"{flags[0].strip('-').replace('-', '_')} is {flags[1]}, wanted 1 or more"
        in capsys.readouterr().err.replace("--batch-size", "batch_size")
    )


def test_long_pairs_of_a_file(saved, tmp_path, capsys):
    rows = [{"text": "the plot is dull " * 1000, "text_pair": "the film is good " * 1000}] * 20
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["predict", "--model", str(saved), "--input", str(tmp_path / "rows.jsonl")]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 20 and all(line["truncated"] and "pairs" in line for line in lines)
