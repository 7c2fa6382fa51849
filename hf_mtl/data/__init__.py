"""Raw rows to batches: reading, tokens, task shares, the batch sampler."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

# What 0.1.0 had here -> the module that has it now, and its name there; goes with the release after the next.
_MOVED = {
    "tokenise": ("tokenization", "tokenize"),
    "TaskRows": ("task_rows", "TaskRows"),
    "TaskCollator": ("collator", "TaskCollator"),
}


def __getattr__(name: str) -> Any:
    """What has moved, with a DeprecationWarning that says where it is now."""
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place, new_name = _MOVED[name]
    module = importlib.import_module(f".{place}", __name__)
    warnings.warn(f"{__name__}.{name} is now {module.__name__}.{new_name}", DeprecationWarning, stacklevel=2)
    return getattr(module, new_name)
