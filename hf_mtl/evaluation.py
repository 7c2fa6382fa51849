"""The evaluation half of the trainer: every task on its own rows, with its own metrics."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, PredictionOutput, speed_metrics

from .data import TaskCollator, TaskRows
from .kinds import KINDS
from .seeding import seeded_generator
from .tasks import TaskSpec


def longest_first(task: str, rows: Dataset) -> tuple[TaskRows, NDArray[np.int64]]:
    """The rows of one task from the longest to the shortest, and where each stood. *Shape:* (rows,)

    Batches then have little padding, and a lack of memory shows at once.
    """
    order = np.argsort(-np.asarray(rows["length"]), kind="stable")
    return TaskRows({task: rows.select(order)}), order


class TaskEvaluation(Trainer):  # type: ignore[misc]  # transformers' base class is untyped
    """A Trainer that evaluates and predicts task by task; `MultiTaskTrainer` adds the training.

    Attributes:
        tasks: task -> its declaration.
    """

    tasks: dict[str, TaskSpec]

    def get_eval_dataloader(self, eval_dataset: TaskRows) -> DataLoader[Any]:
        """Batches of one task, in the order of its rows."""
        return self._loader(eval_dataset, batch_size=self.args.eval_batch_size)

    def get_test_dataloader(self, test_dataset: TaskRows) -> DataLoader[Any]:
        """Batches of one task, in the order of its rows."""
        return self.get_eval_dataloader(test_dataset)

    def _loader(self, rows: TaskRows, **batches: Any) -> DataLoader[Any]:
        args = self.args
        # A collator or rows of somebody else's may do more than these, row by row.
        by_column = type(self.data_collator) is TaskCollator and type(rows) is TaskRows
        loader = DataLoader(
            rows.by_column() if by_column else rows,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
            prefetch_factor=args.dataloader_prefetch_factor,
            **batches,
        )
        return self.accelerator.prepare(loader)

    def evaluate(
        self,
        eval_dataset: Mapping[str, Dataset] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Every task's metrics as "<prefix>_<task>_<metric>", and their mean "<prefix>_average" over the main ones.

        Without `eval_dataset`, the fixed sample of training rows is scored too, under the prefix "train".
        `on_evaluate` fires once, with everything, so that early stopping and the best model can use any of it.
        """
        self._memory_tracker.start()
        start = time.time()
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        metrics = self._scores(rows, ignore_keys, metric_key_prefix)
        losses = {task: metrics[f"{metric_key_prefix}_{task}_loss"] for task in rows}
        metrics[f"{metric_key_prefix}_loss"] = sum(self.tasks[task].loss_weight * losses[task] for task in rows)
        metrics.update(speed_metrics(metric_key_prefix, start, num_samples=sum(map(len, rows.values()))))
        if eval_dataset is None and self.train_dataset is not None and self.args.train_metric_rows > 0:
            metrics.update(self._scores(self._train_sample(), ignore_keys, "train"))
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._memory_tracker.stop_and_update_metrics(metrics)
        return metrics

    def _scores(self, rows: Mapping[str, Dataset], ignore_keys: list[str] | None, prefix: str) -> dict[str, float]:
        from .metrics import average_score  # late: evaluate and scipy take a second to import

        metrics: dict[str, float] = {}
        for task in rows:
            sorted_rows, _ = longest_first(task, rows[task])  # scores do not ask for the order
            loader = self.get_eval_dataloader(sorted_rows)
            # Metrics take logits, whatever `prediction_loss_only` is for `predict`.
            output = self.evaluation_loop(
                loader, "Evaluation", False, ignore_keys, metric_key_prefix=f"{prefix}_{task}"
            )
            metrics.update(output.metrics)
        metrics[f"{prefix}_average"] = average_score([self.tasks[task] for task in rows], metrics, prefix)
        return metrics

    def predict(self, test_dataset: TaskRows, *args: Any, **kwargs: Any) -> PredictionOutput:
        """As in `Trainer`, for the rows of one task, which go through the model by length and come back in order."""
        ((task, rows),) = test_dataset.tasks.items()
        sorted_rows, order = longest_first(task, rows)
        output = super().predict(sorted_rows, *args, **kwargs)
        back = np.argsort(order)
        logits, labels = (None if each is None else each[back] for each in (output.predictions, output.label_ids))
        return output._replace(predictions=logits, label_ids=labels)

    def _train_sample(self) -> dict[str, Dataset]:
        """The same rows of every task whenever it is called, on every rank."""
        sample = {}
        for number, (task, rows) in enumerate(self.train_dataset.tasks.items()):
            order = torch.randperm(len(rows), generator=seeded_generator(self.args.seed, number, len(rows)))
            sample[task] = rows.select(order[: self.args.train_metric_rows].tolist())
        return sample

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """The stock loop over the rows of one task; `compute_metrics` learns which."""
        (self._evaluated_task,) = dataloader.dataset.tasks
        try:
            return super().evaluation_loop(dataloader, *args, **kwargs)
        finally:  # accelerate keeps every loader, and with it its rows
            kept = self.accelerator._dataloaders
            kept[:] = [each for each in kept if each is not dataloader]

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, dict[str, Tensor]],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Loss, logits and labels of a batch of one task."""
        ((task, batch),) = inputs.items()
        return super().prediction_step(model, {"task": task, **batch}, prediction_loss_only, ignore_keys)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """The metrics of the task that is being evaluated, and its exact mean loss, from logits and labels."""
        from .metrics import task_scores

        spec = self.tasks[self._evaluated_task]
        logits, labels = torch.from_numpy(prediction.predictions), torch.from_numpy(prediction.label_ids)
        decoded = KINDS[spec.kind].decode(logits, spec.head)
        loss = KINDS[spec.kind].loss(logits, labels, spec.head)
        return {**task_scores(spec, decoded.numpy(), labels.numpy()), "loss": loss.item()}
