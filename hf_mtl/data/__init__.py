"""Raw rows to batches: reading, tokens, task shares, the batch sampler."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

# What 0.1.0 had here, and what it is called in `tokenization`; goes with the release after the next.
_MOVED = {"tokenise": "tokenize", "TaskRows": "TaskRows", "TaskColumns": "TaskColumns", "TaskCollator": "TaskCollator"}


def __getattr__(name: str) -> Any:
    """What has moved, with a DeprecationWarning that says where it is now."""
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(".tokenization", __name__)
    warnings.warn(f"{__name__}.{name} is now {module.__name__}.{_MOVED[name]}", DeprecationWarning, stacklevel=2)
    return getattr(module, _MOVED[name])
