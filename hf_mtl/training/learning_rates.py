"""Learning rates by depth: a layer of the encoder trains at a smaller rate than the one above it, heads at their own.

Howard and Ruder 2018 (discriminative fine-tuning) have one factor between any two neighbours, as here.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import Parameter
from transformers import PreTrainedModel, Trainer, TrainingArguments

from ..errors import InputError
from ..model.encoder_layers import encoder_layers
from ..model.modeling import MultiTaskModel

logger = logging.getLogger(__name__)
LEVERS = ("layer_lr_decay", "head_lr_multiplier")
# Optimizers of pytorch_optimizer that do not step by the rate of each group; adafactor does where it is told to.
OWN_RATE = (
    "adabound",
    "adafactor",
    "apollodqn",
    "dadaptadagrad",
    "dadaptadam",
    "dadaptadan",
    "dadaptlion",
    "dadaptsgd",
    "gravity",
    "prodigy",
    "ranger21",
)
# Options by which transformers gives an optimizer its groups, or the model in their place.
_OWN_GROUPS = ("params", "model", "optimizer_dict", "optim_bits")


@dataclass(kw_only=True)
class Depth:
    """The parameters that train at one rate.

    Args:
        name: for people.
        factor: of the base rate.
        parameters: name -> parameter, without those that are frozen.
    """

    name: str
    factor: float
    parameters: dict[str, Parameter] = field(default_factory=dict)


def rates_by_depth(args: TrainingArguments) -> bool:
    """Whether any parameter is to train at another rate than the base rate."""
    return args.layer_lr_decay != 1 or args.head_lr_multiplier != 1


def levels_of(encoder: PreTrainedModel) -> dict[int, int]:
    """Id of every parameter of an encoder -> its level: 0 for embeddings, i for the i-th layer from the bottom.

    A layer that stands at several depths (ALBERT) has the level of the highest. XLM keeps the parts of a layer in lists
    beside each other. What is registered after the layers is above them and has the top layer's level, but for tables
    that every layer reads (relative positions) and what stands beside them: they are embeddings.

    Raises:
        InputError: for an encoder whose layers are not found.
    """
    layers = encoder_layers(encoder)
    top, levels = len(layers), dict[int, int]()
    for level, layer in enumerate(layers, start=1):
        levels |= dict.fromkeys(map(id, layer.parameters()), level)
    for module in encoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == top:
            for level, part in enumerate(module, start=1):
                levels = dict.fromkeys(map(id, part.parameters()), level) | levels
    return levels | _levels_outside(encoder, levels, top)


def _levels_outside(encoder: PreTrainedModel, levels: Mapping[int, int], top: int) -> dict[int, int]:
    """Id -> level of the parameters that are in no layer."""
    named = list(encoder.named_parameters())
    first = next(position for position, (_, parameter) in enumerate(named) if id(parameter) in levels)
    before = {id(parameter): 0 for _, parameter in named[:first]}
    after = {name: parameter for name, parameter in named[first:] if id(parameter) not in levels}
    tables = [name for name in after if isinstance(encoder.get_submodule(_parent(name)), nn.Embedding)]
    beside_tables = tuple(f"{_parent(_parent(name))}." for name in tables)
    return before | {
        id(parameter): 0 if name in tables or name.startswith(beside_tables) else top
        for name, parameter in after.items()
    }


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def depths_of(model: MultiTaskModel, *, layer_lr_decay: float, head_lr_multiplier: float) -> list[Depth]:
    """What trains at which rate, from the base rate down, heads last; depths without parameters are there, too.

    Args:
        model: its parameters that do not require a gradient are left out, as the Trainer does.
        layer_lr_decay: rate of a layer over that of the layer above it, above 0.
        head_lr_multiplier: rate of the heads over the base rate, above 0.

    Raises:
        InputError: for a `layer_lr_decay` other than 1 and an encoder whose layers are not found.
    """
    heads = Depth(name="heads", factor=head_lr_multiplier)
    if layer_lr_decay == 1:
        levels, depths = {}, [Depth(name="encoder", factor=1.0)]
    else:
        levels = levels_of(model.encoder)
        top = max(levels.values())
        names = ["embeddings", *(f"layer {level}" for level in range(1, top)), f"layer {top} and above"]
        depths = [Depth(name=names[top - k], factor=layer_lr_decay**k) for k in range(top + 1)]
    owned = {id(p) for parameters in model.head_parameters().values() for p in parameters}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            below = len(depths) - 1 - levels.get(id(parameter), len(depths) - 1)
            (heads if id(parameter) in owned else depths[below]).parameters[name] = parameter
    return [*depths, heads]


def parameter_groups(
    depths: Iterable[Depth], decayed: Collection[str], *, learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Groups for an optimizer: those with and without weight decay of every depth, empty ones left out.

    The first is at the base rate even where it is empty: its rate is the one that the Trainer logs.

    Args:
        depths: from `depths_of`.
        decayed: names of the parameters with weight decay.
        learning_rate: the base rate.
        weight_decay: of these.
    """
    groups: list[dict[str, Any]] = []
    for depth in depths:
        for decays in (True, False):
            chosen = [p for name, p in depth.parameters.items() if (name in decayed) == decays]
            if chosen or not groups:
                decay = weight_decay if decays else 0.0
                groups.append({"params": chosen, "lr": learning_rate * depth.factor, "weight_decay": decay})
    return groups


