"""Teachers on two processes: one computes the answers, and the steps are those of one process."""

import dataclasses
import json

import numpy as np
from teachers import save_teacher
from worker_runs import SETTINGS, launch, relative_error, train


def test_two_processes_equal_one_with_two_micro_batches(make_model, specs, tokenizer, tmp_path, monkeypatch):
    settings = {**SETTINGS, "max_steps": 6, "changes": {"pairs": {"kind": "similarity"}}}
    tasks = [specs[0], dataclasses.replace(specs[1], kind="similarity", metrics=(), main_metric="")]
    teacher = save_teacher(make_model(tasks), tokenizer, tmp_path / "teacher")
    taught = {**settings, "teachers": json.dumps({"reviews": teacher, "pairs": teacher}), "disable_tqdm": False}
    runs = {}
    for name, processes, micro_batches in (("two", 2, 1), ("one", 1, 2)):
        cache = tmp_path / f"cache-{name}"
        monkeypatch.setenv("HF_DATASETS_CACHE", str(cache))
        runs[name] = train(tmp_path, name, processes, gradient_accumulation_steps=micro_batches, **taught)
        assert runs[name]["said"].count("teacher of reviews: 100%") == 1  # by one process
        kept = sorted((cache / "hf_mtl" / "teachers").iterdir())
        assert len(kept) == 2 and {file.suffix for file in kept} == {".npy"}
    assert relative_error(runs["two"]["update"], runs["one"]["update"]) <= 1e-5  # fp32 sums in another order
    np.testing.assert_allclose(runs["two"]["losses"], runs["one"]["losses"], rtol=1e-5)
    again = train(tmp_path, "again", 2, **taught)  # reads what the run on one process kept
    assert "teacher of reviews" not in again["said"]
    assert relative_error(again["update"], runs["two"]["update"]) <= 1e-5  # batches of an evaluation, of fewer threads


def test_a_teacher_that_cannot_teach_is_refused_on_every_process(tmp_path):
    settings = {**SETTINGS, "teachers": json.dumps({"reviews": "nowhere/at/all"})}
    done = launch(tmp_path, "two", 2, **settings)
    assert done.returncode != 0
    assert done.stderr.count("Error: task 'reviews': the teacher 'nowhere/at/all' (--teachers) cannot be loaded") >= 2
    assert not (tmp_path / "two").exists()
