"""Entities in sequences of tags, as seqeval's strict mode finds them. Travels with a saved model's code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

OUTSIDE = "O"
_TAG = re.compile(r"([BIES])-(.+)")


class Span(NamedTuple):
    """An entity: its label, its first place, and the place behind its last one."""

    label: str
    start: int
    end: int


class TagScheme:
    """How tags mark entities: IOB2, or BIOES where a tag begins with "E-" or "S-".

    In IOB2, an entity is B and all I of its label that follow at once. In BIOES, it is S alone, or B, any number of I
    and E, all of one label. Tags that make no such row are outside of every entity.

    Args:
        labels: the tags in the order of their indices.

    Attributes:
        is_known: whether every tag is `OUTSIDE` or has a prefix, and an entity can begin; else there are none.
        is_bioes: whether it is BIOES.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        parts = [_TAG.fullmatch(label) for label in labels]
        self.without_prefix = [
            label for label, part in zip(labels, parts, strict=True) if not part and label != OUTSIDE
        ]
        self.is_known = any(part[1] in "BS" for part in parts if part) and not self.without_prefix
        self.is_bioes = any(part[1] in "ES" for part in parts if part)
        self._parts = [(part[1], part[2]) if part else (OUTSIDE, "") for part in parts]

    def is_loose(self) -> list[list[bool]]:
        """Whether a tag says that an entity goes on where none does: after each tag and, last, at a row's beginning.

        *Shape:* (tags + 1, tags)
        """
        before = [*self._parts, (OUTSIDE, "")]
        return [
            [prefix in "IE" and not (left in "BI" and label == name) for prefix, name in self._parts]
            for left, label in before
        ]

    def spans(self, tags: Iterable[int]) -> list[Span]:
        """The entities of one row, in order, from the indices of its tags; a negative one is outside."""
        found: list[Span] = []
        label, start, place = "", -1, -1  # of the entity that goes on; its start is -1 where none does
        for place, tag in enumerate(tags):
            prefix, name = self._parts[tag] if tag >= 0 else (OUTSIDE, "")
            goes_on = start >= 0 and prefix in "IE" and name == label
            if goes_on and prefix == "I":
                continue
            if goes_on:
                found.append(Span(label, start, place + 1))
            elif start >= 0 and not self.is_bioes:
                found.append(Span(label, start, place))
            label, start = (name, place) if prefix == "B" else ("", -1)
            if prefix == "S":
                found.append(Span(name, place, place + 1))
        if start >= 0 and not self.is_bioes:
            found.append(Span(label, start, place + 1))
        return found
