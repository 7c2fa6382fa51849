"""The runs of a comparison: a list of them, and every arm's arguments, checked before the first run starts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.data_splits import rows_digest
from ..errors import InputError
from ..plugins import plugins_digest
from ..pretrained import weights_digest
from ..tasks.spec import TaskSpec
from ..tasks.task_file import load_tasks
from ..training.argument_parser import parse_values
from ..training.arguments import DataArguments
from .arms import SINGLE, Arguments, child_arguments, joint_arguments, settings_of, single_arguments, split_single

# Begin what an identity says of files that may be gone later, or that an older version did not look at.
WEIGHTS_OF, ROWS_OF = "weights of ", "rows of "
PLUGINS = "code of plugins"
Key = tuple[str, int, str | None]  # arm, seed, and the task that trains alone


@dataclass(frozen=True, kw_only=True)
class Arm:
    """An arm of a comparison.

    Attributes:
        name: of the arm.
        tasks: those that it scores, in their order.
        settings: the task that trains alone, or None for a joint run -> the arguments of such a run.
        saving: of these, those whose final model is made from checkpoints.
        identities: the same keys -> all that the result of such a run follows from, beside its seed.
    """

    name: str
    tasks: Sequence[TaskSpec]
    settings: Mapping[str | None, Arguments]
    saving: frozenset[str | None]
    identities: Mapping[str | None, Arguments]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One process: an arm with one seed, of all tasks or of one alone."""

    arm: Arm
    seed: int
    task: str | None

    @property
    def key(self) -> Key:
        """Names the run in compare.json."""
        return self.arm.name, self.seed, self.task

    def folder(self, output_dir: Path) -> Path:
        """Where the run leaves its model and its log."""
        folder = output_dir / self.arm.name / f"seed-{self.seed}"
        return folder if self.task is None else folder / self.task

    def arguments(self, output_dir: Path, *, with_test: bool) -> Arguments:
        """Those of its process."""
        return child_arguments(
            self.arm.settings[self.task],
            seed=self.seed,
            folder=str(self.folder(output_dir)),
            with_test=with_test,
            saves=self.task in self.arm.saving,
        )

    def __str__(self) -> str:
        return run_name(*self.key)


def run_name(arm: str, seed: int, task: str | None) -> str:
    """A run in words."""
    return f"arm {arm!r}, seed {seed}" if task is None else f"arm {arm!r}, seed {seed}, task {task!r}"


def make_arm(name: str, recipe: Mapping[str, Any], blocks: Mapping[str, Mapping[str, Any]]) -> Arm:
    """An arm with its arguments checked.

    Args:
        name: of the arm.
        recipe: argument -> value.
        blocks: the file's `arms`: arm -> its changes.

    Raises:
        InputError: for arguments that `hf-mtl train` would refuse before it loads anything, and for `single` with one
            task.
    """
    if name != SINGLE:
        by_task: dict[str | None, Arguments] = {None: joint_arguments(name, recipe, blocks)}
    else:
        block = blocks.get(SINGLE, {})
        names = _task_names(block, recipe)
        by_task = {task: single_arguments(task, recipe, block, names) for task in names}
    settings = {task: settings_of(arguments) for task, arguments in by_task.items()}
    tasks: list[TaskSpec] = []
    saving: set[str | None] = set()
    identities = {}
    for task, arguments in settings.items():
        where = f"arm {name!r}" if task is None else f"arm {name!r}, task {task!r}"
        checked = child_arguments(arguments, seed=0, folder="out", with_test=False, saves=True)
        parsed = parse_values(checked, where)
        model_args, data_args, args = parsed
        specs = load_tasks(data_args.task_set, tasks=data_args.tasks, dataset=data_args.dataset_name)
        models = [model_args.model_name_or_path, *args.options("teachers").values()]
        files = _file_digests(data_args.task_set, data_args.plugin or ())
        found = {**files, **_weights_digests(models), **_rows_digests(specs)}
        identities[task] = {**_values_of(parsed, arguments), **found}
        tasks += [spec for spec in specs if data_args.alone in (None, spec.name)]
        if args.load_best_model_at_end or args.soup:
            saving.add(task)
    return Arm(name=name, tasks=tasks, settings=settings, saving=frozenset(saving), identities=identities)


def _task_names(block: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    """The tasks that `single` trains one by one; InputError for one alone, whose joint run would be the same."""
    common = {name: value for name, value in block.items() if not isinstance(value, Mapping)}
    of_tasks = {field.name for field in dataclasses.fields(DataArguments)}  # others may fit no arm as they are here
    arguments = {name: value for name, value in settings_of({**recipe, **common}).items() if name in of_tasks}
    checked = child_arguments(arguments, seed=0, folder="out", with_test=False, saves=True)
    _, data_args, _ = parse_values(checked, f"arm {SINGLE!r}")
    specs = load_tasks(data_args.task_set, tasks=data_args.tasks, dataset=data_args.dataset_name)
    if len(specs) < 2:
        raise InputError(
            f"arm {SINGLE!r} trains each task alone, and there is one task, {specs[0].name!r}; leave the arm out, or "
            "compare on two tasks or more"
        )
    names = [spec.name for spec in specs]
    split_single(block, names)  # refuses a name that is no task's
    return names


def _values_of(parsed: Sequence[object], names: Iterable[str]) -> Arguments:
    """Argument -> value as it was understood, however it was written; in types of JSON."""
    values = {name: next(getattr(part, name) for part in parsed if hasattr(part, name)) for name in names}
    return json.loads(json.dumps(values, default=str))


def _file_digests(task_set: str, plugins: Iterable[str]) -> dict[str, str]:
    """Digests of what a user may edit and arguments only name: the task file, and the code of plugins."""
    found = {}
    if Path(task_set).is_file():
        found[f"content of {task_set}"] = hashlib.sha256(Path(task_set).read_bytes()).hexdigest()
    code = plugins_digest(plugins)
    return {**found, PLUGINS: code} if code else found


def _weights_digests(models: Iterable[str]) -> dict[str, str]:
    """Digests of the models that lie in folders here; those of the Hub have their names only."""
    return {WEIGHTS_OF + name: weights_digest(Path(name)) for name in models if (Path(name) / "config.json").is_file()}


def _rows_digests(tasks: Iterable[TaskSpec]) -> dict[str, str]:
    """Digests of the rows that lie in files here."""
    found = {f"{ROWS_OF}task {spec.name!r}": rows_digest(spec) for spec in tasks}
    return {name: digest for name, digest in found.items() if digest is not None}


def list_runs(arms: Sequence[Arm], seeds: Sequence[int]) -> list[Run]:
    """All runs, seed by seed, so that arms can be compared from the first seed on."""
    return [Run(arm=arm, seed=seed, task=task) for seed in seeds for arm in arms for task in arm.settings]


def digest_of(identity: Mapping[str, Any]) -> str:
    """Names what a run follows from."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
