"""Task files drafted from tables as people have them."""

import json
import random

import pandas
import pytest
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from table_files import folder

from hf_mtl import InputError, load_tasks
from hf_mtl.cli import main
from hf_mtl.data.column_roles import role_of
from hf_mtl.data.draft_sources import draft_file, find_sources
from hf_mtl.data.raw_rows import read_splits
from hf_mtl.data.task_draft import draft_tasks
from hf_mtl.tasks.labels import read_labels

RANDOM = random.Random(0)
N = 60
TEXTS = [f"ticket {number} {RANDOM.choice(['came', 'went'])} and the screen stayed dark" for number in range(N)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def pick(*values):
    return [values[number % len(values)] for number in range(N)]


def drafted(columns, features=None, **others):
    """Task -> key -> value, of a training split with these columns and of other splits."""
    splits = {"train": Dataset.from_dict(columns, features=features), **others}
    drafts, _ = draft_tasks("source", splits)
    return {draft.name: {key: value for key, (value, _) in draft.keys.items()} for draft in drafts}


CLASSES = {"kind": "classification", "text_columns": ["text"], "label_column": "label"}
LABELS = {"kind": "multi_label", "text_columns": ["text"], "label_column": "label"}


@pytest.mark.parametrize(
    ("cells", "wanted"),
    [
        (pick("good", "bad"), {**CLASSES, "labels": ["bad", "good"]}),
        (pick(0, 1, 2), {**CLASSES, "labels": ["0", "1", "2"]}),
        (pick(1.0, 0.0, None), {**CLASSES, "labels": ["0", "1"], "missing_label": "skip"}),  # integers in pandas
        (pick("1", "2"), {**CLASSES, "labels": ["1", "2"]}),
        (pick(True, False), {**CLASSES, "labels": ["false", "true"]}),
        (pick("yes", "no", ""), {**CLASSES, "labels": ["no", "yes"], "missing_label": "skip"}),
        (pick("sport|art", "art", "war|sport"), {**LABELS, "label_delimiter": "|", "labels": ["art", "sport", "war"]}),
        (pick(["sport", "art"], [], ["war"]), {**LABELS, "labels": ["art", "sport", "war"]}),
        (pick([0, 2], [1], []), {**LABELS, "labels": ["0", "1", "2"]}),
        ([n / 7 for n in range(N)], {**CLASSES, "kind": "regression", "label_range": [0, 10]}),
        ([n / 7 - 3 for n in range(N)], {**CLASSES, "kind": "regression", "label_range": [-3, 6]}),
    ],
)
def test_a_label_column_tells_its_kind(cells, wanted):
    found = drafted({"text": TEXTS, "label": cells})["source"]
    assert found == {**wanted, "validation_fraction": 0.1}


def test_classes_that_the_data_names_keep_their_order():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["pos", "neg"])})
    assert drafted({"text": TEXTS, "label": pick(0, 1)}, features)["source"]["labels"] == ["pos", "neg"]


def loaded(path, on_bad_row="error"):
    """Task -> its labels and how many training and validation rows it has, of a draft that is loaded as it is."""
    draft = path / "draft.yaml"
    draft.write_text(draft_file([str(each) for each in path.glob("t.*")], path))
    tasks = load_tasks(str(draft))
    found = {task.name: read_splits(task, ("train", "validation"), on_bad_row) for task in tasks}
    for task in tasks:
        for split, rows in found[task.name].items():
            read_labels(task, rows.rows, split)
    return {task.name: (task.labels, sum(len(rows.rows) for rows in found[task.name].values())) for task in tasks}


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (pick("good", " good", "bad "), ("bad", "good")),
        (pick("caf\u00e9", "cafe\u0301", "bar"), ("bar", "caf\u00e9")),
        (pick(["sport", ""], [" sport", "art"], []), ("art", "sport")),
        (pick("art|caf\u00e9", "cafe\u0301", "art "), ("art", "caf\u00e9")),
    ],
)
def test_names_that_look_alike_are_one(tmp_path, cells, names):
    pandas.DataFrame({"text": TEXTS, "label": cells}).to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    assert loaded(tmp_path) == {"t": (names, N)}


