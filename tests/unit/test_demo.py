"""The demo's data: deterministic, disjoint between splits, balanced, and out of reach of word counts and overlap."""

from collections import Counter
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from hf_mtl.tasks import demo


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, dict[str, list[Any]]]]:
    return {task: {s: demo.demo_rows(task, s) for s in demo.SPLITS} for task in ("reviews", "pairs")}


@pytest.mark.parametrize(("first", "second"), list(combinations(demo.SPLITS, 2)))
def test_splits_share_no_sentence(rows: Any, first: str, second: str) -> None:
    for columns in (("sentence",), ("sentence1", "sentence2")):
        task = rows["reviews" if len(columns) == 1 else "pairs"]
        texts = [{text for column in columns for text in task[split][column]} for split in (first, second)]
        assert texts[0].isdisjoint(texts[1])


@pytest.mark.parametrize(
    "share",
    [
        demo.names,
        demo.review_templates,
        demo.scenes,
        lambda split: demo.pair_templates(split, negated=False),
        lambda split: demo.pair_templates(split, negated=True),
    ],
    ids=["names", "review templates", "scenes", "affirmed templates", "negated templates"],
)
def test_splits_share_no_template_scene_or_name(share: Any) -> None:
    shares = [share(split) for split in demo.SPLITS]
    assert all(shares)
    assert sum(map(len, shares)) == len({item for items in shares for item in items})


def test_a_name_of_one_split_is_in_no_sentence_of_another(rows: Any) -> None:
    words = {word for text in rows["reviews"]["validation"]["sentence"] for word in text.split()}
    assert words & set(demo.names("validation"))
    assert words.isdisjoint([*demo.names("train"), *demo.names("test")])


@pytest.mark.parametrize("task", ["reviews", "pairs"])
def test_rows_of_a_split_are_distinct(rows: Any, task: str) -> None:
    for split in demo.SPLITS:
        columns = rows[task][split]
        texts = list(zip(*(columns[name] for name in columns if name.startswith("sentence")), strict=True))
        assert len(set(texts)) == len(texts) == demo.NUM_ROWS[task][split]
        assert columns["idx"] == list(range(len(texts)))


def test_labels_are_balanced_or_spread_and_hidden_in_test(rows: Any) -> None:
    for split in ("train", "validation"):
        assert np.mean(rows["reviews"][split]["label"]) == pytest.approx(0.5, abs=0.02)
        grades = rows["pairs"][split]["label"]
        assert (min(grades), max(grades)) == (0.0, 5.0)
        assert max(Counter(grades).values()) < 0.4 * len(grades)
    assert set(rows["reviews"]["test"]["label"]) == {-1}
    assert set(rows["pairs"]["test"]["label"]) == {-1.0}


def test_length_does_not_tell_the_sentiment(rows: Any) -> None:
    columns = rows["reviews"]["train"]
    lengths = [len(text.split()) for text in columns["sentence"]]
    # 40,000 rows put the standard error of a correlation at 0.005.
    assert abs(np.corrcoef(lengths, columns["label"])[0, 1]) < 0.05


def test_word_counts_do_not_solve_reviews(rows: Any) -> None:
    train, validation = rows["reviews"]["train"], rows["reviews"]["validation"]
    counter = CountVectorizer(token_pattern=r"\S+")
    counts, held_out = counter.fit_transform(train["sentence"]), counter.transform(validation["sentence"])
    models = [LogisticRegression(C=c, max_iter=2000).fit(counts, train["label"]) for c in (0.01, 0.1, 1.0, 10.0)]
    assert max(model.score(held_out, validation["label"]) for model in models) <= 0.75


def test_word_overlap_does_not_solve_pairs(rows: Any) -> None:
    train, validation = rows["pairs"]["train"], rows["pairs"]["validation"]
    ridges = [Ridge(alpha=alpha).fit(_overlap(train), train["label"]) for alpha in (0.1, 1.0, 10.0)]
    predictions = [ridge.predict(_overlap(validation)) for ridge in ridges]
    assert max(np.corrcoef(p, validation["label"])[0, 1] for p in predictions) <= 0.60


def _overlap(columns: dict[str, list[Any]]) -> np.ndarray:
    """Shape: [rows, 8]: shared words, Jaccard, containment both ways, shared word pairs, length features, equality."""
    features = []
    for texts in zip(columns["sentence1"], columns["sentence2"], strict=True):
        words = [text.split() for text in texts]
        a, b = map(set, words)
        bigrams = [set(pairwise(w)) for w in words]
        lengths = [len(w) for w in words]
        shared = len(a & b)
        overlap = [shared, shared / len(a | b), shared / len(a), shared / len(b), len(bigrams[0] & bigrams[1])]
        features.append([*overlap, abs(lengths[0] - lengths[1]), sum(lengths), texts[0] == texts[1]])
    return np.array(features, dtype=float)


def test_tokenizer_reads_its_texts_back(rows: Any, tokenizer: Any) -> None:
    for text in rows["reviews"]["validation"]["sentence"][:50] + rows["pairs"]["validation"]["sentence1"][:50]:
        ids = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_names_of_every_split_are_read_in_pieces_and_other_words_whole(rows: Any, tokenizer: Any) -> None:
    names = {name for split in demo.SPLITS for name in demo.names(split)}
    assert all(len(tokenizer.tokenize(name)) == 2 for name in names)
    for words in (text.split() for text in rows["reviews"]["validation"]["sentence"]):
        assert all(len(tokenizer.tokenize(word)) == 1 for word in set(words) - names)


def test_tokenizer_marks_the_second_sentence(tokenizer: Any) -> None:
    encoded = tokenizer("the plot", "the plot works")
    assert tokenizer.convert_ids_to_tokens(encoded.input_ids) == (
        ["[CLS]", "the", "plot", "[SEP]", "the", "plot", "works", "[SEP]"]
    )
    assert encoded.token_type_ids == [0, 0, 0, 0, 1, 1, 1, 1]


def test_longest_text_fits_the_encoder(tokenizer: Any) -> None:
    config = demo.demo_encoder_config(len(tokenizer))
    assert config.vocab_size == len(tokenizer)
    # Positions start behind that of padding.
    assert tokenizer.model_max_length <= config.max_position_embeddings - config.pad_token_id - 1


@pytest.mark.parametrize(("task", "split"), [("sst2", "train"), ("pairs", "dev")])
def test_an_unknown_task_or_split_is_named(task: str, split: str) -> None:
    with pytest.raises(ValueError, match="the demo has"):
        demo.demo_rows(task, split)
