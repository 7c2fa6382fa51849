"""Forks short runs with dropout, unfreezing, accumulation, loader workers and a method with memory, to be killed.

Reads "start FOLDER [latest]", answered by the run's process id, and "wait PID", answered by its exit status. A run's
output goes to FOLDER.log. Forking spares each run the seconds of imports.
"""

import os
import signal
import sys
import threading
import time
import traceback

import torch
from tqdm import tqdm
from transformers import BertConfig, set_seed

from hf_mtl import MultiTaskConfig, MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, load_tasks
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.data.tokenization import tokenize
from hf_mtl.tasks.demo import demo_tokenizer
from hf_mtl.tasks.labels import read_labels


def load(tasks, tokenizer):
    """Task -> 48 or 100 tokenised rows."""
    data = {}
    for task in tasks:
        rows = load_rows(task, "train").select(range(48 if task.name == "reviews" else 100))
        data[task.name] = tokenize(task, rows, tokenizer, 64, read_labels(task, rows, "train"))
    return data


def train(folder, checkpoint, tasks, tokenizer, data) -> None:
    """The run; its end is saved as FOLDER.pt."""
    set_seed(0)
    encoder = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    args = MultiTaskTrainingArguments(
        output_dir=folder,
        do_train=True,
        use_cpu=True,
        disable_tqdm=True,
        max_steps=22,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        gradient_method="gradvac",
        task_sampling="annealed",
        unfreeze_schedule="0:0,0.5:1,1.2:all",
        learning_rate=1e-3,
        warmup_steps=2,
        logging_steps=1,
        eval_strategy="epoch",
        save_strategy="steps",
        save_steps=5,
        save_total_limit=1,
        dataloader_num_workers=1,
    )
    model = MultiTaskModel(MultiTaskConfig(encoder, [task.head for task in tasks]))
    trainer = MultiTaskTrainer(model, args, tasks, data, {n: r.select(range(20)) for n, r in data.items()}, tokenizer)
    trainer.train(resume_from_checkpoint=checkpoint)
    timing = ("runtime", "_per_second", "train_loss")
    torch.save(
        {
            "weights": model.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "memory": trainer.step.method.state_dict(),
            "log": [{k: v for k, v in row.items() if not k.endswith(timing)} for row in trainer.state.log_history],
        },
        f"{folder}.pt",
    )


def run(folder, checkpoint, *data) -> None:
    """The run in a process of its own, which this one becomes."""
    tqdm.set_lock(threading.RLock())  # its own lock is shared over forks: a run killed with it would hang the next
    log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 1
    try:
        train(folder, checkpoint, *data)
        status = 0
    except SystemExit as stop:
        status = stop.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def serve() -> None:
    torch.set_num_threads(1)
    tokenizer, tasks = demo_tokenizer(), load_tasks("demo")
    data = load(tasks, tokenizer)
    print("ready", flush=True)
    for line in sys.stdin:
        command, *words = line.split()
        if command == "start":
            child = os.fork()
            if child == 0:
                run(words[0], "latest" in words, tasks, tokenizer, data)
            print(child, flush=True)
        else:
            print(status_of(int(words[0])), flush=True)


def status_of(child) -> int:
    """The exit status of a run, which is killed when it hangs."""
    stop = time.monotonic() + 120
    while time.monotonic() < stop:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 124


if __name__ == "__main__":
    serve()
