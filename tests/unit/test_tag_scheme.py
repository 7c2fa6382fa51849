"""Entities and their F1 are seqeval's, in strict mode, for sound and unsound tags of both schemes."""

import random
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2, IOBES, Entities

from hf_mtl import InputError, TaskSpec
from hf_mtl.model.tag_scheme import TagScheme
from hf_mtl.tasks.metrics import task_scores
from hf_mtl.tasks.tag_metrics import entity_f1, token_accuracy

IOB2_TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "I-MISC"]
BIOES_TAGS = ["S-LOC", "O", "B-PER", "I-PER", "E-PER", "S-PER", "B-LOC", "E-LOC", "I-LOC", "B-a-b", "E-a-b"]
SCHEMES = {"IOB2": (IOB2_TAGS, IOB2), "BIOES": (BIOES_TAGS, IOBES)}


def seqevals_spans(rows, names, scheme):
    entities = Entities([[names[tag] for tag in row] for row in rows], scheme).entities
    return [[(entity.tag, entity.start, entity.end) for entity in row] for row in entities]


def random_rows(rng, names, number):
    """Rows of any tags, and rows in which most tags go on with the one before."""
    goes_on = {name: [t for t, other in enumerate(names) if other[1:] == name[1:]] for name in names}
    rows = []
    for _ in range(number):
        row = []
        for _ in range(rng.randrange(1, 12)):
            near = rng.random() < 0.7 and row
            row.append(rng.choice(goes_on[names[row[-1]]]) if near else rng.randrange(len(names)))
        rows.append(row)
    return rows


@pytest.mark.parametrize("name", SCHEMES)
def test_spans_of_thousands_of_random_rows_are_seqevals(name):
    names, scheme = SCHEMES[name]
    rows = random_rows(random.Random(0), names, 5000)
    ours = [[tuple(span) for span in TagScheme(names).spans(row)] for row in rows]
    assert ours == seqevals_spans(rows, names, scheme)
    assert sum(map(len, ours)) > 2000 and any(end - start > 2 for row in ours for _, start, end in row)


@given(st.sampled_from(list(SCHEMES)), st.lists(st.integers(0, 5), max_size=12))
@settings(max_examples=500, deadline=None)
def test_spans_of_any_row_are_seqevals(name, row):
    names, scheme = SCHEMES[name]
    assert [tuple(s) for s in TagScheme(names).spans(row)] == (seqevals_spans([row], names, scheme)[0] if row else [])


@pytest.mark.parametrize("name", SCHEMES)
def test_entity_f1_is_seqevals(name):
    names, scheme = SCHEMES[name]
    rng = random.Random(1)
    for share in (0.0, 0.1, 0.5, 1.0):  # of tags that are predicted wrong
        wanted = random_rows(rng, names, 200)
        found = [[rng.randrange(len(names)) if rng.random() < share else tag for tag in row] for row in wanted]
        predictions, references = (np.full((200, 24), -100) for _ in range(2))
        for row in range(200):
            places = sorted(rng.sample(range(24), len(wanted[row])))  # between them, tokens that begin no word
            references[row, places], predictions[row, places] = wanted[row], found[row]
        predictions[references == -100] = 1  # what is predicted there does not count
        lists = [[[names[tag] for tag in row] for row in rows] for rows in (wanted, found)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = f1_score(*lists, mode="strict", scheme=scheme)
        assert entity_f1(predictions, references, names=names) == pytest.approx(expected, abs=1e-12)
        counted = sum(a == b for row, other in zip(wanted, found, strict=True) for a, b in zip(row, other, strict=True))
        assert token_accuracy(predictions, references) == pytest.approx(counted / sum(map(len, wanted)))


def test_scores_of_a_task_and_of_nothing():
    task = spec(IOB2_TAGS, metrics=("entity_f1", "token_accuracy"))
    references = np.array([[-100, 1, 2, -100, 0], [-100, 3, -100, -100, -100]])
    predictions = np.array([[-100, 1, 2, -100, 0], [-100, 1, -100, -100, -100]], dtype=np.int32)
    assert task_scores(task, predictions, references) == {"entity_f1": 0.5, "token_accuracy": 0.75}
    nothing = np.full((2, 3), -100)
    assert task_scores(task, nothing, nothing) == {"entity_f1": 0.0, "token_accuracy": 0.0}


def spec(labels, **options):
    columns = {"text_columns": ("words",), "label_column": "tags"}
    return TaskSpec(name="ner", kind="token_classification", labels=tuple(labels), **columns, **options)


def test_the_scheme_follows_from_the_names():
    for names, known, bioes in (
        (IOB2_TAGS, True, False),
        (BIOES_TAGS, True, True),
        (["O", "B-PER", "S-PER"], True, True),
        (["O", "NOUN"], False, False),
        (["O", "B-PER", "NOUN"], False, False),
        (["O", "o"], False, False),
    ):
        scheme = TagScheme(names)
        assert (scheme.is_known, scheme.is_bioes) == (known, bioes), names


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (["NOUN", "VERB"], r"'NOUN' is none"),
        (["O", "B-PER", "X"], r"'X' is none"),
        (["O", "-"], r"'-' is none"),
        (["O", "I-PER", "I-LOC"], "no entity can begin"),
        (["O", "I-PER", "E-PER"], "no entity can begin"),
    ],
)
def test_entity_f1_of_tags_without_entities_is_refused(labels, named):
    with pytest.raises(InputError, match=rf"task 'ner': entity_f1 wants .*{named}; write metrics: \[token_accuracy\]"):
        spec(labels)
    with pytest.raises(InputError, match="entity_f1 wants"):
        spec(labels, metrics=("token_accuracy", "entity_f1"))
    assert spec(labels, metrics=("token_accuracy",)).main_metric == "token_accuracy"
    assert spec(IOB2_TAGS).metrics == ("entity_f1",)
