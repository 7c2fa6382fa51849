"""A list of tasks from Python, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..errors import InputError
from .spec import TaskSpec


def check_tasks(tasks: object, *, resolved: bool = True) -> list[TaskSpec]:
    """The tasks as a list; InputError unless they are one or more `TaskSpec` of different names.

    Args:
        tasks: what a user gave.
        resolved: whether "auto" of a task is refused, as labels have to be known.
    """
    way = "load_tasks('glue', tasks=['sst2', 'stsb']) or load_tasks('my_tasks.yaml') gives one"
    if not isinstance(tasks, Iterable) or isinstance(tasks, str | Mapping):
        raise InputError(f"tasks is a {type(tasks).__name__}, wanted a list of TaskSpec; {way}")
    listed = list(tasks)
    if not listed:
        raise InputError(f"tasks is empty, wanted a list of TaskSpec; {way}")
    for spec in listed:
        if not isinstance(spec, TaskSpec):
            raise InputError(f"tasks has a {type(spec).__name__}, {spec!r:.60}, wanted TaskSpec only; {way}")
        if resolved:
            spec.check_resolved()
    names = [spec.name for spec in listed]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"tasks has {name!r} {names.count(name)} times, wanted each task once")
    return listed
