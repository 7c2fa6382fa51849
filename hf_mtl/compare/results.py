"""`compare.json`: the results of the runs that are through, and what they say. It alone decides what is left to run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..tasks.metric_names import unit_of
from ..tasks.spec import TaskSpec
from ..training.checkpoints import LOCK_FILE
from .runs import PLUGINS, ROWS_OF, WEIGHTS_OF, Arm, Key, Run, digest_of, run_name
from .statistics import Difference, paired_difference

RESULTS = "compare.json"
UNFINISHED = f"{RESULTS}.tmp"
Entry = dict[str, Any]  # a run


class Results:
    """The runs of a comparison that are through.

    Args:
        folder: of the comparison.

    Raises:
        InputError: for a folder with something else in it, and a compare.json that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        content = _read(folder)
        self.runs: list[Entry] = content["runs"]
        self._identities: dict[str, Mapping[str, Any]] = content["arguments"]

    def entry(self, key: Key) -> Entry | None:
        """The result of a run; None where it is not through."""
        return next((entry for entry in self.runs if key_of(entry) == key), None)

    def check(self, arms: Sequence[Arm], *, with_test: bool) -> None:
        """Raise InputError where runs of these arms were run with other arguments, or without what is asked for."""
        expected = {(arm.name, task): arm.identities[task] for arm in arms for task in arm.settings}
        for entry in self.runs:
            arm, seed, task = key_of(entry)
            what = f"{str(self.folder / RESULTS)!r}: {run_name(arm, seed, task)}"
            way = "choose another --output_dir, or delete the arm's entries from the file to run it again"
            if (arm, task) not in expected:
                if arm in (each.name for each in arms):
                    raise InputError(f"{what} is no run of this recipe, whose tasks are others; {way}")
                continue
            identity = expected[arm, task]
            if entry.get("arguments") not in (None, digest_of(identity)):
                changes = _changes(self._identities.get(entry["arguments"], {}), identity)
                if changes:
                    raise InputError(f"{what} was run with other arguments: {changes}; {way}")
            if with_test and not entry.get("test"):
                raise InputError(f"{what} was run without --with-test; leave it out, {way}")

    def add(self, run: Run, scores: Mapping[str, float], *, seconds: float, memory: int | None, test: bool) -> None:
        """Add the result of a run, in place of one that it had.

        Args:
            run: that is through.
            scores: the flat keys of all_results.json -> scores.
            seconds: wall time of its process.
            memory: the most resident memory of its process, in bytes.
            test: whether test splits were scored.
        """
        identity = run.arm.identities[run.task]
        self._identities = {**self._identities, digest_of(identity): identity}
        arm, seed, task = run.key
        metrics = {name: value if math.isfinite(value) else None for name, value in scores.items()}
        entry = {"arm": arm, "seed": seed, "task": task, "metrics": metrics, "seconds": seconds}
        entry |= {"memory": memory, "test": test, "arguments": digest_of(identity)}
        self.runs = [each for each in self.runs if key_of(each) != run.key] + [entry]

    def scores(self, arm: str, task: str, metric: str, prefix: str = "eval") -> dict[int, float]:
        """Seed -> score of one arm on one task; NaN where it was not finite."""
        found = {}
        for entry in self.runs:
            name = f"{prefix}_{task}_{metric}"
            if entry["arm"] == arm and entry["task"] in (None, task) and name in entry["metrics"]:
                value = entry["metrics"][name]
                found[int(entry["seed"])] = math.nan if value is None else float(value)
        return dict(sorted(found.items()))

    def write(self, arms: Sequence[Arm]) -> None:
        """Put everything into compare.json, which has the old content or the new one whenever one looks."""
        self.folder.mkdir(parents=True, exist_ok=True)
        used = {entry.get("arguments") for entry in self.runs}
        content = {
            "runs": self.runs,
            "differences": [_row(*each) for each in differences(self, arms)],
            "arguments": {digest: identity for digest, identity in self._identities.items() if digest in used},
        }
        unfinished = self.folder / UNFINISHED
        with open(unfinished, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self.folder / RESULTS)


