"""Token ids of training, pipeline and command line are those of the tokenizer's own truncation, at a linear price."""

import copy
import itertools
import random

import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_tokenizers import DIVIDED, MAKERS

from hf_mtl import InputError, TaskSpec
from hf_mtl.data.task_report import token_lengths
from hf_mtl.data.tokenization import tokenize
from hf_mtl.model import encoding, long_texts
from hf_mtl.model.encoding import encode
from hf_mtl.model.long_texts import count_tokens, first_words, splits_at_spaces


@pytest.fixture(scope="module")
def tokenizers(tokenizer):
    left = copy.deepcopy(tokenizer)
    left.truncation_side = "left"
    return {"BERT": tokenizer, "left": left, **{name: make() for name, make in MAKERS.items()}}


PIECES = [
    "the",
    "plot",
    "is",
    "dull",
    "film",
    "Café",
    "🙂",
    "\u200b",
    "\u0301",
    "漢字漢字",
    "x" * 120,
    "don't",
    "<mask>",
]
SPACES = [" ", " ", " ", "  ", "\n", " \n ", "\t", "\u00a0", ""]
WORDS = st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(SPACES)), max_size=6)
TEXTS = st.builds(
    lambda some, times, last: "".join(itertools.chain(*some)) * times + last,
    WORDS,
    st.integers(1, 9),
    st.text(max_size=8),
).filter(lambda text: text.isprintable() or text.encode(errors="ignore").decode() == text)


def old_way(tokenizer, rows, max_length):
    return tokenizer(*map(list, zip(*rows, strict=True)), truncation=True, max_length=max_length, verbose=False)


def assert_as_before(tokenizer, rows, max_length):
    found, wanted = encode(rows, tokenizer, max_length), old_way(tokenizer, rows, max_length)
    assert set(found.rows[0]) == set(wanted) - {"attention_mask"}
    for name in found.rows[0]:
        assert [row[name] for row in found.rows] == wanted[name], (name, rows)
    whole = tokenizer(*map(list, zip(*rows, strict=True)), verbose=False)["input_ids"]
    assert found.cut == [len(ids) > max_length for ids in whole]


@pytest.mark.parametrize("name", ["BERT", "left", *MAKERS])
@pytest.mark.parametrize("num_texts", [1, 2])
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_ids_are_those_of_the_tokenizers_own_truncation(tokenizers, name, num_texts, data):
    rows = data.draw(st.lists(st.tuples(*[TEXTS] * num_texts), min_size=1, max_size=4))
    assert_as_before(tokenizers[name], rows, data.draw(st.integers(5, 40)))


@pytest.mark.parametrize("name", ["BERT", "left", *MAKERS])
@pytest.mark.parametrize("max_length", [32, 33])
def test_ids_of_long_texts_are_those_of_the_tokenizers_own_truncation(tokenizers, name, max_length):
    rng = random.Random(max_length)

    def text(most):
        return "".join(rng.choice(PIECES[:5]) + " " for _ in range(rng.randrange(most))).strip() or " "

    sizes = [(0, 90), (90, 10), (90, 90), (8, 9), (60, 90)]
    rows = [(text(one + 1), text(other + 1)) for one, other in sizes for _ in range(6)]
    same = " ".join(PIECES[:5] * 16)
    rows += [(same, same), (same + " film", same), (same, same + " film"), ("\u200b " * 80 + same, same)]
    far = "the film " + "plot " * 60 + "is" + " dull" * 60  # what stands late has an effect on what stands early
    rows += [(far, same), (far, "dull")]
    assert_as_before(tokenizers[name], rows, max_length)
    assert_as_before(tokenizers[name], [(one,) for one, _ in rows], max_length)


@pytest.mark.parametrize("name", ["BERT", *MAKERS])
def test_which_tokenizers_go_without_the_rest_of_a_text(tokenizers, name):
    assert splits_at_spaces(tokenizers[name]) == (name in (*DIVIDED, "no special tokens"))


@pytest.mark.parametrize("name", DIVIDED)
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(TEXTS, min_size=1, max_size=5))
def test_tokens_are_counted_word_by_word(tokenizers, name, texts):
    texts = [*texts, " ".join(texts * 8)]
    wanted = [len(ids) for ids in tokenizers[name](texts, add_special_tokens=False, verbose=False)["input_ids"]]
    assert count_tokens(texts, tokenizers[name]) == wanted


