"""The command `hf-mtl predict`: one row, or every row of a file, to the screen or into a file."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from tqdm import tqdm

from ..errors import InputError
from ..kernels.strategy import kernels_where_they_pay
from ..model.configuration import MultiTaskConfig
from ..model.heads import HEADS
from ..model.model_source import loading
from ..model.modeling import MultiTaskModel
from ..model.pipeline import MultiTaskPipeline
from ..model.pipeline_inputs import Texts, check_count, check_top_k
from ..pretrained import load_config, load_tokenizer
from ..tasks.arrow_files import num_rows
from ..tasks.text_encoding import check_encoding
from .file_reader import file_format, read_texts
from .prediction import answer_lines
from .resumable_output import ResumableOutput

NOTHING: dict[str, Any] = {}  # the answer of a kind that found no label


def predict(arguments: argparse.Namespace) -> None:
    """Answer one row, or every row of an input."""
    check_count("--batch-size", arguments.batch_size)
    check_top_k(arguments.top_k)
    if arguments.encoding is not None:
        check_encoding(arguments.encoding, "--")
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
        for line in _lines(answer):
            print(f"{task:<16}{_answer_in_words(line)}".rstrip())


def _lines(answer: Any) -> list[Any]:
    """A line for each part of an answer that is a list, or that holds nothing but one."""
    parts = next(iter(answer.values())) if isinstance(answer, dict) and len(answer) == 1 else answer
    return (parts or [NOTHING]) if isinstance(parts, list) else [answer]


def _answer_in_words(answer: Any) -> str:
    """A label with its text and score, a value, or what a kind of the user's own answers, as JSON."""
    if answer == NOTHING:
        return "-"
    if not isinstance(answer, dict) or not answer.keys() & {"label", "value"}:
        return json.dumps(answer, ensure_ascii=False)
    found = answer["label"] if "label" in answer else f"{answer['value']:.4f}"
    found += f" {answer['text']}" if "text" in answer else ""
    return f"{found:<24}" + (f"{answer['score']:>8.4f}" if "score" in answer else "")


def _top_k(arguments: argparse.Namespace) -> dict[str, Any]:
    return {} if arguments.top_k is None else {"top_k": arguments.top_k}


@contextmanager
def _rows(arguments: argparse.Namespace) -> Iterator[tuple[Iterator[Texts], int | None]]:
    """The input's rows and, where that can be known, how many there are.

    The first one is read here, so that a wrong column is refused before the model is loaded.
    """
    form = file_format(arguments.input, arguments.format)
    options = {"tags_words": lambda: _tags_words(arguments)}
    with closing(read_texts(arguments.input, form, arguments.columns, arguments.encoding, **options)) as rows:
        first = list(itertools.islice(rows, 1))
        yield itertools.chain(first, rows), num_rows(arguments.input, form)


def _tags_words(arguments: argparse.Namespace) -> bool:
    """Whether one of the tasks that are to answer takes lists of words."""
    config = load_config(arguments.model, revision=arguments.revision)
    heads = config.heads if isinstance(config, MultiTaskConfig) else {}
    return any(HEADS[heads[name].kind].takes_words for name in arguments.task or heads if name in heads)


def _predict_to_stdout(arguments: argparse.Namespace) -> None:
    with _rows(arguments) as (rows, _), kernels_where_they_pay():
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
        with tqdm(total=total, initial=first, unit=" rows", disable=None) as bar, kernels_where_they_pay():
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
