"""Writes the table of a task file's keys into docs/tasks.md, from the docstrings and defaults of the dataclasses.

python docs/task_keys.py
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

from hf_mtl import TaskSpec
from hf_mtl.model.heads import HeadOptions

PAGE = Path(__file__).parent / "tasks.md"
BEGIN, END = "<!-- made by docs/task_keys.py -->\n", "<!-- end of what docs/task_keys.py makes -->\n"


def documented(owner: type) -> dict[str, str]:
    """Arguments, one or several with commas between -> what the docstring of a dataclass says of them."""
    arguments = re.split(r"\n\w+:\n", (inspect.getdoc(owner) or "").split("Args:\n")[1])[0]
    entries = re.findall(r"^    (\w[\w, ]*): (.*?)(?=^    \w|\Z)", f"{arguments}\n", flags=re.M | re.S)
    return {names: " ".join(text.split()) for names, text in entries}


def table() -> str:
    """A row for each key that a task may have."""
    fields = {field.name: field for field in dataclasses.fields(TaskSpec)}
    of_head = documented(HeadOptions)
    lines = ["| key | unless given | meaning |", "|---|---|---|"]
    for names, text in documented(TaskSpec).items():
        for name in names.split(", "):
            meaning = of_head.get(name, text).replace("|", "\\|").removesuffix(".")
            lines.append(f"| `{name}` | {_default(fields[name])} | {_linked(meaning)} |")
    return "\n".join(line for line in lines if not line.startswith("| `name`")) + "\n"


def _linked(text: str) -> str:
    """A text whose pages of the docs, such as docs/data.md#splits, are links from the page of the table."""
    return re.sub(r"docs/(\w+)(\.md(?:#[\w-]+)?)", r"[\1](\1\2)", text)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "" if callable(field.default_factory) else "wanted"
    return f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`" if field.default else ""


def with_table(page: str) -> str:
    """The page with its table made anew."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
