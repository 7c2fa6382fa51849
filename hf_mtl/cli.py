"""The command `hf-mtl`: draft a task file, train, compare, predict with a saved model, look at tasks, push a folder.

Exit codes: 0 done; 2 an argument, file or row that cannot be used; 1 an upload that failed, or a full disk; 130 stopped
by the user.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ._version import __version__
from .compare import compare_command
from .data.auto_labels import resolve_tasks
from .data.draft_sources import draft_file
from .data.raw_rows import ON_BAD_ROW
from .data.shared_reads import SharedReads
from .data.task_data import DEFAULT_LENGTH
from .data.task_report import describe_task, format_task, format_task_sets
from .errors import CheckpointError, InputError, PushError
from .hub.upload import push_folder
from .inference.predict_command import predict
from .model.configuration import MultiTaskConfig
from .model.heads import HeadSpec
from .model.input_length import encoder_max_length, saved_max_length
from .plugins import load_plugins, split_plugins
from .pretrained import load_config, load_tokenizer
from .tasks.demo import demo_tokenizer
from .tasks.spec import EMBEDDED, TaskSpec
from .tasks.task_file import TASK_SETS, load_tasks
from .tasks.text_files import FORMATS
from .training import run as training_run
from .training.arguments import DEFAULT_ENCODER, check_length
from .training.recipes import recipe_names


def main(argv: Sequence[str] | None = None) -> int:
    """Run `hf-mtl` with these arguments, those of the process unless given; gives the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["train"]:  # has a parser of its own, and transformers speaks as in any training
        return _exit_code(lambda: training_run.main(words[1:], command="hf-mtl train"), training_run.STOPPED)
    if words[:1] == ["compare"]:  # likewise
        return _exit_code(lambda: compare_command.main(words[1:]), compare_command.STOPPED)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    plugins, rest = split_plugins(words)
    arguments = parser().parse_args(rest)
    arguments.plugin = [*plugins, *(arguments.plugin or ())]  # the latter where the flag was abbreviated
    return _exit_code(lambda: _run(arguments), "stopped")


def _run(arguments: argparse.Namespace) -> None:
    load_plugins(arguments.plugin)
    arguments.command(arguments)


