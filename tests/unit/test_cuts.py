"""`validation_fraction` cuts a share off the training rows: whole groups, strata kept, the same in every run."""

import itertools
import random
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from hypothesis import example, given, settings
from hypothesis import strategies as st
from table_files import folder, task

from hf_mtl import InputError, TaskSpec, load_task_data
from hf_mtl.data.cuts import held_out, joined_groups, row_places, sampled, text_places
from hf_mtl.data.raw_rows import load_rows, read_splits
from hf_mtl.data.task_report import describe_task, format_task
from hf_mtl.tasks.labels import read_labels
from hf_mtl.tasks.task_file import load_tasks

FRAME = pd.DataFrame(
    {
        "text": [f"text {n}" for n in range(100)],
        "label": ["good"] * 70 + ["bad"] * 30,
        "author": [n % 7 for n in range(100)],
    }
)
WAS = [f"text {n}" for n in (10, 14, 20, 41, 43, 48, 64, 71, 78, 95)]
CUT = {"dataset": None, "files": {}, "validation_fraction": 0.1}
SETTINGS = settings(deadline=None, max_examples=300, derandomize=True)


def rows_of(*arguments, **options):
    """Split -> its rows."""
    return {split: found.rows for split, found in read_splits(*arguments, **options).items()}


def parts(frame=FRAME, on_bad_row="error", **changes) -> dict[str, pd.DataFrame]:
    """The training and the validation rows of a task of these rows."""
    found = rows_of(task(**{**CUT, **changes}), ("train", "validation"), on_bad_row, {"train": frame})
    return {split: rows.to_pandas() for split, rows in found.items()}


# ---- which rows ----


def test_a_share_of_every_class_is_cut_off():
    for prefix in "abcde":
        found = parts(FRAME.assign(text=prefix + FRAME["text"]))
        assert Counter(found["validation"]["label"]) == {"good": 7, "bad": 3}
    found = parts()
    rows = [list(found[split]["text"]) for split in ("train", "validation")]
    assert sorted(itertools.chain(*rows)) == sorted(FRAME["text"]) and not set(rows[0]) & set(rows[1])
    in_order = FRAME["text"].tolist()
    assert all(part == sorted(part, key=in_order.index) for part in rows)


def test_the_cut_is_the_one_that_it_was():
    """Else rows that a model was trained on would become validation rows with a later version."""
    assert parts()["validation"]["text"].tolist() == WAS


@pytest.mark.parametrize("shuffled", range(3))
def test_the_cut_goes_by_the_rows_and_not_by_their_order(shuffled):
    frame = FRAME.sample(frac=1, random_state=shuffled)
    assert set(parts(frame)["validation"]["text"]) == set(parts()["validation"]["text"])


def test_the_cut_is_the_same_with_any_seed_and_in_any_call():
    wanted = parts()
    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)
        for splits in (("train",), ("validation",), ("test", "validation", "train")):
            found = rows_of(task(**CUT), splits, given={"train": FRAME})
            assert {split: rows["text"][:] for split, rows in found.items()} == {
                split: wanted[split]["text"].tolist() for split in splits if split != "test"
            }


def test_rows_of_equal_texts_are_on_one_side():
    frame = pd.concat([FRAME, FRAME[::3].assign(label="bad")])
    found = parts(frame, validation_fraction=0.3)
    assert not set(found["train"]["text"]) & set(found["validation"]["text"])
    assert abs(len(found["validation"]) - 0.3 * len(frame)) < 2


def test_a_pair_in_either_order_is_one_text():
    texts = [f"text {n}" for n in range(20)]
    pairs = [(one, other) for one in texts for other in texts]
    frame = pd.DataFrame(pairs, columns=["a", "b"]).assign(label="good")
    found = parts(frame, text_columns=("a", "b"))
    sides = [{frozenset(pair) for pair in zip(found[split]["a"], found[split]["b"], strict=True)} for split in found]
    assert not sides[0] & sides[1] and abs(len(found["validation"]) - 40) < 2


@pytest.mark.parametrize("kind", [int, str, float])
def test_a_group_is_on_one_side(kind):
    found = parts(FRAME.assign(author=FRAME["author"].map(kind)), group_column="author", validation_fraction=0.3)
    authors = [set(found[split]["author"]) for split in ("train", "validation")]
    assert not authors[0] & authors[1] and abs(len(found["validation"]) - 30) < 15


def test_rows_without_a_group_are_each_their_own():
    frame = FRAME.assign(author=["x"] * 50 + [None] * 25 + [""] * 25)
    found = parts(frame, group_column="author")
    assert len(found["validation"]) == 10 and "x" not in set(found["validation"]["author"])


