"""A short run on the demo's tasks, started alone or by torchrun; rank 0 saves the end weights.

python tests/train_worker.py '{"output_dir": ..., "max_steps": ...}' RESULT.pt [CHECKPOINT]

With "start": FOLDER the model comes from there, and with "fsdp": PROCESSES sharded by FSDP over so many. With
"own_loss": true, a subclass takes the loss of pairs twice. "changes" is {task: {key of its declaration: value}};
with changes, reviews have few rows of their second class.
"""

import dataclasses
import hashlib
import json
import sys

import numpy as np
import torch
import torch.distributed as dist
from transformers import BertConfig, TrainerCallback, set_seed

from hf_mtl import MultiTaskConfig, MultiTaskModel, MultiTaskTrainer, MultiTaskTrainingArguments, load_model, load_tasks
from hf_mtl.data.collator import TaskCollator
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.data.tokenization import tokenize
from hf_mtl.tasks.demo import demo_tokenizer
from hf_mtl.tasks.labels import read_labels


class SameOnEveryRank(TrainerCallback):
    """After every step, all weights have the same bits on all ranks."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        digest = hashlib.sha256()
        for tensor in model.state_dict().values():
            digest.update(tensor.detach().numpy().tobytes())
        hashes = [None] * args.world_size
        if args.world_size > 1:
            dist.all_gather_object(hashes, digest.hexdigest())
        assert len(set(hashes)) == 1, f"replicas differ after step {state.global_step}"


class TwiceThePairs(MultiTaskTrainer):
    """The loss of pairs counts twice."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        loss = 2 * loss if inputs["task"] == "pairs" else loss
        return (loss, outputs) if return_outputs else loss


def make_model(tasks, vocab_size, start, fsdp):
    """A small BERT without dropout, fresh or from a folder, in one piece or sharded."""
    if start is not None:
        sharding = {}
        if fsdp:
            from transformers.distributed import DistributedConfig

            plan = dict.fromkeys(("encoder.encoder.layer.*", "encoder.embeddings"), "free_full_weight")
            sharding = {"distributed_config": DistributedConfig(fsdp_size=fsdp, fsdp_plan=plan)}
        return load_model(start, [task.head for task in tasks], **sharding)
    encoder = BertConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return MultiTaskModel(MultiTaskConfig(encoder, [task.head for task in tasks], head_dropout=0.0))


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def one(row, tokenizer):
    """The batch of one row, without its label."""
    row = {name: np.asarray(value) for name, value in row.items() if name not in ("length", "labels")}
    return TaskCollator(tokenizer)([{"task": "pairs", **row}])["pairs"]


def changed(task, changes):
    """A task of another declaration, with the metrics of its kind."""
    return dataclasses.replace(task, **{"metrics": (), "main_metric": "", **changes}) if changes else task


def main(arguments: str, result: str, checkpoint: str | None = None) -> None:
    torch.set_num_threads(1)
    arguments = json.loads(arguments)
    start, fsdp, own_loss = arguments.pop("start", None), arguments.pop("fsdp", 0), arguments.pop("own_loss", False)
    changes = arguments.pop("changes", {})
    settings = {"use_cpu": True, "disable_tqdm": True, "eval_strategy": "no", "save_strategy": "no", "warmup_steps": 0}
    settings["per_device_eval_batch_size"] = 4
    args = MultiTaskTrainingArguments(**{**settings, **arguments}, do_train=True, logging_steps=1)
    tokenizer, tasks = demo_tokenizer(), [changed(task, changes.get(task.name)) for task in load_tasks("demo")]
    set_seed(0)
    model = make_model(tasks, len(tokenizer), start, fsdp)
    sharded = bool(fsdp or arguments.get("deepspeed"))
    before = None if sharded else flat(model)
    data = {}
    for task in tasks:
        rows = load_rows(task, "train").select(range(120))
        if "reviews" in changes and task.name == "reviews":
            rows = rows.select([row for row, label in enumerate(rows["label"]) if label == 0 or row % 5 == 0])
        data[task.name] = tokenize(task, rows, tokenizer, 64, read_labels(task, rows, "train"))
    trainer_class = TwiceThePairs if own_loss else MultiTaskTrainer
    trainer = trainer_class(
        model,
        args,
        tasks,
        data,
        {name: rows.select(range(33)) for name, rows in data.items()},
        tokenizer,
        callbacks=[] if sharded else [SameOnEveryRank()],
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    scores = trainer.evaluate()
    predicted = trainer.predict({"pairs": data["pairs"].select(range(33))})["pairs"]
    with torch.no_grad():  # row by row, so without order or padding
        one_by_one = [] if sharded else [one(row, tokenizer) for row in data["pairs"].select(range(33))]
        alone = [trainer.model(task="pairs", **row).logits for row in one_by_one]
    trainer.save_final()
    if trainer.is_world_process_zero():
        torch.save(
            {
                "update": None if sharded else flat(model) - before,
                "memory": trainer.step.method.state_dict(),
                "norms": [row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row],
                "class_weights": getattr(trainer.model.heads["reviews"], "class_weights", None),
                "losses": [row["loss_pairs"] for row in trainer.state.log_history if "loss_pairs" in row],
                "predictions": torch.from_numpy(predicted.predictions),
                "predictions_alone": torch.cat(alone) if alone else None,
                "labels_of_predictions": predicted.label_ids.tolist() == data["pairs"]["labels"][:33],
                "scores": {k: v for k, v in scores.items() if k.startswith(("eval_reviews", "eval_pairs"))},
            },
            result,
        )
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])