def _exit_code(command: Callable[[], None], stopped: str) -> int:
    """Run a command; prints what ended it."""
    try:
        command()
    except (InputError, PushError, CheckpointError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # as of `hf-mtl ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        print(f"hf-mtl: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        print(f"hf-mtl: {stopped}", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """Every command and flag."""
    top = argparse.ArgumentParser(prog="hf-mtl", description="Multi-task models from the command line.")
    top.add_argument("--version", action="version", version=f"hf_mtl {__version__}")
    commands = top.add_subparsers(required=True, metavar="{init,train,compare,predict,tasks,push}")
    recipes = ", ".join(recipe_names())
    _add_init(commands.add_parser("init", help="draft a task file from files, a folder or a data set of the Hub"))
    commands.add_parser("train", help=f"train, evaluate, predict: a recipe ({recipes}) or FILE.yaml, then flags")
    commands.add_parser("compare", help="train arms of a recipe over seeds, and say which differences can be told")
    _add_predict(commands.add_parser("predict", help="answers for a text, a pair, or every row of a file"))
    _add_tasks(commands.add_parser("tasks", help="list tasks; show what a YAML file was understood to mean"))
    _add_push(commands.add_parser("push", help="upload a trained folder to the Hub, as --push_to_hub does"))
    for name in ("predict", "tasks", "push"):
        commands.choices[name].add_argument(
            "--plugin",  # taken out of the words before they are parsed
            nargs="+",
            metavar="FILE.py",
            help="files of your own that register kinds",
        )
    return top


def _add_init(init_parser: argparse.ArgumentParser) -> None:
    init_parser.set_defaults(command=init, plugin=None)
    add = init_parser.add_argument
    add("data", nargs="+", metavar="FILE_OR_FOLDER_OR_HUB_ID", help="several files of one data set are its splits")
    add("--output", help="the task file to write, FILE.yaml; standard output unless given")


def _add_predict(predict_parser: argparse.ArgumentParser) -> None:
    predict_parser.set_defaults(command=predict)
    add = predict_parser.add_argument
    add("--model", required=True, help="folder or Hub id of a saved multi-task model")
    add("--revision", default="main", help="branch, tag or commit of a model on the Hub")
    add("--task", nargs="+", help="every task that takes this number of texts unless given")
    source = predict_parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", help=f"file ({', '.join(FORMATS)}), gzipped or not, or - for standard input")
    source.add_argument("--text", help="a single text")
    add("--text-pair", help="the other text of a pair")
    add("--output", default="-", help="file of JSON lines, or - for standard output, the default")
    add("--format", choices=FORMATS, help="of the input; by its suffix unless given, jsonl for -")
    add("--encoding", help="of the input, as Python calls it, such as cp1252; utf-8 unless given")
    add("--columns", nargs="+", help="column of the text or of lists of words, or of the two texts of a pair")
    add("--batch-size", type=int, default=32, help="rows in one pass of the encoder")
    add("--top-k", type=int, help="the k likeliest labels instead of the likeliest")
    add("--json", action="store_true", help="with --text: JSON instead of a table")


def _add_tasks(tasks_parser: argparse.ArgumentParser) -> None:
    tasks_parser.set_defaults(command=tasks)
    add = tasks_parser.add_argument
    add("task_set", nargs="?", help="FILE.yaml or the name of a set; without it, all sets are listed")
    add("--task", nargs="+", help="some of its tasks")
    add("--dataset-name", help="Hub id or folder that replaces the set's dataset")
    add(
        "--model",
        help="folder or Hub id whose tokenizer counts tokens, and whose heads say what labels: auto is; the default "
        "encoder, if it is in the cache, unless given",
    )
    add(
        "--on_bad_row",
        choices=ON_BAD_ROW,
        default=ON_BAD_ROW[0],
        help="what to do with rows that cannot be used, as in training; skip lists them",
    )
    add("--max-seq-length", type=int, help="inputs above it count as cut; as the model cuts unless given")
    add("--json", action="store_true", help="JSON instead of text")


def _add_push(push_parser: argparse.ArgumentParser) -> None:
    push_parser.set_defaults(command=push)
    add = push_parser.add_argument
    add("folder", help="the output_dir of a run")
    add("repo_id", help="user/name")
    add("--private", action="store_true", help="where the repository is made now")
    add("--revision", help="branch to commit to, made where there is none")


def init(arguments: argparse.Namespace) -> None:
    """Draft a task file, and say what to do with it."""
    if arguments.output is None:
        print(draft_file(arguments.data, Path()), end="")
        return
    path = Path(arguments.output)
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"--output is {arguments.output!r}, wanted FILE.yaml")
    if path.exists():
        raise InputError(f"{arguments.output!r} is there already; wanted the name of a new file")
    content = draft_file(arguments.data, path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    print(f"wrote {path}; read it, mend what is guessed, then: hf-mtl tasks {path}", file=sys.stderr)


def tasks(arguments: argparse.Namespace) -> None:
    """List the sets' tasks, or describe those of one set or file."""
    if arguments.max_seq_length is not None:
        check_length(arguments.max_seq_length)
    if arguments.task_set is None:
        if arguments.task or arguments.dataset_name or arguments.model:
            raise InputError("--task, --dataset-name and --model belong to a task set, which comes first")
        sets = {path.stem: load_tasks(path.stem) for path in sorted(TASK_SETS.glob("*.yaml"))}
        names = {name: [spec.name for spec in specs] for name, specs in sets.items()}
        print(json.dumps(names) if arguments.json else format_task_sets(sets))
        return
    specs = load_tasks(arguments.task_set, tasks=arguments.task, dataset=arguments.dataset_name)
    tokenizer, limit, heads = _token_counter(arguments.model, specs)
    reads = SharedReads(specs)
    specs = resolve_tasks(specs, heads=heads, reads=reads)
    length, on_bad_row = arguments.max_seq_length or limit, arguments.on_bad_row
    described = [describe_task(spec, tokenizer, length, reads, on_bad_row) for spec in specs]
    if arguments.json:
        print(json.dumps(described, ensure_ascii=False))
        return
    print("\n\n".join(map(format_task, described)))
    if tokenizer is None:
        print(f"\ntoken lengths and how many rows would be cut: --model DIR_OR_ID ({DEFAULT_ENCODER} is not at hand)")


def _token_counter(
    name: str | None, specs: Sequence[TaskSpec]
) -> tuple[PreTrainedTokenizerBase | None, int, Mapping[str, HeadSpec]]:
    """A tokenizer, where its model cuts, and the model's heads: of the model named, or of what training would take."""
    if name is None and all(spec.dataset == EMBEDDED for spec in specs):
        return demo_tokenizer(), DEFAULT_LENGTH, {}
    options: dict[str, Any] = {"local_files_only": name is None}
    try:
        tokenizer = load_tokenizer(name or DEFAULT_ENCODER, **options)
    except InputError:
        if name is not None:
            raise
        return None, DEFAULT_LENGTH, {}
    try:
        config = load_config(name or DEFAULT_ENCODER, **options)
    except InputError:  # a tokenizer alone
        return tokenizer, min(DEFAULT_LENGTH, tokenizer.model_max_length), {}
    if isinstance(config, MultiTaskConfig):
        return tokenizer, saved_max_length(config, tokenizer), config.heads
    return tokenizer, min(DEFAULT_LENGTH, encoder_max_length(tokenizer, config)), {}


def push(arguments: argparse.Namespace) -> None:
    """Upload a folder that a run left."""
    address = push_folder(
        Path(arguments.folder), arguments.repo_id, private=arguments.private, revision=arguments.revision
    )
    print(address)


def run() -> None:
    """The console command."""
    sys.exit(main())


if __name__ == "__main__":
    run()
