"""A gradient method from a file beside the package: a run by its name, and what it gives."""

import json
from pathlib import Path

import pytest
import torch

import run_glue_mtl
from hf_mtl import make_weighting
from hf_mtl.plugins import load_plugin

PLUGIN = Path(__file__).parents[2] / "examples" / "plugins" / "loudest_task.py"

pytestmark = pytest.mark.usefixtures("plugins_of_this_test")


TASK = "{{kind: classification, text_columns: text, labels: [bad, good], files: {{train: {}/rows.jsonl}}}}"


def test_a_run_from_a_file_of_arguments_takes_it(tmp_path):
    rows = [{"text": f"{word} film {number}", "label": word} for number in range(8) for word in ("bad", "good")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    task = TASK.format(tmp_path)
    (tmp_path / "tasks.yaml").write_text(f"tasks: {{one: {task}, two: {task}}}")
    values = {
        "plugin": str(PLUGIN),
        "gradient_method": "loudest_task",
        "gradient_method_args": {"sharpness": 2},
        "model_name_or_path": "embedded:demo",
        "task_set": str(tmp_path / "tasks.yaml"),
        "unfreeze_schedule": "none",
        "output_dir": str(tmp_path / "out"),
        "do_train": True,
        "use_cpu": True,
        "max_steps": 2,
        "eval_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    (tmp_path / "run.json").write_text(json.dumps(values))
    run_glue_mtl.main([str(tmp_path / "run.json")])
    assert json.loads((tmp_path / "out" / "trainer_state.json").read_text())["global_step"] == 2
    assert "loudest_task" in (tmp_path / "out" / "README.md").read_text()


def test_its_weights_are_the_gradients_lengths():
    load_plugin(PLUGIN)
    weigh = make_weighting("loudest_task")
    gramian = torch.tensor([[9.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(weigh(gramian, torch.Generator()), torch.tensor([1.5, 0.5], dtype=torch.float64))
    assert weigh(torch.zeros(2, 2, dtype=torch.float64), torch.Generator()).tolist() == [1.0, 1.0]