def key_of(entry: Mapping[str, Any]) -> Key:
    """What names a run."""
    return entry["arm"], int(entry["seed"]), entry["task"]


Compared = tuple[str, str, TaskSpec, Difference]  # arm, the first arm, task, what its main metric says


def differences(results: Results, arms: Sequence[Arm]) -> list[Compared]:
    """Every other arm against the first one, in the main metric of each task of both, over the seeds that both have."""
    first, *others = arms
    found = []
    for arm in others:
        for spec in first.tasks:
            ours, theirs = (results.scores(name, spec.name, spec.main_metric) for name in (arm.name, first.name))
            seeds = sorted(ours.keys() & theirs.keys())
            if seeds:
                difference = paired_difference([ours[s] for s in seeds], [theirs[s] for s in seeds])
                found.append((arm.name, first.name, spec, difference))
    return found


def scale_of(metric: str) -> tuple[float, str]:
    """By what a difference is multiplied for people, and what it then counts: points of a fraction, or a unit."""
    return (1.0, unit_of(metric)) if unit_of(metric) else (100.0, "points")


def _row(arm: str, against: str, spec: TaskSpec, difference: Difference) -> dict[str, Any]:
    """A line of `differences` in compare.json."""
    numbers = {name: _or_null(getattr(difference, name)) for name in ("mean", "low", "high")}
    names = {"arm": arm, "against": against, "task": spec.name, "metric": spec.main_metric}
    return {**names, **numbers, "seeds": difference.seeds, "verdict": difference.verdict}


def _or_null(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _read(folder: Path) -> dict[str, Any]:
    """What compare.json holds; of an empty folder, or none, nothing."""
    path = folder / RESULTS
    if not path.is_file():
        if folder.exists() and {p.name for p in folder.iterdir()} - {LOCK_FILE, UNFINISHED}:
            raise InputError(
                f"output_dir {str(folder)!r} is not empty and has no {RESULTS}: it is not that of a comparison; choose "
                "another with --output_dir"
            )
        return {"runs": [], "arguments": {}}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        runs = list(map(_checked_entry, content["runs"]))
        _check_unique(map(key_of, runs))
        return {"runs": runs, "arguments": {name: dict(each) for name, each in content.get("arguments", {}).items()}}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{str(path)!r} cannot be read as the results of a comparison: {type(error).__name__}: {error}; mend it, "
            "or choose another --output_dir"
        ) from error


def _checked_entry(run: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of `runs`; ValueError, KeyError, TypeError or AttributeError for what cannot be one."""
    seed, seconds, digest, memory = run["seed"], float(run["seconds"]), run.get("arguments"), run.get("memory")
    if not (isinstance(seed, int) and math.isfinite(seconds)):
        raise ValueError(f"seed {seed!r} and seconds {seconds!r} of a run, wanted whole and finite numbers")
    if not (isinstance(digest, str | None) and isinstance(memory, int | float | None)):
        raise TypeError(f"arguments {digest!r} and memory {memory!r} of a run, wanted a text and a number, or null")
    metrics = {str(name): None if value is None else float(value) for name, value in run["metrics"].items()}
    return {**run, "arm": str(run["arm"]), "seconds": seconds, "metrics": metrics}


def _check_unique(keys: Iterable[Key]) -> None:
    seen: set[Key] = set()
    for key in keys:
        if key in seen:
            raise ValueError(f"{run_name(*key)} is there twice")
        seen.add(key)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What changed, in words; nothing where only one of both knows weights or rows, whose files may be gone.

    Nor where only one knows plugins: older versions looked at those of all arms, and other plugins are other arguments.
    """
    if not before:
        return "the file does not say which"
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    words = [
        f"the {name} have changed"
        if name.startswith(ROWS_OF)
        else f"{name} was {before.get(name, 'not given')} and is {now.get(name, 'not given')}"
        for name in names
        if not name.startswith((WEIGHTS_OF, ROWS_OF, PLUGINS)) or (name in before and name in now)
    ]
    return ", ".join(words)
