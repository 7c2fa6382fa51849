"""The layers of an encoder, whatever its architecture calls them."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from .errors import InputError


def encoder_layers(encoder: PreTrainedModel) -> list[nn.Module]:
    """The encoder's layers from bottom to top; layers that share their weights (ALBERT) are the same module.

    Raises:
        InputError: when the encoder has no list of `num_hidden_layers` layers.
    """
    num_layers = encoder.config.num_hidden_layers
    lists = [module for module in encoder.modules() if isinstance(module, nn.ModuleList)]
    for layers in lists:
        if len(layers) == num_layers:
            return list(layers)
    num_groups = getattr(encoder.config, "num_hidden_groups", None)
    for groups in lists:
        if len(groups) == num_groups:
            return [groups[i * num_groups // num_layers] for i in range(num_layers)]
    raise InputError(
        f"the encoder {type(encoder).__name__} has no list of {num_layers} layers to unfreeze; "
        "use --unfreeze_schedule none"
    )
