"""Which tensors a model's weights must have, told from those that are there: after loading, and before saving.

Imports the standard library only: it travels with a saved model's code.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from .errors import InputError

_WRAPPED = ("lora_", ".base_layer.", "base_model.model.")  # as peft names what it puts around layers
# What wrappers put before the names of a module's weights -> how to save it without.
_AROUND = {
    "_orig_mod.": "compile in place, with module.compile(), or save what torch.compile(module) was given",
    "module.": "save model.module, what DataParallel or DistributedDataParallel was put around",
}
# Numbers that older versions of transformers saved and every version makes anew.
_CONSTANTS = ("position_ids", "token_type_ids", "inv_freq")
Report = Mapping[str, Collection[Any]]  # as of `from_pretrained(output_loading_info=True)`
Shapes = Mapping[str, tuple[int, ...]]


def check_all_loaded(report: Report, what: str) -> None:
    """Raise InputError unless the weights were exactly those of the configuration, for a saved multi-task model."""
    problems = _problems(report["missing_keys"], report["unexpected_keys"], report["mismatched_keys"])
    if problems:
        raise InputError(f"{what}: config.json and the weights do not belong together: the weights {problems}")


def check_encoder_loaded(report: Report, children: Collection[str], prefix: str, what: str) -> None:
    """Raise InputError unless an encoder got all its weights and none of its own was left over.

    Args:
        report: what was missing, left over and of another shape. A pooler and heads may be left over, and a pooler may
            be missing: nothing reads it.
        children: names of the encoder's own modules.
        prefix: what checkpoints with a head put before them.
        what: begins the message.
    """
    missing = [name for name in report["missing_keys"] if not name.startswith("pooler.")]
    unexpected = [
        name
        for name in report["unexpected_keys"]
        if any(mark in name for mark in _WRAPPED)
        or (missing and any(_is_inside(name, mark) for mark in _AROUND))
        or (name.removeprefix(f"{prefix}.").split(".")[0] in children and not name.endswith(_CONSTANTS))
    ]
    problems = _problems(missing, unexpected, report["mismatched_keys"])
    if problems:
        raise InputError(f"{what}: config.json and the weights do not belong together: the weights {problems}")


def check_to_save(wanted: Shapes, found: Shapes, what: str) -> None:
    """Raise InputError unless the tensors to be saved are those that loading will look for.

    Args:
        wanted: name -> shape by the configuration.
        found: name -> shape of what is to be saved.
        what: begins the message.
    """
    mismatched = [(name, found[name], shape) for name, shape in wanted.items() if found.get(name, shape) != shape]
    problems = _problems(wanted.keys() - found.keys(), found.keys() - wanted.keys(), mismatched)
    if problems:
        raise InputError(f"{what} cannot be saved, as nothing could load it: its weights {problems}")


def _problems(missing: Iterable[str], unexpected: Iterable[str], mismatched: Iterable[Any]) -> str:
    """What is wrong, in words, and what to do about it where that is known."""
    extra = sorted(unexpected)
    shapes = [f"{name} {tuple(found)} instead of {tuple(wanted)}" for name, found, wanted in sorted(mismatched)]
    parts = {"lack": sorted(missing), "have beside them": extra, "have other shapes:": shapes}
    said = "; ".join(f"{verb} {_some(names)}" for verb, names in parts.items() if names)
    if any(mark in name for mark in _WRAPPED for name in extra):
        said += ". A LoRA adapter is put into the encoder's own weights by merge_and_unload()"
    for mark, way in _AROUND.items():
        if any(_is_inside(name, mark) for name in extra):
            said += f". The names have {mark!r} before them: {way}"
    return said


def _is_inside(name: str, mark: str) -> bool:
    return name.startswith(mark) or f".{mark}" in name


def _some(names: list[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
