"""Distillation with teacher annealing: saved models' answers for the training rows, mixed with the rows' own labels.

Clark et al. 2019, "BAM! Born-Again Multi-Task Networks for Natural Language Understanding" (ACL), section 3: the share
of the teacher in the target falls linearly from 1 to 0 over the training.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..data.collator import TaskCollator
from ..data.kept_column import Column, column_file, keep_column, read_column, rows_digest
from ..data.task_rows import TaskRows
from ..data.token_cache import own_code
from ..errors import InputError
from ..kernels.strategy import kernels_where_they_pay
from ..model.encoding import SEQUENCE_LENGTHS
from ..model.heads import Head
from ..model.modeling import MultiTaskModel
from ..plugins import plugins_digest
from ..pretrained import weights_digest
from ..tasks.spec import TaskSpec
from .arguments import MultiTaskTrainingArguments
from .evaluation import sort_by_length
from .step import Batches
from .teacher_checks import check_teachers

logger = logging.getLogger(__name__)
COLUMN = "teacher"
ANSWERS_VERSION = "1"  # of what a teacher answers for a row; numbers that are kept on disk belong to one version


def teacher_share(step: int, max_steps: int) -> float:
    """The teacher's share of the target in a step of a run: 1 in step 0, falling linearly to 0 at `max_steps`."""
    return max(0.0, 1 - step / max(1, max_steps))


class Teachers:
    """The teachers of a run: their answers for its rows, and the labels that they make of those of a batch.

    Args:
        args: of the run; `teachers` is among them.
        model: the student.
        tasks: task -> its declaration.
        tokenizer: the student's.
        trains: whether there are rows to train on; without, nobody teaches.

    Attributes:
        digests: task -> a digest of its teacher's configuration and weights.

    Raises:
        InputError: for a teacher that cannot teach the student.
    """

    def __init__(
        self,
        args: MultiTaskTrainingArguments,
        model: MultiTaskModel,
        tasks: Mapping[str, TaskSpec],
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        trains: bool,
    ) -> None:
        self.args, self.model, self.tokenizer = args, model, tokenizer
        self.folders: dict[str, Path] = check_teachers(args, model, tasks, tokenizer) if trains else {}
        found = {folder: weights_digest(folder) for folder in dict.fromkeys(self.folders.values())}
        self.digests = {task: found[folder] for task, folder in self.folders.items()}

    def with_answers(self, rows: TaskRows) -> TaskRows:
        """The training rows with the column "teacher", which is computed unless an earlier run kept it.

        On several processes one computes and the others read; where nothing can be kept, each computes.

        Raises:
            InputError: for rows that no teacher can read, and for a teacher whose answers are not finite.
        """
        if not self.folders:
            return rows
        with self.args.main_process_first(desc="the teachers' answers"):
            return rows.with_column(COLUMN, {task: self._column(task, rows.tasks[task]) for task in self.folders})

    def mixed(self, batches: Batches, step: int, max_steps: int) -> Batches:
        """Batches whose labels are between the rows' own and the teachers' answers; others stay as they are.

        Args:
            batches: task -> its rows, those of tasks with a teacher with the column "teacher".
            step: the optimizer's steps so far.
            max_steps: of the whole run.
        """
        if not self.folders:
            return batches
        share = teacher_share(step, max_steps)
        return {task: self._mixed(task, batch, share) for task, batch in batches.items()}

    def _mixed(self, task: str, batch: Mapping[str, Tensor], share: float) -> Mapping[str, Tensor]:
        if task not in self.folders:
            return batch
        if COLUMN not in batch:
            raise InputError(
                f"task {task!r}: the batch has no {COLUMN!r}, which the training rows of a task with a teacher have; a "
                "data_collator or get_train_dataloader of your own has to stack and keep it"
            )
        batch = dict(batch)
        head: Head = self.model.heads[task]  # type: ignore[assignment]  # a ModuleDict knows modules only
        batch["labels"] = head.mix(batch["labels"], batch.pop(COLUMN).float(), share)
        return batch

    def _column(self, task: str, rows: Dataset) -> Column:
        """The teacher's answers for a task's rows. *Shape:* (rows, ...)"""
        assert self.tokenizer is not None
        inputs = (*self.tokenizer.model_input_names, SEQUENCE_LENGTHS, "length")
        columns = [name for name in rows.column_names if name in inputs]
        if COLUMN in rows.column_names or "input_ids" not in columns:
            wrong = f"has a column {COLUMN!r}" if COLUMN in rows.column_names else "has no column 'input_ids'"
            raise InputError(
                f"task {task!r}: train_dataset {wrong}, and the answers of its teacher are to be such a column, from "
                "the token ids; load_task_data(tasks, tokenizer, max_length=...) makes such rows"
            )
        facts = [ANSWERS_VERSION, task, self.digests[task], plugins_digest(), *_own_code_of(self.model.heads[task])]
        file = column_file("teachers", [*facts, rows_digest(rows, columns)])
        if (kept := read_column(file, len(rows))) is not None:
            logger.info("%s: the answers of its teacher are those that were kept", task)
            return kept
        answers = self._answers(task, rows.select_columns(columns))
        keep_column(file, answers)
        kept = read_column(file, len(rows))
        return answers if kept is None else kept

    def _answers(self, task: str, rows: Dataset) -> Column:
        """What the teacher says of every row, without dropout. *Shape:* (rows, ...)"""
        assert self.tokenizer is not None
        device, size = self.args.device, self.args.per_device_eval_batch_size
        devices = [device] if device.type == "cuda" else []
        sorted_rows, order = sort_by_length(task, rows)
        collator, answers = TaskCollator(self.tokenizer), []
        bar = tqdm(total=len(rows), desc=f"teacher of {task}", unit=" rows", disable=self.args.disable_tqdm)
        # Whether the answers are computed or read, dropout of the training draws the same numbers.
        with torch.random.fork_rng(devices), torch.no_grad(), bar, self._kernels():
            model = MultiTaskModel.from_pretrained(self.folders[task], dtype=torch.float32).to(device).eval()
            for start in range(0, len(rows), size):
                places = range(start, min(start + size, len(rows)))
                batch = collator(sorted_rows.__getitems__(places))[task]
                logits = model(task=task, **{name: value.to(device) for name, value in batch.items()}).logits
                answers.append(model.heads[task].teach(logits).float().cpu().numpy())
                bar.update(len(places))
        found = np.concatenate(answers)[np.argsort(order)]
        finite = np.isfinite(found.reshape(len(found), -1)).all(axis=1)
        if not finite.all():
            raise InputError(
                f"task {task!r}: its teacher {self.args.options('teachers')[task]!r} gives no finite number for row "
                f"{int(np.argmin(finite))} (the first row is 0); its training has failed"
            )
        return found

    def _kernels(self) -> AbstractContextManager[object]:
        """The kernels of a CPU around the teacher's forwards, as in evaluation."""
        on_cpu = self.args.device.type == "cpu" and self.args.cpu_kernels != "off"
        return kernels_where_they_pay() if on_cpu else nullcontext()


def _own_code_of(head: nn.Module) -> list[str]:
    """Hashes of the files that a head's own answers come from; none of hf_mtl's, of which `ANSWERS_VERSION` tells."""
    own = [own_code(getattr(type(head), name)) for name in ("teach", "forward")]
    return [code for code in own if code is not None]