def test_what_cannot_be_a_task_is_left_out_with_the_reason(tmp_path):
    frame = pandas.DataFrame(
        {"text": TEXTS, "mood": pick("glad", "sad"), "place": pick("a\tb", "c"), "x": pick("y", " y")}
    )
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    assert loaded(tmp_path) == {"mood": (("glad", "sad"), N)}
    drafted = (tmp_path / "draft.yaml").read_text()
    assert "# t: column 'place' is left out: labels has the name 'a\\tb'; a tab, a line end" in drafted
    assert "# t: column 'x' is left out: all rows have the same" in drafted
    with pytest.raises(InputError, match=r"t: no column of labels can be used; labels has the name 'a\\tb'"):
        draft_tasks("t", {"train": Dataset.from_pandas(frame[["text", "place"]])})


def test_class_labels_of_minus_1_are_missing(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["pos", "neg"])})
    rows = Dataset.from_dict({"text": TEXTS, "label": pick(0, 1, -1)}, features=features)
    DatasetDict(train=rows).save_to_disk(tmp_path / "t.saved")
    assert loaded(tmp_path) == {"t_saved": (("pos", "neg"), 40)}
    assert "missing_label: skip  # 20 rows have none" in (tmp_path / "draft.yaml").read_text()


def test_rows_without_text_are_told(tmp_path):
    frame = pandas.DataFrame({"text": [None, *TEXTS[1:]], "label": pick("a", "b")})
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert loaded(tmp_path, "skip") == {"t": (("a", "b"), N - 1)}
    told = "# t: rows that have no text: 1; they end a training unless --on_bad_row skip leaves them out\n"
    assert (tmp_path / "draft.yaml").read_text().startswith(told)


def test_several_label_columns_are_several_tasks():
    found = drafted({"message": TEXTS, "id": list(range(N)), "mood": pick("good", "bad"), "topic": pick("a", "b", "c")})
    assert {name: each["label_column"] for name, each in found.items()} == {"mood": "mood", "topic": "topic"}
    assert all(each["text_columns"] == ["message"] for each in found.values())


def test_columns_of_0_and_1_are_labels_of_one_task():
    found = drafted({"text": TEXTS, "toxic": pick(0, 1), "rude": pick(0, 0, 1), "spam": pick(1, 0, 0, 0)})
    assert found["source"]["kind"] == "multi_label"
    assert found["source"]["label_columns"] == ["toxic", "rude", "spam"] and "labels" not in found["source"]


def test_words_and_lists_of_the_same_lengths_are_words_and_tags():
    words = [[f"w{number}", f"x{number}", "."] for number in range(N)]
    found = drafted({"tokens": words, "ner_tags": pick(["B-X", "I-X", "O"]), "chunks": pick(["a", "b"])})
    assert list(found) == ["ner_tags"]
    assert found["ner_tags"] == {
        "kind": "token_classification",
        "text_columns": ["tokens"],
        "label_column": "ner_tags",
        "labels": ["B-X", "I-X", "O"],
        "validation_fraction": 0.1,
    }
    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=["O", "B-X", "I-X"]))})
    assert drafted({"tokens": words, "tags": pick([1, 2, 0])}, features)["tags"]["labels"] == ["O", "B-X", "I-X"]


def test_tags_that_mark_no_entities_are_scored_by_token(tmp_path):
    words = [[f"w{number}", f"x{number}"] for number in range(N)]
    frame = pandas.DataFrame({"words": words, "pos": pick(["NOUN", "VERB"], ["VERB", "VERB"])})
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    assert loaded(tmp_path) == {"pos": (("NOUN", "VERB"), N)}
    assert "metrics: [token_accuracy]  # its tags mark no entities" in (tmp_path / "draft.yaml").read_text()


def test_two_texts_and_a_number_are_similarity_where_the_texts_are_of_a_kind():
    numbers = [n / 12 for n in range(N)]
    alike = drafted({"sentence1": TEXTS, "sentence2": TEXTS[::-1], "score": numbers})["source"]
    assert (alike["kind"], alike["label_range"], alike["metrics"]) == ("similarity", [0, 5], ["pearson", "spearman"])
    unlike = drafted({"title": TEXTS, "body": [f"{text} for days" for text in TEXTS], "score": numbers})["source"]
    assert (unlike["kind"], unlike["text_columns"]) == ("regression", ["title", "body"])


