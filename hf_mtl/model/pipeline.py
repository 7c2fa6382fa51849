"""`pipeline("multi-task-classification")`: texts in, every task's answer out, one pass of the encoder for all of them.

Imports torch and transformers only: it travels with a saved model's code.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from torch import Tensor
from transformers import Pipeline

from .encoding import Encoded, padded
from .errors import InputError, unknown_name_error
from .heads import Head, HeadSpec
from .input_length import check_tokenizer, saved_max_length
from .pipeline_inputs import (
    ARGUMENTS,
    BEST,
    Texts,
    TopK,
    as_texts,
    check_count,
    check_task_name,
    check_top_k,
    check_truncation,
    in_words,
    is_one_row,
    rows_of,
)
from .pipeline_inputs import num_texts as texts_of

logger = logging.getLogger(__name__)
Answer = dict[str, Any]
# Rows are sorted by length within this many batches: enough for little padding, few enough for constant memory.
WINDOW = 64


class MultiTaskPipeline(Pipeline):  # type: ignore[misc]  # transformers' base class is untyped
    """Answers of a `MultiTaskModel`'s heads.

    Call it with a text, a pair (`("one", "other")` or `{"text": "one", "text_pair": "other"}`), words
    (`{"words": ["one", "other"]}`), a list of these, or an iterator, of which it makes an iterator. Keywords of a call,
    or of `pipeline()` for every call:

    Args:
        task_name: a task, or a list of them. Every task that takes this number of texts unless given; the others are
            named in a warning.
        top_k: classification: the k likeliest labels, as a list, the likeliest first; None for all of them. The
            likeliest alone, not in a list, unless given.
        max_length: lowers the limit of an input, in tokens; never raises it.
        batch_size: rows in one pass; 32 unless given.
        truncation, padding, num_workers: taken, as in other pipelines, and without effect. Inputs are always cut to
            the limit, batches padded to their longest row, and tokens made in this process.

    Returns:
        For each row `{"label": "positive", "score": 0.98}` (classification), `{"value": 3.2}` (regression, in the
        label's range), `{"tags": ["O", "B-PER"]}` of words and `{"entities": [{"label": "PER", ...}]}` of a text
        (token classification), or what a kind of your own answers, of the one task named; otherwise a dictionary by
        task.
    """

    _load_tokenizer = True
    _load_processor = _load_image_processor = _load_video_processor = _load_feature_extractor = False
    _pipeline_calls_generate = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_tokenizer(self.tokenizer, self.model.config.encoder_config)
        if self._batch_size is not None:
            check_count("batch_size", self._batch_size)
        if self._num_workers is not None:
            check_count("num_workers", self._num_workers, least=0)
        self.model.eval()  # one that comes from a trainer is in training mode
        self._left_out_was_said: set[int] = set()

    def _sanitize_parameters(
        self,
        task_name: str | Sequence[str] | None = None,
        top_k: TopK = BEST,
        max_length: int | None = None,
        truncation: bool | str | None = True,
        padding: bool | str | None = True,
        **other: Any,
    ) -> tuple[Answer, Answer, Answer]:
        if other:
            raise unknown_name_error("argument", next(iter(other)), ARGUMENTS)
        check_task_name(task_name)
        check_top_k(top_k)
        check_truncation(truncation, padding)
        if max_length is not None:
            check_count("max_length", max_length)
        return (
            {} if max_length is None else {"max_length": max_length},
            {} if task_name is None else {"task_name": task_name},
            {} if top_k == BEST else {"top_k": top_k},
        )

    def __call__(
        self, inputs: Any, *, batch_size: int | None = None, num_workers: int | None = None, **parameters: Any
    ) -> Any:
        """See the class."""
        if num_workers is not None:
            check_count("num_workers", num_workers, least=0)
        is_row = is_one_row(inputs)
        rows = [as_texts(inputs)] if is_row else rows_of(inputs)
        answers = self._answers(rows, self._batch_size if batch_size is None else batch_size, parameters)
        if isinstance(inputs, Iterator):
            return answers
        if not is_row:
            return list(answers)
        (answer,) = answers  # to the end, where cut rows are told
        return answer

    def _answers(self, rows: Iterable[Any], batch_size: int | None, parameters: Answer) -> Iterator[Answer]:
        """The answers as the caller wants them; says how many rows were cut."""
        preprocess, forward, postprocess = self._sanitize_parameters(**parameters)
        wanted = {**self._forward_params, **forward}.get("task_name")
        options = {**self._preprocess_params, **self._postprocess_params, **preprocess, **postprocess}
        answers = self.stream(rows, wanted, batch_size=32 if batch_size is None else batch_size, **options)
        return self._told(answers, wanted, min(self.limit, options.get("max_length", self.limit)))

    def _told(self, answers: Iterator[tuple[Answer, bool]], wanted: Any, limit: int) -> Iterator[Answer]:
        cut = total = 0
        for answer, was_cut in answers:
            cut, total = cut + was_cut, total + 1
            yield answer[wanted] if isinstance(wanted, str) else answer
        if cut:
            logger.warning("%d of %d inputs were cut to %d tokens", cut, total, limit)

    @property
    def limit(self) -> int:
        """Where inputs are cut, in tokens."""
        return saved_max_length(self.model.config, self.tokenizer)

    def stream(
        self,
        rows: Iterable[Any],
        task_name: str | Sequence[str] | None = None,
        *,
        batch_size: int = 32,
        top_k: TopK = BEST,
        max_length: int | None = None,
    ) -> Iterator[tuple[Answer, bool]]:
        """For each row, in order, the answers by task and whether its end was cut off. Memory does not grow.

        Args:
            rows: texts or pairs, all of them one or the other.
            task_name: a task, or several; every task that takes this number of texts unless given.
            top_k: answers per task; see the class.
            max_length: where inputs are cut, in tokens; as in training unless given.
            batch_size: rows in one pass; rows of like length share one.

        Raises:
            InputError: for an unknown task, and for rows that no task or not every task named takes.
        """
        check_task_name(task_name)
        check_top_k(top_k)
        check_count("batch_size", batch_size)
        return self._stream(rows, task_name, int(batch_size), top_k, max_length)

    def _stream(
        self, rows: Iterable[Any], task_name: Any, batch_size: int, top_k: TopK, max_length: int | None
    ) -> Iterator[tuple[Answer, bool]]:
        numbered = enumerate(rows)
        num_texts = first = 0
        tasks: list[str] = []
        while window := [as_texts(row, number) for number, row in islice(numbered, batch_size * WINDOW)]:
            if not num_texts:
                num_texts = texts_of(window[0])
                tasks = self._tasks(task_name, num_texts)
            other = next((number for number, texts in enumerate(window, first) if texts_of(texts) != num_texts), None)
            if other is not None:
                raise InputError(
                    f"row 0 is {in_words(num_texts)} and row {other} is {in_words(3 - num_texts)}; wanted one or the "
                    "other in a call"
                )
            first += len(window)
            yield from self._window(window, tasks, batch_size, top_k, max_length)

    def _window(
        self, window: list[Texts], tasks: list[str], batch_size: int, top_k: TopK, max_length: int | None
    ) -> Iterator[tuple[Answer, bool]]:
        """One window's answers, in order."""
        answers: list[Answer] = [{} for _ in window]
        was_cut = [False] * len(window)
        for group in self._tasks_by_encoding(tasks):
            head = self._head(group[0])
            rows = head.read(head.spec, window, self.tokenizer)
            tokens, cut = self.preprocess(rows, max_length, task=group[0])
            was_cut = [one or other for one, other in zip(was_cut, cut, strict=True)]
            for place, answer in self._answers_of(rows, tokens, group, batch_size, top_k):
                answers[place].update(answer)
        in_order = ({task: answer[task] for task in tasks} for answer in answers)
        return zip(in_order, was_cut, strict=True)

    def _answers_of(
        self,
        rows: Sequence[Texts],
        tokens: Sequence[dict[str, list[int]]],
        tasks: list[str],
        batch_size: int,
        top_k: TopK,
    ) -> Iterator[tuple[int, Answer]]:
        """The place and the answers of every row; the longest go through the encoder first."""
        by_length = sorted(range(len(tokens)), key=lambda row: -len(tokens[row]["input_ids"]))
        for start in range(0, len(tokens), batch_size):
            places = by_length[start : start + batch_size]
            batch = padded([tokens[row] for row in places], self.tokenizer)
            texts, logits = [rows[row] for row in places], self.forward(batch, tasks=tasks)
            yield from zip(places, self.postprocess(logits, batch, texts, top_k=top_k), strict=True)

    def _tasks_by_encoding(self, tasks: list[str]) -> list[list[str]]:
        """The tasks whose heads encode rows alike, which share a pass through the encoder."""
        groups: dict[Any, list[str]] = {}
        for task in tasks:
            head = self._head(task)
            groups.setdefault(head.encoding_key(head.spec), []).append(task)
        return list(groups.values())

    def _head(self, task: str) -> Head:
        head: Head = self.model.heads[task]
        return head

    def _tasks(self, wanted: str | Sequence[str] | None, num_texts: int) -> list[str]:
        """The tasks that answer rows of this number of texts."""
        heads: dict[str, HeadSpec] = self.model.task_heads
        fitting = [name for name, head in heads.items() if head.num_texts == num_texts]
        if wanted is None:
            others = [name for name in heads if name not in fitting]
            if others and fitting and num_texts not in self._left_out_was_said:
                self._left_out_was_said.add(num_texts)
                logger.warning("left out, as they take %s: %s", in_words(3 - num_texts), ", ".join(others))
        names = fitting if wanted is None else [wanted] if isinstance(wanted, str) else list(wanted)
        for name in names:
            if name not in heads:
                raise unknown_name_error("task_name", name, heads)
            if name not in fitting:
                raise InputError(f"task {name!r} takes {in_words(heads[name].num_texts)}, got {in_words(num_texts)}")
        if not names:
            raise InputError(f"no task takes {in_words(num_texts)}; the tasks are {', '.join(heads)}")
        return names

    def preprocess(self, rows: Sequence[Texts], max_length: int | None = None, *, task: str | None = None) -> Encoded:
        """Each row's token ids, without padding, and whether its end was cut off, as the head of a task encodes."""
        head = self._head(next(iter(self.model.task_heads)) if task is None else task)
        limit = self.limit if max_length is None else min(int(max_length), self.limit)
        return head.encode(head.spec, rows, self.tokenizer, limit)

    def _forward(self, tokens: dict[str, Tensor], tasks: list[str]) -> dict[str, Tensor]:
        """Task -> logits, of one pass through the encoder. *Shape:* (rows, ...)"""
        mask = tokens["attention_mask"]
        hidden = self.model.encode(**tokens)
        return {task: self.model.forward_head(task, hidden, mask)[1].float() for task in tasks}

    def postprocess(
        self, logits: dict[str, Tensor], batch: dict[str, Tensor], rows: Sequence[Texts], *, top_k: TopK = BEST
    ) -> list[Answer]:
        """For each row, task -> answer; InputError for logits that are no numbers."""
        for task, values in logits.items():
            if not values.isfinite().all():
                raise InputError(
                    f"task {task!r}: the model's answers are not finite numbers; look at its training's losses and the "
                    f"weights of {self.model.name_or_path!r}, or load it in fp32"
                )
        by_task = {task: self._head(task).answer_rows(values, batch, rows, top_k) for task, values in logits.items()}
        return [dict(zip(by_task, row, strict=True)) for row in zip(*by_task.values(), strict=True)]
