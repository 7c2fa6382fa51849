"""From the tasks' gradients of a step to the one that the optimizer reads."""
