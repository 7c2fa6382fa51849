"""Lists that a table without lists holds as text, as pandas writes them: the error names the column and the way."""

import json

import numpy as np
import pandas as pd
import pytest
from token_rows import TAGS, task

from hf_mtl import InputError, TaskSpec, resolve_tasks
from hf_mtl.cli import main
from hf_mtl.data.draft_sources import draft_file
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.tasks.cells import spells_list
from hf_mtl.tasks.labels import read_labels

FRAME = pd.DataFrame({"words": [["the", "clever", "cast"], ["it", "works"]], "tags": [["O", "B-PER", "O"], ["O", "O"]]})
HINT = "a cell of csv or tsv is one text, and lists are read from jsonl and parquet"


def write(frame, path):
    if path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return str(path)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("spelled", [str, json.dumps, lambda items: str(np.array(items))], ids=["str", "json", "numpy"])
def test_training_names_the_column_and_the_way(tmp_path, suffix, spelled):
    ner = task(files={"train": write(FRAME.map(spelled), tmp_path / f"a.{suffix}")})
    with pytest.raises(InputError, match=rf"column 'words' is Value\('.*string'\), wanted lists of words; {HINT}$"):
        load_rows(ner, "train")
    if suffix in ("jsonl", "parquet"):
        ner = task(files={"train": write(FRAME.assign(tags=FRAME.tags.map(spelled)), tmp_path / f"a.{suffix}")})
        with pytest.raises(InputError, match=rf"column 'tags' is Value\('.*string'\), wanted lists of tags; {HINT}$"):
            read_labels(ner, load_rows(ner, "train"), "train")


@pytest.fixture
def saved(make_model, specs, tokenizer, tmp_path):
    """A model of tags and reviews."""
    model = make_model([task(), specs[0]])
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    return str(tmp_path / "saved")


@pytest.mark.parametrize("columns", [["--columns", "words"], []])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("output", ["-", "out.jsonl"])
def test_prediction_names_the_column_and_the_way(saved, tmp_path, capsys, suffix, columns, output):
    path = write(FRAME[["words"]].map(str), tmp_path / f"a.{suffix}")
    output = output if output == "-" else str(tmp_path / output)
    assert main(["predict", "--model", saved, "--input", path, "--output", output, *columns]) == 2
    told = capsys.readouterr().err
    assert "column 'words' holds the text \"['the', 'clever', 'cast']\" in row 0 (the first row is 0), wanted a" in told
    assert told.endswith(f"{HINT}\n") and not list(tmp_path.glob("out*"))


def test_lists_are_tagged_and_texts_of_other_tasks_stay_texts(saved, tmp_path, capsys):
    path = write(FRAME, tmp_path / "a.parquet")
    assert main(["predict", "--model", saved, "--input", path, "--columns", "words"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(answer["ner"]["tags"]) for answer in answers] == [3, 2]
    assert all(tag in TAGS for answer in answers for tag in answer["ner"]["tags"])
    path = write(FRAME[["words"]].map(str), tmp_path / "a.csv")
    assert main(["predict", "--model", saved, "--input", path, "--task", "reviews"]) == 0
    path = write(pd.DataFrame({"words": ["[sic] the cast works", "[1]"]}), tmp_path / "b.csv")
    assert main(["predict", "--model", saved, "--input", path]) == 0


@pytest.mark.parametrize(
    ("cell", "is_list"),
    [
        ("['a', 'b']", True),
        ('["a"]', True),
        ("['a' 'b']", True),
        ("[]", False),
        ("[sic]", False),
        ("[1, 2]", False),
        ("['a', 1]", False),
        pytest.param("[" * 100_000 + "]", False, id="nested too deep"),
        ("['a'", False),
        (["a"], False),
        (None, False),
    ],
)
def test_spells_list(cell, is_list):
    assert spells_list(cell) == is_list


LABELS = pd.DataFrame(
    {
        "text": [f"the {number}th text of all of them" for number in range(30)],
        "topics": [["sport", "weather"], [], ["weather"]] * 10,
        "mood": ["glad", "sad"] * 15,
    }
)


@pytest.mark.parametrize("cells", [LABELS.topics, LABELS.topics.map(lambda names: [len(name) for name in names])])
@pytest.mark.parametrize("mark", [None, ","])
def test_names_are_not_taken_from_lists_that_csv_holds(tmp_path, cells, mark):
    path = write(LABELS.assign(topics=cells.map(str)), tmp_path / "a.csv")
    keys = {"kind": "multi_label", "text_columns": ("text",), "label_column": "topics", "labels": "auto"}
    spec = TaskSpec(name="t", files={"train": path}, label_delimiter=mark, **keys)
    spelled = r"""'train': label .*, .*\].? in row 0 .* of '.*a\.csv' is the text of a list"""
    with pytest.raises(InputError, match=rf"{spelled}; a list is read from jsonl and parquet, in csv write"):
        resolve_tasks([spec])


def test_a_draft_leaves_lists_out_that_csv_holds(tmp_path):
    drafted = draft_file([write(LABELS, tmp_path / "a.csv")], tmp_path)
    assert (
        "# a: column 'topics' is left out: it has texts of lists; a list is read from jsonl and parquet, in" in drafted
    )
    assert drafted.count("label_column") == 1 and "label_column: mood" in drafted
    texts = LABELS.assign(text=[f"[sic] text {number} of all of them" for number in range(30)])
    assert "text_columns: [text]" in draft_file([write(texts, tmp_path / "b.csv")], tmp_path)
