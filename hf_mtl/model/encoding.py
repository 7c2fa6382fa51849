"""Texts to token ids, cut to a length, and to padded batches: the one way of training, pipeline and command line.

Time and memory are linear in the text. `tokenizer(text, other, truncation=True)` also makes every piece that overflows,
each of the one text beside each of the other. Travels with a saved model's code.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase

from .errors import InputError
from .input_length import check_padding
from .long_texts import count_tokens, first_words, parts, splits_at_spaces

ENCODING_VERSION = 1  # of the ids that `encode` gives; tokens that are kept on disk belong to one version
# Columns of rows beside the tokenizer's inputs, and what a batch has of them; see `Head.encode`.
SEQUENCE_LENGTHS, SEQUENCES_PER_ROW, WORD_NUMBERS = "sequence_lengths", "sequences_per_row", "word_numbers"
NO_LABEL = -100  # of a token
SPARE = 8  # words taken beyond those needed, as a cut may change the last tokens before it

Texts = tuple[str, ...]
Row = dict[str, list[int]]


class Encoded(NamedTuple):
    """Rows of token ids.

    Attributes:
        rows: the tokenizer's inputs of each row, without attention mask and padding.
        cut: whether the row had more tokens than it may have.
    """

    rows: list[Row]
    cut: list[bool]


def encode(texts: Sequence[Texts], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """The ids that `tokenizer(text, other, truncation=True, max_length=max_length)` gives for every row.

    Args:
        texts: a text or a pair for each row, all of them one or the other.
        tokenizer: any fast or slow tokenizer; its side of truncation counts.
        max_length: in tokens, special ones included; the longer text of a pair is cut first.

    Raises:
        InputError: for a length that leaves no token to the texts.
    """
    if not texts:
        return Encoded([], [])
    room = room_for_texts(tokenizer, max_length, len(texts[0]))
    if not tokenizer.is_fast:
        return _encode_slow(texts, tokenizer, max_length)
    begun = _beginnings(texts, tokenizer, room)
    encoded = Encoded([], [])
    for part in parts(begun):
        rows, cut = _encode_fast(texts[part], begun[part], tokenizer, max_length, room)
        encoded.rows.extend(rows)
        encoded.cut.extend(cut)
    return encoded


def room_for_texts(tokenizer: PreTrainedTokenizerBase, max_length: int, num_texts: int) -> int:
    """How many tokens of an input are left to one or two texts; InputError where none is."""
    num_special = tokenizer.num_special_tokens_to_add(pair=num_texts == 2)
    if max_length <= num_special:
        raise InputError(f"max_length is {max_length}, wanted more than the {num_special} special tokens of an input")
    return max_length - num_special


def encode_apart(texts: Sequence[Texts], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """The ids of pairs, each text as a sequence of its own of at most `max_length` tokens."""
    if not texts:
        return Encoded([], [])
    columns = zip(*texts, strict=True)
    return joined_sequences([encode([(text,) for text in column], tokenizer, max_length) for column in columns])


def kept_lengths(lengths: Sequence[int], room: int) -> list[int]:
    """How many tokens are kept of a text, or of each of a pair, in `room` tokens: the rule "longest_first".

    As in `tokenizers`: the longer text is cut first. Two that are longer than half of the room get half of it each, and
    an odd token goes to the longer one, or to the second one of equal ones.
    """
    if sum(lengths) <= room or len(lengths) == 1:
        return [min(length, room) for length in lengths]
    less = min(*lengths, room // 2)
    return [room - less, less] if lengths[0] > lengths[1] else [less, room - less]


def padded(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
    """A batch of rows, with its attention mask. *Shape:* (sequences, tokens).

    Padding is on the right whatever the tokenizer's side: positions would count it, and "cls" read it, on the left.
    Of rows of several sequences, "sequences_per_row" says how many are each row's. *Shape:* (rows,)
    """
    fill = padding_values(tokenizer)
    counts = [len(row[SEQUENCE_LENGTHS]) for row in rows if SEQUENCE_LENGTHS in row]
    rows = [sequence for row in rows for sequence in sequences_of(row)]
    rows = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in rows]
    width = max(1, *(len(row["input_ids"]) for row in rows))
    batch = {
        name: torch.tensor([row[name] + [fill[name]] * (width - len(row[name])) for row in rows]) for name in rows[0]
    }
    return {**batch, **({SEQUENCES_PER_ROW: torch.tensor(counts)} if counts else {})}


def sequences_of(row: Row) -> list[Row]:
    """The sequences of a row, of which most have one."""
    if SEQUENCE_LENGTHS not in row:
        return [row]
    ends = list(itertools.accumulate(row[SEQUENCE_LENGTHS]))
    spans = [slice(end - length, end) for end, length in zip(ends, row[SEQUENCE_LENGTHS], strict=True)]
    return [{name: values[span] for name, values in row.items() if name != SEQUENCE_LENGTHS} for span in spans]


def joined_sequences(encoded: Sequence[Encoded]) -> Encoded:
    """Rows of several sequences each: the first of every row is in the first of `encoded`, and so on."""
    rows = [
        {
            **{name: [value for part in sequences for value in part[name]] for name in sequences[0]},
            SEQUENCE_LENGTHS: [len(part["input_ids"]) for part in sequences],
        }
        for sequences in zip(*(each.rows for each in encoded), strict=True)
    ]
    return Encoded(rows, [any(cut) for cut in zip(*(each.cut for each in encoded), strict=True)])


def padded_right(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, or, where it pads on the left, a copy that pads on the right: what goes with a saved model."""
    if tokenizer.padding_side != "right":
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "right"
    return tokenizer


