"""`--do_predict` with GLUE's tasks, on small data in the layout of the Hub's repository."""

import logging
import zipfile

import pandas
import pytest

import run_glue_mtl

CONFIGS = {
    "sst2": {"train": "train", "validation": "validation", "test": "test"},
    "mnli": {
        "train": "train",
        "validation_matched": "validation",
        "test_matched": "test",
        "test_mismatched": "test",
    },
    "ax": {"test": "test"},
}
ROWS = {"train": 24, "validation": 8, "test": 5, "test_matched": 6, "test_mismatched": 7, "validation_matched": 9}


def write_glue(folder, configs):
    """SST-2, MNLI and the diagnostic rows, of which test rows have the label -1 as on the Hub."""
    card = ["---", "configs:"]
    for config in configs:
        card += [f"- config_name: {config}", "  data_files:"]
        for split, role in CONFIGS[config].items():
            card += [f"  - split: {split}", f"    path: {config}/{split}-*"]
            numbers = range(4 if config == "ax" else ROWS[split])
            classes = 2 if config == "sst2" else 3
            columns = {"sentence": [f"film {number} was good" for number in numbers]}
            if config != "sst2":
                columns = {
                    "premise": [f"{number} men sat" for number in numbers],
                    "hypothesis": [f"{number} slept" for number in numbers],
                }
            labels = [-1 if role == "test" else number % classes for number in numbers]
            path = folder / config / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(exist_ok=True)
            pandas.DataFrame({**columns, "label": labels, "idx": list(numbers)}).to_parquet(path, index=False)
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    return folder


def run(data, out, *tasks):
    flags = f"--dataset_name {data} --model_name_or_path embedded:demo --output_dir {out} --do_train --do_predict "
    flags += "--max_steps 2 --per_device_train_batch_size 8 --use_cpu --disable_tqdm true --eval_strategy no "
    flags += "--save_strategy no --unfreeze_schedule none --train_metric_rows 0 --tasks"
    run_glue_mtl.main([*flags.split(), *tasks])
    with zipfile.ZipFile(out / "predictions" / "submission.zip") as archive:
        return {name: archive.read(name).decode().splitlines() for name in archive.namelist()}


@pytest.mark.parametrize("with_ax", [True, False])
def test_the_head_of_mnli_answers_all_of_its_files(tmp_path, monkeypatch, caplog, with_ax):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    data = write_glue(tmp_path / "data", [name for name in CONFIGS if with_ax or name != "ax"])
    with caplog.at_level(logging.WARNING, logger="hf_mtl"):
        files = run(data, tmp_path / "out", "sst2", "mnli")
    sizes = {"SST-2.tsv": 5, "MNLI-m.tsv": 6, "MNLI-mm.tsv": 7, **({"AX.tsv": 4} if with_ax else {})}
    assert {name: len(lines) - 1 for name, lines in files.items()} == sizes
    words = {"entailment", "neutral", "contradiction"}
    for name, lines in files.items():
        assert lines[0] == "index\tprediction"
        indices, answers = zip(*(line.split("\t") for line in lines[1:]), strict=True)
        assert [int(index) for index in indices] == list(range(sizes[name]))
        assert set(answers) <= ({"0", "1"} if name == "SST-2.tsv" else words)
    names = (tmp_path / "out" / "predictions" / "sst2.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[1] for line in names] == [
        {"0": "negative", "1": "positive"}[line.split("\t")[1]] for line in files["SST-2.tsv"][1:]
    ]
    told = caplog.text
    assert "SST-2.tsv has 5 rows, the board expects 1,821" in told
    assert f"submission.zip has {len(sizes)} of 11 files; the board wants the others too: CoLA" in told
    assert ("no rows for AX" in told) == (not with_ax)
