"""Rows of words to token ids, with the first token of each word; texts are divided into words by their tokenizer.

Travels with a saved model's code.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from .encoding import WORD_NUMBERS, Encoded, Row, room_for_texts
from .errors import InputError
from .long_texts import parts
from .pipeline_inputs import Texts, Words, is_words

Place = tuple[int, int]  # of a word in its text: the first character, and the one behind the last


class TextWords(Words):
    """The words of a plain text, and where they are in it.

    Attributes:
        text: as it was given.
        places: of each word.
    """

    text: str
    places: list[Place]


def words_of_texts(rows: Sequence[Texts], tokenizer: PreTrainedTokenizerBase) -> list[Texts]:
    """The rows as words: lists of words as they are, and texts divided into what their tokenizer takes for words.

    These are the pieces of the tokenizer's pre-tokenizer without blanks; one without a pre-tokenizer divides at white
    space. Punctuation at the ends of a piece is a word of its own where a token begins there.
    """
    check_offsets(tokenizer)
    texts = [row[0] for row in rows if not is_words(row)]
    encodings = iter(_encodings(texts, tokenizer))
    return [row if is_words(row) else _text_words(row[0], next(encodings)) for row in rows]


def encode_words(rows: Sequence[Texts], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Token ids of each row's words with one space between, or of the text that they are from; "word_numbers" too.

    A word's first token is the first one that ends behind the word's beginning. A word without a token, one that shares
    its first token with the word before it, and one whose first token was cut off have no number.

    Args:
        rows: lists of words, or texts.
        tokenizer: a fast one, of any kind; its side of truncation counts.
        max_length: in tokens, special ones included.

    Raises:
        InputError: for a slow tokenizer, and for a length that leaves no token to the words.
    """
    if not rows:
        return Encoded([], [])
    check_offsets(tokenizer)
    room_for_texts(tokenizer, max_length, num_texts=1)
    encoded = Encoded([], [])
    for part in parts(rows):
        words = words_of_texts(rows[part], tokenizer)
        texts = [row.text if isinstance(row, TextWords) else " ".join(row) for row in words]
        tokens = tokenizer(texts, verbose=False, return_attention_mask=False)
        for number, (row, encoding) in enumerate(zip(words, tokens.encodings, strict=True)):
            places = row.places if isinstance(row, TextWords) else _places_when_joined(row)
            values = {name: column[number] for name, column in tokens.items()}
            values[WORD_NUMBERS] = word_numbers(encoding.offsets, places)
            encoded.rows.append(_cut(values, encoding, max_length, tokenizer.truncation_side))
            encoded.cut.append(len(encoding.offsets) > max_length)
    return encoded


def check_offsets(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise InputError for a tokenizer that does not tell where its tokens stand in the text."""
    if not tokenizer.is_fast:
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} is a slow one ({type(tokenizer).__name__}), which does not tell "
            "where its tokens are in a text, and tags of words want that; wanted a fast one: a folder or Hub id with a "
            "tokenizer.json, as AutoTokenizer loads it unless asked for use_fast=False"
        )


def word_numbers(tokens: Sequence[Place], words: Sequence[Place]) -> list[int]:
    """For each token the number, from 1, of the word that begins with it, or 0.

    Args:
        tokens: where each token is in the text, in order; special ones are (0, 0).
        words: where each word is, in order.
    """
    numbers, at = [0] * len(tokens), 0
    for number, (start, end) in enumerate(words, 1):
        while at < len(tokens) and tokens[at][1] <= start:
            at += 1
        if at < len(tokens) and tokens[at][0] < end and start < end:
            numbers[at] = number
            at += 1
    return numbers


def _places_when_joined(words: Texts) -> list[Place]:
    """Where words without the blanks around them are, once they stand with one space between."""
    places, begin = [], 0
    for word in words:
        start = begin + len(word) - len(word.lstrip())
        places.append((start, max(start, begin + len(word.rstrip()))))
        begin += len(word) + 1
    return places


def _cut(row: Row, encoding: Any, max_length: int, side: str) -> Row:
    """A row without the tokens of its text that are too many; the special ones stay."""
    too_many = len(encoding.offsets) - max_length
    if too_many <= 0:
        return row
    of_text = [place for place, owner in enumerate(encoding.sequence_ids) if owner is not None]
    dropped = set(of_text[:too_many] if side == "left" else of_text[-too_many:])
    return {name: [each for i, each in enumerate(values) if i not in dropped] for name, values in row.items()}


def _encodings(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[Any]:
    for part in parts([(text,) for text in texts]):
        yield from tokenizer(list(texts[part]), verbose=False).encodings if texts else ()


def _text_words(text: str, encoding: Any) -> TextWords:
    pieces: dict[int, Place] = {}
    for piece, (start, end) in zip(encoding.word_ids, encoding.offsets, strict=True):
        if piece is not None and start < end:
            first, last = pieces.get(piece, (start, end))
            pieces[piece] = min(first, start), max(last, end)
    borders = {start for start, _ in encoding.offsets}
    places: list[Place] = []
    for start, end in pieces.values():  # an accent may be a piece by itself, and is no word
        places += _words_in(text, (max(start, places[-1][1] if places else 0), end), borders)
    words = TextWords(text[start:end] for start, end in places)
    words.text, words.places = text, places
    return words


def _words_in(text: str, piece: Place, borders: set[int]) -> Iterator[Place]:
    """The words of a piece, which has blanks around it and, without a pre-tokenizer, between its words."""
    at, stop = piece
    while stop < len(text) and unicodedata.combining(text[stop]):  # an accent that the normalizer left out
        stop += 1
    for word in text[at:stop].split():
        start = text.index(word, at)
        at = end = start + len(word)
        inner = [place for place in range(start, end) if not _is_punctuation(text[place])] or [end]
        cuts = [place for place in range(start + 1, end) if place in borders]
        cuts = [place for place in cuts if place <= inner[0] or place > inner[-1]]
        yield from itertools.pairwise([start, *cuts, end])


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P")
