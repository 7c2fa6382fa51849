"""Thresholds that are fitted on validation rows are the same on every process, and those of one process."""

import pytest
import torch
from worker_runs import finished, launched

WORKER = """
import os, sys, torch
from datasets import Dataset
from transformers import BertConfig, set_seed
from hf_mtl import MultiTaskConfig, MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, TaskSpec
from hf_mtl.data.tokenization import tokenize
from hf_mtl.tasks.demo import demo_rows, demo_tokenizer
import numpy as np
torch.set_num_threads(1)
tokenizer, folder = demo_tokenizer(), sys.argv[1]
task = TaskSpec(name="t", kind="multi_label", text_columns=("sentence",), labels=("a", "b"), thresholds="fit")
raw = Dataset.from_dict(demo_rows("reviews", "train")).select(range(41))
labels = np.array([[label, len(text) % 2] for text, label in zip(raw["sentence"], raw["label"])])
rows = tokenize(task, raw, tokenizer, 64, labels)
set_seed(0)
encoder = BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                     intermediate_size=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
model = MultiTaskModel(MultiTaskConfig(encoder, [task.head], head_dropout=0.0))
args = MultiTaskTrainingArguments(output_dir=folder + "/out", do_train=True, use_cpu=True, eval_strategy="no",
    unfreeze_schedule="none", save_strategy="no", max_steps=2, per_device_train_batch_size=4, disable_tqdm=True,
    per_device_eval_batch_size=4, train_metric_rows=0)
trainer = MultiTaskTrainer(model, args, [task], {"t": rows}, {"t": rows}, tokenizer)
trainer.evaluate()
fresh = model.heads["t"].thresholds().clone()
trainer.train()
trainer.evaluate()
torch.save([fresh, model.heads["t"].thresholds()], f"{folder}/{os.environ.get('RANK', 0)}.pt")
trainer.accelerator.end_training()
"""


def thresholds(folder, processes):
    folder.mkdir()
    (folder / "worker.py").write_text(WORKER)
    done = finished(launched(processes, folder / "worker.py", folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{rank}.pt") for rank in range(processes)]


def test_every_process_has_the_same_thresholds(tmp_path):
    first, second = thresholds(tmp_path / "two", 2)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first[0], torch.full((2,), 0.5)) and not torch.equal(*first)
    ((fresh, _),) = thresholds(tmp_path / "one", 1)
    # Batches of other rows have other padding, which moves scores in the last bits of fp32.
    assert first[0].tolist() == pytest.approx(fresh.tolist(), abs=1e-5)
