"""What people hand to the pipeline: rows in every form, and options; both checked.

Imports the standard library only: it travels with a saved model's code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Integral
from typing import Any, ClassVar, Literal

from .errors import InputError

Texts = tuple[str, ...]


class Words(tuple[str, ...]):
    """A row that is a list of words, which stands for one text; `is_words` tells."""

    __slots__ = ()
    of_words: ClassVar[bool] = True


BEST: Literal["best"] = "best"
TopK = int | None | Literal["best"]
ARGUMENTS = ("task_name", "top_k", "max_length", "batch_size", "truncation", "padding", "num_workers")
SURROGATE = re.compile("[\\ud800-\\udfff]")


def check_top_k(top_k: TopK) -> None:
    """Raise InputError unless it is a number of labels, None or `BEST`."""
    if top_k is not None and not (isinstance(top_k, str) and top_k == BEST):
        check_count("top_k", top_k, ", or None for all labels")


def check_count(name: str, value: Any, otherwise: str = "", least: int = 1) -> None:
    """Raise InputError unless it is a whole number that is large enough."""
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least:
        raise InputError(f"{name} is {shortened(value)}, wanted {least} or more{otherwise}")


def check_task_name(task_name: Any) -> None:
    """Raise InputError unless it is a name, a list of names, or None."""
    if task_name is None or isinstance(task_name, str):
        return
    if not isinstance(task_name, Sequence) or not task_name or not all_text(task_name):
        raise InputError(f"task_name is {shortened(task_name)}, wanted a task, or a list of tasks")


def check_truncation(truncation: Any, padding: Any) -> None:
    """Raise InputError for what other pipelines can be asked for and this one does not do."""
    if not (truncation is None or truncation is True or _is_one_of(truncation, "longest_first")):
        raise InputError(
            f"truncation is {shortened(truncation)}, wanted True: what is longer does not fit into the encoder, "
            "and of a pair the longer text is cut first"
        )
    if not (padding is None or isinstance(padding, bool) or _is_one_of(padding, "longest", "do_not_pad", "max_length")):
        raise InputError(f"padding is {shortened(padding)}, wanted True: every batch is padded to its longest row")


def _is_one_of(value: Any, *words: str) -> bool:
    """Whether a value is one of some words; an array, which has no truth value, is none."""
    return isinstance(value, str) and value in words


def is_one_row(inputs: Any) -> bool:
    """Whether inputs are a text or a pair, or an attempt at one, rather than rows of them."""
    is_tuple_of_text = isinstance(inputs, tuple) and bool(inputs) and all_text(inputs)
    is_table = hasattr(inputs, "columns") and hasattr(inputs, "to_dict")  # pandas gives the columns' names, not rows
    has_rows = isinstance(inputs, Iterable) or (hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__"))
    return is_tuple_of_text or is_table or not has_rows or isinstance(inputs, str | bytes | Mapping | Set)


def rows_of(inputs: Any) -> Iterable[Any]:
    """The rows of an iterable, or of what has a length and items, as a dataset of torch."""
    if not isinstance(inputs, Iterable):
        return (inputs[row] for row in range(len(inputs)))
    try:
        return iter(inputs)
    except TypeError:  # an array without dimensions
        return [as_texts(inputs)]


def as_texts(row: Any, number: int | None = None) -> Texts:
    """A text or a pair as a tuple of texts; InputError for anything else, which names the row by its number."""
    where = "" if number is None else f"row {number} (the first row is 0): "
    texts = (row,) if isinstance(row, str) else row
    if isinstance(row, Mapping) and set(row) in ({"text"}, {"text", "text_pair"}):
        texts = [row[key] for key in ("text", "text_pair") if key in row]
    of_words = is_words(row) or (isinstance(row, Mapping) and set(row) == {"words"})
    if of_words:
        texts = row if is_words(row) else row["words"]
    is_list = isinstance(texts, Sequence) and not isinstance(texts, str)
    if not (is_list and (of_words or len(texts) in (1, 2)) and texts and all_text(texts)):
        raise InputError(
            f"{where}found {shortened(row)}, wanted a text, a pair (one, other), or {{'text': one, 'text_pair': "
            "other}; for tasks that label words, {'words': [one, other, ...]} too"
        )
    for text in texts:
        if not text.isascii() and SURROGATE.search(text):
            raise InputError(f"{where}found {shortened(text)}, which holds half a surrogate pair, wanted Unicode text")
    return Words(texts) if of_words else tuple(texts)


def is_words(row: Any) -> bool:
    """Whether a row is a list of words.

    Of the code beside a model's weights, transformers imports a copy for the pipeline and another one for the model,
    each with a class `Words`.
    """
    return getattr(row, "of_words", False) is True


def num_texts(row: Texts) -> int:
    """1 for a text or a list of words, 2 for a pair."""
    return 1 if is_words(row) else len(row)


def all_text(row: Sequence[Any]) -> bool:
    """Whether every item is a string."""
    return all(isinstance(text, str) for text in row)


def shortened(value: Any) -> str:
    """What was found, in one line of 200 characters at most."""
    found = " ".join(repr(value).split())
    return found if len(found) <= 200 else f"{found[:200]}..."


def in_words(num_texts: int) -> str:
    """1 as "a text", 2 as "a pair of texts"."""
    return {1: "a text", 2: "a pair of texts"}[num_texts]
