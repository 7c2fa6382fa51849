"""Tasks from a YAML file: GLUE's and the demo's are in `sets/`; a user's own has the same form and needs no code."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError, unknown_name_error
from .spec import AUTO, TaskSpec, check_metric_names

TASK_SETS = Path(__file__).parent / "sets"


def load_tasks(
    task_set: str = "glue", *, tasks: Iterable[str] | None = None, dataset: str | None = None
) -> list[TaskSpec]:
    """The tasks of a set, in the order asked for.

    Args:
        task_set: "glue", "demo", or the path of a YAML file.
        tasks: names to keep; all of the set unless given.
        dataset: replaces the `dataset` of every task that has one.

    Raises:
        InputError: for a file that cannot be read and for what `TaskSpec` refuses, naming file, task and key.
    """
    path = TASK_SETS / f"{task_set}.yaml"
    if Path(task_set).suffix in (".yaml", ".yml"):
        path = Path(task_set)
    elif not path.exists():
        raise unknown_name_error("task_set", task_set, [p.stem for p in TASK_SETS.glob("*.yaml")] + ["FILE.yaml"])
    specs = {spec.name: spec for spec in read_task_file(path)}
    if dataset is not None:
        specs = {
            name: dataclasses.replace(spec, dataset=dataset) if spec.dataset else spec for name, spec in specs.items()
        }
    names = list(specs) if tasks is None else list(dict.fromkeys(tasks))
    for name in names:
        if name not in specs:
            raise unknown_name_error("task", name, specs)
    chosen = [specs[name] for name in names]
    check_metric_names(chosen)
    return chosen


class UniqueKeys:
    """For a loader of PyYAML: refuses a key that is written twice; YAML forbids it, and PyYAML keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is there twice", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)  # type: ignore[misc]  # the loader's, which comes next


_NAMES = ("labels", "positive_label")
_READ_AS_TEXT = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp"))


class _UniqueKeyLoader(UniqueKeys, yaml.SafeLoader):
    """YAML's own types, no key twice, and names of classes as they were written: 010 is no 8, and 1:30 no 90."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in _NAMES:
                for item in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if item.tag in _READ_AS_TEXT:
                        item.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


def read_task_file(path: Path) -> list[TaskSpec]:
    """Every task of a YAML file of the form `{defaults: {...}, tasks: {name: {...}}}`; see `sets/glue.yaml`.

    File names and dataset folders that start with "." are relative to the file's own folder.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"task file {str(path)!r} cannot be read: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("tasks"), dict) or not content["tasks"]:
        raise InputError(f"task file {str(path)!r}: wanted a key 'tasks' with one entry per task")
    for key in content:
        if key not in ("defaults", "tasks"):
            raise unknown_name_error(f"key in task file {str(path)!r}:", key, ("defaults", "tasks"))
    defaults = content.get("defaults") or {}
    specs = []
    for name, row in content["tasks"].items():
        if not isinstance(row, dict) or not isinstance(defaults, dict):
            raise InputError(f"task file {str(path)!r}, task {name!r}: wanted keys and values, found {row!r}")
        try:
            specs.append(spec_from_row(name, {**defaults, **row}, path.parent))
        except InputError as error:
            raise InputError(f"task file {str(path)!r}: {error}") from error
    return specs


_KEYS = {field.name: field for field in dataclasses.fields(TaskSpec)}
_TUPLES = ("text_columns", "label_columns", "labels", "label_range", "metrics")
_FOUND = ("labels", "label_range")  # may be "auto"
_MAPPINGS = ("files", "splits")
_NUMBERS = ("loss_weight", "sampling_weight", "label_smoothing", "validation_fraction")
_PER_LABEL = {"class_weights": "balanced", "thresholds": "fit"}  # a word, or numbers


def spec_from_row(name: object, row: Mapping[str, Any], folder: Path) -> TaskSpec:
    """One task from one YAML row; an unknown key or a value of the wrong shape is an InputError."""
    values: dict[str, Any] = {"name": name}
    for key, value in row.items():
        if key not in _KEYS or key == "name":
            raise unknown_name_error(f"key for task {name!r}:", key, [k for k in _KEYS if k != "name"])
        values[key] = _checked(name, key, value)
    for key in ("kind", "text_columns"):
        if key not in values:
            raise InputError(f"task {name!r}: the key {key!r} is missing")
    values["files"] = {
        split: str(folder / paths) if isinstance(paths, str) else tuple(str(folder / path) for path in paths)
        for split, paths in values.get("files", {}).items()
    }
    if str(values.get("dataset") or "").startswith("."):
        values["dataset"] = str(folder / values["dataset"])
    if not values["files"] and values.get("dataset") is None:
        raise InputError(f"task {name!r}: wanted either dataset or files, found neither")
    return TaskSpec(**values)


def _number(value: Any) -> Any:
    """A number that YAML took for text, such as 1e-3, as a number; anything else as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _is_entry(key: str, value: Any) -> bool:
    """Whether it is a name, or for `files` one or more."""
    if key == "files" and isinstance(value, list):
        return bool(value) and all(isinstance(path, str) for path in value)
    return isinstance(value, str)


def _checked(name: object, key: str, value: Any) -> Any:
    """`value` in the type that `TaskSpec` holds."""
    error = InputError(f"task {name!r}: {key} is {value!r}, wanted ")
    if key in _MAPPINGS:
        if not isinstance(value, dict) or not all(_is_entry(key, entry) for entry in value.values()):
            raise InputError(f"{error}split: name pairs, e.g. {{train: train, validation: dev}}")
        return value
    if key in _FOUND and value == AUTO:
        return AUTO
    if key == "max_rows" or (key == "validation_fraction" and value is None):
        return value  # `TaskSpec` checks it
    if key in _TUPLES:
        items = value if isinstance(value, list) else [value]
        if key == "label_range":
            items = [_number(item) for item in items]
            if len(items) != 2 or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in items):
                raise InputError(f"{error}[lowest, highest]")
            return (float(items[0]), float(items[1]))
        # An unquoted yes, no or 1 is no string in YAML; as a class name it means what was written.
        if not items or any(isinstance(v, bool | dict | list) or v is None for v in items):
            raise InputError(f"{error}a list of names (quote words that YAML reads as true, false or null)")
        return tuple(str(v) for v in items)
    if key == "positive_label" and not isinstance(value, bool | dict | list | None):
        return str(value)
    if key in _PER_LABEL:
        items = [_number(item) for item in (value if isinstance(value, list) else [value])]
        if not items or any(not isinstance(v, int | float) or isinstance(v, bool) for v in items):
            if value != _PER_LABEL[key]:
                raise InputError(f"{error}{_PER_LABEL[key]!r} or numbers, one for each label")
            return str(value)
        return tuple(map(float, items)) if isinstance(value, list) else float(items[0])
    if key in _NUMBERS:
        value = _number(value)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise InputError(f"{error}a number")
        return float(value)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{error}a string")
    return value
