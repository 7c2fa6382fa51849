"""How often a run sees each task's rows: told before it begins, in the closing table and on the card."""

import json
import logging

import pytest

import run_glue_mtl
from hf_mtl.tasks.demo import demo_rows

TASKS = """
defaults: {{kind: classification, text_columns: [sentence], labels: [bad, good]}}
tasks:
  few: {{files: {{train: {0}/few.jsonl, validation: {0}/few.jsonl}}}}
  many: {{files: {{train: {0}/many.jsonl, validation: {0}/few.jsonl}}}}
"""


@pytest.fixture
def run(tmp_path, capsys, caplog):
    """What is printed by a run of some steps of 8 + 8 rows of 20 and of 200, and what is warned of."""
    columns = demo_rows("reviews", "train")
    rows = [
        {"sentence": text, "label": label} for text, label in zip(columns["sentence"], columns["label"], strict=True)
    ]
    for name, number in (("few", 20), ("many", 200)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:number]))
    (tmp_path / "tasks.yaml").write_text(TASKS.format(tmp_path))

    def start(steps):
        flags = f"--task_set {tmp_path}/tasks.yaml --model_name_or_path embedded:demo --output_dir {tmp_path}/out "
        flags += "--do_train --do_eval --use_cpu --eval_strategy no --save_strategy no --unfreeze_schedule none "
        flags += "--disable_tqdm true --train_metric_rows 0 --per_device_train_batch_size 16 --task_sampling equal "
        with caplog.at_level(logging.WARNING, logger="hf_mtl"):
            run_glue_mtl.main([*flags.split(), "--max_steps", str(steps)])
        return capsys.readouterr().out, [each.message for each in caplog.records if "times each" in each.message]

    return start


def test_a_task_whose_rows_come_often_is_told_and_the_table_and_the_card_say_how_often(run, tmp_path):
    table, told = run(60)
    assert len(told) == 1 and told[0].startswith("few: 20 rows, 24 times each in this run; a smaller sampling_weight")
    seen = {line.split()[0]: line.split()[-2] for line in table.splitlines() if line.rstrip().endswith(" times")}
    assert seen == {"few": "24", "many": "2.4"}
    assert "| how often each row was seen | few 24, many 2.4 |" in (tmp_path / "out" / "README.md").read_text()


def test_a_run_that_repeats_little_says_nothing(run):
    table, told = run(3)
    assert told == [] and "1.2 times" in table
