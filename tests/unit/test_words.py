"""Words and their first tokens: one encoding for every family of tokenizers, and for plain texts."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_tokenizers import DIVIDED, MAKERS, bpe
from tokenizers import pre_tokenizers, processors

from hf_mtl import InputError
from hf_mtl.model.pipeline_inputs import Words
from hf_mtl.model.words import encode_words, word_numbers, words_of_texts

WORDS = [
    "Ashford",
    "the",
    "plot",
    "is",
    "anything",
    "but",
    "dull",
    ",",
    "naïve",
    "U.S.",
    "漢字",
    "don't",
    "(works)",
    "🙂🙂",
]
TEXT = "In Ashford, the plot  (naïve cafe\u0301!) is dull.\n漢字 works "


@pytest.fixture(scope="module")
def families(tokenizer):
    return {"BERT": tokenizer, **{name: make() for name, make in MAKERS.items()}}


def first_tokens(encoded, row=0):
    """Word, counted from 0 -> the place of its first token."""
    numbers = encoded.rows[row]["word_numbers"]
    assert len(numbers) == len(encoded.rows[row]["input_ids"])
    return {number - 1: place for place, number in enumerate(numbers) if number}


def rows_of_words(seed=0, number=60):
    rng = random.Random(seed)
    return [Words(rng.choices(WORDS, k=rng.randrange(1, 9))) for _ in range(number)]


def test_the_ids_of_bert_are_those_of_its_own_way_with_words(tokenizer):
    rows = [*rows_of_words(), Words(["a\u200bb", "\u200b", "x  y", "é", "[UNK]", ""])]
    encoded, own = encode_words(rows, tokenizer, 64), tokenizer(list(map(list, rows)), is_split_into_words=True)
    for number, row in enumerate(rows):
        assert encoded.rows[number]["input_ids"] == own["input_ids"][number]
        assert encoded.rows[number]["token_type_ids"] == own["token_type_ids"][number]
        places = own.word_ids(number)
        assert first_tokens(encoded, number) == {w: places.index(w) for w in range(len(row)) if w in places}


@pytest.mark.parametrize("prefix", [True, False])
def test_the_ids_of_byte_level_tokenizers_are_those_of_words_behind_a_blank(prefix):
    """Apart from the first word, where the tokenizer puts no blank before a text."""
    options = {"post_processor": processors.RobertaProcessing(("</s>", 3), ("<s>", 2), add_prefix_space=prefix)}
    tokenizer = bpe(pre_tokenizers.ByteLevel(add_prefix_space=prefix), **options)
    rows = [row for row in rows_of_words() if len(row) > 1]
    encoded = encode_words(rows, tokenizer, 256)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    own, first = tokenizer(list(map(list, rows)), is_split_into_words=True), 0 if prefix else 1
    for number in range(len(rows)):
        ids, own_ids, places = encoded.rows[number]["input_ids"], own["input_ids"][number], own.word_ids(number)
        wanted = own_ids[places.index(first) :]
        assert ids[-len(wanted) :] == wanted and (not prefix or ids == own_ids)
        for word, place in first_tokens(encoded, number).items():
            behind = place + len(own_ids) - len(ids) - places.index(word)
            blank = tokenizer.convert_ids_to_tokens(own_ids[places.index(word)]) == "Ġ"  # is no token of the word
            assert word < first or behind == (1 if blank else 0)


def test_every_family_finds_every_word(families):
    rows = rows_of_words(1)
    for name in (*DIVIDED, "no special tokens"):
        tokenizer = families[name]
        encoded = encode_words(rows, tokenizer, 512)
        assert not any(encoded.cut)
        for number, row in enumerate(rows):
            joined = " ".join(row)
            assert encoded.rows[number]["input_ids"] == tokenizer(joined)["input_ids"], name
            found = first_tokens(encoded, number)
            assert list(found) == list(range(len(row))), (name, row)
            offsets, start = tokenizer(joined, return_offsets_mapping=True)["offset_mapping"], 0
            for word, place in enumerate(found.values()):
                assert offsets[place][0] <= start < offsets[place][1], (name, row[word])
                start += len(row[word]) + 1


def test_the_words_of_a_text_are_in_it_and_its_ids_are_its_own(families):
    blank_free = "".join(TEXT.split())
    for name in DIVIDED:
        tokenizer = families[name]
        (words,) = words_of_texts([(TEXT,)], tokenizer)
        assert [TEXT[start:end] for start, end in words.places] == list(words) and words.text == TEXT
        assert "".join(words) == blank_free, name  # nothing is lost, and nothing is there twice
        encoded = encode_words([(TEXT,), words], tokenizer, 512)
        assert encoded.rows[0] == encoded.rows[1]
        assert encoded.rows[0]["input_ids"] == tokenizer(TEXT)["input_ids"]
        assert {"plot", "dull", "cafe\u0301", "works"} <= set(words), name
        assert list(first_tokens(encoded)) == list(range(len(words))), name


def test_a_bert_reads_a_text_as_its_pre_tokenizer_does(tokenizer):
    words = words_of_texts([("Ada Lovelace's U.S.  trip\t\u200b(1843).",), (" \n",), ("漢字x",)], tokenizer)
    assert list(words[0]) == ["Ada", "Lovelace", "'", "s", "U", ".", "S", ".", "trip", "(", "1843", ")", "."]
    assert list(words[1]) == [] and list(words[2]) == ["漢", "字", "x"]
    assert encode_words([words[1]], tokenizer, 8).rows[0]["word_numbers"] == [0, 0]


def test_punctuation_at_the_ends_is_apart_where_a_piece_is_all_between_blanks():
    tokenizer = MAKERS["XLM-R"]()
    (words,) = words_of_texts([('the plot, "works" and-drags.',)], tokenizer)
    assert list(words) == ["the", "plot", ",", '"', "works", '"', "and-drags", "."]


@pytest.mark.parametrize("side", ["right", "left"])
def test_words_that_are_cut_off_have_no_token(tokenizer, side, monkeypatch):
    monkeypatch.setattr(tokenizer, "truncation_side", side)
    row = Words(["Ashford", "the", "plot", "is", "dull"])
    whole = encode_words([row], tokenizer, 64)
    for length in range(3, len(whole.rows[0]["input_ids"]) + 1):
        encoded = encode_words([row, row], tokenizer, length)
        ids = tokenizer(" ".join(row), truncation=True, max_length=length)["input_ids"]
        assert encoded.rows[1]["input_ids"] == ids and encoded.cut == [len(ids) < len(whole.rows[0]["input_ids"])] * 2
        left_out = len(whole.rows[0]["input_ids"]) - length if side == "left" else 0
        wanted = {word: place - left_out for word, place in first_tokens(whole).items()}
        assert first_tokens(encoded) == {word: place for word, place in wanted.items() if 0 < place < length - 1}
    with pytest.raises(InputError, match="max_length is 2, wanted more than the 2 special tokens"):
        encode_words([row], tokenizer, 2)


@pytest.mark.parametrize(
    ("tokens", "words", "numbers"),
    [
        ([(0, 0), (0, 3), (3, 7), (0, 0)], [(0, 3), (4, 7)], [0, 1, 2, 0]),  # the blank belongs to the second
        ([(0, 3), (3, 4), (4, 7)], [(0, 3), (4, 7)], [1, 0, 2]),  # or is a token
        ([(0, 7)], [(0, 3), (4, 7)], [1]),  # a token of two words is the first one's
        ([(0, 3), (6, 9)], [(0, 3), (4, 5), (6, 9)], [1, 3]),  # a word that the tokenizer drops
        ([(0, 3), (3, 7)], [(0, 3), (3, 3), (4, 7)], [1, 3]),  # an empty one
        ([(0, 1), (0, 1), (1, 2)], [(0, 2)], [1, 0, 0]),  # several tokens of a character
        ([], [(0, 2)], []),
    ],
)
def test_a_words_first_token_is_the_first_that_ends_behind_its_beginning(tokens, words, numbers):
    assert word_numbers(tokens, words) == numbers


@given(st.lists(st.text(max_size=6), min_size=1, max_size=6), st.sampled_from(["BERT", *MAKERS]))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_words_have_numbers_in_order(families, words, name):
    encoded = encode_words([Words(words), (" ".join(words),)], families[name], 64)
    for row in encoded.rows:
        numbers = [number for number in row["word_numbers"] if number]
        assert numbers == sorted(set(numbers))
    numbers = [number for number in encoded.rows[0]["word_numbers"] if number]
    assert all(0 < number <= len(words) and words[number - 1].strip() for number in numbers)


def test_a_slow_tokenizer_is_refused_with_what_to_do(tokenizer):
    class Slow:
        is_fast, name_or_path = False, "old"

    for read in (lambda: encode_words([Words(["a"])], Slow(), 8), lambda: words_of_texts([("a",)], Slow())):
        with pytest.raises(
            InputError, match=r"tokenizer 'old' is a slow one \(Slow\).* wanted a fast one: .*tokenizer\.json"
        ):
            read()
