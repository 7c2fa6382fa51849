"""What goes to the Hub: a list of files that may, the card, and what to do when an upload fails."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from .card import CardFacts, model_card, split_card
from .errors import InputError, PushError
from .model_files import CODE

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
    *(f"{module}.py" for module in CODE),
]

# What huggingface_hub raises when there is no answer at all; the class is httpx's or httpx2's, whichever it runs on.
TransportError: type[Exception] = HfHubHTTPError.__mro__[1]


def publish(
    folder: Path, facts: CardFacts, *, message: str, token: str | None = None, revision: str | None = None
) -> str:
    """Write the card and upload the files of `folder` that may be published.

    Args:
        folder: holds the model and the tokenizer.
        facts: for the card; its repository exists.
        message: of the commit.
        token: of the Hub; the one that is logged in unless given.
        revision: branch to commit to.

    Returns:
        The commit's address.

    Raises:
        PushError: when the Hub does not take it; the card is in the folder then, and the message has the command that
            uploads it later.
    """
    write_card(folder, facts, token, revision)
    return upload(folder, facts.repo_id, message=message, token=token, revision=revision)


def write_card(folder: Path, facts: CardFacts, token: str | None = None, revision: str | None = None) -> None:
    """Put README.md into the folder, with what people wrote into the one there and into the Hub's."""
    path = folder / "README.md"
    cards = [path.read_text(encoding="utf-8") if path.exists() else "", published_card(facts.repo_id, token, revision)]
    licence = facts.licence
    if licence is None and facts.base_model is not None and not any("license" in split_card(card)[0] for card in cards):
        licence = split_card(published_card(facts.base_model, token))[0].get("license")
    facts = dataclasses.replace(facts, licence=licence, curves=(folder / CURVES).exists())
    path.write_text(model_card(facts, *cards), encoding="utf-8")


def published_card(repo_id: str, token: str | None, revision: str | None = None) -> str:
    """The card that is on the Hub; empty when there is none, or no answer: the upload would tell."""
    try:
        path = hf_hub_download(repo_id, "README.md", token=token, revision=revision)
    except (OSError, TransportError):
        return ""
    return Path(path).read_text(encoding="utf-8")


def check_write_access(token: str | None) -> None:
    """Raise InputError for a token that cannot write, which the Hub would tell after the training only."""
    role = HfApi(token=token).whoami().get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise InputError("the token may only read; make one that may write at https://huggingface.co/settings/tokens")


def upload(folder: Path, repo_id: str, *, message: str, token: str | None = None, revision: str | None = None) -> str:
    """Upload the files of `folder` that may be published; gives the commit's address. Raises as `publish` does."""
    try:
        commit = HfApi().upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=message,
            token=token,
            revision=revision,
            allow_patterns=PUBLISHED,
        )
    except (OSError, TransportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        to = f" --revision {revision}" if revision else ""
        raise PushError(
            f"{repo_id!r} was not pushed: {reason}. The model is in {str(folder)!r}; to push it later: "
            f"hf-mtl push {shlex.quote(str(folder))} {repo_id}{to}"
        ) from error
    return str(commit)


def push_folder(folder: Path, repo_id: str, *, private: bool = False, revision: str | None = None) -> str:
    """Upload the folder of a run that could not be pushed; makes the repository. Raises as `publish` does.

    Raises:
        InputError: for a folder without a model, and for a repository that cannot be made or written.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"folder {str(folder)!r} holds no model; wanted the output_dir of a run")
    try:
        check_write_access(None)
        HfApi().create_repo(repo_id, private=private or None, exist_ok=True)
    except InputError:
        raise
    except (OSError, ValueError, TransportError) as error:
        raise InputError(f"{repo_id!r} cannot be pushed to: {str(error).strip().splitlines()[0]}") from error
    return upload(folder, repo_id, message="Upload with hf-mtl", revision=revision)
