"""Where 0.1.0 had `load_rows` and `read_labels`; each warns, and goes with the release after the next."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

_MOVED = {"load_rows": "data.raw_rows", "read_labels": "tasks.labels"}


def __getattr__(name: str) -> Any:
    """What has moved, with a DeprecationWarning that says where it is now."""
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f".{_MOVED[name]}", __package__)
    warnings.warn(f"{__name__}.{name} is now {module.__name__}.{name}", DeprecationWarning, stacklevel=2)
    return getattr(module, name)
