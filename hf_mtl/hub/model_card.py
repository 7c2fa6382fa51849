"""The model card: what a run knows of its model, between two marks; what a person wrote around them stays."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from ..model.export_code import PIPELINE_TASK
from ..model.travelling_heads import OWN_KINDS
from ..tasks.kinds import KINDS
from ..tasks.metric_names import shown_score
from ..tasks.spec import EMBEDDED, TaskSpec
from .card_merge import OWN_RESULT, USUAL, Card, in_code, joined, model_name, split_card


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
        revision: the branch that the model is on, unless it is the main one.
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
    revision: str | None = None


def model_card(facts: CardFacts, folder: str = "", published: str | None = "") -> str:
    """A card with the facts, and with what people wrote into the folder's card and into the Hub's.

    Args:
        facts: what it tells.
        folder: the card that is in the folder.
        published: the one on the Hub; None when this card is for the folder only.
    """
    here, there = split_card(folder), None if published is None else split_card(published)
    trained = _training_section(here.own) or _training_section(there.own if there else "")
    own = "\n\n".join(_sections(facts, trained))
    return joined(Card(header=own_header(facts), own=own, repo_id=facts.repo_id), here, there)


def own_header(facts: CardFacts) -> dict[str, Any]:
    """The front matter of a card that nobody wrote into."""
    known = {"base_model": facts.base_model, "license": facts.licence}
    results, tags = eval_results(facts), {pipeline_tag(spec) for spec in facts.tasks}
    return {
        **USUAL,
        **({"pipeline_tag": tags.pop()} if len(tags) == 1 else {}),
        **{key: value for key, value in known.items() if value is not None},
        "model-index": [{"name": model_name(facts.repo_id), "results": results}],
    }


def eval_results(facts: CardFacts) -> list[Any]:
    """The rows of the model-index: every task's metrics on validation, as fractions."""
    results = [
        EvalResult(
            task_type=pipeline_tag(spec),
            task_name=f"{spec.name}{OWN_RESULT}",
            dataset_type=public_source(spec) or spec.name,
            dataset_name=spec.name,
            dataset_config=spec.config if public_source(spec) else None,
            dataset_split=_validation_split(spec),
            metric_type=metric,
            metric_value=facts.metrics[key],
        )
        for spec in facts.tasks
        for metric in spec.metrics
        if (key := f"eval_{spec.name}_{metric}") in facts.metrics
    ]
    return list(eval_results_to_model_index("", results)[0]["results"]) if results else []


def pipeline_tag(spec: TaskSpec) -> str:
    """The Hub's word for what a head does."""
    return KINDS[spec.kind].pipeline_tag if spec.kind in KINDS else USUAL["pipeline_tag"]


def _validation_split(spec: TaskSpec) -> str:
    """What the rows of a task's scores are, among those of its data."""
    if spec.validation_fraction is not None:
        return f"{spec.splits.get('train', 'train')} ({spec.validation_fraction:.1%} held out)"
    return spec.splits.get("validation", "validation")


def public_source(spec: TaskSpec) -> str | None:
    """The Hub id of a task's data; None for data of this machine, whose place is nobody else's business."""
    dataset = spec.dataset
    is_id = dataset is not None and dataset != EMBEDDED and re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", dataset)
    return dataset if is_id and not os.path.exists(str(dataset)) else None


def _training_section(own: str) -> str:
    """How the model was trained, as a card tells it."""
    _, title, rest = own.partition("## Training\n")
    return (title + rest).strip()


def _sections(facts: CardFacts, trained: str) -> list[str]:
    """The body between the marks; without a set-up, what a card told before of the training stays."""
    split_sizes = {name: dict(sizes) for name, sizes in facts.sizes.items()}
    titles = "| task | kind | labels | data |" + "".join(f" {split} rows |" for split in split_sizes)
    rule = "|---|---|---|---|" + "---:|" * len(split_sizes)
    tasks = [
        f"| {spec.name} | {spec.kind} | {_escaped(spec.labels_in_words)} | {_source(spec)} |"
        + "".join(f" {sizes[spec.name]:,} |" if spec.name in sizes else " |" for sizes in split_sizes.values())
        for spec in facts.tasks
    ]
    scores = [
        f"| {spec.name} | {_escaped(spec.metric_title(metric))} | {shown_score(metric, facts.metrics[key])} |"
        for spec in facts.tasks
        for metric in spec.metrics
        if (key := f"eval_{spec.name}_{metric}") in facts.metrics
    ]
    base = f" of [{facts.base_model}](https://huggingface.co/{facts.base_model})" if facts.base_model else ""
    sections = [
        f"# {model_name(facts.repo_id)}",
        f"One encoder{base} with a head per task, fine-tuned on all of them at once with `hf_mtl`.",
        "\n".join([titles, rule, *tasks]),
    ]
    if scores:
        sections += ["## Scores", "\n".join(["| task | metric | validation, % |", "|---|---|---:|", *scores])]
    sections += ["## Use", _code(facts)]
    return sections + ([trained] if trained and not facts.setup else _training(facts))


def _training(facts: CardFacts) -> list[str]:
    setup = [f"| {name} | {value} |" for name, value in facts.setup.items()]
    if facts.conflicts is not None:
        setup.append(f"| steps in which two tasks' gradients conflicted | {facts.conflicts:.1%} |")
    sections = ["## Training", "\n".join(["| | |", "|---|---|", *setup])] if setup else []
    return [*sections, "![losses and scores per task](training_curves.png)"] if facts.curves else sections


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _source(spec: TaskSpec) -> str:
    source = public_source(spec)
    if source is None:
        return "generated" if spec.dataset == EMBEDDED else "local files" if spec.dataset or spec.files else "own rows"
    return f"[{source}](https://huggingface.co/datasets/{source})" + (f", {spec.config}" if spec.config else "")


def _code(facts: CardFacts) -> str:
    pairs = {
        1: '"The script is clever, and the cast never disappoints."',
        2: '("The doctor bought the car.", "The physician purchased the automobile.")',
    }
    name = in_code(facts.repo_id, facts.revision)
    lines = [
        "```python",
        "from transformers import pipeline",
        "",
        f'pipe = pipeline("{PIPELINE_TASK}", model={name}, trust_remote_code=True)',
        *(f"print(pipe({pairs[n]}))" for n in sorted({len(spec.text_columns) for spec in facts.tasks})),
        "```",
        "",
        _about_the_code(facts.tasks, f"`hf_mtl.MultiTaskModel.from_pretrained({name})` gives the model itself."),
    ]
    return "\n".join(lines)


def _about_the_code(tasks: Sequence[TaskSpec], with_package: str) -> str:
    runs = "`trust_remote_code=True` runs the code that lies beside the weights."
    foreign = [f"`{kind}`" for kind in dict.fromkeys(spec.kind for spec in tasks) if kind not in OWN_KINDS]
    if not foreign:
        return f"{runs} With `hf_mtl` installed and imported it is not needed, and {with_package}"
    return (
        f"{runs} It wants a process that does not import `hf_mtl`, which does not know {', '.join(foreign)}. After "
        f"`hf_mtl.plugins.load_plugin(...)` with the file that registers {'it' if len(foreign) == 1 else 'them'}, "
        f"{with_package}"
    )
