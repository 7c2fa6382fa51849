"""README, CONTRIBUTING and the pages of the docs: their size, and that what they name and link to is there."""

import dataclasses
import re
import runpy
from pathlib import Path

import pytest
import yaml

from hf_mtl import TaskSpec, __version__

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "setup.cfg").exists())
PACKAGE = ROOT / "hf_mtl"
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED_FILE = re.compile(r"`((?:hf_mtl|tests|benchmarks|examples|docs)/[\w/.]+\.\w+)(?:::\w+)?`")


def read(path):
    return path.read_text(encoding="utf-8")


def without_code(text):
    return re.sub(r"```.*?```", "", text, flags=re.S)


def anchors(page):
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    titles = re.findall(r"^#+ (.+)$", without_code(read(page)), flags=re.M)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def test_the_readme_fits_on_one_screen():
    text = read(ROOT / "README.md")
    assert len(text.splitlines()) <= 120
    assert len(text.split()) <= 1000


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_and_images_lead_somewhere(page):
    for target in LINK.findall(without_code(read(page))):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.is_file(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page):
    missing = {name for name in NAMED_FILE.findall(read(page)) if not (ROOT / name).exists()}
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_is_python(page):
    for block in re.findall(r"```python\n(.*?)```", read(page), flags=re.S):
        compile(block, page.name, "exec")


def test_an_image_is_a_picture():
    for image in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", read(ROOT / "README.md")):
        content = (ROOT / image).read_bytes()
        assert content.startswith((b"\x89PNG", b"<svg ")) and len(content) < 300_000


def modules_by_section():
    """Folder of hf_mtl -> the modules that its table in docs/design.md names; "" for the ground."""
    _, *sections = re.split(r"^### ", read(ROOT / "docs" / "design.md").partition("\n## Modules\n")[2], flags=re.M)
    found = {}
    for section in sections:
        title, _, table = section.partition("\n")
        folder = re.match(r"`(\w+)/`", title)
        found[folder[1] if folder else ""] = set(re.findall(r"(\w+\.py)`", table))
    return found


def test_every_module_is_in_the_design_and_nothing_else():
    """In the table of its folder; `__init__.py` of a folder says what the table's title says."""
    named = modules_by_section()
    folders = ["", *(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())]
    for folder in folders:
        files = (PACKAGE / folder).rglob("*.py") if folder else PACKAGE.glob("*.py")
        there = {path.name for path in files if path.name != "__init__.py" or not folder}
        assert named.get(folder, set()) == there, folder or "the ground"


def test_a_newcomer_reads_few_files():
    """Eight files to follow a step, four to follow a prediction."""
    text = read(ROOT / "CONTRIBUTING.md").partition("## What to read")[2].partition("\n## ")[0]
    lists = [re.findall(r"^\d+\. `(.+?)`", part, flags=re.M) for part in text.split("To follow ")[1:]]
    assert [len(files) for files in lists] == [8, 4]
    assert all((ROOT / file).is_file() for files in lists for file in files)


def nav_files(entry):
    """The files of an entry of mkdocs.yml's nav, which may hold further entries."""
    if isinstance(entry, str):
        return [entry]
    values = entry.values() if isinstance(entry, dict) else entry
    return [file for value in values for file in nav_files(value)]


def test_the_site_has_every_page():
    nav = nav_files(yaml.safe_load(read(ROOT / "mkdocs.yml"))["nav"])
    assert sorted(nav) == sorted(str(page.relative_to(ROOT / "docs")) for page in DOCS)


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load(read(ROOT / "CITATION.cff"))
    assert citation["cff-version"] == "1.2.0" and citation["authors"] and citation["title"].startswith("hf_mtl")
    assert citation["version"] == __version__


def test_the_table_of_keys_is_what_its_script_makes():
    script = runpy.run_path(str(ROOT / "docs" / "task_keys.py"))
    page = read(ROOT / "docs" / "tasks.md")
    assert script["with_table"](page) == page, "run: python docs/task_keys.py"
    keys = {field.name for field in dataclasses.fields(TaskSpec)} - {"name"}
    assert set(re.findall(r"^\| `(\w+)` \|", script["table"](), flags=re.M)) == keys