def test_texts_of_one_long_word_are_read_to_their_end_and_no_more_than_once(tokenizers):
    rows = [("漢字" * 5000, "x" * 10_000), ("\n".join(["plot"] * 3000), " " * 10_000)]
    for name in ("BERT", "RoBERTa", "XLM-R"):
        for part in ([rows[0]], [(rows[1][0],)], [("",)], [("", " ")], [(rows[0][1],)]):
            if len(part[0]) == 1:
                assert_as_before(tokenizers[name], part, 32)
            else:  # the old way does not end
                assert len(encode(part, tokenizers[name], 32).rows[0]["input_ids"]) <= 32


class Counting:
    """A tokenizer's part in Rust, which notes how many tokens it makes, and in which pieces."""

    def __init__(self, backend):
        self.backend, self.made = backend, 0

    def __getattr__(self, name):
        return getattr(self.backend, name)

    def encode_batch(self, *args, **options):
        encodings = self.backend.encode_batch(*args, **options)
        self.made += sum(len(piece) for encoding in encodings for piece in (encoding, *encoding.overflowing))
        return encodings


def test_long_pairs_make_the_tokens_that_are_kept_and_no_pieces(tokenizer, monkeypatch):
    own = copy.deepcopy(tokenizer)
    backend = Counting(own.backend_tokenizer)
    monkeypatch.setattr(own, "_tokenizer", backend)
    for words in (50, 5000):
        backend.made = 0
        encode([("the plot is dull " * words, "the film is good " * words)], own, 64)
        assert 64 <= backend.made < 128
    own.truncation_side, backend.made = "left", 0
    pair = ("the plot is dull " * 500, "the film is good " * 500)
    encode([pair], own, 64)
    assert backend.made == len(tokenizer(*pair, verbose=False)["input_ids"])


def test_few_rows_are_held_at_once(tokenizers, monkeypatch):
    monkeypatch.setattr(long_texts, "MAX_CHARACTERS", 1000)
    rows = [("a" * 400,)] * 5 + [("b" * 3000,), ("c",)]
    slices = list(long_texts.parts(rows, 1000))
    assert [(s.start, s.stop) for s in slices] == [(0, 2), (2, 4), (4, 5), (5, 6), (6, 7)]
    assert list(long_texts.parts([])) == [slice(0, 0)]
    assert_as_before(tokenizers["BERT"], rows, 16)


def test_first_words():
    assert first_words("one two three", 2) == "one two"
    assert first_words("a b", 2) == "a b"
    assert first_words("one two  three four five six", 2) == "one two"
    assert first_words("one two\nthree four five six", 2) == "one two\nthree"
    assert first_words("  one two   \n", 2) == "  one two"
    assert first_words("one\ntwo\nthree\nfour", 2) == "one\ntwo\nthree\nfour"
    assert first_words("ab" * 10**5 + " ", 3) == "ab" * 10**5 + " "


def test_a_length_without_room_for_text_is_refused(tokenizers):
    with pytest.raises(InputError, match="max_length is 3, wanted more than the 3 special tokens"):
        encode([("a", "b")], tokenizers["BERT"], 3)
    assert encode([], tokenizers["BERT"], 8) == ([], [])


def pair_spec():
    return TaskSpec(
        name="t", kind="regression", text_columns=("one", "two"), label_range=(0, 1), files={"train": "none.csv"}
    )


def test_a_row_without_text_is_refused_by_number(tokenizer):
    rows = Dataset.from_dict({"one": ["a", "b", None], "two": ["a", "b", "c"]})
    with pytest.raises(InputError, match=r"task 't': row 2 holds \(None, 'c'\), wanted text"):
        tokenize(pair_spec(), rows, tokenizer, 16)


def test_long_pairs_are_tokenised_and_counted(tokenizer):
    pair = ("the plot is dull " * 250, "the film is good " * 250)
    rows = Dataset.from_dict({"one": [pair[0]] * 30 + ["a"], "two": [pair[1]] * 31})
    wanted = [len(tokenizer(pair[0] if row < 30 else "a", pair[1], verbose=False)["input_ids"]) for row in range(31)]
    assert tokenize(pair_spec(), rows, tokenizer, 64)["length"][:] == [64] * 31
    assert token_lengths(pair_spec(), rows, tokenizer).tolist() == wanted


def test_ids_of_this_version_of_the_encoding(tokenizer):
    """Whoever changes these has to count ENCODING_VERSION up: tokens that are kept on disk belong to one version."""
    encoded = encode([("the plot is dull and the film is good", "the cast shines")], tokenizer, 12)
    ids = encoded.rows[0]["input_ids"]
    assert (encoding.ENCODING_VERSION, tokenizer.convert_ids_to_tokens(ids)) == (
        1,
        ["[CLS]", "the", "plot", "is", "dull", "and", "the", "[SEP]", "the", "cast", "shines", "[SEP]"],
    )
