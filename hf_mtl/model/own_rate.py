"""Parameters that learn at another rate than the optimizer gives them, whatever the optimizer."""

from __future__ import annotations

from torch import Tensor

# At an encoder's learning rate a parameter goes hundredths of a unit in a training; these have to go some units.
RATE = 100


def at_own_rate(parameter: Tensor, factor: float = RATE) -> Tensor:
    """`factor` times the parameter, in fp32, with the gradient 1: it learns `factor` times as fast.

    An optimizer moves the parameter in proportion to its learning rate, and so what this gives moves `factor` times as
    far. Adam divides the gradient by its size, so a scaled gradient would change nothing there; SGD would move
    `factor` squared times as far where the gradient were that of a product. Weight decay, a share of the parameter,
    stays what it is.

    Args:
        parameter: starts at its wanted value divided by `factor`. *Shape:* (...)
        factor: of the rate, above 0.

    Returns:
        *Shape:* (...)
    """
    value = parameter.float()
    return value + (factor - 1) * value.detach()
