"""What a checkpoint was trained with, and what becomes of a setting that a resumed run changes.

Every setting that a result follows from is refused when changed, kept from the checkpoint, or applied; the last two are
said. What only the order of the batches follows from is in `data_order.json`, see `checkpoint_callbacks.py`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel, TrainerState, TrainingArguments

from ..errors import InputError
from ..model.configuration import MultiTaskConfig, as_heads
from ..model.heads import HeadSpec
from .learning_rates import LEVERS as RATES

logger = logging.getLogger(__name__)
SETTINGS_FILE = "settings.json"
# Beside the encoder, the tasks, the heads and a method with memory: what the state of a checkpoint has no meaning for.
# Teachers stand here by what they are, not where: the state would go on, towards other labels.
MEASURED = ("metric_for_best_model", "greater_is_better", "main metrics")  # what a best model was found by
REFUSED = ("optimizer class", "pooling", *MEASURED, "teachers")
# Optimizers and schedules keep these in their state, which is loaded.
KEPT = (
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "optimizer",
    "optim",
    "optimizer_args",
    "optim_args",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "layer_lr_decay",
    "head_lr_multiplier",
)
APPLIED = (
    "head_dropout",
    "max_seq_length",
    "loss weights",
    "weight_decay",
    "gradient_method",
    "gradient_method_args",
    "max_grad_norm",
    "unfreeze_schedule",
    "task_sampling",
    "task_sampling_args",
    "sampling weights",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "train_sampling_strategy",
    "num_train_epochs",
    "max_steps",
    "bf16",
    "fp16",
    "early_stopping_patience",
    "neftune_noise_alpha",
    "ema_decay",
    "soup",
    "seed",
)
# What checkpoints of before these settings were trained with.
BEFORE = {"layer_lr_decay": 1.0, "head_lr_multiplier": 1.0, "ema_decay": 0.0, "soup": 0, "teachers": {}}
# Changes that are said with the order of the batches.
SAID_WITH_THE_ORDER = ("per_device_train_batch_size", "gradient_accumulation_steps", "train_sampling_strategy", "seed")
# What a configuration of an encoder tells of the file or the version that it came from.
_ORIGIN = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")


def settings_of(args: TrainingArguments, config: MultiTaskConfig, others: Mapping[str, Any]) -> dict[str, Any]:
    """Setting -> value, as JSON has it.

    Args:
        args: of the run.
        config: of its model.
        others: those that are no argument, "optimizer class" for one.
    """
    names = (*REFUSED, *KEPT, *APPLIED)
    known = {"pooling": config.pooling, "head_dropout": config.head_dropout, "max_seq_length": config.max_seq_length}
    known |= others
    values = {name: known[name] if name in known else getattr(args, name) for name in names}
    plain = {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}
    result: dict[str, Any] = json.loads(json.dumps(plain))
    return result


def saved_settings(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint was trained with, as far as it tells; one of version 0.1.0 has its model's configuration."""
    config = read_json_file(checkpoint / "config.json")
    of_the_model = {name: config[name] for name in ("pooling", "head_dropout", "max_seq_length") if name in config}
    return {**BEFORE, **of_the_model, **read_json_file(checkpoint / SETTINGS_FILE).get("settings", {})}


