"""Parameters that learn at a multiple of the optimizer's rate, by their form alone."""

from __future__ import annotations

from torch import Tensor

RATE = 100  # an encoder's rate hardly moves a parameter of size one


def at_own_rate(parameter: Tensor) -> Tensor:
    """`RATE` times a parameter, with the gradient of that value.

    A step that is proportional to the learning rate moves the value `RATE` times as far as one of a plain parameter. No
    optimizer has to know, and no clipping of gradients sees larger ones.
    """
    return parameter + (RATE - 1) * parameter.detach()
