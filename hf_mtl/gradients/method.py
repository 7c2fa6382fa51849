"""What a gradient method is, and every method by name."""

from __future__ import annotations

import functools
from collections import ChainMap
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, TypeVar, get_args

import torch
from torch import Tensor

from ..errors import InputError, unknown_name_error
from ..validation import check_options, check_signature

Needs = Literal["gramian", "rows", "losses", "losses_after_step"]
Factory = TypeVar("Factory", bound=Callable[..., Any])


class GradientMethod:
    """Gives every task's gradient a weight in the step. A subclass keeps state across steps; a function has none.

    Attributes:
        needs: what a call gets, and what it returns.

            - "gramian": inner products of the tasks' gradients over the shared parameters, (K, K) -> weights (K,).
              A method with a state gets all tasks, those left out of the step as zero; others get the rest alone.
            - "rows": these gradients themselves, (K, P) -> the combined gradient (P,).
            - "losses": mean losses, (K,) -> weights (K,), which weigh the heads' gradients too. A loss that is not
              finite belongs to a task that is left out, or has no labelled word in the step; its weight is not read.
            - "losses_after_step": the same; `after_step` also gets the losses of the same rows under the new weights.

        name: by which it was made.
    """

    needs: ClassVar[Needs] = "gramian"
    name = ""

    def __call__(self, given: Tensor, generator: torch.Generator) -> Tensor:
        """Weights, or for "rows" the combined gradient.

        Args:
            given: what the method needs, fp64 but for "rows".
            generator: on the CPU, seeded by (seed, step): the same numbers on every process and after a resume.
        """
        raise NotImplementedError

    def after_step(self, before: Tensor, after: Tensor | None) -> None:
        """Learn from a step's losses. *Shapes:* (K,), fp64; not finite where the task was left out.

        Args:
            before: mean losses of the step.
            after: those of the same rows after the optimizer's step; None unless `needs` asks for them.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to keep, as plain numbers and lists; empty for a method without a state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""


def checked_tensor(method: GradientMethod, given: object, shape: Sequence[int]) -> Tensor:
    """What a method gave, without a graph; InputError unless it is a tensor of that shape."""
    if isinstance(given, Tensor) and given.shape == torch.Size(shape) and not given.is_complex():
        return given.detach()
    found = f"a tensor of shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"{given!r:.60}"
    what = "the combined gradient" if method.needs == "rows" else "a weight per task"
    raise InputError(f"gradient_method {method.name!r} gave {found}, wanted {what}: a tensor of shape {tuple(shape)}")


def checked_weights(method: GradientMethod, given: object, num_tasks: int) -> Tensor:
    """The weights that a method gave, on the CPU; those beyond fp32 are not finite. *Shape:* (K,), fp64.

    Raises:
        InputError: for what is no tensor of one weight per task.
    """
    weights = checked_tensor(method, given, (num_tasks,)).to("cpu", torch.float64)
    return torch.where(weights.abs() <= torch.finfo(torch.float32).max, weights, torch.nan)


class _WeightFunction(GradientMethod):
    """A function of the Gramian, with its options bound."""

    def __init__(self, function: Callable[..., Tensor], options: dict[str, object]) -> None:
        self._weigh = functools.partial(function, **options)

    def __call__(self, given: Tensor, generator: torch.Generator) -> Tensor:
        return self._weigh(given, generator)


# A name stands for a function `(gramian, generator, *, options) -> weights` or a subclass of `GradientMethod`.
WEIGHTINGS: dict[str, Callable[..., Any]] = {}
_OTHER_METHODS: dict[str, Callable[..., Any]] = {}
GRADIENT_METHODS = ChainMap(WEIGHTINGS, _OTHER_METHODS)


def register_gradient_method(name: str) -> Callable[[Factory], Factory]:
    """Add a gradient method under a name, for `--gradient_method` and `make_weighting`.

        @register_gradient_method("first_task")
        def first_task(gramian, generator, *, share=1.0):
            return torch.tensor([share] + [0.0] * (len(gramian) - 1), dtype=torch.float64, device=gramian.device)

    Decorates a function of the Gramian or a subclass of `GradientMethod`; keyword-only arguments are its options.

    Raises:
        InputError: for a name that another method has, and for what is no such function or class.
    """

    def register(factory: Factory) -> Factory:
        _check_factory(name, factory)
        there = GRADIENT_METHODS.get(name)
        if there is not None and _place_of(there) != _place_of(factory):
            raise InputError(f"gradient_method {name!r} is registered already, by {_place_of(there)}; choose another")
        (WEIGHTINGS if _needs(factory) == "gramian" else _OTHER_METHODS)[name] = factory
        return factory

    return register


def _check_factory(name: str, factory: Callable[..., Any]) -> None:
    """Raise InputError for what could not be called as a gradient method is."""
    what = f"gradient_method {name!r}"
    if not isinstance(factory, type):
        check_signature(what, factory, ["gramian", "generator"])
        return
    if not issubclass(factory, GradientMethod) or factory.__call__ is GradientMethod.__call__:
        raise InputError(
            f"{what} is the class {factory.__qualname__}, wanted a function of the Gramian, or a subclass of "
            "GradientMethod that defines __call__(self, given, generator)"
        )
    if factory.needs not in get_args(Needs):
        raise unknown_name_error(f"needs of {what}:", factory.needs, get_args(Needs))
    check_signature(what, factory, [])
    check_signature(f"{what}: __call__", factory.__call__, ["self", "given", "generator"])


def _place_of(factory: Callable[..., Any]) -> str:
    """Module and name, by which a file that is imported twice is told from another."""
    return f"{getattr(factory, '__module__', '?')}.{getattr(factory, '__qualname__', '?')}"


def _needs(factory: Callable[..., Any]) -> Needs:
    needs: Needs = getattr(factory, "needs", "gramian")
    return needs


def make_gradient_method(name: str, /, **options: object) -> GradientMethod:
    """The gradient method of that name with its options.

    Raises:
        InputError: for a name or an option that does not exist, and the message lists those that do; for a value that
            the method does not take; for what is no gradient method.
    """
    if name not in GRADIENT_METHODS:
        error = unknown_name_error("gradient_method", name, GRADIENT_METHODS)
        raise InputError(f"{error}; one of a file of your own: --plugin FILE.py")
    factory = GRADIENT_METHODS[name]
    _check_factory(name, factory)
    check_options(name, factory, options)
    try:
        method: GradientMethod = factory(**options) if isinstance(factory, type) else _tried(name, factory, options)
    except InputError:
        raise
    except Exception as error:  # whatever a user's code raises
        raise InputError(f"gradient_method {name!r} cannot be made: {type(error).__name__}: {error}") from error
    method.name = name
    return method


def _tried(name: str, function: Callable[..., Tensor], options: dict[str, object]) -> GradientMethod:
    """A function as a method, after a call for two tasks, which refuses a wrong option."""
    method = _WeightFunction(function, options)
    weights = method(torch.eye(2, dtype=torch.float64), torch.Generator())
    if not isinstance(weights, Tensor) or weights.shape != (2,) or not weights.isfinite().all():
        raise InputError(
            f"gradient_method {name!r} gave {weights!r:.80} for two tasks, wanted a tensor of two weights, each finite"
        )
    return method


def make_weighting(name: str, /, **options: object) -> GradientMethod:
    """The method `name` of `WEIGHTINGS`, a function of the Gramian, e.g. `make_weighting("pcgrad", reduction="mean")`.

    Raises:
        InputError: as `make_gradient_method`, and for a method that looks at something else than the Gramian.
    """
    if name not in WEIGHTINGS:
        raise unknown_name_error("gradient_method", name, WEIGHTINGS)
    return make_gradient_method(name, **options)
