"""What the tests of tables share: a task over them, and folders of files."""

from pathlib import Path

from hf_mtl import TaskSpec


def task(**changes) -> TaskSpec:
    values = {"name": "t", "kind": "classification", "text_columns": ("text",), "labels": ("bad", "good")}
    return TaskSpec(**{**values, **changes})


def folder(path: Path, **files: str | bytes) -> str:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)
