"""What the name of a model stands for: a folder whose files are sound, or an id on the Hub; else what to do about it.

Looks at files without reading tensors. Imports the standard library only: it travels with a saved model's code.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError

WEIGHTS = "model.safetensors"
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_POINTER = b"version https://git-lfs.github.com/spec"
_TEXT_FILES = (".json", ".txt", ".model", ".jinja")  # of a configuration and a tokenizer
_OTHER_WEIGHTS = ("pytorch_model*.bin*", "tf_model.h5", "flax_model.msgpack", "*.gguf", "*.onnx", "*.ckpt", "*.pth")


@contextmanager
def loading(name: str, what: str) -> Iterator[None]:
    """Turns whatever loading `name` raises into an InputError of one line that names it, as `what` does."""
    try:
        yield
    except InputError as error:
        if repr(name) in str(error):
            raise
        raise InputError(f"{what} cannot be loaded: {error}") from error
    except Exception as error:  # safetensors, tokenizers and strict dataclasses have no common type for theirs
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        folder = Path(name)
        missing = "" if folder.is_dir() else f"no such folder{_nearest(folder)}, and from the Hub: "
        raise InputError(f"{what} cannot be loaded: {missing}{reason}") from error


def check_source(name: str, what: str) -> None:
    """Raise InputError unless `name` is a folder with a sound configuration or may be a Hub id."""
    folder = Path(name)
    if folder.is_dir():
        _check_configuration(folder, what)
        check_text_files(folder, what)
    elif folder.is_file():
        raise InputError(f"{what} cannot be loaded: it is a file, wanted a model's folder or Hub id")
    elif not _HUB_ID.fullmatch(name):
        raise InputError(
            f"{what} cannot be loaded: no such folder{_nearest(folder)}, and no Hub id, which is name or user/name"
        )


def check_text_files(folder: Path, what: str) -> None:
    """Raise InputError for a file of the configuration or the tokenizer that git-lfs has not fetched."""
    for file in sorted(folder.iterdir()):
        if file.suffix in _TEXT_FILES and file.is_file() and _first_bytes(file).startswith(_POINTER):
            raise InputError(_pointer_message(file, what))


def check_weight_files(folder: Path, what: str, opener: str) -> None:
    """Raise InputError unless a folder holds whole safetensors files.

    Args:
        folder: holds `model.safetensors`, or its index and what that names.
        what: begins the message.
        opener: the class whose `from_pretrained` reads weights of another form, for the message.
    """
    for file in _weight_files(folder, what, opener):
        if file.is_symlink() and not file.exists():
            raise InputError(f"{what}: {file} is a link to {file.readlink()}, which is not there; copy the file itself")
        if not file.is_file():
            raise InputError(f"{what}: {file.name}, which the index names, is not in {folder}; fetch the folder again")
        _check_safetensors(file, what)


def _weight_files(folder: Path, what: str, opener: str) -> list[Path]:
    """The files that hold the weights, there or not."""
    single, index = folder / WEIGHTS, folder / f"{WEIGHTS}.index.json"
    if single.is_file() or single.is_symlink():
        return [single]
    if index.is_file():
        try:
            return [folder / name for name in sorted(set(_read_json(index)["weight_map"].values()))]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(f"{what}: {index} is no index of weights: {error}; fetch it again") from error
    others = sorted(file.name for pattern in _OTHER_WEIGHTS for file in folder.glob(pattern))
    if any(name.startswith("pytorch_model") for name in others):
        raise InputError(
            f"{what} has its weights in {others[0]}, a pickle, which can run code; wanted {WEIGHTS}. If you trust it: "
            f"{opener}.from_pretrained({str(folder)!r}, use_safetensors=False).save_pretrained('NEW_FOLDER'), and the "
            "tokenizer's files beside that"
        )
    found = f"; found {', '.join(others)}" if others else ""
    raise InputError(f"{what} holds no weights: wanted {WEIGHTS}, or {index.name} and its files{found}")


def _check_safetensors(file: Path, what: str) -> None:
    """Raise InputError unless a file is as long as its header says."""
    size, start = file.stat().st_size, _first_bytes(file)
    if start.startswith(_POINTER):
        raise InputError(_pointer_message(file, what))
    length = int.from_bytes(start[:8], "little")
    broken = f"{what}: {file} is cut short or no safetensors file ({size:,} bytes); fetch it again"
    if size < 8 or length > size - 8:
        raise InputError(broken)
    with open(file, "rb") as stream:
        stream.seek(8)
        text = stream.read(length)
    try:
        header = json.loads(text)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        wanted = 8 + length + max(ends, default=0)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(broken) from error
    if size != wanted:
        raise InputError(f"{what}: {file} has {size:,} bytes, and its header wants {wanted:,}; fetch it again")


def _check_configuration(folder: Path, what: str) -> None:
    """Raise InputError unless a folder holds a `config.json` that is a JSON object."""
    file = folder / "config.json"
    if not file.is_file():
        inner = sorted(path.parent.name for path in folder.glob("*/config.json"))
        hint = f" (did you mean {str(folder / inner[-1])!r}?)" if inner else ""
        if (folder / "adapter_config.json").is_file():
            hint = "; it holds an adapter: merge_and_unload() it into its encoder and save that"
        raise InputError(f"{what} cannot be loaded: it has no config.json{hint}")
    if _first_bytes(file).startswith(_POINTER):
        raise InputError(_pointer_message(file, what))
    try:
        if not isinstance(_read_json(file), dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{what}: {file} is no configuration: {error}") from error


def _read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _first_bytes(file: Path) -> bytes:
    with open(file, "rb") as stream:
        return stream.read(64)


def _pointer_message(file: Path, what: str) -> str:
    return f"{what}: {file} is a git-lfs pointer, not the file itself; run `git lfs pull` in its folder"


def _nearest(folder: Path) -> str:
    """A hint at the folder whose name is nearest to one that is not there, or nothing."""
    parts = folder.expanduser().absolute()
    if parts.is_dir():
        return f" (did you mean {str(parts)!r}?)"
    missing = next(path for path in (parts, *parts.parents) if path.parent.is_dir())
    others = [path.name for path in missing.parent.iterdir() if path.is_dir()]
    close = difflib.get_close_matches(missing.name, others, n=1)
    if not close:
        return ""
    found = folder.parent if missing == parts else missing.parent
    return f" (did you mean {str(found / close[0])!r}?)"
