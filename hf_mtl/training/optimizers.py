"""Optimizers of pytorch_optimizer by name, without those whose step a Trainer cannot give what they need."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import torch
from transformers import TrainingArguments

from ..errors import InputError, unknown_name_error

_CLOSURE = "its step calls a closure that computes the loss again"
_SECOND_ORDER = "it differentiates the gradient, whose graph is not kept"
_MUON = "its parameter groups must be split by hand (use_muon)"
_MODEL = "it is built from a model instead of parameters"
REFUSED = {
    **dict.fromkeys(("alig", "bsam", "lbfgs"), _CLOSURE),
    **dict.fromkeys(("adahessian", "sophiah"), _SECOND_ORDER),
    **dict.fromkeys(("adago", "adamuon", "distributedmuon", "muon", "muonclip", "normuon"), _MUON),
    **dict.fromkeys(("adalomo", "adammini", "lomo"), _MODEL),
    "a2grad": "it has no learning rate, which the Trainer sets",
    "demo": "it exchanges gradients between processes itself",
    "lorarite": "it takes pairs of LoRA matrices only",
    "spectralsphere": "it takes matrices only, and an encoder has vectors",
}


# The option of an optimizer -> the argument that is given to it, in every group of parameters.
ARGUMENTS = {"lr": "learning_rate", "weight_decay": "weight_decay"}
# What the Trainer makes an optimizer of, where none is named.
TRAINERS_OWN = ("optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon")


def optimizer_class(name: str, options: dict[str, Any]) -> type[torch.optim.Optimizer]:
    """The class of the optimizer `name`.

    Raises:
        InputError: for an unknown name, one of `REFUSED`, one of `ARGUMENTS` among the options, and options that its
            constructor does not take.
    """
    from pytorch_optimizer import get_supported_optimizers, load_optimizer  # late: it takes a while to import

    name = name.lower()
    if name in REFUSED:
        raise InputError(f"optimizer {name!r} cannot be used here: {REFUSED[name]}; try adamw, lion, adan or prodigy")
    if name not in get_supported_optimizers():
        raise unknown_name_error("optimizer", name, get_supported_optimizers())
    cls = load_optimizer(name)
    # Unknown keywords would be swallowed without a word.
    known = [p.name for p in inspect.signature(cls).parameters.values() if p.kind is not p.VAR_KEYWORD][1:]
    for option in options:
        if option in ARGUMENTS:
            raise InputError(
                f"optimizer {name!r} gets its {option} from --{ARGUMENTS[option]}, and optimizer_args has {option} "
                f"{options[option]!r}; give --{ARGUMENTS[option]}, and leave it out there"
            )
        if option not in known:
            raise unknown_name_error(f"option of optimizer {name!r}:", option, known)
    try:
        cls([torch.nn.Parameter(torch.zeros(2, 2))], **options)
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(f"optimizer {name!r} with options {options}: {error}") from error
    return cls


def refuse_trainers_own(args: TrainingArguments) -> None:
    """Raise InputError for arguments of the Trainer's own optimizers beside the name of another one."""
    defaults = {field.name: field.default for field in dataclasses.fields(args) if field.name in TRAINERS_OWN}
    given = {name: getattr(args, name) for name in TRAINERS_OWN}
    given = {name: getattr(value, "value", value) for name, value in given.items()}
    if other := [name for name in TRAINERS_OWN if given[name] != defaults[name]]:
        found = ", ".join(f"{name} {given[name]!r} (default {defaults[name]!r})" for name in other)
        raise InputError(
            f"optimizer is {args.optimizer!r}, and these would not act on it: {found}; leave them out; "
            "--optimizer_args has its own options"
        )
