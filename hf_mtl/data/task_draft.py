"""A task file drafted from data: which columns are texts and labels, of what kind, and why."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import yaml
from datasets import Dataset

from ..errors import InputError
from ..model.heads import is_task_name
from ..model.tag_scheme import TagScheme
from ..tasks.spec import TaskSpec
from ..tasks.tag_metrics import token_accuracy
from .column_roles import Column, role_of

LABEL_NAMES = re.compile(
    r"(?i)(.*[_ ])?(labels?|targets?|class|classes|category|categories|topics?|tags?|sentiment|scores?|ratings?|"
    r"stars|grade|intent|emotions?|similarity|relatedness|ner|pos|y|is|has)([_ ].*|\d)?"
)
STEPS = re.compile(r"(?i)(.*[_ ])?(ratings?|stars|grade|level|severity|priority|urgency|likert)([_ ].*)?")
PAIRS = (
    {"premise", "hypothesis"},
    {"question", "sentence"},
    {"question", "answer"},
    {"question", "context"},
    {"query", "passage"},
    {"query", "document"},
    {"anchor", "positive"},
    {"source", "target"},
)
BORDERS = (0, 1, 5, 10, 100)  # where people let a scale end
LEAST_WORDS = 3  # on average, of a second text
MANY = 100  # labels; of more, the names are left to the data
SPLIT_NAMES = {"validation": ("validation", "dev", "valid", "val", "eval"), "test": ("test",)}
COMMON = ("files", "dataset", "text_columns", "splits", "validation_fraction")
Entry = tuple[Any, str]  # a key's value, and the reason for it


@dataclass
class Draft:
    """A task as guessed: its name, and every key with its value and the reason, which begins "guessed" if unsure."""

    name: str
    keys: dict[str, Entry] = field(default_factory=dict)


def draft_tasks(name: str, splits: Mapping[str, Dataset], taken: Sequence[str] = ()) -> tuple[list[Draft], list[str]]:
    """The tasks that the rows of a source seem to be for, without the key that says where these are.

    Args:
        name: of the source; of its task, if the label's column is called no more than "label".
        splits: the data's own name of a split -> its rows.
        taken: names that other tasks have.

    Returns:
        The tasks, and remarks on what was left out.

    Raises:
        InputError: where no column can be a text, or none the labels of a task.
    """
    chosen = choose_splits(splits)
    rows = splits[chosen["train"]]
    if not len(rows):
        raise InputError(f"{name}: split {chosen['train']!r} is empty, wanted at least one row")
    columns = [role_of(column, rows.features[column], _cells(column, chosen, splits)) for column in rows.column_names]
    texts, words = _text_columns(columns)
    labels = _label_columns(columns, texts, rows, words)
    there = ", ".join(f"{column.name} ({column.role}: {column.reason})" for column in columns)
    if not texts:
        raise InputError(f"{name}: no column seems to hold texts, wanted one or two; the columns are {there}")
    if not labels:
        raise InputError(f"{name}: no column seems to hold labels; the columns are {there}")
    drafts: list[Draft] = []
    refused: dict[str, str] = {}  # column of labels -> why no task can be made of it
    for label in labels:
        draft = _draft(label, texts, words=words)
        draft.name = _task_name(name, label, [*taken, *(each.name for each in drafts)])
        draft.keys.update(_split_keys(chosen, splits))
        if reason := _refusal(draft):
            refused.update(dict.fromkeys((column.name for column in label), reason))
        else:
            drafts.append(draft)
    if not drafts:
        raise InputError(f"{name}: no column of labels can be used; {'; '.join(dict.fromkeys(refused.values()))}")
    used = {each.name for label in labels for each in label} | {column.name for column in texts}
    reasons = {column.name: _why_unused(column, texts[0]) for column in columns if column.name not in used} | refused
    left_out = [f"column {column!r} is left out: {reason}" for column, reason in reasons.items()]
    return drafts, [*left_out, *_without_text(texts, chosen, splits)]


def _why_unused(column: Column, text: Column) -> str:
    """Why a column is left out; of one that holds texts, that another one does too."""
    return f"{column.reason}; the text is {text.name!r}" if column.role == "text" else column.reason


def _refusal(draft: Draft) -> str | None:
    """Why a draft is no task that can be loaded; None where it is one."""
    try:
        TaskSpec(name=draft.name, **{key: value for key, (value, _) in draft.keys.items()})
    except InputError as error:
        return str(error).removeprefix(f"task {draft.name!r}: ")
    return None


def _without_text(texts: Sequence[Column], chosen: Mapping[str, str], splits: Mapping[str, Dataset]) -> list[str]:
    """A remark on rows that have no text, where there are such."""
    rows = zip(*(_cells(column.name, chosen, splits) for column in texts), strict=True)
    number = sum(any(cell is None or cell == [] for cell in row) for row in rows)
    told = f"rows that have no text: {number:,}; they end a training unless --on_bad_row skip leaves them out"
    return [told] if number else []


def _cells(column: str, chosen: Mapping[str, str], splits: Mapping[str, Dataset]) -> list[Any]:
    """A column's cells in training and validation rows."""
    found = [splits[chosen[split]].with_format(None) for split in ("train", "validation") if split in chosen]
    return [cell for rows in found if column in rows.column_names for cell in rows[column][:]]


