"""The command `hf-mtl`: predict with a saved model, look at tasks, push a folder.

Exit codes: 0 done; 2 an argument, file or row that cannot be used; 1 an upload that failed, or a full disk; 130 stopped
by the user.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ._version import __version__
from .data.task_report import describe_task, format_task, format_task_sets
from .errors import InputError, PushError
from .hub.upload import push_folder
from .inference.prediction import ResumableOutput, answer_lines, count_rows, file_format, read_texts
from .kernels.cpu_functions import CpuKernels
from .model.configuration import MultiTaskConfig
from .model.input_length import encoder_max_length, saved_max_length
from .model.model_source import loading
from .model.modeling import MultiTaskModel
from .model.pipeline import MultiTaskPipeline
from .model.pipeline_inputs import Texts, check_count, check_top_k
from .plugins import load_plugins
from .pretrained import load_config, load_tokenizer
from .tasks.demo import demo_tokenizer
from .tasks.spec import EMBEDDED, TASK_SETS, TaskSpec, load_tasks
from .tasks.text_files import FORMATS
from .training.arguments import DEFAULT_ENCODER, DEFAULT_LENGTH, check_length

NOTHING: dict[str, Any] = {}  # the answer of a kind that found no label


def main(argv: Sequence[str] | None = None) -> int:
    """Run `hf-mtl` with these arguments, those of the process unless given; gives the exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    arguments = parser().parse_args(argv)
    try:
        load_plugins(arguments.plugin or ())
        arguments.command(arguments)
    except (InputError, PushError) as error:
        print(f"hf-mtl: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        print("hf-mtl: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as of `hf-mtl ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        print(f"hf-mtl: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """Every command and flag."""
    top = argparse.ArgumentParser(prog="hf-mtl", description="Multi-task models from the command line.")
    top.add_argument("--version", action="version", version=f"hf_mtl {__version__}")
    commands = top.add_subparsers(required=True, metavar="{predict,tasks,push}")

    one = commands.add_parser("predict", help="answers for a text, a pair, or every row of a file")
    one.set_defaults(command=predict)
    one.add_argument("--model", required=True, help="folder or Hub id of a saved multi-task model")
    one.add_argument("--revision", default="main", help="branch, tag or commit of a model on the Hub")
    one.add_argument("--task", nargs="+", help="every task that takes this number of texts unless given")
    source = one.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", help=f"file ({', '.join(FORMATS)}), or - for standard input")
    source.add_argument("--text", help="a single text")
    one.add_argument("--text-pair", help="the other text of a pair")
    one.add_argument("--output", default="-", help="file of JSON lines, or - for standard output, the default")
    one.add_argument("--format", choices=FORMATS, help="of the input; by its suffix unless given, jsonl for -")
    one.add_argument("--columns", nargs="+", help="column of the text, or of the two texts of a pair")
    one.add_argument("--batch-size", type=int, default=32, help="rows in one pass of the encoder")
    one.add_argument("--top-k", type=int, help="the k likeliest labels instead of the likeliest")
    one.add_argument("--json", action="store_true", help="with --text: JSON instead of a table")

    two = commands.add_parser("tasks", help="list tasks; show what a YAML file was understood to mean")
    two.set_defaults(command=tasks)
    two.add_argument("task_set", nargs="?", help="FILE.yaml or the name of a set; without it, all sets are listed")
    two.add_argument("--task", nargs="+", help="some of its tasks")
    two.add_argument("--dataset-name", help="Hub id or folder that replaces the set's dataset")
    two.add_argument(
        "--model",
        help="folder or Hub id whose tokenizer counts tokens; the default encoder, if it is in the cache, unless given",
    )
    two.add_argument("--max-seq-length", type=int, help="inputs above it count as cut; as the model cuts unless given")
    two.add_argument("--json", action="store_true", help="JSON instead of text")

    three = commands.add_parser("push", help="upload a trained folder to the Hub, as --push_to_hub does")
    three.set_defaults(command=push)
    three.add_argument("folder", help="the output_dir of a run")
    three.add_argument("repo_id", help="user/name")
    three.add_argument("--private", action="store_true", help="where the repository is made now")
    three.add_argument("--revision", help="branch to commit to, made where there is none")
    for each in (one, two, three):
        each.add_argument("--plugin", nargs="+", metavar="FILE.py", help="files of your own that register kinds")
    return top


def predict(arguments: argparse.Namespace) -> None:
    """Answer one row, or every row of an input."""
    check_count("--batch-size", arguments.batch_size)
    check_top_k(arguments.top_k)
    if arguments.columns and len(arguments.columns) > 2:
        raise InputError(f"--columns names {len(arguments.columns)} columns, wanted one, or two for a pair")
    if arguments.text is not None and arguments.output != "-":
        raise InputError("--output is for the answers of --input; --text's are printed")
    if arguments.text is None and arguments.text_pair is not None:
        raise InputError("--text-pair is the other text of a pair; wanted --text too")
    if arguments.text is not None:
        _predict_one(arguments)
    elif arguments.output == "-":
        _predict_to_stdout(arguments)
    else:
        _predict_to_file(arguments)


def load_pipeline(name: str, revision: str) -> MultiTaskPipeline:
    """The pipeline of a saved multi-task model; InputError when there is none."""
    config = load_config(name, revision=revision)
    if not isinstance(config, MultiTaskConfig):
        raise InputError(f"model {name!r} holds a model of type {config.model_type!r}, wanted a multi-task model")
    model = MultiTaskModel.from_pretrained(name, revision=revision)
    tokenizer = load_tokenizer(name, revision=revision)
    return MultiTaskPipeline(model=model, tokenizer=tokenizer, task="multi-task-classification")


def _predict_one(arguments: argparse.Namespace) -> None:
    row = (arguments.text,) if arguments.text_pair is None else (arguments.text, arguments.text_pair)
    pipe = load_pipeline(arguments.model, arguments.revision)
    answers = pipe(row, task_name=arguments.task, **_top_k(arguments))
    if arguments.json:
        print(json.dumps(answers, ensure_ascii=False))
        return
    print(f"{'task':<16}{'answer':<24}{'score':>8}")
    for task, answer in answers.items():
        for line in answer or [NOTHING] if isinstance(answer, list) else [answer]:
            print(f"{task:<16}{_answer_in_words(line)}".rstrip())


def _answer_in_words(answer: Any) -> str:
    """A label with its score, a value, or what a kind of the user's own answers, as JSON."""
    if answer == NOTHING:
        return "-"
    if not isinstance(answer, dict) or not answer.keys() & {"label", "value"}:
        return json.dumps(answer, ensure_ascii=False)
    found = answer["label"] if "label" in answer else f"{answer['value']:.4f}"
    return f"{found:<24}" + (f"{answer['score']:>8.4f}" if "score" in answer else "")


def _top_k(arguments: argparse.Namespace) -> dict[str, Any]:
    return {} if arguments.top_k is None else {"top_k": arguments.top_k}


@contextmanager
def _rows(arguments: argparse.Namespace) -> Iterator[tuple[Iterator[Texts], int | None]]:
    """The input's rows and, where that can be known, how many there are.

    The first one is read here, so that a wrong column is refused before the model is loaded.
    """
    form = file_format(arguments.input, arguments.format)
    with closing(read_texts(arguments.input, form, arguments.columns)) as rows:
        first = list(itertools.islice(rows, 1))
        yield itertools.chain(first, rows), count_rows(arguments.input, form)


def _predict_to_stdout(arguments: argparse.Namespace) -> None:
    with _rows(arguments) as (rows, _), CpuKernels():
        pipe = load_pipeline(arguments.model, arguments.revision)
        for _, line, _ in answer_lines(
            pipe, rows, arguments.task, batch_size=arguments.batch_size, **_top_k(arguments)
        ):
            sys.stdout.write(line)
    sys.stdout.flush()


def _predict_to_file(arguments: argparse.Namespace) -> None:
    asked = ("model", "revision", "task", "input", "columns", "top_k")
    weights = _weights(arguments.model, arguments.revision)
    call = {**{name: getattr(arguments, name) for name in asked}, "weights": weights}
    num_cut = 0
    with _rows(arguments) as (rows, total), ResumableOutput(Path(arguments.output), call) as output:
        first = output.progress.rows
        rows = output.skip(rows)
        if first:
            print(f"going on after {first:,} rows", file=sys.stderr)
        pipe = load_pipeline(arguments.model, arguments.revision)
        options = {"first": first, "batch_size": arguments.batch_size, **_top_k(arguments)}
        start = time.perf_counter()
        with tqdm(total=total, initial=first, unit=" rows", disable=None) as bar, CpuKernels():
            for texts, line, cut in answer_lines(pipe, rows, arguments.task, **options):
                output.write(texts, line)
                num_cut += cut
                bar.update()
    output.finish()
    rate = (output.progress.rows - first) / (time.perf_counter() - start)
    cut_words = f"; {num_cut:,} were cut to {pipe.limit} tokens" if num_cut else ""
    print(f"{output.progress.rows:,} rows in {arguments.output}, {rate:,.0f} a second{cut_words}", file=sys.stderr)


def _weights(name: str, revision: str) -> Any:
    """What tells the model that began an output from a later one: the files of a folder, the commit of a Hub id."""
    if not Path(name).is_dir():
        with loading(name, f"model {name!r}"):
            return Path(hf_hub_download(name, "config.json", revision=revision)).parent.name
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in sorted(Path(name).glob("*.safe*"))]


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
    tokenizer, limit = _token_counter(arguments.model, specs)
    described = [describe_task(spec, tokenizer, arguments.max_seq_length or limit) for spec in specs]
    if arguments.json:
        print(json.dumps(described, ensure_ascii=False))
        return
    print("\n\n".join(map(format_task, described)))
    if tokenizer is None:
        print(f"\ntoken lengths and how many rows would be cut: --model DIR_OR_ID ({DEFAULT_ENCODER} is not at hand)")


def _token_counter(name: str | None, specs: Sequence[TaskSpec]) -> tuple[PreTrainedTokenizerBase | None, int]:
    """A tokenizer and where its model cuts: of the model named, or what training would take, if it is at hand."""
    if name is None and all(spec.dataset == EMBEDDED for spec in specs):
        return demo_tokenizer(), DEFAULT_LENGTH
    options = {"local_files_only": name is None}
    try:
        tokenizer = load_tokenizer(name or DEFAULT_ENCODER, **options)
    except InputError:
        if name is not None:
            raise
        return None, DEFAULT_LENGTH
    try:
        config = load_config(name or DEFAULT_ENCODER, **options)
    except InputError:  # a tokenizer alone
        return tokenizer, min(DEFAULT_LENGTH, tokenizer.model_max_length)
    if isinstance(config, MultiTaskConfig):
        return tokenizer, saved_max_length(config, tokenizer)
    return tokenizer, min(DEFAULT_LENGTH, encoder_max_length(tokenizer, config))


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