def test_groups_and_equal_texts_join_each_other():
    frame = pd.DataFrame(
        {
            "text": ["a", "b", "b", "c", *(f"d{n}" for n in range(16))],
            "label": ["good"] * 20,
            "author": [1, 1, 2, 2, *range(3, 19)],
        }
    )
    for fraction in (0.1, 0.2, 0.3, 0.5):
        found = parts(frame, group_column="author", validation_fraction=fraction)
        assert len({"a", "b", "c"} & set(found["train"]["text"])) in (0, 3)


KINDS = {
    "classification": {"labels": ("bad", "good")},
    "ordinal": {"labels": ("bad", "good")},
    "regression": {"labels": None, "label_range": (0.0, 5.0)},
    "similarity": {"labels": None, "label_range": (0.0, 5.0), "text_columns": ("text", "other")},
    "multi_label": {"labels": ("bad", "good")},
    "token_classification": {"labels": ("O", "B-x"), "text_columns": ("words",), "label_column": "tags"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task_is_cut(kind, tokenizer):
    values = {"regression": 2.5, "similarity": 2.5, "multi_label": ["good"]}
    rows = [
        {
            "text": f"text {n}",
            "other": f"other {n}",
            "words": ["text", str(n)],
            "tags": ["O", "B-x"],
            "label": values.get(kind, "good"),
        }
        for n in range(50)
    ]
    spec = TaskSpec(**{"name": "t", "kind": kind, "text_columns": ("text",), "validation_fraction": 0.1, **KINDS[kind]})
    data = load_task_data([spec], tokenizer, rows={"t": {"train": rows}})
    assert {split: len(found["t"]) for split, found in data.items()} == {"train": 45, "validation": 5}
    assert "labels" in data["validation"]["t"].column_names


def test_the_cut_does_not_depend_on_the_other_tasks(tokenizer):
    one, other = task(**CUT), task(**CUT, name="other", max_rows={"train": 9})
    rows = {"t": {"train": FRAME}, "other": {"train": FRAME}}
    alone = load_task_data([one], tokenizer, rows={"t": rows["t"]})
    beside = load_task_data([other, one], tokenizer, rows=rows)
    for split in ("train", "validation"):
        assert alone[split]["t"]["input_ids"][:] == beside[split]["t"]["input_ids"][:]


# ---- properties ----

CELLS = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 3), st.integers(0, 6) | st.none()), min_size=1, max_size=60
)


@SETTINGS
@given(cells=CELLS, fraction=st.floats(0.01, 0.99), grouped=st.booleans())
@example(cells=[(n, 0, None) for n in range(2)], fraction=0.5, grouped=False)
@example(cells=[(n // 3, n // 6, None) for n in range(24)], fraction=1 / 6, grouped=False)  # of 4 strata, 1 row each
def test_no_text_and_no_group_is_on_both_sides_and_the_number_is_within_a_group(cells, fraction, grouped):
    texts, labels, authors = zip(*cells, strict=True)
    places = text_places((str(text),) for text in texts)
    groups = joined_groups(places, authors if grouped else None)
    taken = held_out(places, groups, np.array(labels), fraction)
    for column in (texts, authors) if grouped else (texts,):
        cells_of = [{cell for cell, there in zip(column, taken, strict=True) if there == side} for side in (0, 1)]
        assert not cells_of[0] & cells_of[1] - {None}
    assert abs(int(taken.sum()) - fraction * len(cells)) < max(Counter(groups.tolist()).values()) + 0.5


@SETTINGS
@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=80), fraction=st.floats(0.01, 0.99))
def test_strata_of_single_rows_are_kept_within_one(labels, fraction):
    places = text_places((str(n),) for n in range(len(labels)))
    taken = held_out(places, joined_groups(places), np.array(labels), fraction)
    assert int(taken.sum()) == round(fraction * len(labels))
    for label, number in Counter(labels).items():
        assert abs(int(taken[np.array(labels) == label].sum()) - fraction * number) < 1


@SETTINGS
@given(labels=st.lists(st.integers(0, 2), min_size=2, max_size=40), order=st.randoms(use_true_random=False))
def test_the_rows_that_are_held_out_do_not_depend_on_their_order(labels, order):
    rows = [(f"text {n // 2}", label) for n, label in enumerate(labels)]
    drawn = []
    for _ in range(2):
        places = text_places((text,) for text, _ in rows)
        taken = held_out(places, joined_groups(places), np.array([label for _, label in rows]), 0.3)
        drawn.append({text for (text, _), there in zip(rows, taken, strict=True) if there})
        order.shuffle(rows)
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("cell", [None, float("nan"), "", " ", "NA", "NaN", "nan", "null"])
def test_a_cell_that_says_nothing_joins_nothing(cell):
    groups = joined_groups(np.arange(4), ["a", cell, "a", cell])
    assert groups.tolist() == [0, 1, 0, 3]


@SETTINGS
@given(pairs=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9) | st.none()), max_size=30))
def test_groups_are_the_connected_parts(pairs):
    places = np.array([key for key, _ in pairs], dtype=np.int64)
    groups = joined_groups(places, [cell for _, cell in pairs])
    reached = [{row} for row in range(len(pairs))]
    for _ in pairs:  # the plain way
        for one, other in itertools.product(range(len(pairs)), repeat=2):
            if pairs[one][0] == pairs[other][0] or (pairs[one][1] is not None and pairs[one][1] == pairs[other][1]):
                reached[one] |= reached[other]
    assert groups.tolist() == [min(part) for part in reached]


