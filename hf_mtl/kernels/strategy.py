"""The CPU's kernels as a strategy that a training step may have: faster forwards, and one pass over all tasks' rows."""

from __future__ import annotations

import logging
import math
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter
from transformers import TrainingArguments

from ..gradients.task_gradients import TaskGradients
from ..model.encoding import SEQUENCES_PER_ROW
from ..model.modeling import MultiTaskModel
from ..seeding import random_state, replayed
from .cpu_functions import CpuKernels, FastDropoutRng
from .packed_pass import has_only_packable_inputs, packed_losses, supports_packed_pass

logger = logging.getLogger(__name__)
CPU_KERNELS = ("auto", "off")
# Relative to the gradient's norm: sums in another order stay below 1e-5, a missing operation is far above.
SELF_CHECK_TOLERANCE = 1e-4
_CHECKED_ROWS = 2  # of every task: what the self-check costs is a small step
Batches = Mapping[str, Mapping[str, Tensor]]


class StepStrategy:
    """How a step passes rows through the model on a CPU.

    Args:
        model: on a CPU, not compiled.
        may_pack: whether the set-up allows one pass over the rows of all tasks; the model is asked in every step.

    Attributes:
        use_packed_pass: whether the step that has begun takes the packed pass.
    """

    def __init__(self, model: MultiTaskModel, *, may_pack: bool) -> None:
        self.model, self.may_pack = model, may_pack
        self.use_packed_pass = False
        self._trusted = True
        self._checked: list[int] | None = None  # the parameters over which the packed pass was compared
        self._dropout_rng = FastDropoutRng()
        self._told: set[str] = set()

    def begin_run(self) -> None:
        """Check the packed pass anew in the first step to come."""
        self._trusted, self._checked = True, None

    def begin_step(self) -> None:
        """Ask the model whether its tasks can share a pass: hooks may come at any time."""
        self.use_packed_pass = (
            self.may_pack and self._trusted and self._is_active() and supports_packed_pass(self.model)
        )

    def begin_micro_batch(self) -> None:
        """Draw new numbers for dropout, seeded by torch's generator."""
        self._dropout_rng = FastDropoutRng()

    @contextmanager
    def around_forward(self, sparse: Iterable[Parameter] = ()) -> Iterator[None]:
        """Put the kernels around a forward.

        Args:
            sparse: of them, embeddings get sparse gradients.
        """
        if not self._is_active():
            yield
            return
        with CpuKernels(sparse, self._dropout_rng):
            yield

    def _is_active(self) -> bool:
        # Checkpointing runs the forward again inside backward, where the kernels are not active.
        return not any(getattr(module, "gradient_checkpointing", False) for module in self.model.modules())

    def packable(self, batches: Batches) -> Batches:
        """The tasks whose rows take the packed pass in this step; says once which others take a pass of their own."""
        if not self.use_packed_pass:
            return {}
        packable = {task: batch for task, batch in batches.items() if has_only_packable_inputs(batch)}
        if others := [task for task in batches if task not in packable and task not in self._told]:
            self._told.update(others)
            logger.info("a pass of their own, for inputs that are not the tokenizer's: %s", ", ".join(others))
        return packable

    def packed_losses(self, batches: Batches, gradients: TaskGradients) -> dict[str, Tensor]:
        """Each task's mean loss; backward of their sum adds every task's gradient to its place in the buffer."""
        return packed_losses(self.model, batches, gradients)

    def check(
        self, batches: Batches, gradients: TaskGradients, loss_of: Callable[[str, Mapping[str, Tensor]], Tensor]
    ) -> None:
        """Compare a packed step with a pass per task; if they differ, warn and pack no more in this run.

        It does so when a run begins and when other parameters train than before. The comparison has no dropout, keeps
        no gradient, and leaves the random numbers as they were.

        Args:
            batches: of the first step; the first rows of every task are compared.
            gradients: without content; they are without content again afterwards.
            loss_of: (task, batch) -> mean loss, by torch's own functions.
        """
        parameters = list(map(id, gradients.shared))
        if not parameters or parameters == self._checked:
            return
        if not gradients.is_empty():  # later in the step: it would lose what other micro-batches left
            self.use_packed_pass = False
            return
        self._checked = parameters
        device = torch.device("cpu")
        few = {task: _first_rows(batch) for task, batch in batches.items()}
        training = [module for module in self.model.modules() if module.training]
        with replayed(random_state(device), device):
            self.model.eval()
            try:
                difference = self._largest_difference(few, gradients, loss_of)
            finally:
                for module in training:
                    module.training = True
                gradients.clear()
        self._trusted = difference <= SELF_CHECK_TOLERANCE
        if not self._trusted:
            self.use_packed_pass = False
            logger.warning(
                "the packed pass over all tasks gives gradients that differ from those of a pass per task by %.1e of "
                "their norm (at most %.0e is wanted), so it is not taken; --cpu_kernels off leaves out this check",
                difference,
                SELF_CHECK_TOLERANCE,
            )

    def _largest_difference(
        self, batches: Batches, gradients: TaskGradients, loss_of: Callable[[str, Mapping[str, Tensor]], Tensor]
    ) -> float:
        """Over the tasks, the norm of the difference between both gradients relative to that of the plain one."""
        losses = self.packed_losses(batches, gradients)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        largest = 0.0
        for task, batch in batches.items():
            packed = gradients.gradient_of(task)
            plain = torch.autograd.grad(loss_of(task, batch), gradients.shared, allow_unused=True)
            squares = torch.zeros(2, dtype=torch.float64)
            for one, other in zip(packed, plain, strict=True):
                other = torch.zeros_like(one) if other is None else other
                squares += torch.stack([(one - other).double().square().sum(), other.double().square().sum()])
            difference, norm = squares.sqrt().tolist()
            if math.isfinite(norm):  # else there is nothing to compare with
                relative = difference / norm if norm > 0 else difference
                largest = max(largest, relative if math.isfinite(relative) else math.inf)
        return largest


