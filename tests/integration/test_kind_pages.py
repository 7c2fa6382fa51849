"""Every page of docs/kinds is true: its task file trains on its table, and its command answers as it says."""

import json
import re
import shlex
from pathlib import Path

import pytest

import run_glue_mtl
from hf_mtl.cli import main as cli
from hf_mtl.tasks.kinds import KINDS

FOLDER = Path(__file__).parents[2] / "docs" / "kinds"
PAGES = sorted(path.stem for path in FOLDER.glob("*.md"))
RUN = (
    "--task_set tasks.yaml --model_name_or_path embedded:demo --output_dir out --do_train --do_eval --max_steps 3 "
    "--unfreeze_schedule none --use_cpu --eval_strategy no --save_strategy no --disable_tqdm true"
)


def block(page, *languages):
    """The page's only block of code of a language."""
    found = re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```", page, flags=re.M | re.S)
    assert len(found) == 1, languages
    return found[0]


def shape(value):
    """A value without what a run decides: keys and types stay."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value[:1]]
    return type(value).__name__


def test_every_built_in_kind_has_a_page():
    assert set(KINDS) <= set(PAGES)


@pytest.mark.parametrize("kind", PAGES)
def test_what_a_page_shows(kind, tmp_path, monkeypatch, capsys):
    page = (FOLDER / f"{kind}.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    tasks, table = block(page, "yaml"), block(page, "jsonl", "csv")
    assert f"kind: {kind}" in tasks
    (name,) = set(re.findall(r"rows\.\w+", tasks))
    header, *rows = table.splitlines()
    lines = [header, *rows * 4] if name.endswith("csv") else [header, *rows] * 4
    Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    Path("tasks.yaml").write_text(tasks, encoding="utf-8")
    run_glue_mtl.main(RUN.split())
    capsys.readouterr()
    command = shlex.split(block(page, "bash").replace("\\\n", " "))
    assert command[:2] == ["hf-mtl", "predict"]
    cli(command[1:])
    told = json.loads(capsys.readouterr().out)
    assert shape(told) == shape(json.loads(block(page, "json")))
