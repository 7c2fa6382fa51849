"""The exceptions: for what a user gave, naming the value found; for a full disk; for an upload that failed."""

from __future__ import annotations

from .model.errors import InputError, unknown_name_error

__all__ = ["CheckpointError", "InputError", "PushError", "unknown_name_error"]


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written; the message names the whole ones that are there."""


class PushError(RuntimeError):
    """An upload that failed; what was to be uploaded is on disk, and the message has the command that does it later."""