def read_json_file(file: Path) -> dict[str, Any]:
    """What a file of JSON holds; empty where there is none."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def write_settings(checkpoint: Path, settings: Mapping[str, Any], encoder: str | None, changes: Sequence[Any]) -> None:
    """Put into a checkpoint what it was trained with.

    Args:
        checkpoint: its folder.
        settings: from `settings_of`.
        encoder: from `fingerprint`, of the encoder that the training began with.
        changes: those made when the run was resumed, from `changes_of`.
    """
    content = {"settings": settings, "encoder": encoder, "changes": changes}
    (checkpoint / SETTINGS_FILE).write_text(json.dumps(content), encoding="utf-8")


def fingerprint(weights: Iterable[tuple[str, torch.Tensor]]) -> str:
    """A digest of the first values of every tensor of an encoder."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights):
        digest.update(name.encode())
        digest.update(tensor.detach().flatten()[:16].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def encoder_fingerprint(model: PreTrainedModel) -> str | None:
    """That of an encoder that was loaded from somewhere; None for one that starts at random."""
    return fingerprint(model.encoder.named_parameters()) if model.name_or_path else None


def refuse_other_run(
    checkpoint: Path, tasks: Sequence[str], config: MultiTaskConfig, encoder: str | None, settings: Mapping[str, Any]
) -> None:
    """Raise InputError unless a checkpoint has the tasks, the heads, the encoder and the REFUSED settings of a run.

    Optimizers and gradient methods keep what they know by position: one task's would be taken for another's without a
    word, and a fused optimizer would write behind the end of what has another shape.
    """
    saved = read_json_file(checkpoint / "config.json")
    saved_tasks = list(read_json_file(checkpoint / "data_order.json").get("rows", ()))
    heads = {row["name"]: row for row in saved.get("tasks", ())}
    found = {row["name"]: row for row in json.loads(json.dumps(config.tasks))}
    for what, before, now in (("tasks", saved_tasks, list(tasks)), ("heads", list(heads), list(found))):
        if before and before != now:
            raise _refusal(checkpoint, f"the {what} {', '.join(before)}, found {', '.join(now)}")
    for name, row in heads.items():
        if _meant(row, config) != _meant(found[name], config):
            raise _refusal(checkpoint, f"the head of task {name!r} as {row}, found {found[name]}")
    if other := _other_encoder(checkpoint, config):
        raise _refusal(checkpoint, f"another encoder: {_in_words(other)}")
    started_with = read_json_file(checkpoint / SETTINGS_FILE).get("encoder")
    if encoder and started_with and encoder != started_with and encoder != _saved_fingerprint(checkpoint):
        raise _refusal(checkpoint, "the same kind of encoder with other weights at the start")
    kept = saved_settings(checkpoint)
    if _state(checkpoint).best_metric is None:  # nothing was measured by them, but for a soup's checkpoints
        unused = [name for name in MEASURED if name != "main metrics" or not settings.get("soup")]
        kept = {name: value for name, value in kept.items() if name not in unused}
    if not settings.get("main metrics"):  # nothing will be measured
        kept.pop("main metrics", None)
    if other := {
        name: (kept[name], settings[name])
        for name in REFUSED
        if name in kept.keys() & settings.keys() and kept[name] != settings[name]
    }:
        raise _refusal(checkpoint, f"other settings: {_in_words(other)}")


def _meant(row: Mapping[str, Any], config: MultiTaskConfig) -> HeadSpec:
    """A head of config.json with its defaults."""
    (head,) = as_heads([row])
    return head.as_meant(config.pooling)


def _state(checkpoint: Path) -> TrainerState:
    return TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))


def _other_encoder(checkpoint: Path, config: MultiTaskConfig) -> dict[str, tuple[Any, Any]]:
    """What a checkpoint's encoder has otherwise, at most five of it."""
    if not (checkpoint / "config.json").is_file():
        return {}
    saved = MultiTaskConfig.from_pretrained(checkpoint).encoder_config
    before, now = (json.loads(each.to_json_string(use_diff=False)) for each in (saved, config.encoder_config))
    names = sorted(before.keys() | now.keys(), key=lambda name: (name != "model_type", name))
    other = {n: (before.get(n), now.get(n)) for n in names if n not in _ORIGIN and before.get(n) != now.get(n)}
    return dict(list(other.items())[: 1 if "model_type" in other else 5])