def table_of(depths: Sequence[Depth], learning_rate: float) -> str:
    """Name, number of parameters and rate of every depth, as lines for the log."""
    rows = [
        (depth.name, f"{sum(p.numel() for p in depth.parameters.values()):,}", f"{learning_rate * depth.factor:.3g}")
        for depth in depths
    ]
    rows.insert(0, ("depth", "parameters", "rate"))
    first, second, third = (max(len(row[column]) for row in rows) for column in range(3))
    return "\n".join(f"{name:<{first}}  {count:>{second}}  {rate:>{third}}" for name, count, rate in rows)


def optimizer_by_depth(trainer: Trainer, chosen: tuple[Any, Mapping[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer of a run with rates by depth; the groups are logged as a table.

    Args:
        trainer: with the model, the arguments, and the names of the parameters with weight decay.
        chosen: class and options of the optimizer, `lr`, the base rate, among them.
    """
    (cls, options), args = chosen, trainer.args
    depths = depths_of(trainer.model, layer_lr_decay=args.layer_lr_decay, head_lr_multiplier=args.head_lr_multiplier)
    rate, decayed = options["lr"], trainer.get_decay_parameter_names(trainer.model)
    logger.info("learning rates by depth:\n%s", table_of(depths, rate))
    groups = parameter_groups(depths, decayed, learning_rate=rate, weight_decay=args.weight_decay)
    optimizer: torch.optim.Optimizer = cls(groups, **options)
    return optimizer


def check_takes_rates(args: TrainingArguments, cls: Any, options: Mapping[str, Any]) -> None:
    """Raise InputError for rates by depth with an optimizer that makes its own groups or has no rate in them."""
    if not rates_by_depth(args):
        return
    name = args.optimizer or getattr(cls, "__name__", str(cls))
    lead, way = f"{levers_in_words(args)}, and optimizer {name!r}", "take another, such as --optim adamw_torch"
    if not isinstance(cls, type) or any(option in options for option in _OWN_GROUPS):
        raise InputError(f"{lead} makes its own groups of parameters; {way}")
    if str(args.optimizer).lower() in OWN_RATE and options.get("relative_step", True):
        raise InputError(f"{lead} does not step by the rate of each group; {way}")
    if options.get("lr") is None:
        raise InputError(f"{lead} has no rate; give lr among its options")


def check_rates(model: MultiTaskModel, args: TrainingArguments, *, given: bool) -> None:
    """Raise InputError where rates by depth are asked for and cannot act.

    Args:
        model: to be trained.
        args: of the run.
        given: whether the optimizer is one that the user built, with groups of his own.
    """
    if not rates_by_depth(args):
        return
    if given:
        raise InputError(
            f"{levers_in_words(args)}: optimizers has an optimizer, whose groups have rates already; give its class as "
            "optimizer_cls_and_kwargs, or leave the flags out"
        )
    if args.layer_lr_decay != 1:
        try:
            encoder_layers(model.encoder)
        except InputError as error:
            raise InputError(
                f"layer_lr_decay is {args.layer_lr_decay}: the encoder {type(model.encoder).__name__} has no list of "
                f"{model.encoder.config.num_hidden_layers} layers, whose depth would give the rates; use "
                "--layer_lr_decay 1"
            ) from error


def levers_in_words(args: TrainingArguments) -> str:
    """The two arguments where they are not off."""
    return " and ".join(f"{name} is {getattr(args, name):g}" for name in LEVERS if getattr(args, name) != 1)