def test_every_row_is_as_likely_to_be_drawn():
    """Of 4,000 tables of 10 texts, each place is held out about 1,200 times; 5 standard deviations are 145."""
    counts = np.zeros(10)
    for table in range(4000):
        places = text_places((f"{table} {n}",) for n in range(10))
        counts += held_out(places, joined_groups(places), None, 0.3)
    assert np.abs(counts - 1200).max() < 145


# ---- samples ----


def test_a_sample_is_of_so_many_rows_in_their_order():
    found = parts(max_rows={"train": 20, "validation": 4})
    whole = parts()
    for split, number in (("train", 20), ("validation", 4)):
        texts = found[split]["text"].tolist()
        assert len(texts) == number and texts != whole[split]["text"].tolist()[:number]
        assert texts == [text for text in whole[split]["text"] if text in texts]
    assert parts(max_rows={"train": 1000})["train"].equals(whole["train"])


@SETTINGS
@given(texts=st.lists(st.sampled_from("abc"), min_size=1, max_size=30), number=st.integers(1, 30))
def test_a_sample_has_its_number_of_rows_whatever_the_texts(texts, number):
    places = row_places((text,) for text in texts)
    found = sampled(places, number)
    assert sorted(places) == list(range(len(texts)))
    assert found.tolist() == sorted(set(found)) and len(found) == min(number, len(texts))


def test_rows_of_one_text_are_sampled_as_others():
    frame = pd.DataFrame({"text": ["same"] * 500 + [f"text {n}" for n in range(500)], "label": "good"})
    found = load_rows(task(dataset=None, files={}, max_rows={"train": 200}), "train", given={"train": frame})
    assert 60 < found["text"][:].count("same") < 140  # 100; 5 standard deviations are 32


# ---- refusals and messages ----


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"validation_fraction": 0}, "validation_fraction is 0, wanted a share of the training rows, above 0 and"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"validation_fraction": "10%"}, "validation_fraction is '10%'"),
        ({"files": {"train": "a.csv", "validation": "b.csv"}}, "names a split 'validation'; wanted one of the two"),
        ({"splits": {"validation": "dev"}}, "names a split 'validation'; wanted one of the two"),
        ({"validation_fraction": None, "group_column": "author"}, "group_column is 'author', and no validation_fr"),
        ({"group_column": 3}, "group_column is 3, wanted the name of a column"),
        ({"max_rows": 100}, "max_rows is 100, wanted split: number of rows"),
        ({"max_rows": {"train": 0}}, "max_rows of 'train' is 0, wanted a whole number of rows, 1 or more"),
        ({"max_rows": {"train": 2.5}}, "max_rows of 'train' is 2.5"),
        ({"max_rows": {"test": 9}}, "max_rows has 'test', whose predictions are numbered by row; wanted train or val"),
        ({"max_rows": {"trian": 9}}, r"max_rows of task 't': 'trian' \(did you mean 'train'"),
    ],
)
def test_what_a_task_cannot_declare_is_refused(changes, reason):
    with pytest.raises(InputError, match=f"task 't'.*{reason}|{reason}"):
        task(**{**CUT, **changes})


def test_a_cut_beside_a_validation_split_is_refused(tmp_path):
    for name in ("train.csv", "dev.csv"):
        FRAME.to_csv(tmp_path / name, index=False)
    for split in ("train", "validation"):
        with pytest.raises(InputError, match="and the data has a split 'validation'; leave validation_fraction out"):
            load_rows(task(dataset=str(tmp_path), validation_fraction=0.1), split)
    as_test = task(
        dataset=str(tmp_path), validation_fraction=0.1, splits={"test": "validation"}
    )  # as is usual with GLUE
    found = rows_of(as_test, ("train", "validation", "test"))
    assert {split: len(rows) for split, rows in found.items()} == {"train": 90, "validation": 10, "test": 100}
    with pytest.raises(InputError, match="and the data has a split 'validation'"):
        rows_of(task(**CUT), ("train",), given={"train": FRAME, "validation": FRAME})


