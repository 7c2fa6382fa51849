"""Teachers, checked before anything expensive: saved models that read and answer their task as the student does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import PreTrainedTokenizerBase

from ..data.token_cache import tokenizer_state
from ..errors import InputError, unknown_name_error
from ..hub.upload import PUBLISHED
from ..model.configuration import MultiTaskConfig
from ..model.heads import HEADS, HeadSpec
from ..model.input_length import saved_max_length
from ..model.model_source import check_source, check_weight_files, loading
from ..model.modeling import MultiTaskModel
from ..pretrained import load_config, load_tokenizer
from ..tasks.spec import TaskSpec
from .arguments import MultiTaskTrainingArguments
from .unsupported import shards_gradients

Difference = tuple[str, Any, Any]  # its place, one value, the other


def check_teachers(
    args: MultiTaskTrainingArguments,
    model: MultiTaskModel,
    tasks: Mapping[str, TaskSpec],
    tokenizer: PreTrainedTokenizerBase | None,
) -> dict[str, Path]:
    """Task -> the folder of its teacher; one on the Hub is downloaded.

    Args:
        args: their `teachers` is task -> folder or Hub id.
        model: the student.
        tasks: task -> its declaration.
        tokenizer: the student's.

    Raises:
        InputError: for a teacher that is none, or differs from the student in what both have to have.
    """
    teachers = args.options("teachers")
    for task in teachers:
        if task not in tasks:
            raise unknown_name_error("task in teachers:", task, tasks)
        _check_kind(tasks[task])
    if teachers and shards_gradients(model, args):
        raise InputError(
            "teachers are not for DeepSpeed and FSDP, which load every model in shards; leave --teachers out, or use "
            "plain data parallelism: accelerate launch --multi_gpu --num_processes N ..."
        )
    if teachers and tokenizer is None:
        raise InputError("teachers want processing_class: a teacher's tokenizer is compared with it")
    return {task: _checked(task, str(name), model, tokenizer) for task, name in teachers.items()}


def _check_kind(spec: TaskSpec) -> None:
    """Raise InputError for a task of a kind that no teacher can teach."""
    takers = [kind for kind, head in HEADS.items() if vars(head).get("takes_teacher")]
    if spec.kind not in takers:
        raise InputError(
            f"task {spec.name!r}: a task of kind {spec.kind!r} takes no teacher; teachers are for {', '.join(takers)}"
        )


def _checked(task: str, name: str, model: MultiTaskModel, tokenizer: PreTrainedTokenizerBase) -> Path:
    """The folder of one teacher."""
    what = f"task {task!r}: the teacher {name!r} (--teachers)"
    check_source(name, what)
    folder = Path(name)
    if not folder.is_dir():
        with loading(name, what):
            folder = Path(snapshot_download(name, allow_patterns=PUBLISHED))
    config = load_config(folder, what=what)
    if not isinstance(config, MultiTaskConfig):
        raise InputError(
            f"{what} holds a model of type {config.model_type!r}, wanted a saved multi-task model with a head {task!r}"
        )
    if task not in config.heads:
        raise unknown_name_error(f"head of {name!r} in teachers:", task, config.heads)
    check_weight_files(folder, what, "MultiTaskModel")
    own = load_tokenizer(folder, what=what)
    with_teacher = {
        **_facts(config.heads[task]),
        "max_seq_length": saved_max_length(config, own),
        "tokenizer": _rules(own),
    }
    with_student = {
        **_facts(model.config.heads[task]),
        "max_seq_length": saved_max_length(model.config, tokenizer),
        "tokenizer": _rules(tokenizer),
    }
    if (found := _first_difference(with_teacher, with_student)) is not None:
        raise InputError(
            f"{what} differs from the student in its {found[0]}: {found[1]!r:.80} with the teacher, {found[2]!r:.80} "
            "with the student; wanted a teacher that was trained with the student's"
        )
    return folder


def _facts(head: HeadSpec) -> dict[str, Any]:
    """Of a head, what the rows and the answers follow from; pooling and loss are a teacher's own affair."""
    meant = head.as_meant("mean")
    facts = {name: getattr(meant, name) for name in ("kind", "labels", "label_range", "num_texts", "pair_encoding")}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in facts.items()}


def _rules(tokenizer: PreTrainedTokenizerBase) -> Any:
    """Vocabulary and rules, as JSON has them; of a tokenizer in Python, its class and its vocabulary."""
    state = tokenizer_state(tokenizer)
    if state is None:
        return {"class": type(tokenizer).__name__, "vocab": tokenizer.get_vocab()}
    return json.loads("{" + state)


def _first_difference(one: Any, other: Any, place: str = "") -> Difference | None:
    """The innermost place at which two JSON values differ, with both values; None where they are equal."""
    if one == other:
        return None
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            if one.get(key) != other.get(key):
                return _first_difference(one.get(key), other.get(key), f"{place}.{key}" if place else str(key))
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return f"number of {place}", len(one), len(other)  # which may be thousands
        number = next(n for n, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
        return _first_difference(one[number], other[number], f"{place}[{number}]")
    return place, one, other
