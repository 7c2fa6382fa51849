"""What the tests of tables share: a task over them, a frame to write, and folders of files."""

import json
from pathlib import Path

import pandas as pd

from hf_mtl import TaskSpec
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.tasks.labels import read_labels

FRAME = pd.DataFrame(
    {
        "text": ["a good film", 'say "hello, world"', "commas, many, of them", "ünïcödé 漢字", "NA", "null", "None"],
        "label": [1, 1, 0, 0, 1, 0, 1],
    }
)
TEXTS = {"text": ["the film", "the plot is dull"]}


def task(**changes) -> TaskSpec:
    """A task of one text; of two classes, or with `label_range` a regression."""
    values = {"name": "t", "kind": "classification", "text_columns": ("text",), "labels": ("bad", "good")}
    if "label_range" in changes:
        values.update(kind="regression", labels=None)
    if "dataset" not in changes:
        values["files"] = {"train": "none.csv"}
    return TaskSpec(**{**values, **changes})


def folder(path: Path, **files: str | bytes) -> str:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def write(frame: pd.DataFrame, path: Path) -> Path:
    match path.suffix:
        case ".csv":
            frame.to_csv(path, index=False)
        case ".tsv":  # as GLUE's files: nothing is quoted
            lines = ["\t".join(frame.columns), *("\t".join(map(str, row)) for row in frame.itertuples(index=False))]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        case ".jsonl":
            lines = [json.dumps(row, ensure_ascii=False) for row in frame.to_dict("records")]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        case ".parquet":
            frame.to_parquet(path, index=False)
    return path


def load(path: Path, split: str = "train", **changes) -> tuple[list, list]:
    """Texts and labels of a file."""
    spec = task(files={split: str(path)}, **changes)
    rows = load_rows(spec, split)
    return rows["text"][:], read_labels(spec, rows, split).tolist()
