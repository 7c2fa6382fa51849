"""A parameter that learns at another rate than the optimizer's, by its own form."""

import pytest
import torch

from hf_mtl.model.own_rate import at_own_rate

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-3),
    "SGD with momentum": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.0),
}


def moves(optimizer, form, start, steps):
    """How far the value that a loss reads has moved after each step, where the loss's gradient does not depend on it.

    Args:
        optimizer: makes one for parameters.
        form: parameter -> value.
        start: of the parameter.
        steps: how many.
    """
    parameter = torch.nn.Parameter(start.clone())
    stepper, slope = optimizer([parameter]), torch.tensor([1.0, -3.0, 0.01])
    path = [form(parameter).detach().clone()]
    for _ in range(steps):
        stepper.zero_grad()
        (form(parameter) * slope).sum().backward()
        torch.testing.assert_close(parameter.grad, slope)
        stepper.step()
        path.append(form(parameter).detach().clone())
    return torch.stack([value - path[0] for value in path[1:]])


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("factor", [100, 7.5])
def test_it_moves_as_many_times_as_far_under_any_optimizer(optimizer, factor):
    start = torch.tensor([0.5, -1.0, 2.0])
    plain = moves(optimizer, lambda p: p, start, 5)
    own = moves(optimizer, lambda p: at_own_rate(p, factor), start / factor, 5)
    assert plain.abs().min() > 0
    torch.testing.assert_close(own, factor * plain, rtol=1e-2, atol=1e-5)  # differences of fp32 numbers near 1


def test_its_value_is_that_of_the_product_in_fp32():
    parameter = torch.nn.Parameter(torch.tensor([0.0123, -4.0], dtype=torch.float64).bfloat16())
    value = at_own_rate(parameter, 100)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, 100 * parameter.detach().float())
