"""The model card: what a run knows of its model, between two marks; what a person writes around them stays."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from .model_files import PIPELINE_TASK
from .tasks import EMBEDDED, TaskSpec

START = "<!-- hf_mtl writes from here; what stands above or below the two marks stays as it is -->"
END = "<!-- hf_mtl writes to here -->"
OWN_RESULT = " (a head of this model)"  # tells rows of the model-index that were written here from a person's
_FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?\n?", re.S)


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card tells.

    Args:
        repo_id: "user/name" on the Hub.
        tasks: of the model.
        metrics: "eval_<task>_<metric>" -> fraction; what is missing is left out.
        sizes: split -> task -> rows.
        setup: name -> value of the run's settings, as they are to be read.
        conflicts: share of the steps in which two tasks' gradients had a negative inner product.
        curves: whether training_curves.png is published too.
        base_model: Hub id of the encoder that training began with.
        licence: the Hub's name of one, e.g. "apache-2.0".
    """

    repo_id: str
    tasks: Sequence[TaskSpec]
    metrics: Mapping[str, float] = field(default_factory=dict)
    sizes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    setup: Mapping[str, str] = field(default_factory=dict)
    conflicts: float | None = None
    curves: bool = False
    base_model: str | None = None
    licence: str | None = None


def model_card(facts: CardFacts, *existing: str) -> str:
    """A card with the facts, and with what a person wrote into the existing ones.

    Args:
        facts: what is written between the marks, and into the front matter.
        existing: cards, e.g. the folder's and the Hub's; the first one wins where two differ in a key. A card without
            marks is a person's own and stays above the marks.
    """
    header: dict[str, Any] = {}
    above, below = "", ""
    for card in existing:
        its_header, its_above, its_below = split_card(card)
        header = {**its_header, **header}
        above, below = _both(above, its_above), _both(below, its_below)
    parts = [
        f"---\n{yaml.safe_dump(merged_header(facts, header), sort_keys=False, allow_unicode=True)}---",
        above,
        START,
        *_sections(facts),
        END,
        below,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def split_card(card: str) -> tuple[dict[str, Any], str, str]:
    """Front matter, and what stands above and below the marks; without marks, everything stands above."""
    found = _FRONT_MATTER.match(card)
    header = yaml.safe_load(found[1]) if found else {}
    body = card[found.end() :] if found else card
    above, start, rest = body.partition(START)
    below = rest.partition(END)[2] if start else ""
    return header if isinstance(header, dict) else {}, above.strip(), below.strip()


def _both(one: str, other: str) -> str:
    """Two versions of a hand-written part as one, without a loss."""
    return one if other in one else other if one in other else f"{one}\n\n{other}"


def merged_header(facts: CardFacts, existing: Mapping[str, Any]) -> dict[str, Any]:
    """The front matter: the results of this run; a person's own keys, licence, tags and other results stay."""
    usual = {"library_name": "transformers", "pipeline_tag": "text-classification"}
    known = {key: v for key, v in (("base_model", facts.base_model), ("license", facts.licence)) if v is not None}
    tags = dict.fromkeys(["hf_mtl", "multi-task", PIPELINE_TASK, *(existing.get("tags") or [])])
    results = eval_results(facts)
    kept = [row for row in _results(existing) if not str(row["task"].get("name")).endswith(OWN_RESULT)]
    index = [{"name": facts.repo_id.split("/")[-1], "results": [*results, *kept]}] if results or kept else None
    merged = {**usual, **existing, **known, "tags": list(tags), "model-index": index}
    return {key: value for key, value in merged.items() if value is not None}


def _results(header: Mapping[str, Any]) -> list[Any]:
    return [row for model in header.get("model-index") or [] for row in model.get("results", [])]


def eval_results(facts: CardFacts) -> list[Any]:
    """The rows of the model-index: every task's metrics on validation, as fractions."""
    results = [
        EvalResult(
            task_type="text-classification",
            task_name=f"{spec.name}{OWN_RESULT}",
            dataset_type=public_source(spec) or spec.name,
            dataset_name=spec.name,
            dataset_config=spec.config if public_source(spec) else None,
            dataset_split=spec.splits.get("validation", "validation"),
            metric_type=metric,
            metric_value=facts.metrics[key],
        )
        for spec in facts.tasks
        for metric in spec.metrics
        if (key := f"eval_{spec.name}_{metric}") in facts.metrics
    ]
    return list(eval_results_to_model_index("", results)[0]["results"]) if results else []


def public_source(spec: TaskSpec) -> str | None:
    """The Hub id of a task's data; None for data of this machine, whose place is nobody else's business."""
    dataset = spec.dataset
    is_id = dataset is not None and dataset != EMBEDDED and re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", dataset)
    return dataset if is_id and not os.path.exists(str(dataset)) else None


def _sections(facts: CardFacts) -> list[str]:
    """The body between the marks."""
    split_sizes = {name: dict(sizes) for name, sizes in facts.sizes.items()}
    titles = "| task | kind | labels | data |" + "".join(f" {split} rows |" for split in split_sizes)
    rule = "|---|---|---|---|" + "---:|" * len(split_sizes)
    tasks = [
        f"| {spec.name} | {spec.kind} | {_labels(spec)} | {_source(spec)} |"
        + "".join(f" {sizes[spec.name]:,} |" if spec.name in sizes else " |" for sizes in split_sizes.values())
        for spec in facts.tasks
    ]
    scores = [
        f"| {spec.name} | {metric} | {100 * facts.metrics[key]:.2f} |"
        for spec in facts.tasks
        for metric in spec.metrics
        if (key := f"eval_{spec.name}_{metric}") in facts.metrics
    ]
    setup = [f"| {name} | {value} |" for name, value in facts.setup.items()]
    if facts.conflicts is not None:
        setup.append(f"| steps in which two tasks' gradients conflicted | {facts.conflicts:.1%} |")
    base = f" of [{facts.base_model}](https://huggingface.co/{facts.base_model})" if facts.base_model else ""
    sections = [
        f"# {facts.repo_id.split('/')[-1]}",
        f"One encoder{base} with a head per task, fine-tuned on all of them at once with `hf_mtl`.",
        "\n".join([titles, rule, *tasks]),
    ]
    if scores:
        sections += ["## Scores", "\n".join(["| task | metric | validation, % |", "|---|---|---:|", *scores])]
    sections += ["## Use", _code(facts)]
    if setup:
        sections += ["## Training", "\n".join(["| | |", "|---|---|", *setup])]
    if facts.curves:
        sections.append("![losses and scores per task](training_curves.png)")
    return sections


def _labels(spec: TaskSpec) -> str:
    if spec.labels:
        return ", ".join(spec.labels).replace("|", "\\|")
    assert spec.label_range is not None
    return f"{spec.label_range[0]:g} to {spec.label_range[1]:g}"


def _source(spec: TaskSpec) -> str:
    source = public_source(spec)
    if source is None:
        return "generated" if spec.dataset == EMBEDDED else "local files"
    return f"[{source}](https://huggingface.co/datasets/{source})" + (f", {spec.config}" if spec.config else "")


def _code(facts: CardFacts) -> str:
    pairs = {1: '"A film that could not be more charming."', 2: '("A man is sleeping.", "A man rests.")'}
    lines = [
        "```python",
        "from transformers import pipeline",
        "",
        f'pipe = pipeline("{PIPELINE_TASK}", model="{facts.repo_id}", trust_remote_code=True)',
        *(f"print(pipe({pairs[n]}))" for n in sorted({len(spec.text_columns) for spec in facts.tasks})),
        "```",
        "",
        "`trust_remote_code=True` runs the code that lies beside the weights. With `hf_mtl` installed and imported it "
        f'is not needed, and `hf_mtl.MultiTaskModel.from_pretrained("{facts.repo_id}")` gives the model itself.',
    ]
    return "\n".join(lines)