def choose_splits(splits: Mapping[str, Dataset]) -> dict[str, str]:
    """Which of the data's splits are "train", "validation" and "test", by their names; the largest is to train on."""
    found = {
        split: [each for word in words for each in splits if re.match(rf"(?i){word}(?![a-z])", each)]
        for split, words in SPLIT_NAMES.items()
    }
    held_out = [each for names in found.values() for each in names]
    rest = [each for each in splits if each not in held_out]
    train = "train" if "train" in splits else max(rest or splits, key=lambda each: len(splits[each]))
    return {"train": train, **{split: names[0] for split, names in found.items() if names and names[0] != train}}


def _split_keys(chosen: Mapping[str, str], splits: Mapping[str, Dataset]) -> dict[str, Entry]:
    keys: dict[str, Entry] = {}
    renamed = {split: own for split, own in chosen.items() if own != split}
    sizes = ", ".join(f"{own} {len(splits[own]):,} rows" for own in chosen.values())
    if renamed:
        others = [each for each in splits if each not in chosen.values()]
        more = f"; there are {', '.join(others)} too" if others else ""
        keys["splits"] = (renamed, f"guessed: by their names; {sizes}{more}")
    if "validation" not in chosen:
        keys["validation_fraction"] = (0.1, f"no split for validation is there: {sizes}")
    return keys


# ---- columns ----


def _text_columns(columns: Sequence[Column]) -> tuple[list[Column], bool]:
    """The column of the texts, or those of a pair; and whether their cells are lists of words."""
    words = [column for column in columns if column.role == "words"]
    texts = [column for column in columns if column.role == "text"]
    if words and any(column.role == "labels" for column in columns):
        return words[:1], True
    for one, other in combinations(texts, 2):
        if _are_pair(one.name, other.name):
            return [one, other], False
    longest = max(texts, key=lambda column: column.num_words, default=None)
    if longest is None or len(texts) > 2 or min(column.num_words for column in texts) < _least_words(longest):
        return [longest] if longest else [], False
    return texts, False


def _least_words(text: Column) -> float:
    """The words that a second text has on average, beside one with which it is not called a pair."""
    return max(LEAST_WORDS, text.num_words / 4)


def _are_pair(one: str, other: str) -> bool:
    """Whether two columns are called as those of a pair."""
    return {one.lower(), other.lower()} in PAIRS or _are_twins(one, other)


def _are_twins(one: str, other: str) -> bool:
    """Whether two columns are called as two of a kind, such as text_a and text_b."""
    halves = {re.sub(r"(?i)[_ ]?([12ab]|left|right)$", "", each) for each in (one, other)}
    return len(halves) == 1 and one not in halves


def _label_columns(
    columns: Sequence[Column], texts: Sequence[Column], rows: Dataset, words: bool
) -> list[list[Column]]:
    """The columns of each task's labels: one, or one for each label."""
    if words:
        lengths = [len(cell or ()) for cell in rows[texts[0].name]]
        tags = [column for column in columns if column.role == "labels"]
        return [[tag] for tag in tags if [len(cell or ()) for cell in rows[tag.name]] == lengths]
    labels = [column for column in columns if column.role in ("classes", "numbers", "labels", "delimited")]
    named = [column for column in labels if LABEL_NAMES.fullmatch(column.name)]
    flags = [column for column in labels if column.numbered and column.names == ("0", "1")]
    if len(flags) >= 3:
        rest = [[column] for column in labels if column not in flags and (column in named or column.role != "numbers")]
        return [flags, *rest]
    return [[column] for column in labels if column in named or (column.role != "numbers" or not named)]


# ---- a task ----


