"""What a gradient method remembers, in a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import InputError
from .method import GradientMethod

MEMORY_FILE = "gradient_method.json"


def check_memory(method: GradientMethod) -> str:
    """What the method remembers as JSON, empty where it does not; InputError for what JSON cannot hold."""
    memory = method.state_dict()
    try:
        return json.dumps({"method": method.name, "memory": memory}) if memory else ""
    except (TypeError, ValueError) as error:
        found = " ".join(repr(memory).split())
        raise InputError(
            f"gradient_method {method.name!r}: state_dict gives {found:.80}, wanted numbers and lists, such as of "
            f"tensor.tolist(): {error}"
        ) from error


def save_method(method: GradientMethod, checkpoint: Path) -> None:
    """Put what the method remembers, if it does, into a checkpoint."""
    if text := check_memory(method):
        (checkpoint / MEMORY_FILE).write_text(text, encoding="utf-8")


def restore_method(method: GradientMethod, checkpoint: Path) -> None:
    """Go on from what `save_method` put into a checkpoint.

    Raises:
        InputError: when the method remembers and the checkpoint holds nothing of it, or holds another method's.
    """
    file = checkpoint / MEMORY_FILE
    saved = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"method": None, "memory": {}}
    if saved["method"] not in (None, method.name):
        raise InputError(
            f"resume_from_checkpoint {str(checkpoint)!r} was saved with gradient_method {saved['method']!r}, found "
            f"{method.name!r}; resume with the method it was saved with, or start anew"
        )
    if method.state_dict() and saved["method"] is None:
        raise InputError(
            f"resume_from_checkpoint {str(checkpoint)!r} holds no state of gradient_method {method.name!r}; resume "
            "with the method it was saved with, or start anew"
        )
    if saved["memory"]:
        method.load_state_dict(saved["memory"])
