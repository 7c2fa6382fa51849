"""Answers of a saved model for rows that come in one by one, as JSON lines."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence

from ..model.pipeline import MultiTaskPipeline
from ..model.pipeline_inputs import BEST, Texts, TopK
from ..validation import check_task_name


def answer_lines(
    pipe: MultiTaskPipeline,
    rows: Iterator[Texts],
    tasks: Sequence[str] | None,
    *,
    first: int = 0,
    batch_size: int = 32,
    top_k: TopK = BEST,
) -> Iterator[tuple[Texts, str, bool]]:
    """For each row: its texts, its JSON line, and whether its end was cut off.

    Args:
        pipe: answers.
        rows: texts or pairs.
        tasks: as `task_name` of `MultiTaskPipeline.stream`.
        first: number of the first row.
        batch_size: as in `MultiTaskPipeline.stream`.
        top_k: as in `MultiTaskPipeline.stream`.

    Raises:
        InputError: for a task whose name is a key of every line, which only an older version let train.
    """
    waiting: deque[Texts] = deque()

    def noting() -> Iterator[Texts]:
        for texts in rows:
            waiting.append(texts)
            yield texts

    for number, (answer, cut) in enumerate(
        pipe.stream(noting(), tasks, batch_size=batch_size, top_k=top_k), start=first
    ):
        for task in answer:
            check_task_name(task)
        record = {"index": number, **answer, **({"truncated": True} if cut else {})}
        yield waiting.popleft(), json.dumps(record, ensure_ascii=False) + "\n", cut