def _first_rows(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rows of a batch that the self-check compares, each with all of its sequences."""
    counts = batch.get(SEQUENCES_PER_ROW)
    sequences = _CHECKED_ROWS if counts is None else int(counts[:_CHECKED_ROWS].sum())
    of_rows = ("labels", SEQUENCES_PER_ROW)
    return {name: value[: _CHECKED_ROWS if name in of_rows else sequences] for name, value in batch.items()}


def make_step_strategy(
    model: MultiTaskModel, args: TrainingArguments, *, may_pack: bool, compiled: bool, mixed_precision: str
) -> StepStrategy | None:
    """The strategy of a training's steps, or None for torch's own path; says which, and why, on a CPU.

    Args:
        model: to be trained.
        args: `cpu_kernels` is "auto" or "off".
        may_pack: whether the set-up allows one pass over the rows of all tasks.
        compiled: whether layers of the encoder are.
        mixed_precision: "no", "fp16" or "bf16".
    """
    if args.device.type != "cpu":
        return None
    if mixed_precision == "no" and has_bf16_instructions():
        logger.info("this processor computes in bf16: --bf16 took 0.8 of the time of fp32 where that was measured")
    if args.cpu_kernels == "off":
        reason = "cpu_kernels is off"
    elif compiled:
        reason = "the encoder's layers are compiled"
    elif not has_measured_processor():
        reason = f"they were measured on x86-64 with AVX-512, and this is {platform.machine()} with " + (
            torch.backends.cpu.get_cpu_capability()
        )
    else:
        logger.info("CPU kernels: on; --cpu_kernels off takes torch's own functions")
        return StepStrategy(model, may_pack=may_pack)
    logger.info("CPU kernels: off, as %s", reason)
    return None


def kernels_where_they_pay() -> AbstractContextManager[object]:
    """The kernels around forwards outside of a training, on the processors on which they were measured to pay."""
    return CpuKernels() if has_measured_processor() else nullcontext()


def has_measured_processor() -> bool:
    """Whether the processor is of the kind on which the kernels were measured to pay."""
    return platform.machine() in ("x86_64", "AMD64") and torch.backends.cpu.get_cpu_capability() == "AVX512"


def has_bf16_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies bf16 numbers in hardware (AVX512-BF16), as far as Linux tells."""
    try:
        return "avx512_bf16" in cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