@pytest.mark.parametrize(
    ("frame", "changes", "reason"),
    [
        (FRAME[:4], {}, "validation_fraction 0.1 of 4 rows in 4 groups leaves no row for validation"),
        (FRAME[:1], {"validation_fraction": 0.9}, "of 1 rows in 1 groups leaves no row for training"),
        (FRAME.assign(text="same"), {}, "of 100 rows in 1 groups leaves no row for validation; rows of equal texts"),
        (FRAME.assign(author=1), {"group_column": "author"}, "of 100 rows in 1 groups"),
        (FRAME, {"group_column": "auther"}, r"group_column of task 't': 'auther' \(did you mean 'author'"),
        (FRAME.assign(label="ugly"), {}, "split 'train': label 'ugly' in row 0 .* is not one of"),
        (FRAME.drop(columns="label"), {}, "split 'train': no label column 'label'"),
    ],
)
def test_a_cut_that_cannot_be_made_is_told(frame, changes, reason):
    with pytest.raises(InputError, match=reason):
        parts(frame, **changes)


def test_a_task_without_training_rows_has_no_validation_rows():
    assert rows_of(task(**CUT), ("validation", "test"), given={"test": FRAME}).keys() == {"test"}


def test_a_bad_row_is_told_by_its_place_in_its_file(tmp_path, caplog):
    frame = FRAME.assign(score=[*range(99), "much"]).drop(columns="label")
    frame.to_csv(tmp_path / "rows.csv", index=False)
    files = {"train": str(tmp_path / "rows.csv")}
    spec = task(files=files, label_range=(0, 100), label_column="score", validation_fraction=0.5)
    rows = rows_of(spec, ("train", "validation"))
    with pytest.raises(InputError, match=r"label 'much' in row 99 \(the first row is 0\) of '.*/rows.csv'"):
        for split in rows:
            read_labels(spec, rows[split], split)
    skipped = rows_of(spec, ("train", "validation"), "skip")
    assert sum(map(len, skipped.values())) == 99 and "row 99: label 'much'" in caplog.text
    frame.assign(text=[*frame["text"][:-1], None]).to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(InputError, match="split 'train': column 'text' has no text in row 99"):
        load_rows(spec, "validation")


def test_hf_mtl_tasks_tells_of_the_cut_and_of_samples(tmp_path):
    FRAME.to_csv(tmp_path / "rows.csv", index=False, encoding="utf-16")
    row = "kind: classification, text_columns: text, labels: [bad, good], files: {train: rows.csv}"
    more = "encoding: utf-16, validation_fraction: 0.1, group_column: author, max_rows: {train: 50}"
    folder(tmp_path, **{"my.yaml": f"tasks: {{t: {{{row}, {more}}}}}"})
    (spec,) = load_tasks(str(tmp_path / "my.yaml"))
    told = describe_task(spec, None, 64)
    assert [told[key] for key in ("validation_fraction", "group_column", "max_rows", "encoding")] == [
        0.1,
        "author",
        {"train": 50},
        "utf-16",
    ]
    assert told["splits"]["train"]["rows"] == 50 and told["splits"]["validation"]["rows"] == 14
    text = format_task(told)
    without = {
        key: value for key, value in told.items() if key not in ("validation_fraction", "group_column", "max_rows")
    }
    assert "for validation" not in format_task(without) and "at most" not in format_task(without)
    assert "10.0% of the training rows are for validation, by author; at most 50 rows of train" in text


def test_a_dataset_with_groups_beyond_a_thousand_columns_keeps_them(tmp_path):
    lines = [f'{{"text": "t{n}", "label": 1, "k{n}": 1, "author": {n % 5}}}' for n in range(2000)]
    path = folder(tmp_path, **{"a.jsonl": "\n".join(lines)}) + "/a.jsonl"
    spec = task(files={"train": path}, validation_fraction=0.2, group_column="author")
    assert set(load_rows(spec, "validation")["author"][:]).isdisjoint(load_rows(spec, "train")["author"][:])


def test_a_formatted_dataset_is_cut_as_any(tokenizer):
    rows = Dataset.from_pandas(FRAME).with_format("numpy")
    data = load_task_data([task(**CUT)], tokenizer, rows={"t": {"train": rows}})
    assert len(data["validation"]["t"]) == 10
