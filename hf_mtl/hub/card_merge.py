"""A model card's parts, and how the folder's and the Hub's become one without losing what people wrote into them."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from ..model.export_code import PIPELINE_TASK

logger = logging.getLogger(__name__)
START = "<!-- hf_mtl writes from here; what stands above or below the two marks stays as it is -->"
END = "<!-- hf_mtl writes to here -->"
OWN_RESULT = " (a head of this model)"  # tells rows of the model-index that were written here from a person's
USUAL = {"library_name": "transformers", "pipeline_tag": "text-classification"}
_FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?\n?", re.S)
_RECORD = re.compile(r"<!-- hf_mtl wrote (.*?) -->")


@dataclass(frozen=True, kw_only=True)
class Card:
    """A card's parts.

    Args:
        header: the front matter.
        above, below: what a person wrote above and below the marks; without marks, everything stands above.
        own: what was written here between the marks.
        wrote: the keys of the front matter as they were written here; a value that differs is a person's.
        began: "above", "below" -> digest of that part when the card was written here.
        repo_id: the model's name when the card was written here; `own` mentions it.
    """

    header: Mapping[str, Any]
    above: str = ""
    below: str = ""
    own: str = ""
    wrote: Mapping[str, Any] = field(default_factory=lambda: USUAL)
    began: Mapping[str, str] = field(default_factory=dict)
    repo_id: str = ""


def merged_card(folder: str, published: str, repo_id: str, revision: str | None = None) -> str:
    """The folder's card as it was written here, for the name and the branch that it gets, with what people wrote."""
    here, there = split_card(folder), split_card(published)
    latest = here if here.own else there
    index = [{"name": model_name(repo_id), "results": _own(rows)} for _, rows in _index(latest.header)]
    own = latest.own
    if latest.repo_id:
        own = re.sub(rf'"{re.escape(latest.repo_id)}"(, revision="[^"]*")?', lambda _: in_code(repo_id, revision), own)
        own = own.replace(f"# {model_name(latest.repo_id)}\n", f"# {model_name(repo_id)}\n", 1)
    return joined(Card(header={**latest.wrote, "model-index": index}, own=own, repo_id=repo_id), here, there)


def model_name(repo_id: str) -> str:
    """What "user/name" is called in its card."""
    return repo_id.split("/")[-1]


def in_code(repo_id: str, revision: str | None) -> str:
    """The arguments that name a model in code; a pull request's commits come to the main branch."""
    branch = revision if revision and revision != "main" and not revision.startswith("refs/") else None
    return f'"{repo_id}", revision="{branch}"' if branch else f'"{repo_id}"'


def split_card(card: str) -> Card:
    """The parts of a card; a front matter that is no YAML mapping is left out, with a warning."""
    found = _FRONT_MATTER.match(card)
    body = card[found.end() :] if found else card
    above, _, rest = body.partition(START)
    own, _, below = rest.partition(END)
    header = _header(found[1]) if found else {}
    record = _RECORD.search(own)
    if record is None:
        return Card(header=header, above=above.strip(), below=below.strip(), own=own.strip())
    wrote = _read_record(record[1])
    return Card(
        header=header,
        above=above.strip(),
        below=below.strip(),
        own=_RECORD.sub("", own).strip(),
        wrote=wrote.pop("header", USUAL),
        repo_id=str(wrote.pop("repo_id", "")),
        began=wrote,
    )


def _header(text: str) -> dict[str, Any]:
    try:
        header = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # a ValueError for a date that there is not
        logger.warning("the card's header is no YAML and is written anew: %s", " ".join(str(error).split()))
        return {}
    return header if isinstance(header, dict) else {}


def _read_record(text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except json.JSONDecodeError:  # a person changed it
        return {}
    return record if isinstance(record, dict) and isinstance(record.get("header"), dict) else {}


def joined(fresh: Card, here: Card, there: Card | None) -> str:
    """The text of a card: `fresh` is written here, the rest is what people wrote into the other two.

    Without `there` it is for the folder only, and what the Hub and the folder last had in common stays on record.
    """
    local, there = there is None, there or Card(header={})
    header = merged_header(fresh.header, here, there)
    texts = {part: _merged_text(part, here, there) for part in ("above", "below")}
    began = {part: _digest(text) for part, text in texts.items()}
    if local:
        began.update(here.began)
    wrote = {key: value for key, value in fresh.header.items() if key not in ("tags", "model-index")}
    record = {"header": wrote, "repo_id": fresh.repo_id, **began}
    front = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    own = [START, f"<!-- hf_mtl wrote {json.dumps(record)} -->", fresh.own, END] if fresh.own else []
    return "\n\n".join(part for part in (f"---\n{front}---", texts["above"], *own, texts["below"]) if part) + "\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _merged_text(part: str, here: Card, there: Card) -> str:
    """What people wrote above or below, without a loss; where only one of them changed it, that one's."""
    one, other = getattr(here, part), getattr(there, part)
    began = here.began.get(part)
    if began is not None and began == there.began.get(part):
        if _digest(one) == began:
            return str(other)
        if _digest(other) == began:
            return str(one)
    return str(one if other in one else other if one in other else f"{one}\n\n{other}")


def merged_header(fresh: Mapping[str, Any], here: Card, there: Card) -> dict[str, Any]:
    """The front matter: this run's results; a person's own keys, tags and other results stay, the Hub's before all."""
    headers = [here.header, there.header]
    changed = {
        key: value
        for card in (here, there)
        for key, value in card.header.items()
        if card.wrote.get(key, value) != value
    }
    merged = {**fresh, **here.header, **there.header, **fresh, **changed}
    tags = ["hf_mtl", "multi-task", PIPELINE_TASK, *(tag for header in headers for tag in _as_list(header.get("tags")))]
    merged["tags"] = [tag for place, tag in enumerate(tags) if tag not in tags[:place]]
    indexes = [_index(header) for header in (fresh, *headers)]
    others = {_measured(row): row for index in indexes for _, rows in index for row in rows if row not in _own(rows)}
    results = [*(row for _, rows in indexes[0] for row in _own(rows)), *others.values()]
    names = [name for index in indexes for name, _ in index]
    merged["model-index"] = [{"name": names[0], "results": results}] if results else None
    order = [*(key for key in merged if key not in ("tags", "model-index")), "tags", "model-index"]
    return {key: merged[key] for key in order if merged[key] is not None}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _index(header: Mapping[str, Any]) -> list[tuple[Any, list[Any]]]:
    """Name and results of each model in the model-index."""
    models = [model for model in _as_list(header.get("model-index")) if isinstance(model, dict)]
    return [(model.get("name"), [row for row in _as_list(model.get("results")) if row]) for model in models]


def _own(rows: Sequence[Any]) -> list[Any]:
    """The results that were written here."""
    tasks = [row.get("task") if isinstance(row, dict) else None for row in rows]
    names = [task.get("name") if isinstance(task, dict) else None for task in tasks]
    return [row for row, name in zip(rows, names, strict=True) if str(name).endswith(OWN_RESULT)]


def _measured(row: Any) -> str:
    """The key of a result: task, dataset and metric types, so that an edited value replaces the old one."""
    if not isinstance(row, dict):
        return repr(row)
    kinds = [metric.get("type") for metric in _as_list(row.get("metrics")) if isinstance(metric, dict)]
    return repr([row.get("task"), row.get("dataset"), kinds])
