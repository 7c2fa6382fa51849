"""What goes to the Hub: a list of files that may, and a model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, ModelCardData

from .tasks import TaskSpec

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
    "training_curves.png",
    "all_results.json",
]


def model_card(repo_id: str, tasks: Sequence[TaskSpec], metrics: Mapping[str, float], *, curves: bool) -> str:
    """A card with the tasks, their scores on validation and code that loads the model.

    Args:
        repo_id: "user/name" on the Hub.
        tasks: of the model.
        metrics: "eval_<task>_<metric>" -> fraction; what is missing is left out.
        curves: whether training_curves.png is published too.
    """
    header = ModelCardData(library_name="hf_mtl", tags=["multi-task", "text-classification", "sentence-similarity"])
    table = [
        f"| {spec.name} | {spec.kind} | {metric} | {100 * metrics[key]:.2f} |"
        for spec in tasks
        for metric in spec.metrics
        if (key := f"eval_{spec.name}_{metric}") in metrics
    ]
    example = tasks[0]
    texts = '"A text."' if len(example.text_columns) == 1 else '"A text.", "Another."'
    lines = [
        f"---\n{header.to_yaml()}\n---",
        f"# {repo_id.split('/')[-1]}",
        "One encoder with a head per task, fine-tuned with `hf_mtl`.",
        "\n".join(["| task | kind | metric | validation, % |", "|---|---|---|---:|", *table]),
        *(["![losses and scores per task](training_curves.png)"] if curves else []),
        "```python\n"
        "from hf_mtl import MultiTaskModel\n"
        "from transformers import AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{repo_id}")\n'
        f'model = MultiTaskModel.from_pretrained("{repo_id}")\n'
        f'logits = model(task="{example.name}", **tokenizer({texts}, return_tensors="pt")).logits\n'
        f'print(model.decode("{example.name}", logits))\n'
        "```",
    ]
    return "\n\n".join(lines) + "\n"


def publish(
    folder: Path,
    repo_id: str,
    tasks: Sequence[TaskSpec],
    metrics: Mapping[str, float],
    *,
    message: str,
    token: str | None = None,
    revision: str | None = None,
) -> str:
    """Write a card unless a person's own is there, and upload the files of `folder` that may be published.

    Args:
        folder: holds the model and the tokenizer.
        repo_id: "user/name" on the Hub; it exists.
        tasks: of the model.
        metrics: "eval_<task>_<metric>" -> fraction, for the card.
        message: of the commit.
        token: of the Hub; the one that is logged in unless given.
        revision: branch to commit to.

    Returns:
        The commit's address.
    """
    if not (folder / "README.md").exists():
        curves = (folder / "training_curves.png").exists()
        ModelCard(model_card(repo_id, tasks, metrics, curves=curves)).save(folder / "README.md")
    commit = HfApi().upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        commit_message=message,
        token=token,
        revision=revision,
        allow_patterns=PUBLISHED,
    )
    return str(commit)
