"""A greedy soup: the final model is the mean of those of the best checkpoints that together score no lower.

Wortsman et al. 2022, recipe 1 (GreedySoup), over the checkpoints of one run in place of several runs.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from ..distributed import on_main_process
from ..errors import CheckpointError, InputError
from .checkpoints import MANIFEST, checkpoints_in
from .resuming import read_json_file

logger = logging.getLogger(__name__)
SCORE = "eval_average"
STATE_FILE = "trainer_state.json"
Scored = tuple[Path, float]


def best_checkpoints(folder: Path, log_history: Sequence[Mapping[str, Any]], number: int) -> list[Scored]:
    """The `number` whole checkpoints of a folder with the greatest `eval_average`, best first; of equals, the later.

    Args:
        folder: of the run.
        log_history: of the run; its scores count, whatever else lies in the folder.
        number: of checkpoints at most.
    """
    scores: dict[str, float] = {}
    for row in log_history:
        if not math.isnan(row.get(SCORE, math.nan)):
            scores.setdefault(f"checkpoint-{row['step']}", row[SCORE])
    found = [
        (path, scores[path.name])
        for path in checkpoints_in(folder)
        if path.name in scores and (path / MANIFEST).is_file() and _had_score(path, scores[path.name])
    ]
    return sorted(found, key=lambda scored: -scored[1])[:number]


def _had_score(checkpoint: Path, score: float) -> bool:
    """Whether a checkpoint was evaluated so when it was saved: one of an earlier run may lie there by the same name."""
    history = read_json_file(checkpoint / STATE_FILE).get("log_history", [])
    return any(row.get(SCORE) == score and f"checkpoint-{row['step']}" == checkpoint.name for row in history)


def mean_weights(folders: Sequence[Path]) -> dict[str, Tensor]:
    """The mean over the weights of several saved models, summed in fp64; what is no fraction is the first one's.

    Raises:
        CheckpointError: where there are none, as on a machine that does not see the folder.
    """
    sums: dict[str, Tensor] = {}
    kinds: dict[str, torch.dtype] = {}
    for folder in folders:
        for file in sorted(folder.glob("model*.safetensors")):
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  (it has no other iterator)
                    tensor = tensors.get_tensor(name)
                    if name not in sums:
                        kinds[name] = tensor.dtype
                        sums[name] = tensor.double() if tensor.is_floating_point() else tensor
                    elif tensor.is_floating_point():
                        sums[name] += tensor
    if not sums:
        raise CheckpointError(f"soup: {', '.join(map(str, folders))} has no weights that this process can read")
    return {
        name: (total / len(folders)).to(kinds[name]) if kinds[name].is_floating_point else total
        for name, total in sums.items()
    }


def greedy_soup(best: Sequence[Scored], score_of: Callable[[Sequence[Path]], float]) -> tuple[list[Path], float]:
    """The checkpoints whose mean is the soup, and its score.

    Args:
        best: checkpoints with their scores, best first; one or more.
        score_of: checkpoints -> the score of their mean; NaN is lower than anything.
    """
    (first, score), *others = best
    chosen = [first]
    for path, alone in others:
        together = score_of([*chosen, path])
        goes_in = together >= score
        logger.info(
            "soup: %s (%s %.4f) %s: with it %.4f, without it %.4f",
            path.name,
            SCORE,
            alone,
            "goes in" if goes_in else "is left out",
            together,
            score,
        )
        if goes_in:
            chosen, score = [*chosen, path], together
    return chosen, score


def make_soup(trainer: Trainer) -> None:
    """Give a trained model the weights of its soup, and evaluate it; nothing where none is asked for."""
    args, history = trainer.args, trainer.state.log_history
    if not args.soup:
        return
    best = on_main_process(args, lambda: best_checkpoints(Path(args.output_dir), history, args.soup))
    if not best:
        logger.warning("soup: no checkpoint in %s has an %s; the model stays as it is", args.output_dir, SCORE)
        return

    def score_of(paths: Sequence[Path]) -> float:
        _load(trainer.model, mean_weights(paths))
        with unheard(trainer):
            score = float(trainer.evaluate().get(SCORE, math.nan))
        return on_main_process(args, lambda: score)

    chosen, score = greedy_soup(best, score_of)
    _load(trainer.model, mean_weights(chosen))
    scores = dict(best)
    words = ", ".join(f"{path.name} ({scores[path]:.4f})" for path in chosen)
    logger.info("soup: the final model is the mean of %s; %s %.4f", words, SCORE, score)
    trainer.evaluate()  # so that the last scores are those of the final model


def _load(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    model.load_state_dict(weights, strict=False)  # tied weights are saved once


@contextmanager
def unheard(trainer: Trainer) -> Iterator[None]:
    """Within, no callback hears of an evaluation, the history does not have it, and no training rows are scored."""
    callbacks, history = trainer.callback_handler.callbacks, list(trainer.state.log_history)
    rows = trainer.args.train_metric_rows
    trainer.callback_handler.callbacks, trainer.args.train_metric_rows = [], 0
    try:
        yield
    finally:
        trainer.callback_handler.callbacks, trainer.args.train_metric_rows = callbacks, rows
        trainer.state.log_history = history


def check_soup(args: TrainingArguments) -> None:
    """Raise InputError for a soup that nothing can be made of, or that would not be the final model.

    Args:
        args: of the run, complete.
    """
    if not args.soup:
        return
    if args.load_best_model_at_end:
        raise InputError(
            f"soup is {args.soup} and load_best_model_at_end is on: each gives the final model; leave one of them out"
        )
    if args.save_strategy == SaveStrategy.NO:
        raise InputError(f"soup is {args.soup}, which is made of checkpoints, and save_strategy is 'no'; save some")
    if args.save_strategy == SaveStrategy.BEST:
        return
    found = f"eval_strategy {args.eval_strategy.value!r} and save_strategy {args.save_strategy.value!r}"
    if args.save_strategy == SaveStrategy.STEPS == args.eval_strategy:
        found += f", eval_steps {args.eval_steps:g} and save_steps {args.save_steps:g}"
        saves, evaluations = args.save_steps, args.eval_steps
        times = saves / evaluations if (saves < 1) == (evaluations < 1) else 0.5  # shares of all steps, or steps
        alike = round(times) >= 1 and math.isclose(times, round(times))
    else:
        alike = args.eval_strategy.value == args.save_strategy.value
    if not alike:
        raise InputError(
            f"soup is {args.soup} and wants an evaluation at every save, found {found}; give both the same strategy, "
            "and save_steps a multiple of eval_steps"
        )
