"""Which rows of a task are cut off as validation rows, and which are taken where only some are wanted.

What is drawn depends on the rows' own texts and labels and on nothing else: no seed, no order, no machine, no other
task. A run that is resumed, one that only evaluates and `hf-mtl tasks` see the same cut, and no training seed brings a
validation row into the training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..tasks.cells import is_missing

Ints = NDArray[np.int64]
DIGEST = 16  # bytes, of which two halves are kept as numbers
NO_CELL = -1


def text_places(rows: Iterable[Sequence[Any]]) -> Ints:
    """Where each row stands in a random order, counted from 0; rows of equal texts stand together. *Shape:* (rows,)

    Args:
        rows: of each row its texts, or lists of words; two texts are the same in either order.
    """
    return _places(_digests((sorted(map(_spelled, row)) for row in rows), b"cut"))


def row_places(rows: Iterable[Sequence[Any]]) -> Ints:
    """Where each row stands in a random order, in which rows of equal texts have places of their own. *Shape:* (rows,)

    They follow from the row's texts, in their order, and from how many rows of the same texts are before it.
    """
    texts = _digests((list(map(_spelled, row)) for row in rows), b"sample")
    order, is_new = _sorted(texts)
    begins = np.flatnonzero(is_new)
    numbers = np.empty(len(texts), dtype=np.int64)
    numbers[order] = np.arange(len(texts)) - np.repeat(begins, np.diff(begins, append=len(texts)))
    facts = ([text.tobytes().hex(), str(number)] for text, number in zip(texts, numbers, strict=True))
    return _places(_digests(facts, b"sample"))


def text_hashes(rows: Iterable[Sequence[Any]]) -> NDArray[np.uint64]:
    """A hash of each row's texts, or words, in their order. *Shape:* (rows,)"""
    return _digests((list(map(_spelled, row)) for row in rows), b"shared")[:, 0]


def _spelled(value: Any) -> str:
    return json.dumps(value, default=str)


def _digests(rows: Iterable[list[str]], purpose: bytes) -> NDArray[np.uint64]:
    """A hash of each row. *Shape:* (rows, 2)"""
    whole = bytearray()
    for row in rows:
        whole += hashlib.blake2b(json.dumps(row).encode(), digest_size=DIGEST, person=purpose).digest()
    return np.frombuffer(whole, dtype=">u8").reshape(-1, 2)


def _sorted(digests: NDArray[np.uint64]) -> tuple[Ints, NDArray[np.bool_]]:
    """The order of the rows by their hash, and which of them, in it, is the first of equal ones. *Shapes:* (rows,)"""
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = (np.diff(digests[order, 0]) != 0) | (np.diff(digests[order, 1]) != 0)
    return order, is_new


def _places(digests: NDArray[np.uint64]) -> Ints:
    """Where each row stands in the order of hashes; equal ones share a place. *Shape:* (rows,)"""
    order, is_new = _sorted(digests)
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.cumsum(is_new) - 1
    return places


def joined_groups(places: Ints, cells: Iterable[Any] | None = None) -> Ints:
    """Row -> its group: rows of the same place, or of the same cell, or that others join, are in one group.

    Args:
        places: of each row, from 0. *Shape:* (rows,)
        cells: of each row what else groups it; what `is_missing` joins nothing.

    Returns:
        The number of the first row of each row's group. *Shape:* (rows,)
    """
    groups = places
    if cells is not None:
        from scipy.sparse import coo_array  # late: takes a third of a second to import
        from scipy.sparse.csgraph import connected_components

        numbers: dict[str, int] = {}
        named = np.fromiter((_numbered(cell, numbers) for cell in cells), dtype=np.int64, count=len(places))
        joins, num_places = named != NO_CELL, int(places.max(initial=-1)) + 1
        nodes = num_places + len(numbers)  # places, and after them cells
        edges = (np.ones(joins.sum(), dtype=bool), (places[joins], num_places + named[joins]))
        groups = connected_components(coo_array(edges, shape=(nodes, nodes)), directed=False)[1][places]
    first = np.full(int(groups.max(initial=-1)) + 1, len(groups))
    np.minimum.at(first, groups, np.arange(len(groups)))
    return first[groups]


