"""What stands beside the weights: the code that reads them, and the files that sentence-transformers looks for.

Imports the standard library only: it travels with a saved model's code.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

PIPELINE_TASK = "multi-task-classification"
_HERE = Path(__file__).resolve().parent


def modeling_code() -> list[str]:
    """The modules that a saved model needs: all in this folder, which import each other, torch and transformers only.

    transformers adds pipeline.py to a copy of it when somebody asks for the pipeline.
    """
    return sorted(path.stem for path in _HERE.glob("*.py") if path.stem != "__init__")


def code_names() -> dict[str, Any]:
    """The entries of config.json by which transformers finds config, model and pipeline in a model's folder.

    transformers fetches pipeline.py only for those who ask for the pipeline; a copy without it does not name it.
    """
    names: dict[str, Any] = {
        "auto_map": {"AutoConfig": "configuration.MultiTaskConfig", "AutoModel": "modeling.MultiTaskModel"}
    }
    if (_HERE / "pipeline.py").exists():
        names["custom_pipelines"] = {PIPELINE_TASK: {"impl": "pipeline.MultiTaskPipeline", "pt": ["AutoModel"]}}
    return names


def copy_modeling_code(folder: Path) -> None:
    """Put the modules that a saved model needs into its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.resolve() != _HERE:
        for module in modeling_code():
            shutil.copyfile(_HERE / f"{module}.py", folder / f"{module}.py")


def describe_for_sentence_transformers(folder: Path, width: int, pooling: str, max_seq_length: int) -> None:
    """Write the files that make an encoder's folder a sentence-transformers model.

    Args:
        folder: holds the encoder and its tokenizer.
        width: of the vectors.
        pooling: "mean", "cls" or "max".
        max_seq_length: where inputs are cut, in tokens.
    """
    modes = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}
    files: dict[str, Any] = {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ],
        "sentence_bert_config.json": {"max_seq_length": max_seq_length, "do_lower_case": False},
        "1_Pooling/config.json": {
            "word_embedding_dimension": width,
            **{f"pooling_mode_{mode}": how == pooling for how, mode in modes.items()},
        },
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
