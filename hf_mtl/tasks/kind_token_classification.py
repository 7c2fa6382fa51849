"""Token classification: every word of a row has one of the tags that the task declares."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from datasets import Dataset
from numpy.typing import NDArray

from ..errors import InputError
from ..model.encoding import NO_LABEL, WORD_NUMBERS
from ..model.head_token_classification import TokenClassificationHead
from ..model.tag_scheme import TagScheme
from .cells import shown
from .found_labels import FoundLabels
from .kinds import TaskKind, register_kind
from .label_sets import wanted_names
from .row_errors import SKIP_MISSING, RowErrors, raise_first
from .spec import TaskSpec
from .tag_column import NO_LIST, NO_TAG, TagColumn, find_tags, list_lengths, lists_of, no_tags, read_tags
from .tag_metrics import entity_f1, token_accuracy

logger = logging.getLogger(__name__)
NO_WORD = "_"  # for a word without a token, in predictions/<task>.tsv


@register_kind("token_classification")
class TokenClassification(TaskKind):
    """A row is a list of words, and its label a list of as many tags: names, or indices of `labels`.

        ner: {kind: token_classification, text_columns: [words], label_column: tags, labels: [O, B-PER, I-PER],
              files: {train: train.jsonl, validation: validation.jsonl}}

        {"words": ["Ada", "met", "Bob", "."], "tags": ["B-PER", "O", "B-PER", "O"]}

    The pipeline answers `{"tags": ["B-PER", "O", "B-PER", "O"]}` for `{"words": [...]}`, and for a text
    `{"entities": [{"label": "PER", "start": 0, "end": 3, "text": "Ada", "score": 0.99}]}`.
    """

    head = TokenClassificationHead
    metrics = (entity_f1.__name__, token_accuracy.__name__)
    auto = ("labels",)
    pipeline_tag = "token-classification"

    def check(self, spec: TaskSpec) -> None:
        """Raise InputError for `entity_f1` of tags that mark no entities."""
        super().check(spec)
        scheme = TagScheme(spec.names)
        if spec.is_auto:
            return
        if entity_f1.__name__ in spec.metrics and not scheme.is_known:
            what = f"{scheme.without_prefix[0]!r} is none" if scheme.without_prefix else "no entity can begin"
            raise InputError(
                f"task {spec.name!r}: entity_f1 wants the tag 'O', tags that begin an entity, 'B-' or 'S-', and tags "
                f"that go on with it, 'I-' or 'E-', and {what}; write metrics: [token_accuracy]"
            )

    def list_columns(self, spec: TaskSpec) -> tuple[str, ...]:
        """Those of the words and of the tags."""
        return (*spec.text_columns, spec.label_column)

    def read_labels(self, spec: TaskSpec, rows: Dataset, split: str) -> NDArray[Any]:
        """The tags of every row's words, as indices; NaN for those of a row of "test" without tags.

        *Shape:* (rows,), of arrays (words,)
        """
        words = self._num_words(spec, rows)
        tags = self._read(spec, rows, split)
        raise_first(spec, rows, split, self._bad(spec, rows, split, tags, words))
        self._say_what_indices_mean(spec, tags, split)
        self._say_what_is_loose(spec, tags, split)
        found, ends = np.empty(len(rows), dtype=object), np.cumsum(tags.lengths.clip(min=0))
        for row, (end, length) in enumerate(zip(ends, tags.lengths, strict=True)):
            found[row] = tags.values[end - length : end] if length > 0 else np.full(words[row], np.nan)
        return found

    def find_labels(self, spec: TaskSpec, rows: Dataset) -> FoundLabels:
        """The names in the lists of tags."""
        try:
            return find_tags(rows, spec.label_column)
        except InputError as error:
            raise InputError(f"task {spec.name!r}, split 'train': {error}") from error

    def missing_labels(self, spec: TaskSpec, rows: Dataset, split: str) -> NDArray[np.bool_]:
        """Which rows have no list of tags, or an empty one. *Shape:* (rows,)"""
        return np.asarray(self._read(spec, rows, split).lengths <= 0)

    def bad_labels(self, spec: TaskSpec, rows: Dataset, split: str) -> RowErrors:
        """Row -> what is wrong with its tags."""
        return self._bad(spec, rows, split, self._read(spec, rows, split), self._num_words(spec, rows))

    def _read(self, spec: TaskSpec, rows: Dataset, split: str) -> TagColumn:
        if spec.label_column not in rows.column_names:  # of "test"
            return no_tags(len(rows))
        try:
            return read_tags(rows, spec.label_column, spec.names)
        except InputError as error:
            raise InputError(f"task {spec.name!r}, split {split!r}: {error}") from error

    def _num_words(self, spec: TaskSpec, rows: Dataset) -> NDArray[np.int64]:
        array = lists_of(rows, spec.text_columns[0])
        return np.full(len(rows), NO_LIST) if array is None else list_lengths(array)

    def _bad(self, spec: TaskSpec, rows: Dataset, split: str, tags: TagColumn, words: NDArray[np.int64]) -> RowErrors:
        """Row -> what is wrong with its tags: none, another number of them than words, or one that is unknown."""
        bad, unknown = RowErrors(), f" is not one of {wanted_names(spec.names)}"
        of_rows, ends = tags.rows_of_values(), np.cumsum(tags.lengths.clip(min=0))
        for number in np.flatnonzero(tags.values == NO_TAG)[::-1].tolist():  # the first of a row comes last
            row, cell = int(of_rows[number]), tags.cells[tags.places[number]]
            place = number - int(ends[row] - tags.lengths[row])
            bad[row] = f"tag {shown(cell)} of word {place} (the first word is 0)", unknown
        for row in np.flatnonzero(tags.lengths != words).tolist():
            length = int(tags.lengths[row])
            if length <= 0 and split == "test":
                continue
            bad[row] = (f"column {spec.label_column!r} has no tags", SKIP_MISSING if length <= 0 else "")
            if length > 0:
                bad[row] = (f"{length} tags for {max(0, int(words[row]))} words", ", wanted a tag for each word")
        return bad

    def _say_what_indices_mean(self, spec: TaskSpec, tags: TagColumn, split: str) -> None:
        """Tell which index is which tag where the data does not name the declared ones."""
        if not tags.by_index:
            return
        where, pairs = f"task {spec.name!r}, split {split!r}", ", ".join(tags.by_index)
        if tags.has_names:
            logger.warning("%s: none of the data's tags is declared; they go by their indices: %s", where, pairs)
        else:
            logger.info("%s: numbers in column %r are indices: %s", where, spec.label_column, pairs)

    def _say_what_is_loose(self, spec: TaskSpec, tags: TagColumn, split: str) -> None:
        """Count the tags that go on with an entity that did not begin, as in IOB1, where B is for a second one only."""
        scheme, values = TagScheme(spec.names), tags.values.astype(np.int64)
        if not scheme.is_known or not len(values):
            return
        before = np.concatenate([[0], values[:-1]])
        lengths = tags.lengths[tags.lengths > 0]
        before[np.cumsum(lengths) - lengths] = len(spec.names)
        loose = np.array(scheme.is_loose())[before, values]
        if loose.any():
            where, name = f"task {spec.name!r}, split {split!r}", (spec.names)[int(values[np.argmax(loose)])]
            logger.warning(
                "%s: %d tags go on with an entity that did not begin, such as %s, and are outside of every entity; "
                "wanted IOB2, in which each one begins with B-, or BIOES",
                where,
                int(loose.sum()),
                name,
            )

    def check_labels(self, spec: TaskSpec, labels: Any, where: str, *, labelled: bool) -> NDArray[Any] | None:
        """None: the labels stay as they are, for each token the index of a tag or -100."""
        of_rows = (
            f"wanted a list for each row: {NO_LABEL}, or for the first token of a word one of {spec.labels}, as 0 to"
        )
        wanted = f"{of_rows} {len(spec.names) - 1}"
        if not (pa.types.is_list(labels.type) or pa.types.is_large_list(labels.type)) or not pa.types.is_integer(
            labels.type.value_type
        ):
            raise InputError(f"{where}: column 'labels' holds {labels.type}, {wanted}")
        if labels.null_count:
            row = int(np.argmax(np.asarray(labels.is_null())))
            raise InputError(f"{where}: no label in row {row} (the first row is 0), {wanted}")
        flat = pc.list_flatten(labels)
        is_null, values = np.asarray(flat.is_null()), flat.fill_null(NO_TAG).to_numpy(zero_copy_only=False)
        bad = (values != NO_LABEL) & ((values < 0) | (values >= len(spec.names)))
        if bad.any():
            number = int(np.argmax(bad))
            row = int(np.searchsorted(np.cumsum(list_lengths(labels)), number, side="right"))
            found = None if is_null[number] else values[number]
            raise InputError(f"{where}: label {found} in row {row} (the first row is 0), {wanted}")
        return None

    def add_labels(self, spec: TaskSpec, encoded: Dataset, labels: NDArray[Any]) -> Dataset:
        """The rows with the column "labels": a word's tag at its first token, elsewhere -100.

        So has every token of a row without tags. Where no row has any, there is no such column.
        """
        tags = np.concatenate(labels)
        if np.isnan(tags).all():
            return encoded
        numbers = lists_of(encoded, WORD_NUMBERS)
        lengths, flat = list_lengths(numbers), pc.list_flatten(numbers).to_numpy(zero_copy_only=False)
        starts = np.cumsum([0, *map(len, labels)])[:-1]
        of_tokens = tags[np.repeat(starts, lengths) + np.maximum(flat, 1) - 1]
        values = np.where((flat > 0) & ~np.isnan(of_tokens), of_tokens, NO_LABEL).astype(np.int32)
        column = pa.LargeListArray.from_arrays(np.cumsum([0, *lengths]), values)
        return encoded.add_column("labels", column)

    def write(self, spec: TaskSpec, predictions: NDArray[Any]) -> list[str]:
        """The tags of each row's words, with blanks between, up to the last word that has a token."""
        names = [*(spec.names), NO_WORD]
        ends = [int(np.flatnonzero(row != NO_LABEL)[-1:].sum() + (row != NO_LABEL).any()) for row in predictions]
        return [
            " ".join(names[max(int(tag), -1)] for tag in row[:end]) for row, end in zip(predictions, ends, strict=True)
        ]

    def describe(self, spec: TaskSpec, labels: NDArray[Any]) -> dict[str, Any]:
        """Words per tag."""
        counts = np.bincount(np.concatenate(labels).astype(np.int64), minlength=len(spec.names))
        return {name: int(count) for name, count in zip(spec.names, counts, strict=True)}
