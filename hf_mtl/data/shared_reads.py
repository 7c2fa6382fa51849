"""Reading for several tasks: what they read alike is read once, whichever of them comes first."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

from datasets import Dataset

from ..errors import InputError
from ..tasks.arrow_files import ARROW_FORMATS
from ..tasks.columns import Columns, TextFaults, first_names, read_files
from ..tasks.kinds import columns_of
from ..tasks.row_errors import FirstRows
from ..tasks.sources import find_files
from ..tasks.spec import TaskSpec
from ..tasks.tables import DELIMITERS
from ..tasks.text_files import format_of
from .memory_rows import GivenRows, memory_rows

Read = TypeVar("Read")
Table = tuple[Dataset, TextFaults, FirstRows]
MARKS = {mark for marks in DELIMITERS.values() for mark in marks}


class SharedReads:
    """Reads the rows of tasks, and keeps what more than one of them reads, for as long as it lives.

    Tasks share a table where they name the same files, or were given the same rows, and no column is a text to one of
    them and a label or a list to the other. What a task gets is what it would get alone.

    Args:
        tasks: those that will be read. A task that is none of them is read alone.
        given: task -> split -> rows in memory, which stand for the task's dataset or files.
    """

    def __init__(self, tasks: Sequence[TaskSpec] = (), given: Mapping[str, GivenRows] | None = None) -> None:
        self.given = given or {}
        self._tasks = list(tasks)
        # A task whose labels come from its rows reads these twice.
        self._again = {spec.name for spec in tasks if spec.is_auto}
        self._kept: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], Read]) -> Read:
        """What `make` makes, made at the first call with `key`."""
        if key not in self._kept:
            self._kept[key] = make()
        found: Read = self._kept[key]
        return found

    def files(self, spec: TaskSpec, paths: Sequence[str]) -> Table:
        """What `read_files` gives a task."""
        own, source = columns_of(spec), _source(spec, tuple(paths))
        unread = [other for other in self._tasks if other.name not in self.given]
        others = [other for other in unread if _source(other, tuple(paths)) == source]
        merged, is_shared = self._merged(spec, others)
        if is_shared and own != merged:
            try:
                table = self.once(("files", tuple(paths), merged), lambda: read_files(paths, merged))
            except InputError:
                pass  # where the task's own columns are at fault, it says so itself
            else:
                if all(_begins_alike(path, table[0].column_names, own, merged) for path in paths):
                    return table
        key = ("files", tuple(paths), own)
        return self.once(key, lambda: read_files(paths, own)) if is_shared else read_files(paths, own)

    def memory(self, spec: TaskSpec, rows: Any) -> Table:
        """What `memory_rows` gives a task."""
        own = columns_of(spec)
        others = [other for other in self._tasks if any(rows is r for r in self.given.get(other.name, {}).values())]
        merged, is_shared = self._merged(spec, others)
        if not is_shared:
            return (*memory_rows(rows, own), ())
        return self.once(("memory", id(rows), merged), lambda: (*memory_rows(rows, merged), ()))

    def _merged(self, spec: TaskSpec, others: Sequence[TaskSpec]) -> tuple[Columns, bool]:
        """The columns of a task and of those of the others that read alike; and whether they are read more than once.

        `others` has the task itself, unless it is none of `tasks`.
        """
        groups: list[list[TaskSpec]] = []
        for other in others:
            fitting = next((group for group in groups if _fit(_union(group), columns_of(other))), None)
            if fitting is None:
                groups.append([other])
            else:
                fitting.append(other)
        own = columns_of(spec)
        for group in groups:
            if any(other.name == spec.name and columns_of(other) == own for other in group):
                return _union(group), len(group) > 1 or spec.name in self._again
        return own, False


def _source(spec: TaskSpec, paths: tuple[str, ...]) -> Hashable:
    """Where a task's rows are: a dataset, or the files `paths` if these are some of its own; else None."""
    if spec.dataset is not None:
        return spec.dataset, spec.config
    return "files" if any(paths == _paths(spec, split) for split in spec.files) else None


def _paths(spec: TaskSpec, split: str) -> tuple[str, ...]:
    """The files of a split; none where they cannot be found, which the task that reads them says."""
    try:
        return tuple(find_files(spec.files, split))
    except InputError:
        return ()


def _union(tasks: Sequence[TaskSpec]) -> Columns:
    """The columns of several tasks, sorted, as the order of the tasks must not matter."""
    columns = [columns_of(spec) for spec in tasks]
    if len(columns) == 1:
        return columns[0]
    texts, labels, lists, delimited, others = (
        tuple(sorted({name for each in columns for name in getattr(each, key)})) for key in _NAMES
    )
    return Columns(texts, labels, lists, delimited, others, columns[0].encoding)


_NAMES = Columns._fields[:-1]  # but for the encoding


def _fit(one: Columns, other: Columns) -> bool:
    """Whether every column that both read is the same to both."""
    if one.encoding != other.encoding:
        return False
    used = [{name for key in _NAMES for name in getattr(columns, key)} for columns in (one, other)]
    return all(_role(one, name) == _role(other, name) for name in used[0] & used[1])


def _role(columns: Columns, name: str) -> tuple[bool, ...]:
    return name in columns.texts, name in columns.lists, name in columns.delimited


def _begins_alike(path: str, names: Sequence[str], own: Columns, merged: Columns) -> bool:
    """Whether a file that was read for several tasks, with columns `names`, is read as for one of them alone.

    The columns that are wanted choose between the delimiters of csv, and between the rows and the one object of JSON.
    """
    form = format_of(path)
    if form in DELIMITERS:
        surely = not any(mark in name for name in names for mark in MARKS)
    else:
        is_typed = form is None or form in ARROW_FORMATS  # a folder is a saved dataset
        surely = is_typed or set(own.texts) == set(merged.texts)
    return surely or first_names(path, own) == first_names(path, merged)