def test_of_many_texts_a_pair_or_else_the_longest_is_read():
    columns = {"premise": TEXTS, "note": [f"{text} today" for text in TEXTS], "hypothesis": TEXTS[::-1]}
    assert drafted({**columns, "label": pick(0, 1, 2)})["source"]["text_columns"] == ["premise", "hypothesis"]
    columns = {
        "title": TEXTS,
        "body": [f"{text} for days on end" for text in TEXTS],
        "author": [f"N{n} N" for n in range(N)],
    }
    assert drafted({**columns, "label": pick(0, 1)})["source"]["text_columns"] == ["body"]


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ([f"user{n}" for n in range(N)], "1 words on average; the text is 'text'"),
        ([f"of this {n}" for n in range(N)], "3 words on average; the text is 'text'"),  # of 16
        ([f"{n},{n % 7}" for n in range(N)], "numbers with a decimal comma; wanted a point, as in 2.5"),
        ([f"{n % 7},5" for n in range(N)], "numbers with a decimal comma; wanted a point, as in 2.5"),
    ],
)
def test_what_is_no_second_text_is_left_out(second, reason):
    columns = {"text": [f"{text}, {text}" for text in TEXTS], "by": second, "label": pick("a", "b")}
    (draft,), remarks = draft_tasks("s", {"train": Dataset.from_dict(columns)})
    assert draft.keys["text_columns"][0] == ["text"]
    assert remarks == [f"column 'by' is left out: {reason}"]


def test_a_short_text_is_the_second_of_a_pair_where_the_names_say_so():
    words = [f"word{n}" for n in range(N)]
    for one, other in (("question", "answer"), ("text_a", "text_b")):
        found = drafted({one: TEXTS, other: words, "label": pick("a", "b")})["source"]
        assert found["text_columns"] == [one, other]


def test_a_scale_is_ordinal():
    found = drafted({"text": TEXTS, "stars": pick(1, 2, 3, 4, 5)})["stars"]
    assert (found["kind"], found["labels"]) == ("ordinal", ["1", "2", "3", "4", "5"])


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("id", list(range(N))),
        ("n", list(range(100, 100 + N))),
        ("user_id", pick(1, 2, 3)),
        ("url", [f"http://a.b/{n}" for n in range(N)]),
        ("date", [f"2024-01-{n % 28 + 1:02d}" for n in range(N)]),
        ("constant", pick("x")),
        ("constant", pick(3)),
        ("empty", pick(None)),
        ("dicts", pick({"a": 1})),
        ("Unnamed: 0", list(range(N))),
    ],
)
def test_what_nobody_learns_from_is_left_out(name, cells):
    rows = Dataset.from_dict({name: cells})
    assert role_of(name, rows.features[name], cells).role == "other"
    _, remarks = draft_tasks("s", {"train": Dataset.from_dict({"text": TEXTS, "label": pick(0, 1), name: cells})})
    assert len(remarks) == 1 and repr(name) in remarks[0]


def test_splits_are_found_by_their_names():
    def rows(number):
        return Dataset.from_dict({"text": TEXTS[:number], "label": pick("a", "b")[:number]})

    columns = {"text": TEXTS, "label": pick("a", "b")}
    found = drafted(columns, validation_matched=rows(20), validation_mismatched=rows(20), test_matched=rows(10))[
        "source"
    ]
    assert found["splits"] == {"validation": "validation_matched", "test": "test_matched"}
    assert "validation_fraction" not in found
    assert "splits" not in drafted(columns, validation=rows(20), unlabelled=rows(20))["source"]
    drafts, _ = draft_tasks("s", {"corpus": rows(60), "dev": rows(10)})
    assert drafts[0].keys["splits"][0] == {"train": "corpus", "validation": "dev"}


def test_labels_that_only_validation_has_are_among_the_names():
    validation = Dataset.from_dict({"text": ["x"], "label": ["c"]})
    found = drafted({"text": TEXTS, "label": pick("a", "b")}, validation=validation)["source"]
    assert found["labels"] == ["a", "b", "c"]


