"""Balanced class weights are those of all training rows, on every process."""

import numpy as np
import torch
from worker_runs import SETTINGS, relative_error, train, train_here

from hf_mtl.tasks.demo import demo_rows


def test_two_processes_equal_one_with_two_micro_batches(tmp_path):
    options = {"kind": "ordinal", "class_weights": "balanced", "metrics": (), "main_metric": ""}
    settings = {**SETTINGS, "max_steps": 4, "changes": {"reviews": options}}
    two = train(tmp_path, "two", 2, **settings)
    one = train_here(tmp_path, "one", gradient_accumulation_steps=2, **settings)
    assert relative_error(two["update"], one["update"]) <= 1e-5  # sums of fp32 in another order

    labels = demo_rows("reviews", "train")["label"][:120]
    counts = np.bincount([label for row, label in enumerate(labels) if label == 0 or row % 5 == 0])
    wanted = torch.tensor(counts.sum() / (2 * counts), dtype=torch.float32)
    for run in (one, two):
        torch.testing.assert_close(run["class_weights"], wanted)
    assert wanted[1] > 2 * wanted[0]
