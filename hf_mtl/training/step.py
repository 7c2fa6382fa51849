"""The training half of the trainer: one step, from the tasks' losses to the gradient that the optimizer reads."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..gradients.all_reduce import sum_over_processes
from ..gradients.combine import combine_gradients
from ..gradients.joint_loss import JointLoss
from ..gradients.method import GradientMethod, make_gradient_method
from ..gradients.task_gradients import TaskGradients
from ..kernels.cpu_functions import CpuKernels, FastDropoutRng
from ..kernels.packed_pass import has_only_packable_inputs, packed_losses, supports_packed_pass
from ..model.modeling import MultiTaskModel
from ..seeding import random_state, replayed, seeded_generator
from .arguments import MultiTaskTrainingArguments
from .own_loss import check_loss, check_loss_method
from .publishing import TaskPublishing
from .step_statistics import StepStatistics, num_tokens
from .trainer_checks import has_compiled_layers
from .unsupported import shards_gradients

logger = logging.getLogger(__name__)


class TaskSteps(TaskPublishing):
    """A Trainer whose every step holds every task; `MultiTaskTrainer` adds the data and the run around the steps.

    Attributes:
        loss_weights: task -> factor on its loss.
        gradient_method: gives the tasks' weights.
        compiled: whether the encoder's layers are.
        gradients: each task's, between the first step and the end of the training; never with a joint loss.
        packs: whether all tasks share a forward and a backward.
        dropout_rng: for dropout on a CPU, new in every micro-batch.
        step_batches: the step's micro-batches, each with the state of the random numbers before it; for a method that
            needs the losses after the step.
        counts: what the steps have come to.
        counted_tokens: which tokens a training counts: all, non_padding or no.
    """

    model: MultiTaskModel
    loss_weights: dict[str, float]
    gradient_method: GradientMethod
    compiled: bool
    gradients: TaskGradients | None
    packs: bool
    dropout_rng: FastDropoutRng
    step_batches: list[tuple[Tensor, dict[str, dict[str, Tensor]]]]
    counts: StepStatistics
    counted_tokens: str

    def _set_up_steps(self, model: MultiTaskModel, args: MultiTaskTrainingArguments) -> None:
        """Create the state of the steps. Call it after `self.tasks` is set and before `Trainer.__init__`."""
        self.loss_weights = {name: spec.loss_weight for name, spec in self.tasks.items()}
        self.gradient_method = make_gradient_method(args.gradient_method, **args.options("gradient_method_args"))
        self.joint = None
        if self._weighs_losses and shards_gradients(model, args):
            self.joint = JointLoss(list(self.tasks), self.loss_weights, self.gradient_method)
        if not self.has_stock_loss():
            check_loss_method(self.compute_loss, shards=self.joint is not None)
            logger.info(
                "compute_loss is not the Trainer's: in training too, it is called once per task, with "
                "{'task': name, **batch}, and the tasks share no pass"
            )
        self.compiled = args.torch_compile or has_compiled_layers(model)
        self.gradients = None
        self.packs = False
        self.dropout_rng = FastDropoutRng()
        self.step_batches = []
        self.counts = StepStatistics(list(self.tasks))
        self.counted_tokens = "no"

    @property
    def _weighs_losses(self) -> bool:
        """Whether the method looks at the losses alone."""
        return self.gradient_method.needs in ("losses", "losses_after_step")

    @property
    def _needs_losses_after_step(self) -> bool:
        return self.gradient_method.needs == "losses_after_step"

    def compute_loss_context_manager(self) -> ExitStack:
        """What is around every forward; on a CPU, its faster kernels too."""
        around: ExitStack = super().compute_loss_context_manager()
        if self._takes_kernels():
            sparse = [] if self.gradients is None else self.gradients.shared
            around.enter_context(CpuKernels(sparse, self.dropout_rng))
        return around

    def _takes_kernels(self) -> bool:
        if self.args.device.type != "cpu" or self.joint is not None or self.compiled:
            return False
        # Checkpointing runs the forward again inside backward, where the kernels are not active.
        return not any(getattr(module, "gradient_checkpointing", False) for module in self.model.modules())

    def _supports_packed_pass(self) -> bool:
        """Whether all tasks share a forward and a backward.

        Not on several processes, where a row's sum travels while the next task's backward runs, not where the losses
        of the same forwards are asked for again, and not where a subclass puts something around every forward or has a
        loss of its own.
        """
        return (
            self.args.world_size == 1
            and not self._needs_losses_after_step
            and self._is_own("compute_loss_context_manager")
            and self.has_stock_loss()
            and self.accelerator.mixed_precision == "no"
            and self._takes_kernels()
            and supports_packed_pass(self.model)
        )

    def _is_own(self, name: str) -> bool:
        """True unless a subclass overrides the method or somebody has replaced it."""
        return getattr(getattr(self, name), "__func__", None) is vars(TaskSteps)[name]

    def begin_step(self) -> None:
        """Before the first micro-batch of a step: rows, still without content, for the parameters that train now."""
        self.step_batches.clear()
        if self.joint is not None:
            return self.joint.clear()
        shared = [p for p in self.model.shared_parameters() if p.requires_grad]
        if self.gradients is None or list(map(id, shared)) != list(map(id, self.gradients.shared)):
            self._free_rows()  # before the new ones are laid out
            heads = self.model.head_parameters()
            self.gradients = TaskGradients(list(self.tasks), shared, heads, self.loss_weights)
        self.gradients.clear()
        self.packs = self._supports_packed_pass()  # in every step: hooks may come at any time

    def _free_rows(self) -> None:
        if self.gradients is not None:
            self.gradients.close()
        self.gradients = None

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | None]:
        """The micro-batches of a step and, for a joint loss, the step's rows of each task over all processes. (K,)

        None once the run is at its last step or stopped: resumed there in mid-epoch, the Trainer would train one more.
        """
        if self.state.global_step >= self.state.max_steps or self.control.should_training_stop:
            return [], None
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.counted_tokens != "no":
            tokens = torch.tensor(num_tokens(batches, padding=self.counted_tokens == "all"), device=device)
            sum_over_processes([tokens])
            self.state.num_input_tokens_seen += int(tokens)
        if self.joint is None or not batches:
            return batches, None
        rows = torch.stack([self._num_rows(batch) for batch in batches]).sum(dim=0).to(device)
        sum_over_processes([rows])
        return batches, rows

    def _num_rows(self, inputs: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
        return torch.tensor([len(inputs[task]["labels"]) for task in self.tasks])

    def training_step(
        self, model: nn.Module, inputs: dict[str, dict[str, Tensor]], num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        """Every task's gradient into its row; at the step's last micro-batch they are combined.

        A forward and a backward per task, or one over the packed rows of all. The forward goes through `self.model`,
        not `model`: a wrapped model would mix the tasks' gradients. Only an engine that shards needs the wrapped one;
        there, all tasks share a forward and a backward.

        Args:
            model: the model as the engine wrapped it.
            inputs: task -> its rows.
            num_items_in_batch: the step's rows of each task over all processes, for a joint loss. *Shape:* (K,)

        Returns:
            The weighted sum of the tasks' losses that are finite, divided by the micro-batches of the step. *Shape:* ()
        """
        self.check_batch(inputs)
        self.model.train()
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()
        inputs = self._prepare_inputs(inputs)
        self.dropout_rng = FastDropoutRng()
        if self._needs_losses_after_step:
            self.step_batches.append((random_state(self.args.device), inputs))
        if self.joint is None:
            losses = self._backward_by_task(inputs)
        else:
            assert num_items_in_batch is not None
            losses = self._backward_jointly(self.joint, model, inputs, num_items_in_batch)
        total = torch.stack([self.tasks[task].loss_weight * loss for task, loss in losses.items()])
        return total.nan_to_num(0.0, 0.0, 0.0).sum() / self.current_gradient_accumulation_steps

    def _backward_by_task(self, inputs: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        assert self.gradients is not None
        losses = (
            self._backward_packed(self.gradients, inputs) if self.packs and has_only_packable_inputs(inputs) else {}
        )
        for task in self.tasks:
            if task in inputs and task not in losses:
                losses[task] = self._backward(self.gradients, task, inputs[task])
            if self.accelerator.sync_gradients:
                self.gradients.begin_sum(task)
        if self.accelerator.sync_gradients:
            self._combine(self.gradients)
        return losses

    def _backward(self, gradients: TaskGradients, task: str, batch: Mapping[str, Tensor]) -> Tensor:
        num_rows = len(batch["labels"])
        loss = self._loss_of(task, batch)
        with gradients.collecting(task, loss, num_rows):
            self.accelerator.backward(loss * num_rows)
        return loss.detach()

    def _loss_of(self, task: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean loss of one task's rows, as `compute_loss` gives it. *Shape:* ()"""
        with self.compute_loss_context_manager():
            loss = self.compute_loss(self.model, {"task": task, **batch})
        check_loss(loss, task)
        return loss

    def _backward_packed(
        self, gradients: TaskGradients, inputs: Mapping[str, Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        with super().compute_loss_context_manager():  # the packed pass has kernels of its own
            losses = packed_losses(self.model, inputs, gradients)
        sums = []
        for task, loss in losses.items():
            num_rows = len(inputs[task]["labels"])
            gradients.count(task, loss, num_rows)
            sums.append(loss * num_rows)
        self.accelerator.backward(torch.stack(sums).sum())
        return {task: loss.detach() for task, loss in losses.items()}

    def _backward_jointly(
        self, joint: JointLoss, model: nn.Module, inputs: Mapping[str, Mapping[str, Tensor]], step_rows: Tensor
    ) -> dict[str, Tensor]:
        with self.compute_loss_context_manager():
            losses = model(batches=inputs).loss
        generator = seeded_generator(self.args.seed, self.state.global_step)
        total = joint.collect(losses, self._num_rows(inputs), step_rows, generator)
        if total is not None:
            # DeepSpeed would divide by the micro-batches, which the row counts have done.
            deepspeed = {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}
            self.accelerator.backward(total, **deepspeed)
        if self.accelerator.sync_gradients:
            self.counts.add(self.state.global_step, joint.bad_tasks(), joint.mean_losses())
        return {task: loss.detach() for task, loss in losses.items()}

    def _combine(self, gradients: TaskGradients) -> None:
        """Reduce and combine the step's gradients; tasks that are not finite are counted and left out."""
        scaler = self.accelerator.scaler
        gradients.loss_scale = 1.0 if scaler is None else scaler.get_scale()
        gradients.reduce()
        bad = gradients.leave_out_bad_tasks(keep_overflow=scaler is not None)
        combine_gradients(gradients, self.gradient_method, self.args.seed, self.state.global_step)
        self.counts.add(self.state.global_step, bad, gradients.mean_losses(), gradients.conflict())

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        # Only a subclass's step can have changed `.grad` since it was written.
        if self.gradients is not None and self.args.device.type == "cpu" and self._is_own("training_step"):
            norm = self.gradients.clip(self.args.max_grad_norm)
            if norm is not None:
                return norm
        return super()._clip_grad_norm(model)

    def end_step(self) -> None:
        """After the optimizer's step: a method that looks at losses learns from this step's."""
        source = self.joint or self.gradients
        if not self._weighs_losses or source is None or not source.finite_tasks:
            return
        after = self._losses_after_step().cpu() if self._needs_losses_after_step else None
        self.gradient_method.after_step(source.finite_losses(), after)

    def _losses_of(self, inputs: Mapping[str, Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """Every task's mean loss; an engine that shards wants one wrapped forward for all of them."""
        if self.joint is None:
            return {task: self._loss_of(task, batch) for task, batch in inputs.items()}
        with self.compute_loss_context_manager():
            return self.model_wrapped(batches=inputs).loss

    def _losses_after_step(self) -> Tensor:
        """Mean losses of the step's rows under the new weights, with the same dropout masks. *Shape:* (K,)"""
        sums, rows = torch.zeros(2, len(self.tasks), dtype=torch.float64, device=self.args.device)
        for state, inputs in self.step_batches:
            self.dropout_rng = FastDropoutRng()
            with torch.no_grad(), replayed(state, self.args.device):
                losses = self._losses_of(inputs)
            num_rows = self._num_rows(inputs).to(sums)
            sums += torch.stack([losses[task].double() for task in self.tasks]) * num_rows
            rows += num_rows
        sum_over_processes([sums, rows])
        return sums / rows