def test_what_is_not_sure_is_called_guessed(tmp_path):
    frame = pandas.DataFrame({"message": TEXTS, "topic": pick("a", "b"), "floor": pick(1, 2)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    lines = draft_file([str(tmp_path / "t.csv")], tmp_path).splitlines()
    about = {line.split(":")[0].strip(): line for line in lines}
    assert "guessed" not in about["text_columns"]
    assert [("guessed" in line) for line in lines if "label_column:" in line] == [False, True]


# ---- sources ----


def test_files_named_after_splits_are_one_data_set(tmp_path):
    content = "".join(json.dumps({"text": text, "label": n % 2}) + "\n" for n, text in enumerate(TEXTS))
    place = folder(tmp_path, **{"a_train.jsonl": content, "a_dev.jsonl": content, "b.jsonl": content})
    sources = find_sources([f"{place}/a_dev.jsonl", f"{place}/b.jsonl", f"{place}/a_train.jsonl"])
    assert [(source.name, source.keys["files"]) for source in sources] == [
        ("a", {"train": f"{place}/a_train.jsonl", "validation": f"{place}/a_dev.jsonl"}),
        ("b", {"train": f"{place}/b.jsonl"}),
    ]
    with pytest.raises(InputError, match="may both be the rows of 'train' of one data set"):
        find_sources([f"{place}/b.jsonl", f"{place}/b.jsonl"])


def test_paths_are_relative_to_the_file_that_names_them(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    frame = pandas.DataFrame({"text": TEXTS, "label": pick("a", "b")})
    frame.to_csv(tmp_path / "data" / "t.csv", index=False)
    DatasetDict({"train": Dataset.from_pandas(frame)}).save_to_disk(tmp_path / "saved")
    monkeypatch.chdir(tmp_path)
    found = yaml.safe_load(draft_file(["data/t.csv", "saved"], tmp_path / "tasks"))["tasks"]
    assert found["t"]["files"] == {"train": "../data/t.csv"} or "files" in found["t"]
    found = yaml.safe_load(draft_file(["data/t.csv"], tmp_path.relative_to(tmp_path) / "tasks"))["tasks"]
    assert found["t"]["files"] == {"train": "../data/t.csv"}
    found = yaml.safe_load(draft_file(["saved"], tmp_path.relative_to(tmp_path)))["tasks"]
    assert found["saved"]["dataset"] == "./saved"


def test_standard_output_holds_the_file_alone(tmp_path, monkeypatch, capsys):
    pandas.DataFrame({"text": TEXTS, "label": pick("a", "b")}).to_csv(tmp_path / "t.csv", index=False)
    monkeypatch.chdir(tmp_path)
    assert main(["init", "t.csv"]) == 0
    out = capsys.readouterr().out
    assert main(["init", "t.csv", "--output", "new/tasks.yaml"]) == 0
    told = capsys.readouterr()
    assert told.out == "" and "hf-mtl tasks new/tasks.yaml" in told.err
    written = (tmp_path / "new" / "tasks.yaml").read_text()
    assert written == out.replace("{train: t.csv}", "{train: ../t.csv}")
    assert main(["init", "t.csv", "--output", "new/tasks.yaml"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "new" / "tasks.yaml").read_text() == written


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("text,label\n", "is empty"),
        ("a,b\n1,2\n3,4\n5,4\n", "no column seems to hold texts"),
        ("text,id\nthe first of all,1\nthe second of all,2\nthe third one,3\n", "no column seems to hold labels"),
    ],
)
def test_data_that_is_no_task_is_told_with_its_columns(tmp_path, capsys, content, told):
    path = folder(tmp_path, **{"t.csv": content}) + "/t.csv"
    assert main(["init", path]) == 2
    assert told in capsys.readouterr().err
    assert main(["init", f"{path}.none.csv"]) == 2
    assert "there is no file or folder" in capsys.readouterr().err
    assert main(["init", "tickets.cvs"]) == 2  # may be a name on the Hub
    assert "there is no file or folder 'tickets.cvs', and on the Hub: cannot load" in capsys.readouterr().err