def _saved_fingerprint(checkpoint: Path) -> str:
    """That of the encoder in a checkpoint; a run may also be resumed with it as its model."""
    weights = []
    for file in checkpoint.glob("model*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (it has no other iterator)
                if name.startswith("encoder."):
                    part = tensors.get_slice(name)
                    weights.append((name.removeprefix("encoder."), part[:16] if part.get_shape() else part[...]))
    return fingerprint(weights)


def _refusal(checkpoint: Path, what: str) -> InputError:
    return InputError(
        f"resume_from_checkpoint {str(checkpoint)!r} has {what}; go on with what it was trained with, or start anew"
    )


def refuse_other_optimizer(checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
    """Raise InputError where a checkpoint that does not name its optimizer lacks options that this one steps by."""
    file = checkpoint / "optimizer.pt"
    if not file.is_file():  # an engine has shards of it
        return
    saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)["param_groups"][0]
    wanted = optimizer.param_groups[0].keys()
    optimizer.load_state_dict({"state": {}, "param_groups": [{**saved, "params": [0]}]})
    if missing := wanted - optimizer.param_groups[0].keys():
        raise _refusal(checkpoint, f"another optimizer: {type(optimizer).__name__} needs {', '.join(sorted(missing))}")


def refuse_other_groups(checkpoint: Path, settings: Mapping[str, Any]) -> None:
    """Raise InputError where an optimizer that is there already has other groups of parameters than a checkpoint's."""
    saved = saved_settings(checkpoint)
    if other := {name: (saved[name], settings[name]) for name in RATES if saved[name] != settings[name]}:
        raise _refusal(checkpoint, f"other groups of parameters: {_in_words(other)}")


def say_missing_best(checkpoint: Path, args: TrainingArguments) -> None:
    """Warn where the best model so far is to be loaded at the end and its checkpoint is not there any more."""
    state = _state(checkpoint)
    if not args.load_best_model_at_end or not state.best_model_checkpoint:
        return
    name = Path(state.best_model_checkpoint).name
    if not (Path(state.best_model_checkpoint).is_dir() or (Path(args.output_dir) / name).is_dir()):
        logger.warning(
            "load_best_model_at_end: %s, the best checkpoint so far (%s %.4f), is not in %s any more; unless a later "
            "one is better, the final model is that of the last step",
            name,
            args.metric_for_best_model,
            state.best_metric,
            args.output_dir,
        )


def keep_settings(checkpoint: Path, args: TrainingArguments, settings: dict[str, Any]) -> None:
    """Give the arguments the checkpoint's values of the KEPT settings; says which were to be others."""
    saved = saved_settings(checkpoint)
    if kept := {
        name: (saved[name], settings[name]) for name in KEPT if name in saved and saved[name] != settings[name]
    }:
        for name, (before, _) in kept.items():
            kind = type(getattr(args, name))
            setattr(args, name, kind(before) if issubclass(kind, Enum) else before)
            settings[name] = before
        words = ", ".join(f"{name} {_word(before)} (asked for: {_word(now)})" for name, (before, now) in kept.items())
        logger.warning("kept from the checkpoint: %s; a new run takes others", words)


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    """The learning rate that each group began with, before any schedule."""
    return [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]


def say_kept_rates(kept: Sequence[float], asked: Sequence[float]) -> None:
    """Say which learning rates of an optimizer of the user's own came with the checkpoint, where others were given."""
    before, now = (rate[0] if len(set(rate)) == 1 else list(rate) for rate in (kept, asked))
    if before != now:
        line = "kept from the checkpoint: learning_rate %s (asked for: %s); a new run takes others"
        logger.warning(line, _word(before), _word(now))


def changes_of(checkpoint: Path, settings: Mapping[str, Any]) -> list[list[Any]]:
    """Every change of a setting so far as [step, setting, before, now], with those that begin now, which are said."""
    saved = saved_settings(checkpoint)
    changed = {n: (saved[n], settings[n]) for n in APPLIED if n in saved and saved[n] != settings[n]}
    said = {name: pair for name, pair in changed.items() if name not in SAID_WITH_THE_ORDER}
    step = _state(checkpoint).global_step
    if said:
        logger.warning("changed from step %d on: %s", step, _in_words(said))
    before = read_json_file(checkpoint / SETTINGS_FILE).get("changes", [])
    return [*before, *([step, name, *pair] for name, pair in changed.items())]


def changes_in_words(changes: Iterable[Sequence[Any]]) -> dict[str, str]:
    """Lines for the model card."""
    by_step: dict[int, dict[str, tuple[Any, Any]]] = {}
    for step, name, before, now in changes:
        by_step.setdefault(step, {})[name] = (before, now)
    return {f"changed at step {step:,}": _in_words(pairs) for step, pairs in by_step.items()}


def _in_words(changed: Mapping[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{name} was {_word(old)} and is {_word(new)}" for name, (old, new) in changed.items())


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
