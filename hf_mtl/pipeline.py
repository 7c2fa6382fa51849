"""`pipeline("multi-task-classification")`: texts in, every task's answer out, one pass of the encoder for all of them.

Imports torch and transformers only: it travels with a saved model's code.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

from torch import Tensor
from transformers import Pipeline

from .errors import InputError, unknown
from .inputs import check_tokenizer, longest_input
from .kinds import KINDS, TaskHead

logger = logging.getLogger(__name__)
Texts = tuple[str, ...]
Answer = dict[str, Any]
BEST: Literal["best"] = "best"
TopK = int | None | Literal["best"]
# Rows are sorted by length within this many batches: enough for little padding, few enough for constant memory.
WINDOW = 64


class MultiTaskPipeline(Pipeline):  # type: ignore[misc]  # transformers' base class is untyped
    """Answers of a `MultiTaskModel`'s heads.

    Call it with a text, a pair (`("one", "other")` or `{"text": "one", "text_pair": "other"}`), a list of either, or an
    iterator, of which it makes an iterator. Keywords of a call, or of `pipeline()` for every call:

    Args:
        task_name: a task, or a list of them. Every task that takes this number of texts unless given; the others are
            named in a warning.
        top_k: classification: the k likeliest labels, as a list, the likeliest first; None for all of them. The
            likeliest alone, not in a list, unless given.
        batch_size: rows in one pass; 32 unless given.

    Returns:
        For each row `{"label": "positive", "score": 0.98}` (classification) or `{"value": 3.2}` (regression, in the
        label's range) of the one task named; otherwise a dictionary of these by task.
    """

    _load_tokenizer = True
    _load_processor = _load_image_processor = _load_video_processor = _load_feature_extractor = False
    _pipeline_calls_generate = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_tokenizer(self.tokenizer, self.model.config.encoder_config)
        self.model.eval()  # one that comes from a trainer is in training mode
        self._left_out_was_said: set[int] = set()

    def _sanitize_parameters(
        self, task_name: str | Sequence[str] | None = None, top_k: TopK = BEST, **other: Any
    ) -> tuple[Answer, Answer, Answer]:
        if other:
            raise unknown("argument", next(iter(other)), ("task_name", "top_k", "batch_size"))
        check_top_k(top_k)
        return {}, {} if task_name is None else {"task_name": task_name}, {} if top_k == BEST else {"top_k": top_k}

    def __call__(self, inputs: Any, *, batch_size: int | None = None, **parameters: Any) -> Any:
        """See the class."""
        is_row = isinstance(inputs, str | Mapping) or (isinstance(inputs, tuple) and all_text(inputs))
        answers = self._answers([inputs] if is_row else inputs, batch_size, parameters)
        if isinstance(inputs, Iterator):
            return answers
        if not is_row:
            return list(answers)
        (answer,) = answers  # to the end, where cut rows are told
        return answer

    def _answers(self, rows: Iterable[Any], batch_size: int | None, parameters: Answer) -> Iterator[Answer]:
        """The answers as the caller wants them; says how many rows were cut."""
        _, forward, postprocess = self._sanitize_parameters(**parameters)
        wanted = {**self._forward_params, **forward}.get("task_name")
        options = {**self._postprocess_params, **postprocess}
        cut = total = 0
        for answer, was_cut in self.stream(rows, wanted, batch_size=batch_size or self._batch_size or 32, **options):
            cut, total = cut + was_cut, total + 1
            yield answer[wanted] if isinstance(wanted, str) else answer
        if cut:
            logger.warning("%d of %d inputs were cut to %d tokens", cut, total, self.limit)

    @property
    def limit(self) -> int:
        """Where inputs are cut, in tokens."""
        return longest_input(self.model.config, self.tokenizer)

    def stream(
        self,
        rows: Iterable[Any],
        task_name: str | Sequence[str] | None = None,
        *,
        batch_size: int = 32,
        top_k: TopK = BEST,
    ) -> Iterator[tuple[Answer, bool]]:
        """For each row, in order, the answers by task and whether its end was cut off. Memory does not grow.

        Args:
            rows: texts or pairs, all of them one or the other.
            task_name, top_k: see the class.
            batch_size: rows in one pass; rows of like length share one.

        Raises:
            InputError: for an unknown task, and for rows that no task or not every task named takes.
        """
        rows = iter(rows)
        num_texts, tasks = 0, []
        while window := [as_texts(row) for row in islice(rows, batch_size * WINDOW)]:
            if not num_texts:
                num_texts = len(window[0])
                tasks = self._tasks(task_name, num_texts)
            if any(len(texts) != num_texts for texts in window):
                raise InputError("the rows are texts and pairs; wanted one or the other in a call")
            yield from self._window(window, tasks, batch_size, top_k)

    def _window(
        self, window: list[Texts], tasks: list[str], batch_size: int, top_k: TopK
    ) -> Iterator[tuple[Answer, bool]]:
        """One window's answers, in order; its rows go through the encoder longest first."""
        tokens, cut = self.preprocess(window)
        longest_first = sorted(range(len(window)), key=lambda row: -len(tokens[row]["input_ids"]))
        answers: list[Answer] = [{}] * len(window)
        for start in range(0, len(window), batch_size):
            places = longest_first[start : start + batch_size]
            batch = self.tokenizer.pad([tokens[row] for row in places], return_tensors="pt")
            logits = self.forward(dict(batch), tasks=tasks)
            for place, answer in zip(places, self.postprocess(logits, top_k=top_k), strict=True):
                answers[place] = answer
        return zip(answers, cut, strict=True)

    def _tasks(self, wanted: str | Sequence[str] | None, num_texts: int) -> list[str]:
        """The tasks that answer rows of this number of texts."""
        heads: dict[str, TaskHead] = self.model.task_heads
        fitting = [name for name, head in heads.items() if head.num_texts == num_texts]
        if wanted is None:
            others = [name for name in heads if name not in fitting]
            if others and fitting and num_texts not in self._left_out_was_said:
                self._left_out_was_said.add(num_texts)
                logger.warning("left out, as they take %s: %s", in_words(3 - num_texts), ", ".join(others))
        names = fitting if wanted is None else [wanted] if isinstance(wanted, str) else list(wanted)
        for name in names:
            if name not in heads:
                raise unknown("task_name", name, heads)
            if name not in fitting:
                raise InputError(f"task {name!r} takes {in_words(heads[name].num_texts)}, got {in_words(num_texts)}")
        if not names:
            raise InputError(f"no task takes {in_words(num_texts)}; the tasks are {', '.join(heads)}")
        return names

    def preprocess(self, rows: list[Texts]) -> tuple[list[dict[str, list[int]]], list[bool]]:
        """Each row's token ids, without padding, and whether its end was cut off."""
        columns = [list(column) for column in zip(*rows, strict=True)]
        encoded = self.tokenizer(*columns, truncation=True, max_length=self.limit, padding=False)
        tokens = [{name: values[row] for name, values in encoded.items()} for row in range(len(rows))]
        at_limit = [row for row, ids in enumerate(encoded["input_ids"]) if len(ids) == self.limit]
        cut = [False] * len(rows)
        if at_limit:  # only these can have been longer
            whole = self.tokenizer(*([column[row] for row in at_limit] for column in columns), verbose=False)
            for row, ids in zip(at_limit, whole["input_ids"], strict=True):
                cut[row] = len(ids) > self.limit
        return tokens, cut

    def _forward(self, tokens: dict[str, Tensor], tasks: list[str]) -> dict[str, Tensor]:
        """Task -> logits, of one pass through the encoder. *Shape:* (rows, head width)"""
        vectors = self.model.embed(**tokens)
        return {task: self.model.heads[task](vectors).float() for task in tasks}

    def postprocess(self, logits: dict[str, Tensor], top_k: TopK = BEST) -> list[Answer]:
        """For each row, task -> answer."""
        by_task = {task: read_logits(values, self.model.task_heads[task], top_k) for task, values in logits.items()}
        return [dict(zip(by_task, row, strict=True)) for row in zip(*by_task.values(), strict=True)]


def check_top_k(top_k: TopK) -> None:
    """Raise InputError for a number of labels below 1."""
    if isinstance(top_k, int) and top_k < 1:
        raise InputError(f"top_k is {top_k}, wanted 1 or more, or None for all labels")


def read_logits(logits: Tensor, head: TaskHead, top_k: TopK) -> list[Any]:
    """The answers of one head: labels with their probabilities, or values. *Shape:* (rows, head width) -> rows"""
    if head.labels is None:
        return [{"value": value} for value in KINDS[head.kind].decode(logits, head).tolist()]
    scores, classes = logits.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    most = 1 if top_k == BEST else top_k
    ranked = [
        [{"label": head.labels[label], "score": score} for label, score in zip(*row, strict=True)]
        for row in zip(classes[:, :most].tolist(), scores[:, :most].tolist(), strict=True)
    ]
    return [row[0] for row in ranked] if top_k == BEST else ranked


def as_texts(row: Any) -> Texts:
    """A text or a pair as a tuple of texts; InputError for anything else."""
    if isinstance(row, str):
        return (row,)
    if isinstance(row, Mapping) and set(row) in ({"text"}, {"text", "text_pair"}):
        row = [row[key] for key in ("text", "text_pair") if key in row]
    if isinstance(row, Sequence) and len(row) in (1, 2) and all_text(row):
        return tuple(row)
    raise InputError(f"found {row!r}, wanted a text, a pair (one, other), or {{'text': one, 'text_pair': other}}")


def all_text(row: Sequence[Any]) -> bool:
    """Whether every item is a string."""
    return all(isinstance(text, str) for text in row)


def in_words(num_texts: int) -> str:
    """1 as "a text", 2 as "a pair of texts"."""
    return {1: "a text", 2: "a pair of texts"}[num_texts]
