"""What goes to the Hub: a list of files that may, the card, and what to do when an upload fails."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..errors import InputError, PushError
from ..model.export_code import modeling_code
from .card_merge import merged_card, split_card
from .model_card import CardFacts, model_card

CURVES = "training_curves.png"
# A list of what may be published. Everything else a run leaves (training_args.bin, trainer_state.json, checkpoints)
# can hold folders of this machine.
PUBLISHED = [
    "README.md",
    "config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "sp*.model",
    CURVES,
    "all_results.json",
    *(f"{module}.py" for module in modeling_code()),
]

_HEAD_FILE = re.compile(r"[A-Za-z_]\w*\.py")

# What huggingface_hub raises when there is no answer at all; the class is httpx's or httpx2's, whichever it runs on.
TransportError: type[Exception] = HfHubHTTPError.__mro__[1]
# All that an upload fails by: huggingface_hub wraps a file that was not taken in a RuntimeError, a card that is refused
# in a ValueError; hf_xet's are OSErrors and RuntimeErrors.
PUSH_FAILURES = (OSError, ValueError, RuntimeError, TransportError)


def published(folder: Path) -> list[str]:
    """Patterns of the files of a model's folder that may be published, with the heads that its config.json names."""
    try:
        names = json.loads((folder / "config.json").read_text(encoding="utf-8"))["head_files"].values()
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # no model, or one of hf_mtl's own kinds
        return PUBLISHED
    return [*PUBLISHED, *sorted({name for name in names if _HEAD_FILE.fullmatch(str(name))})]


def publish(
    folder: Path, facts: CardFacts, *, message: str, token: str | None = None, revision: str | None = None
) -> str:
    """Write the card and upload the files of `folder` that may be published.

    Args:
        folder: holds the model and the tokenizer.
        facts: for the card; its repository exists.
        message: of the commit.
        token: of the Hub; the one that is logged in unless given.
        revision: branch to commit to, made where there is none.

    Returns:
        The commit's address.

    Raises:
        PushError: when the Hub does not take it; the card is in the folder then, and the message has the command that
            uploads it later.
    """
    facts = dataclasses.replace(facts, revision=revision)
    with failure_named(folder, facts.repo_id, revision):
        write_card(folder, facts, token, revision)
        return upload(folder, facts.repo_id, message=message, token=token, revision=revision)


@contextmanager
def failure_named(folder: Path, repo_id: str, revision: str | None, *, private: bool = False) -> Iterator[None]:
    """Raise PushError, with the command that pushes `folder` later, for what the Hub does not take."""
    try:
        yield
    except PUSH_FAILURES as error:
        reason = reason_of(error).rstrip(".")
        to = f" --revision {revision}" * bool(revision) + " --private" * private
        raise PushError(
            f"{repo_id!r} was not pushed: {reason}. The model is in {str(folder)!r}; to push it later: "
            f"hf-mtl push {shlex.quote(str(folder))} {shlex.quote(repo_id)}{to}"
        ) from error


def reason_of(error: BaseException) -> str:
    """Why a push failed, in a line."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip() or type(error).__name__
    return " ".join(text.split()) if isinstance(error, ValueError) else text.splitlines()[0]


def write_local_card(folder: Path, facts: CardFacts) -> None:
    """Put README.md into the folder, with what people wrote into the one there."""
    facts = dataclasses.replace(facts, curves=(folder / CURVES).exists())
    (folder / "README.md").write_text(model_card(facts, read_card(folder), None), encoding="utf-8")


def write_card(folder: Path, facts: CardFacts, token: str | None, revision: str | None) -> None:
    """Put README.md into the folder, with what people wrote into the one there and into the Hub's."""
    here = read_card(folder)
    write_local_card(folder, facts)  # there for a later push when the Hub does not answer
    facts = dataclasses.replace(facts, curves=(folder / CURVES).exists())
    there = published_card(facts.repo_id, token, revision)
    has_licence = any("license" in split_card(card).header for card in (here, there))
    if facts.licence is None and facts.base_model is not None and not has_licence:
        licence = split_card(published_card(facts.base_model, token)).header.get("license")
        facts = dataclasses.replace(facts, licence=licence)
    (folder / "README.md").write_text(model_card(facts, here, there), encoding="utf-8")


def read_card(folder: Path) -> str:
    """The card in a folder; empty when there is none."""
    path = folder / "README.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def published_card(repo_id: str, token: str | None, revision: str | None = None) -> str:
    """The card that is on the Hub; empty when there is none. Raises when the Hub does not tell."""
    try:
        path = hf_hub_download(repo_id, "README.md", token=token, revision=revision, force_download=True)
    except (RemoteEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError):
        return ""
    return Path(path).read_text(encoding="utf-8")


def check_write_access(token: str | None) -> None:
    """Raise InputError for a token that cannot write, which the Hub would tell after the training only."""
    role = HfApi(token=token).whoami().get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise InputError("the token may only read; make one that may write at https://huggingface.co/settings/tokens")


def make_branch(repo_id: str, revision: str | None, token: str | None) -> None:
    """Make the branch to commit to, where there is none of that name."""
    if revision is not None and not revision.startswith("refs/"):  # as a pull request's
        HfApi().create_branch(repo_id, branch=revision, token=token, exist_ok=True)


def upload(folder: Path, repo_id: str, *, message: str, token: str | None, revision: str | None) -> str:
    """Upload the files of `folder` that may be published; gives the commit's address."""
    make_branch(repo_id, revision, token)
    commit = HfApi().upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        commit_message=message,
        token=token,
        revision=revision,
        allow_patterns=published(folder),
    )
    return str(commit)


def push_folder(folder: Path, repo_id: str, *, private: bool = False, revision: str | None = None) -> str:
    """Upload the folder of a run that could not be pushed; makes the repository. Raises as `publish` does.

    Raises:
        InputError: for a folder without a model.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"folder {str(folder)!r} holds no model; wanted the output_dir of a run")
    with failure_named(folder, repo_id, revision, private=private):
        check_write_access(None)
        repo_id = HfApi().create_repo(repo_id, private=private or None, exist_ok=True).repo_id
        if here := read_card(folder):
            there = published_card(repo_id, None, revision)
            (folder / "README.md").write_text(merged_card(here, there, repo_id, revision), encoding="utf-8")
        return upload(folder, repo_id, message="Upload with hf-mtl", token=None, revision=revision)
