"""Which rows of a task are cut off as validation rows, and which are taken where only some are wanted.

What is drawn depends on the rows' own texts and labels and on nothing else: no seed, no order, no machine, no other
task. A run that is resumed, one that only evaluates and `hf-mtl tasks` see the same cut, and no training seed brings a
validation row into the training.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Key = bytes  # of a row, or a group: where it stands in a random order


def text_keys(rows: Iterable[Sequence[Any]]) -> list[Key]:
    """A key for each row, which rows of equal texts share; two texts are the same in either order.

    Args:
        rows: of each row its texts, or lists of words.
    """
    return [_digest(sorted(map(_spelled, row)), b"cut") for row in rows]


def row_keys(rows: Iterable[Sequence[Any]]) -> list[Key]:
    """A key for each row, of its texts and of how many rows of the same texts are before it; all differ."""
    seen: Counter[Key] = Counter()
    keys = []
    for row in rows:
        of_texts = _digest([*map(_spelled, row)], b"sample")
        keys.append(_digest([of_texts.hex(), str(seen[of_texts])], b"sample"))
        seen[of_texts] += 1
    return keys


def _spelled(value: Any) -> str:
    return json.dumps(value, default=str)


def _digest(parts: Sequence[str], purpose: bytes) -> Key:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16, person=purpose).digest()


def joined_groups(keys: Sequence[Key], cells: Sequence[Any] | None = None) -> list[int]:
    """Row -> its group: rows of the same key, or of the same cell, or that others join, are in one group.

    Args:
        keys: of each row.
        cells: of each row what else groups it; None, NaN and an empty text join nothing.

    Returns:
        The number of the first row of each row's group.
    """
    parents = list(range(len(keys)))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    named = [None if cell in (None, "") or cell != cell else _spelled(cell) for cell in cells or ()]
    for column in (keys, named):
        first: dict[Any, int] = {}
        for row, value in enumerate(column):
            if value is not None:
                one, other = sorted((root(first.setdefault(value, row)), root(row)))
                parents[other] = one
    return [root(row) for row in range(len(keys))]


def held_out(
    keys: Sequence[Key], groups: Sequence[int], strata: NDArray[np.int64] | None, fraction: float
) -> NDArray[np.bool_]:
    """True for the rows that are cut off: whole groups, drawn at random, as near to the wanted number as can be.

    That number is `fraction` of the rows, rounded. Each stratum gives its share of it, to one row where groups are of
    one row each, or else to the size of a group. A group counts as of the stratum of most of its rows.

    Args:
        keys: of each row; a group stands where the lowest key of its rows does.
        groups: of each row.
        strata: of each row; unless given, there is one.
        fraction: above 0 and below 1.

    Returns:
        *Shape:* (rows,)
    """
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    by_stratum: dict[int, list[list[int]]] = {}  # the rows of its groups
    for rows in sorted(members.values(), key=lambda rows: min(keys[row] for row in rows)):
        by_stratum.setdefault(0 if strata is None else _most(strata[rows]), []).append(rows)
    sizes = {stratum: sum(map(len, own)) for stratum, own in by_stratum.items()}
    shares = _shares(sizes, fraction)
    taken = np.zeros(len(keys), dtype=bool)
    owed = 0  # rows by which the strata before gave less than their shares; the large ones can make up for it
    for stratum in sorted(sizes, key=lambda stratum: (sizes[stratum], stratum)):
        own = by_stratum[stratum]
        rows = [row for place in _nearest(list(map(len, own)), shares[stratum] + owed) for row in own[place]]
        taken[rows] = True
        owed += shares[stratum] - len(rows)
    return taken


def _most(strata: NDArray[np.int64]) -> int:
    """The stratum that most rows are of; of several, the lowest."""
    if len(strata) == 1:
        return int(strata[0])
    values, counts = np.unique(strata, return_counts=True)
    return int(values[np.argmax(counts)])


def _shares(sizes: Mapping[int, int], fraction: float) -> dict[int, int]:
    """Stratum -> rows that are to be cut off: each is the next whole number below or above its fraction."""
    exact = {stratum: sizes[stratum] * fraction for stratum in sorted(sizes)}
    shares = {stratum: int(share) for stratum, share in exact.items()}
    missing = round(sum(sizes.values()) * fraction) - sum(shares.values())
    by_rest = sorted(exact, key=lambda stratum: (shares[stratum] - exact[stratum], stratum))
    for stratum in by_rest[:missing]:
        shares[stratum] += 1
    return shares


def _nearest(sizes: Sequence[int], wanted: int) -> list[int]:
    """Places of groups, from the first on, whose sizes add up to about `wanted`.

    The sum is less than one group away from it where there are groups enough.
    """
    chosen, missing = [], wanted
    for place, size in enumerate(sizes):
        if size <= missing:
            chosen.append(place)
            missing -= size
    left = set(range(len(sizes))) - set(chosen)
    smallest = min(left, key=lambda place: (sizes[place], place), default=None)
    if smallest is not None and missing > 0 and sizes[smallest] - missing < missing:
        chosen.append(smallest)
    return chosen


def sampled(keys: Sequence[Key], number: int) -> list[int]:
    """The numbers of so many rows, drawn at random, in the order of the rows."""
    return sorted(sorted(range(len(keys)), key=keys.__getitem__)[:number])
