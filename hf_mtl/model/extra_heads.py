"""The heads of kinds that are not hf_mtl's own; the copy of this file beside a model's weights names that model's."""

from __future__ import annotations

from .heads import Head

EXTRA_HEADS: dict[str, type[Head]] = {}  # kind -> class
