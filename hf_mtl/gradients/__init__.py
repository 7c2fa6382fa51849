"""From the tasks' gradients of a step to the one that the optimizer reads."""

from . import methods as methods  # registers the built-in gradient methods
