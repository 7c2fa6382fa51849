"""What keeps long texts cheap: which tokenizers need but their beginning, where it ends, how long the whole text is.

Travels with a saved model's code.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

# What a tokenizer may be made of whose tokens before a space that follows a word do not depend on what comes after it.
NORMALIZERS = {
    *("BertNormalizer", "Lowercase", "Nmt", "Precompiled", "Prepend", "Strip", "StripAccents"),
    *("NFC", "NFD", "NFKC", "NFKD"),
}
SPLITTERS = {"BertPreTokenizer", "ByteLevel", "Metaspace", "Whitespace", "WhitespaceSplit"}
FINER_SPLITTERS = {"Digits", "Punctuation"}
SPACES = {" {2,}", r"\s+", r"\s{2,}", r"\s{2,}|[\n\r\t]"}  # regular expressions that match white space alone
BORDER = re.compile(r" (?<=\S )")  # a space that follows a word
MAX_CHARACTERS = 2**21  # of one call of a tokenizer, which holds hundreds of bytes for a word until it returns


def parts(rows: Sequence[Sequence[str]], most: int = MAX_CHARACTERS) -> Iterator[slice]:
    """Where to divide rows of texts, so that a part has at most so many characters, or is a single row."""
    start = characters = 0
    for row, texts in enumerate(rows):
        size = sum(map(len, texts))
        if characters + size > most and row > start:
            yield slice(start, row)
            start, characters = row, 0
        characters += size
    yield slice(start, len(rows))


def splits_at_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a fast tokenizer begins a new word at every space that follows a word, whatever the text.

    Then the tokens of a text up to there are the first ones of the whole text. Known kinds only: False for others.
    """
    added = tokenizer.added_tokens_decoder.values()
    if any(token.rstrip or BORDER.search(token.content) for token in added):
        return False
    backend = tokenizer.backend_tokenizer
    try:
        normalizers = list(_components(backend.normalizer, "normalizers"))
        splitters = list(_components(backend.pre_tokenizer, "pretokenizers"))
    except Exception:  # the Rust code raises a bare Exception for parts in Python
        return False
    return (
        all(map(_keeps_borders, normalizers))
        and all(part["type"] in SPLITTERS | FINER_SPLITTERS for part in splitters)
        and any(_splits(part) for part in splitters)
    )


def _components(whole: Any, key: str) -> Iterator[Mapping[str, Any]]:
    """The settings of a part of a tokenizer, or of the parts that it is a sequence of."""
    open_ends = [] if whole is None else [json.loads(whole.__getstate__())]
    while open_ends:
        part = open_ends.pop()
        if part["type"] == "Sequence":
            open_ends += part[key]
        else:
            yield part


def _keeps_borders(part: Mapping[str, Any]) -> bool:
    if part["type"] != "Replace":
        return part["type"] in NORMALIZERS
    pattern = part["pattern"]
    return pattern["Regex"] in SPACES and part["content"] == " " if "Regex" in pattern else " " not in pattern["String"]


def _splits(part: Mapping[str, Any]) -> bool:
    """ByteLevel and Metaspace can be told not to."""
    return part["type"] in SPLITTERS and part.get("use_regex", True) and part.get("split", True)


def first_words(text: str, number: int) -> str:
    """The first words of a text, a few more if no space follows them, or the whole text if it has no more."""
    found = _first(number).match(text) if len(text) > 2 * number else None
    return text[: found.end()] if found else text


@functools.cache
def _first(number: int) -> re.Pattern[str]:
    # Possessive: linear where there are fewer words, too.
    return re.compile(rf"(?:\s*+\S++){{{number}}}+(?:(?! )\s++\S++)*+(?= )")


def count_tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens of each text, special ones left out, by a tokenizer that `splits_at_spaces`.

    Long texts repeat most of their words, which are made once.
    """
    known: dict[str, int] = {}
    counts: list[int] = []
    for part in parts([(text,) for text in texts], 4 * MAX_CHARACTERS):
        words = [_words(text) for text in texts[part]]
        new = list({word for words_of_text in words for word in words_of_text[1:]}.difference(known))
        if len(new) > sum(map(len, words)) / 5:  # each takes the time of a few in a text
            counts += _lengths(texts[part], tokenizer)
            continue
        # A word may have other tokens at the beginning of a text.
        before, *lengths = _lengths(["x", *(f"x {word}" for word in new)], tokenizer)
        known.update((word, length - before) for word, length in zip(new, lengths, strict=True))
        firsts = _lengths([first for first, *_ in words], tokenizer)
        counts += [length + sum(map(known.__getitem__, w[1:])) for length, w in zip(firsts, words, strict=True)]
    return counts


def _words(text: str) -> list[str]:
    """A text divided at its borders, without the spaces there."""
    words = text.split()
    return words if words and " ".join(words) == text else BORDER.split(text)


def _lengths(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens of each text, special ones left out."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    slices = parts([(text,) for text in texts])
    return [len(e) for part in slices for e in backend.encode_batch_fast(texts[part], add_special_tokens=False)]
