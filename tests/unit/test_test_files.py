"""Where tests stand, how long a file of them is, and that CI runs what the README says."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "tests").rglob("*.py"))


def test_every_test_is_in_one_of_three_folders_under_a_name_of_its_own():
    files = [path for path in FILES if path.name.startswith("test_")]
    assert {path.parent.name for path in files} == {"unit", "integration", "distributed"}
    assert len({path.name for path in files}) == len(files)


def test_no_file_has_more_than_400_lines():
    long = {path.name: lines for path in FILES if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400}
    assert not long


def test_ci_calls_the_readmes_test_command():
    (command,) = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if "pytest" in line]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