def padding_values(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """What each of the tokenizer's inputs is padded with; InputError when it has no padding token."""
    check_padding(tokenizer)
    fill = {**dict.fromkeys(tokenizer.model_input_names, 0), "attention_mask": 0, WORD_NUMBERS: 0}
    return {**fill, "input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}


def _tokens(texts: Sequence[Texts], tokenizer: PreTrainedTokenizerBase, **options: Any) -> BatchEncoding:
    columns = map(list, zip(*texts, strict=True))
    return tokenizer(*columns, verbose=False, return_attention_mask=False, **options)


def _rows(tokens: BatchEncoding) -> list[Row]:
    return [dict(zip(tokens, values, strict=True)) for values in zip(*tokens.values(), strict=True)]


def _encode_slow(texts: Sequence[Texts], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """By a tokenizer in Python, which makes no pieces of what overflows, and does not tell whether anything did."""
    rows = _rows(_tokens(texts, tokenizer))
    cut = [len(row["input_ids"]) > max_length for row in rows]
    for number in (number for number, is_cut in enumerate(cut) if is_cut):
        (rows[number],) = _rows(_tokens([texts[number]], tokenizer, truncation=True, max_length=max_length))
    return Encoded(rows, cut)


def _encode_fast(
    texts: Sequence[Texts], begun: Sequence[Texts], tokenizer: PreTrainedTokenizerBase, max_length: int, room: int
) -> Encoded:
    """By a tokenizer in Rust, which tells the text of each token.

    Args:
        texts: see `encode`.
        begun: of each row the same object, or what `_beginning` left of it.
        tokenizer: see `encode`.
        max_length: see `encode`.
        room: tokens that the texts of a row may have.
    """
    tokens = _tokens(begun, tokenizer)
    rows = _rows(tokens)
    shortened = {number for number, (begin, whole) in enumerate(zip(begun, texts, strict=True)) if begin is not whole}
    long = [n for n, row in enumerate(rows) if n in shortened or len(row["input_ids"]) > max_length]
    spans = {number: _spans(tokens.encodings[number], len(texts[number])) for number in long}
    for number in list(shortened):
        if not _is_enough(begun[number], texts[number], list(map(len, spans[number])), room):
            again = _tokens([texts[number]], tokenizer)
            (rows[number],), spans[number] = _rows(again), _spans(again.encodings[0], len(texts[number]))
            shortened.remove(number)
    lengths = {number: list(map(len, spans_of_row)) for number, spans_of_row in spans.items()}
    # Of two texts that are cut to half of an odd number, the longer one keeps one token more.
    halved = [n for n in shortened if len(texts[n]) == 2 and room % 2 and min(lengths[n]) > room // 2]
    counts = iter(count_tokens([text for number in halved for text in texts[number]], tokenizer))
    for number in halved:
        lengths[number] = [next(counts), next(counts)]
    kept = {number: kept_lengths(lengths_of_row, room) for number, lengths_of_row in lengths.items()}
    for number in long:
        rows[number] = _trimmed(rows[number], spans[number], kept[number], tokenizer.truncation_side)
    return Encoded(rows, [number in kept and kept[number] != lengths[number] for number in range(len(rows))])


def _spans(encoding: Any, num_texts: int) -> list[range]:
    """Where the tokens of each text are."""
    owners = encoding.sequence_ids
    starts = [owners.index(text) if text in owners else 0 for text in range(num_texts)]
    return [range(start, start + owners.count(text)) for text, start in enumerate(starts)]


def _trimmed(row: Row, spans: Sequence[range], kept: Sequence[int], side: str) -> Row:
    """A row without the tokens of its texts beyond those kept; the special ones stay."""
    for span, length in sorted(zip(spans, kept, strict=True), key=lambda pair: -pair[0].start):  # the last first
        if length < len(span):
            gap = span[: len(span) - length] if side == "left" else span[length:]
            row = {name: values[: gap.start] + values[gap.stop :] for name, values in row.items()}
    return row


def _beginnings(texts: Sequence[Texts], tokenizer: PreTrainedTokenizerBase, room: int) -> Sequence[Texts]:
    """The rows, or, where that gives the same tokens, the first words of long ones; others stay the same objects."""
    if tokenizer.truncation_side != "right" or all(len(text) <= 2 * room for row in texts for text in row):
        return texts
    return [_beginning(row, room) for row in texts] if splits_at_spaces(tokenizer) else texts


def _beginning(texts: Texts, room: int) -> Texts:
    """As many words of a text as there may be tokens, or of each of a pair of long texts half as many."""
    for words in (room,) if len(texts) == 1 else ((room + 1) // 2, room):
        begin = tuple(first_words(text, words + SPARE) for text in texts)
        if all(len(some) < len(text) for some, text in zip(begin, texts, strict=True)):
            return begin
    return texts if begin == texts else begin


def _is_enough(begin: Texts, whole: Texts, lengths: Sequence[int], room: int) -> bool:
    """Whether what is kept of a shortened text ends well before the place where it was shortened."""
    kept = kept_lengths(lengths, room)
    rows = zip(begin, whole, lengths, kept, strict=True)
    return all(len(some) == len(text) or length >= keep + SPARE for some, text, length, keep in rows)