def _draft(labels: Sequence[Column], texts: Sequence[Column], *, words: bool) -> Draft:
    label, keys = labels[0], {}
    about_texts = "; ".join(f"{column.name}: {column.reason}" for column in texts)
    is_sure = len(texts) == 1 or _are_pair(texts[0].name, texts[1].name)
    keys["kind"] = _kind(labels, texts, words)
    keys["text_columns"] = ([column.name for column in texts], f"{'' if is_sure else 'guessed: '}{about_texts}")
    if len(labels) > 1:
        keys["label_columns"] = ([column.name for column in labels], "columns of 0 and 1")
    else:
        is_named = bool(LABEL_NAMES.fullmatch(label.name)) or label.role in ("labels", "delimited")
        keys["label_column"] = (label.name, f"{'' if is_named else 'guessed: '}{label.reason}")
    if label.mark is not None:
        keys["label_delimiter"] = (label.mark, "between the labels of a cell")
    kind = keys["kind"][0]
    if kind in ("regression", "similarity"):
        keys["label_range"] = _range(label)
    elif len(labels) == 1:
        keys["labels"] = _names(label)
    if kind in ("regression", "similarity") and len(texts) == 2:
        keys["metrics"] = (["pearson", "spearman"], "usual for pairs")
    if words and not TagScheme(label.names).is_known:
        keys["metrics"] = ([token_accuracy.__name__], "its tags mark no entities")
    missing = max(column.num_missing for column in labels)
    if missing:
        keys["missing_label"] = ("skip", f"{missing:,} rows have none")
    return Draft("", keys)


def _kind(labels: Sequence[Column], texts: Sequence[Column], words: bool) -> Entry:
    label = labels[0]
    if words:
        return "token_classification", "a label for each word"
    if len(labels) > 1:
        return "multi_label", "guessed: columns of 0 and 1; tasks of their own would be classification"
    if label.role in ("labels", "delimited"):
        return "multi_label", label.reason
    if label.role == "numbers":
        if len(texts) == 2 and _are_twins(texts[0].name, texts[1].name):
            return "similarity", "guessed: a number for two texts; regression reads both as one input"
        return "regression", label.reason
    if label.numbered and len(label.names) > 2 and STEPS.fullmatch(label.name):
        return "ordinal", "guessed: its name is that of a scale; classification knows no order"
    return "classification", label.reason


def _range(label: Column) -> Entry:
    assert label.bounds is not None
    low, high = label.bounds
    if low >= 0 and high <= BORDERS[-1]:
        top = min(border for border in BORDERS[1:] if high <= border)
        return [0, top], f"guessed: the training rows have {low:g} to {high:g}"
    return [math.floor(low), math.ceil(high)], f"guessed: the training rows have {low:g} to {high:g}"


def _names(label: Column) -> Entry:
    if len(label.names) > MANY:
        return "auto", f"{len(label.names)} of them"
    if label.numbered:
        return list(label.names), "guessed: give the numbers names"
    return list(label.names), "in the order of the data" if "names" in label.reason else "sorted"


def _task_name(source: str, labels: Sequence[Column], taken: Sequence[str]) -> str:
    """A name that a task may have and no other has: the label's, or the source's where that says more."""
    own = (
        source
        if len(labels) > 1 or re.fullmatch(r"(?i)labels?|target|class|y|score", labels[0].name)
        else labels[0].name
    )
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", own).strip("_-")[:40] or "task"
    name = name if name[0].isalpha() and is_task_name(name) else f"task_{name}"
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


# ---- the file ----


def task_file(drafts: Sequence[Draft], remarks: Sequence[str] = ()) -> str:
    """A task file of the drafts, with the reason for each value behind it; what all have in common stands first."""
    lines = [f"# {remark}" for remark in remarks]
    first = drafts[0].keys
    common = {key: first[key] for key in COMMON if all(draft.keys.get(key) == first.get(key, 0) for draft in drafts)}
    if len(drafts) > 1 and common:
        lines += ["defaults:", *(_line(key, entry, "  ") for key, entry in common.items())]
    else:
        common = {}
    lines.append("tasks:")
    for draft in drafts:
        own = {key: entry for key, entry in draft.keys.items() if key not in common}
        lines += [f"  {draft.name}:", *(_line(key, entry, "    ") for key, entry in own.items())]
    return "\n".join(lines) + "\n"


def _line(key: str, entry: Entry, indent: str) -> str:
    value, reason = entry
    return f"{indent}{key}: {_flow(value)}{f'  # {_one_line(reason)}' if reason else ''}"


def _flow(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _one_line(text: str) -> str:
    return " ".join(text.split())
