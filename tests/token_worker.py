"""A short run on tags and reviews, started alone or by torchrun; rank 0 saves what came of it.

python tests/token_worker.py '{"output_dir": ..., "max_steps": ...}' RESULT.pt
"""

import json
import sys

import torch
from token_rows import tagged_rows, task
from train_worker import SameOnEveryRank, flat, make_model
from transformers import set_seed

from hf_mtl import MultiTaskTrainer, MultiTaskTrainingArguments, load_task_data, load_tasks
from hf_mtl.tasks.demo import demo_tokenizer


def main(arguments: str, result: str) -> None:
    torch.set_num_threads(1)
    settings = {"use_cpu": True, "disable_tqdm": True, "eval_strategy": "no", "save_strategy": "no", "warmup_steps": 0}
    settings |= {"per_device_eval_batch_size": 4, "logging_steps": 1, "do_train": True}
    args = MultiTaskTrainingArguments(**{**settings, **json.loads(arguments)})
    tokenizer, tasks = demo_tokenizer(), [task(metrics=("entity_f1", "token_accuracy")), *load_tasks("demo")[:1]]
    set_seed(0)
    model = make_model(tasks, len(tokenizer), None, 0)
    before = flat(model)
    rows = {"ner": {"train": tagged_rows(90), "validation": tagged_rows(33, seed=1), "test": tagged_rows(21, seed=2)}}
    rows["ner"]["test"][4]["tags"] = None
    data = load_task_data(tasks, tokenizer, max_length=24, splits=("train", "validation"), rows=rows)
    test = load_task_data(tasks[:1], tokenizer, max_length=24, splits=("test",), rows=rows)["test"]
    trainer = MultiTaskTrainer(
        model, args, tasks, data["train"], {"ner": data["validation"]["ner"]}, tokenizer, callbacks=[SameOnEveryRank()]
    )
    trainer.train()
    scores, predicted = trainer.evaluate(), trainer.predict(test)["ner"]
    if trainer.is_world_process_zero():
        torch.save(
            {
                "update": flat(model) - before,
                "losses": [row["loss_ner"] for row in trainer.state.log_history if "loss_ner" in row],
                "scores": {name: value for name, value in scores.items() if name.startswith(("eval_ner", "train_ner"))},
                "test": {name: predicted.metrics[f"test_ner_{name}"] for name in ("entity_f1", "loss")},
                "tags": trainer.evaluator.decoded("ner", predicted.predictions).tolist(),
            },
            result,
        )
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])
