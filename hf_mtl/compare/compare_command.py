"""The command `hf-mtl compare`: a recipe's arms over seeds, from the words of the command to the report."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..errors import InputError
from ..plugins import split_plugins
from ..training.argument_files import file_values
from ..training.argument_parser import flag_values, parse_values, starts_with_file
from ..training.checkpoints import lock_output_folder, unlocking_output_folder
from ..training.progress import BarHandler, score_text
from ..training.recipes import with_recipe
from .arms import NOT_THE_RECIPES, SINGLE, check_arm_names, child_arguments, parse_arms, parse_seeds, settings_of
from .children import Children, Outcome
from .picture import draw_differences
from .report import REPORT, report
from .results import Results, differences
from .runs import Arm, Run, list_runs, make_arm

logger = logging.getLogger("hf_mtl.compare")
PICTURE = "compare.png"
REFRESH_SECONDS = 5.0  # between two looks of the bar, while nothing ends
STOPPED = "stopped; the same command goes on with the runs that are left"
USAGE = "[RECIPE | FILE.yaml | FILE.json] --arms single,sum,... --seeds 1-5 [--flag value ...]"


def main(argv: Sequence[str], *, command: str = "hf-mtl compare") -> None:
    """Run what is not through yet, and print what the results say.

    Args:
        argv: the words of the command line.
        command: what stands before them, for `--help`.

    Raises:
        InputError: for what cannot be used, and for a run that failed.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[BarHandler()])
    options, words = command_parser(command).parse_known_args(argv)
    recipe, blocks, words = _recipe(words)
    names, seeds = parse_arms(options.arms), parse_seeds(options.seeds)
    if options.parallel < 1:
        raise InputError(f"--parallel is {options.parallel}, wanted a whole number >= 1")
    output_dir = _output_dir(recipe)
    check_arm_names(names, blocks)
    arms = [make_arm(name, recipe, blocks) for name in names]
    title = f"{Path(words[0]).stem if starts_with_file(words) else 'Recipe'}: {', '.join(names)}"
    with _locked(output_dir):
        results = Results(output_dir)
        results.check(arms, with_test=options.with_test)
        runs = list_runs(arms, seeds)
        comparison = Comparison(title, results, arms)
        comparison.write()
        with Children(output_dir, parallel=options.parallel, with_test=options.with_test) as children:
            _run_all(runs, comparison, children, options.parallel)
    print(comparison.text())


def command_parser(command: str) -> argparse.ArgumentParser:
    """The flags that are no arguments of a run."""
    parser = argparse.ArgumentParser(
        prog=command,
        usage=f"{command} {USAGE}",
        description="Train every arm with every seed, and say which differences can be told from chance. All flags of "
        "hf-mtl train hold for all arms.",
        allow_abbrev=False,
    )
    arms = f"{SINGLE} (each task alone), gradient methods, and names of the file's arms; the first is compared with"
    parser.add_argument("--arms", required=True, help=arms)
    parser.add_argument("--seeds", required=True, help="as in 1-5 or 1,2,7")
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time; 1 unless given")
    parser.add_argument("--with-test", "--with_test", action="store_true", help="score the test splits too")
    return parser


def _recipe(argv: Sequence[str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]], list[str]]:
    """The recipe's arguments under those of the flags, what its `arms` say, and the words with its file in them."""
    plugins, words = split_plugins(with_recipe(argv))
    values, blocks = file_values(Path(words[0])) if starts_with_file(words) else ({}, {})
    flags = flag_values(words[1:] if starts_with_file(words) else words)
    if "seed" in flags:
        raise InputError(f"--seed is {flags['seed']!r}; wanted --seeds, which names those of all runs")
    if ignored := sorted(flags.keys() & set(NOT_THE_RECIPES) - {"output_dir", "hub_token", "do_train", "do_eval"}):
        logger.warning("not taken from the command line, as every run has its own: %s", ", ".join(ignored))
    return {**values, **flags, **({"plugin": plugins} if plugins else {})}, blocks, words


def _output_dir(recipe: Mapping[str, Any]) -> Path:
    """Where the comparison lies; the recipe is checked as a whole on the way, and its plugins are loaded.

    A token is put where runs find it, which is no file.
    """
    if "output_dir" not in recipe:
        raise InputError("output_dir is not given; wanted --output_dir, or the recipe's")
    folder, settings = recipe["output_dir"], settings_of(recipe)
    checked = child_arguments(settings, seed=0, folder=folder, with_test=False, saves=True)
    _, _, args = parse_values({**checked, "hub_token": recipe.get("hub_token")}, "the recipe")
    if args.hub_token:
        os.environ["HF_TOKEN"] = args.hub_token
    if args.n_gpu > 1:
        raise InputError(
            f"{args.n_gpu} GPUs are visible, and a run of a comparison takes one; set CUDA_VISIBLE_DEVICES=0, or to "
            "another one"
        )
    return Path(args.output_dir)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a folder that is made for it."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output_dir {str(folder)!r} is a file; choose another with --output_dir")
    folder.mkdir(parents=True, exist_ok=True)
    lock_output_folder(folder)
    with unlocking_output_folder(folder):
        yield


class Comparison:
    """The results of arms, and the files that say what they say.

    Args:
        title: of the report.
        results: so far.
        arms: in their order.
    """

    def __init__(self, title: str, results: Results, arms: Sequence[Arm]) -> None:
        self.title, self.results, self.arms = title, results, arms
        self._can_draw = True

    def add(self, outcome: Outcome, *, with_test: bool) -> None:
        """Take the scores of a run that has ended, and write."""
        prefixes = ("eval", "test") if with_test else ("eval",)
        names = {
            f"{p}_{spec.name}_{metric}" for p in prefixes for spec in outcome.run.arm.tasks for metric in spec.metrics
        }
        scores = {name: value for name, value in outcome.metrics.items() if name in {*names, "eval_average"}}
        if not scores:
            raise InputError(f"{outcome.run} has no score on validation rows, which a comparison wants of every task")
        self.results.add(outcome.run, scores, seconds=outcome.seconds, memory=outcome.memory, test=with_test)
        self.write()
        tqdm.write(f"{outcome.run}: {score_text(outcome.run.arm.tasks, scores, 'eval')}", file=sys.stderr)

    def write(self) -> None:
        """Write compare.json, compare.md and compare.png."""
        self.results.write(self.arms)
        folder = self.results.folder
        (folder / REPORT).write_text(self.text(), encoding="utf-8")
        compared = differences(self.results, self.arms)
        if compared and self._can_draw:
            self._can_draw = draw_differences(compared, folder / PICTURE)

    def text(self) -> str:
        """What the results say."""
        return report(self.title, self.results, self.arms)


def _run_all(runs: Sequence[Run], comparison: Comparison, children: Children, parallel: int) -> None:
    """Do every run that is not through, `parallel` at a time."""
    left = [run for run in runs if comparison.results.entry(run.key) is None]
    if not left:
        return
    with tqdm(total=len(runs), initial=len(runs) - len(left), unit="run", desc="compare") as bar:
        shown = time.monotonic()
        while left or children.runs:
            while left and len(children.runs) < parallel:
                children.start(left.pop(0))
                bar.set_postfix_str("; ".join(map(str, children.runs)))
            outcome = children.ended()
            if outcome is not None:
                comparison.add(outcome, with_test=children.with_test)
                bar.update()
            elif time.monotonic() - shown > REFRESH_SECONDS:
                bar.refresh()
                shown = time.monotonic()
