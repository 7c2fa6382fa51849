"""The files of a GLUE submission: names, header, words and order as the board documents them."""

import zipfile

import numpy as np
import pytest

from hf_mtl import load_tasks
from hf_mtl.tasks.glue_board import BOARD, BoardFile, board_lines, write_submission

TASKS = {spec.name: spec for spec in load_tasks("glue")}
# A file for each class of its task, or for values inside and outside of the range, in the board's words.
GOLDEN = {
    "CoLA": ([0, 1], "0 1"),
    "SST-2": ([1, 0, 1], "1 0 1"),
    "MRPC": ([1, 0], "1 0"),
    "STS-B": ([-0.2, 2.34567, 5.0, 7.5], "0.000 2.346 5.000 5.000"),
    "QQP": ([0, 1], "0 1"),
    "MNLI-m": ([0, 1, 2], "entailment neutral contradiction"),
    "MNLI-mm": ([2, 1], "contradiction neutral"),
    "QNLI": ([0, 1], "entailment not_entailment"),
    "RTE": ([1, 0], "not_entailment entailment"),
    "WNLI": ([0, 1], "0 1"),
    "AX": ([1, 0, 2], "neutral entailment contradiction"),
}


def golden(name):
    words = GOLDEN[name][1].split()
    return "index\tprediction\n" + "".join(f"{row}\t{word}\n" for row, word in enumerate(words))


def lines_of(file: BoardFile):
    return board_lines(file.spec(TASKS[file.task]), np.array(GOLDEN[file.name][0]))


def test_every_file_of_the_board_is_written_in_its_words(tmp_path):
    write_submission(tmp_path / "predictions", {file.name: lines_of(file) for file in BOARD})
    with zipfile.ZipFile(tmp_path / "predictions" / "submission.zip") as archive:
        found = {name: archive.read(name).decode() for name in archive.namelist()}
    assert found == {f"{name}.tsv": golden(name) for name in GOLDEN}
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["submission.zip"]


def test_every_task_of_glue_has_a_file():
    assert {file.task for file in BOARD} == set(TASKS)


@pytest.mark.parametrize(
    ("name", "config", "split"), [("MNLI-m", "mnli", "test_matched"), ("MNLI-mm", "mnli", "test_mismatched")]
)
def test_rows_of_mnli_are_those_of_the_file(name, config, split):
    (file,) = (file for file in BOARD if file.name == name)
    spec = file.spec(TASKS["mnli"])
    assert (spec.config, spec.splits["test"]) == (config, split)
    (diagnostic,) = (file for file in BOARD if file.name == "AX")
    spec = diagnostic.spec(TASKS["mnli"])
    assert (spec.name, spec.config, dict(spec.splits)) == ("mnli", "ax", {})


def test_equal_predictions_are_equal_bytes(tmp_path):
    for folder in ("one", "two"):
        write_submission(tmp_path / folder, {"RTE": golden("RTE").splitlines()})
    one, two = ((tmp_path / folder / "submission.zip").read_bytes() for folder in ("one", "two"))
    assert one == two


def test_what_the_board_would_not_take_is_told(tmp_path):
    full = {file.name: ["index\tprediction", *("0\t0" for _ in range(file.num_rows))] for file in BOARD}
    assert write_submission(tmp_path, full) == []
    few = {"SST-2": full["SST-2"], "STS-B": full["STS-B"][:-1]}
    assert write_submission(tmp_path, few) == [
        "submission.zip: STS-B.tsv has 1,378 rows, the board expects 1,379",
        "submission.zip has 2 of 11 files; the board wants the others too: "
        "CoLA, MRPC, QQP, MNLI-m, MNLI-mm, QNLI, RTE, WNLI, AX",
    ]
