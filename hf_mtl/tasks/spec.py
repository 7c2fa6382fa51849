"""Tasks as data: `TaskSpec` is one task, `load_tasks` reads them from a YAML file.

GLUE's tasks and the demo's are files in `sets/`; a user's own file has the same form and needs no code.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError, unknown_name_error
from ..model.heads import HeadSpec
from ..validation import check_number
from .class_names import check_class_names
from .metric_names import check_metrics, check_names_differ, is_of_one_class, metric_names, unit_of
from .text_files import format_of, is_packed

TASK_SETS = Path(__file__).parent / "sets"
EMBEDDED = "embedded:demo"
FILE_FORMATS = ("csv", "tsv", "json", "jsonl", "parquet")
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One task: where its rows are, what its head is, how it is scored and how much it counts.

    Args:
        name: the task's name, in flags, logs, metrics and files.
        kind: "classification", "regression", or a kind of your own that is registered.
        text_columns: one column for single texts, two for pairs.
        dataset: a Hub id or a folder for `datasets.load_dataset`. A task has `dataset`, or `files`, or neither of them:
            then `load_task_data` is given its rows.
        config: the dataset's configuration, the second argument of `load_dataset`.
        files: split -> parquet, csv, tsv, jsonl or json file, or several of them, whose rows follow one another.
        splits: the dataset's own names of the splits "train", "validation" and "test", where they differ.
        label_column: column of the label.
        labels: class names in the order of their indices (classification). Data may write them in another case where
            that is unambiguous, or have the indices instead; but where names spell numbers or truth values, such as
            "-1" or "true", these in the data mean the names.
        label_range: lowest and highest label (regression).
        metrics: names of the metrics to report, see `metric_names`; the kind's default unless given.
        main_metric: the one that enters `eval_average`; the first of `metrics` unless given. More of it is better.
        positive_label: the one of two classes that f1, precision and recall are of; the second unless given.
        loss_weight: factor on the task's loss and gradient.
        sampling_weight: factor on the task's share of every batch.

    Raises:
        InputError: when a value cannot be used; the message names the task and the key.
    """

    name: str
    kind: str
    text_columns: tuple[str, ...]
    dataset: str | None = None
    config: str | None = None
    files: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=dict)
    label_column: str = "label"
    labels: tuple[str, ...] | None = None
    label_range: tuple[float, float] | None = None
    metrics: tuple[str, ...] = ()
    main_metric: str = ""
    positive_label: str | None = None
    loss_weight: float = 1.0
    sampling_weight: float = 1.0

    def __post_init__(self) -> None:
        for key in ("text_columns", "metrics"):
            if isinstance(getattr(self, key), str):
                raise InputError(f"task {self.name!r}: {key} is {getattr(self, key)!r}, wanted a list of texts")
        for key in ("text_columns", "label_range"):
            if isinstance(getattr(self, key), list):
                object.__setattr__(self, key, tuple(getattr(self, key)))
        if self.labels is not None:
            check_class_names(self.name, self.labels)
            object.__setattr__(self, "labels", tuple(self.labels))
        self.head  # noqa: B018  (a HeadSpec checks name, kind, labels, range and number of texts)
        object.__setattr__(self, "metrics", tuple(dict.fromkeys(self.metrics)) or metric_names(self.kind)[:1])
        object.__setattr__(self, "main_metric", self.main_metric or self.metrics[0])
        check_metrics(self.name, self.kind, self.labels, self.metrics, self.main_metric)
        labels = list(self.labels or ())
        if self.positive_label is not None and (len(labels) != 2 or self.positive_label not in labels):
            raise InputError(
                f"task {self.name!r}: positive_label is {self.positive_label!r}, wanted one of two labels; they "
                f"are {labels}"
            )
        if self.dataset is not None and self.files:
            raise InputError(f"task {self.name!r}: wanted either dataset or files, found both")
        for key in (*self.files, *self.splits):
            if key not in SPLITS:
                raise unknown_name_error(f"split of task {self.name!r}:", key, SPLITS)
        for split, paths in self.files.items():
            self._check_files(split, file_list(paths))
        for key in ("loss_weight", "sampling_weight"):
            if not 0 < getattr(self, key) < float("inf"):
                raise InputError(f"task {self.name!r}: {key} is {getattr(self, key)!r}, wanted a number above 0")

    def _check_files(self, split: str, paths: Sequence[str]) -> None:
        for path in paths:
            if "\0" in path:
                raise InputError(f"task {self.name!r}: file {path!r} has a NUL character, which no file's name has")
            if format_of(path) not in FILE_FORMATS:
                what_to_do = "; unzip it" if is_packed(path) else ""
                raise InputError(
                    f"task {self.name!r}: file {path!r} is none of .{', .'.join(FILE_FORMATS)}{what_to_do}"
                )
        real = list(map(os.path.realpath, paths))
        if twice := [path for path, file in zip(paths, real, strict=True) if real.count(file) > 1]:
            raise InputError(f"task {self.name!r}: files names {twice[0]!r} twice for {split!r}; wanted it once")

    @property
    def head(self) -> HeadSpec:
        """The part of the task that a model saves."""
        return HeadSpec(
            name=self.name,
            kind=self.kind,
            labels=self.labels,
            label_range=self.label_range,
            num_texts=len(self.text_columns),
        )

    @property
    def positive_class(self) -> int | None:
        """Index of the class that f1, precision and recall are of; None unless there are two classes."""
        if self.labels is None or len(self.labels) != 2:
            return None
        return 1 if self.positive_label is None else self.labels.index(self.positive_label)

    def metric_title(self, metric: str) -> str:
        """A metric for people, with the class that it is of, or its unit where it is no fraction."""
        if is_of_one_class(metric) and self.labels is not None and self.positive_class is not None:
            return f"{metric} of {self.labels[self.positive_class]}"
        return f"{metric} ({unit_of(metric)})" if unit_of(metric) else metric

    @property
    def labels_in_words(self) -> str:
        """The declared labels for people: names, a range, or a dash where the kind declares neither."""
        if self.labels:
            return ", ".join(self.labels)
        return "-" if self.label_range is None else "{:g} to {:g}".format(*self.label_range)


def check_metric_names(tasks: Sequence[TaskSpec]) -> None:
    """Raise InputError where scores of two tasks have one name."""
    check_names_differ({spec.name: spec.metrics for spec in tasks})


def file_list(paths: str | Sequence[str]) -> list[str]:
    """The files of a split, of which `TaskSpec.files` has one or several."""
    return [paths] if isinstance(paths, str) else list(paths)


def with_loss_weights(tasks: Sequence[TaskSpec], weights: Mapping[str, Any]) -> list[TaskSpec]:
    """The tasks with another `loss_weight` where one is given; InputError for a task or a weight that is none."""
    for name, weight in weights.items():
        if name not in [spec.name for spec in tasks]:
            raise unknown_name_error("task in loss_weights:", name, [spec.name for spec in tasks])
        check_number(f"loss_weights of task {name!r}", weight, "a number above 0", lambda x: x > 0)
    return [replace(spec, loss_weight=weights.get(spec.name, spec.loss_weight)) for spec in tasks]


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
_TUPLES = ("text_columns", "labels", "label_range", "metrics")
_MAPPINGS = ("files", "splits")
_NUMBERS = ("loss_weight", "sampling_weight")


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
    if key in _NUMBERS:
        value = _number(value)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise InputError(f"{error}a number")
        return float(value)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{error}a string")
    return value
