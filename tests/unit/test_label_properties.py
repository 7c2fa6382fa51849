"""Whatever classes are called and whatever type a column has: a row has the class written there, or one sentence."""

import unicodedata

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hf_mtl import InputError, TaskSpec
from hf_mtl.tasks.labels import bad_labels, read_labels

QUICK = settings(deadline=None, max_examples=60, derandomize=True)
WORDS = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=5)
NAMES = WORDS | st.sampled_from(
    ["0", "1", "01", "2.5", "-1", "true", "False", "yes", "no", "NA", "nan", "Yes", "İ", "ß"]
)
VARIANTS = (
    str.upper,
    str.lower,
    str.title,
    str.casefold,
    " {} ".format,
    lambda x: unicodedata.normalize("NFD", x),
)


def loose(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name.strip()).casefold())


def same(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip())


LABELS = st.lists(NAMES.filter(lambda name: same(name) != ""), min_size=2, max_size=5, unique_by=same)


def task(labels=None, label_range=None) -> TaskSpec:
    kind = "classification" if labels else "regression"
    labels = tuple(labels) if labels else None
    return TaskSpec(
        name="t", kind=kind, text_columns=("x",), files={"train": "f.csv"}, labels=labels, label_range=label_range
    )


def text_rows(cells, kind) -> Dataset:
    return Dataset(pa.table({"label": pa.array(cells, kind)}))


def class_rows(names, indices) -> Dataset:
    rows = Dataset(pa.table({"label": pa.array(indices, pa.int64())}))
    return rows.cast(Features({"label": ClassLabel(names=names)}))


TEXTS = st.sampled_from([pa.string(), pa.large_string(), pa.string_view()])


@QUICK
@given(labels=LABELS, kind=TEXTS, data=st.data())
def test_a_row_has_the_class_whose_name_it_has(labels, kind, data):
    picks = data.draw(st.lists(st.integers(0, len(labels) - 1), min_size=1, max_size=6))
    for rows in (text_rows([labels[i] for i in picks], kind), class_rows(labels, picks)):
        for split in ("train", "test"):
            assert read_labels(task(labels), rows, split).tolist() == picks


@QUICK
@given(labels=LABELS, data=st.data())
def test_classes_of_the_data_in_any_order_and_number_go_by_name(labels, data):
    order = data.draw(st.permutations(range(len(labels))))[: data.draw(st.integers(1, len(labels)))]
    others = [name for name in data.draw(st.lists(NAMES, max_size=2, unique=True)) if name not in labels]
    names = [*(labels[i] for i in order), *others]
    picks = data.draw(st.lists(st.integers(0, len(order) - 1), min_size=1, max_size=6))
    assert read_labels(task(labels), class_rows(names, picks), "train").tolist() == [order[pick] for pick in picks]


@QUICK
@given(labels=LABELS, variant=st.sampled_from(VARIANTS), kind=st.none() | TEXTS, data=st.data())
@example(labels=["US", "us"], variant=str.lower, kind=pa.string(), data=None)
def test_a_variant_of_a_name_is_its_class_or_a_sentence(labels, variant, kind, data):
    pick = data.draw(st.integers(0, len(labels) - 1)) if data else 0
    cell = variant(labels[pick])
    rows = class_rows([cell], [0]) if kind is None else text_rows([cell], kind)
    wanted = labels.index(cell) if cell in labels else pick
    ambiguous = cell not in labels and sum(loose(label) == loose(cell) for label in labels) != 1
    try:
        found = read_labels(task(labels), rows, "train").tolist()
    except InputError as refusal:
        assert ambiguous, labels
        assert "label " in str(refusal) and " in row 0 " in str(refusal)
    else:
        assert ambiguous or found == [wanted]


ANY_CELLS = (
    st.lists(st.none() | st.integers(-3, 7), max_size=5)
    | st.lists(st.none() | st.floats(width=32), max_size=5)
    | st.lists(st.none() | st.booleans(), max_size=5)
    | st.lists(st.none() | st.decimals(-9, 9, places=2), max_size=5)
    | st.lists(st.none() | st.dates() | st.just(None), max_size=5)
    | st.lists(st.none() | st.binary(max_size=3), max_size=5)
    | st.lists(st.none() | st.lists(st.integers(0, 3), max_size=2), max_size=5)
    | st.lists(st.none() | st.text(max_size=4) | st.sampled_from(["1", "0.5", "1,5", "NA", "1e3", "true"]), max_size=5)
)


@settings(QUICK, max_examples=120)
@given(cells=ANY_CELLS, labels=st.none() | LABELS, split=st.sampled_from(["train", "validation", "test"]))
def test_any_column_is_read_or_its_bad_rows_are_named(cells, labels, split):
    rows = Dataset(pa.table({"label": pa.array(cells)}))
    spec = task(labels, None if labels else (0.0, 5.0))
    try:
        bad = bad_labels(spec, rows, split)
        values = read_labels(spec, rows, split)
    except InputError as refusal:
        assert f"task 't', split '{split}': " in str(refusal)
        if "count from 1" not in str(refusal):
            assert f"in row {min(bad)} (" in str(refusal)
            rest = rows.select([row for row in range(len(rows)) if row not in bad])
            values = read_labels(spec, rest, split)
            assert len(values) == len(rest)
    else:
        assert not bad
        assert len(values) == len(cells)
        there = values[~np.isnan(values)]
        assert split == "test" or len(there) == len(cells)
        assert ((there >= 0) & (there <= (len(labels) - 1 if labels else 5))).all()


BORDERS = st.floats(-1e6, 1e6).filter(lambda value: value == 0 or abs(value) > 1e-3)


@QUICK
@given(borders=st.tuples(BORDERS, BORDERS).filter(lambda pair: pair[0] < pair[1]), share=st.floats(0, 1))
def test_values_in_range_are_in_range_in_single_precision_too(borders, share):
    low, high = borders
    values = [low, high, min(max(low + share * (high - low), low), high)]
    single = np.asarray(values, dtype=np.float32)
    for column in (pa.array(single), pa.array(single.astype(np.float64)), pa.array([repr(x) for x in single.tolist()])):
        read = read_labels(task(None, borders), Dataset(pa.table({"label": column})), "train")
        np.testing.assert_allclose(read, values, rtol=1e-6, atol=1e-6 * max(abs(low), abs(high)))
        assert read.min() >= low and read.max() <= high


@QUICK
@given(value=st.floats(0, 5), kind=st.sampled_from(["{!r}", "{:.3e}", " {:.2f}", "+{!r}", "{!r}\t"]))
def test_a_number_in_any_spelling_is_the_number(value, kind):
    cell = kind.format(value)
    read = read_labels(task(None, (0.0, 5.0)), text_rows([cell], pa.string()), "train")
    assert read.tolist() == [float(cell)]