def _numbered(cell: Any, numbers: dict[str, int]) -> int:
    """The number of a cell, new where the cell is; `NO_CELL` of one that joins nothing."""
    if is_missing(cell) or cell != cell:
        return NO_CELL
    return numbers.setdefault(_spelled(cell), len(numbers))


def held_out(places: Ints, groups: Ints, strata: Ints | None, fraction: float) -> NDArray[np.bool_]:
    """True for the rows that are cut off: whole groups, drawn at random, as near to the wanted number as can be.

    That number is `fraction` of the rows, rounded. Each stratum gives its share of it, to one row where groups are of
    one row each, or else to the size of a group. A group counts as of the stratum of most of its rows.

    Args:
        places: of each row in a random order; a group stands where the first of its rows does. *Shape:* (rows,)
        groups: of each row. *Shape:* (rows,)
        strata: of each row; unless given, there is one. *Shape:* (rows,)
        fraction: above 0 and below 1.

    Returns:
        *Shape:* (rows,)
    """
    _, owners, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    stands = np.full(len(sizes), len(places))
    np.minimum.at(stands, owners, places)
    of_groups = np.zeros(len(sizes), dtype=np.int64) if strata is None else _most(strata, owners, len(sizes))
    order = np.lexsort((stands, of_groups))  # of the groups, stratum by stratum
    names, begins = np.unique(of_groups[order], return_index=True)
    members = dict(zip(names.tolist(), np.split(order, begins[1:]), strict=True))
    num_rows = {stratum: int(sizes[own].sum()) for stratum, own in members.items()}
    shares = _shares(num_rows, fraction)
    taken = np.zeros(len(sizes), dtype=bool)
    owed = 0  # rows by which the strata before gave less than their shares; the large ones can make up for it
    for stratum in sorted(num_rows, key=lambda stratum: (num_rows[stratum], stratum)):
        own = members[stratum]
        chosen = own[_nearest(sizes[own], shares[stratum] + owed)]
        taken[chosen] = True
        owed += shares[stratum] - int(sizes[chosen].sum())
    return taken[owners]


def _most(strata: Ints, owners: Ints, num_groups: int) -> Ints:
    """The stratum that most rows of each group are of; of several, the lowest. *Shape:* (groups,)"""
    names, numbers = np.unique(strata, return_inverse=True)
    pairs, counts = np.unique(owners * len(names) + numbers, return_counts=True)
    of_pairs, stratum = np.divmod(pairs, len(names))
    order = np.lexsort((stratum, -counts, of_pairs))
    return np.asarray(names[stratum[order[np.searchsorted(of_pairs[order], np.arange(num_groups))]]])


def _shares(sizes: Mapping[int, int], fraction: float) -> dict[int, int]:
    """Stratum -> rows that are to be cut off: each is the next whole number below or above its fraction."""
    exact = {stratum: sizes[stratum] * fraction for stratum in sorted(sizes)}
    shares = {stratum: int(share) for stratum, share in exact.items()}
    missing = round(sum(sizes.values()) * fraction) - sum(shares.values())
    by_rest = sorted(exact, key=lambda stratum: (shares[stratum] - exact[stratum], stratum))
    for stratum in by_rest[:missing]:
        shares[stratum] += 1
    return shares


def _nearest(sizes: Ints, wanted: int) -> Ints:
    """Places of groups, from the first on, whose sizes add up to about `wanted`.

    The sum is less than one group away from it where there are groups enough.
    """
    chosen, missing = np.zeros(len(sizes), dtype=bool), wanted
    for place, size in enumerate(sizes):
        if missing <= 0:
            break
        if size <= missing:
            chosen[place] = True
            missing -= int(size)
    left = np.flatnonzero(~chosen)
    if missing > 0 and len(left):
        smallest = left[np.argmin(sizes[left])]
        chosen[smallest] = sizes[smallest] - missing < missing
    return np.flatnonzero(chosen)


def sampled(places: Ints, number: int) -> Ints:
    """The numbers of so many rows, drawn at random, in the order of the rows; `row_places` gives the places."""
    return np.flatnonzero(places < number)
