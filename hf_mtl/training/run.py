#!/usr/bin/env python3
"""Fine-tune one encoder on several tasks, evaluate it, predict with it, push it.

    accelerate launch run_glue_mtl.py --model_name_or_path DIR_OR_HUB_ID --output_dir out --do_train --do_eval
    accelerate launch run_glue_mtl.py examples/demo.yaml

Arguments come from a YAML or JSON file, if one is named first, and from flags, which override it; --help lists them.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase, set_seed

from hf_mtl import InputError, MultiTaskConfig, MultiTaskModel, MultiTaskTrainer, TaskSpec, load_model, load_tasks
from hf_mtl.data.raw_rows import load_rows, split_names
from hf_mtl.data.tokenization import tokenize
from hf_mtl.distributed import on_main_process
from hf_mtl.errors import CheckpointError, PushError
from hf_mtl.hub.upload import CURVES
from hf_mtl.model.input_length import training_max_length
from hf_mtl.pretrained import fit_embeddings, load_config, load_tokenizer
from hf_mtl.tasks.demo import demo_encoder_config, demo_tokenizer
from hf_mtl.tasks.labels import read_labels
from hf_mtl.tasks.spec import EMBEDDED
from hf_mtl.training.arguments import DataArguments, ModelArguments, MultiTaskTrainingArguments, parse_arguments
from hf_mtl.training.checkpoints import LOCK_FILE, choose_checkpoint, lock_output_folder
from hf_mtl.training.progress import BarHandler
from hf_mtl.training.watched_metric import go_without_evaluations

logger = logging.getLogger("hf_mtl.run")


def main(argv: list[str]) -> None:
    """Do what the arguments ask for."""
    model_args, data_args, args = parse_arguments(argv)
    set_up_logging(args)
    if not (args.do_train or args.do_eval or args.do_predict):
        raise InputError("nothing to do; wanted one or more of --do_train, --do_eval and --do_predict")
    if args.resume_from_checkpoint is not None and not args.do_train:
        raise InputError(
            "--resume_from_checkpoint goes on with a training: add --do_train; to evaluate or predict, name the folder "
            f"with --model_name_or_path {args.output_dir}"
        )
    args.resume_from_checkpoint = on_main_process(args, lambda: check_output_folder(args))
    use_the_cpu_threads(args)
    if args.hub_token:  # in the environment it stays out of training_args.bin
        os.environ["HF_TOKEN"], args.hub_token = args.hub_token, None
    set_seed(args.seed)

    tasks = load_tasks(data_args.task_set, tasks=data_args.tasks, dataset=data_args.dataset_name)
    if not args.do_train:
        refuse_fresh_heads(model_args, args, tasks)
    with args.main_process_first(desc="loading the data"):
        raw = {spec.name: load_splits(spec, args, data_args.on_bad_row) for spec in tasks}
    scored = tasks_to_score(tasks, raw, args)
    model, tokenizer = load_model_and_tokenizer(model_args, tasks)
    limit = training_max_length(data_args.max_seq_length, tokenizer, model.config.encoder_config)
    model.config.max_seq_length = limit

    def tokens(split: str) -> dict[str, Dataset]:
        """Task -> the split's rows as token ids, with their labels."""
        there = [spec for spec in tasks if split in raw[spec.name]]
        with args.main_process_first(desc="tokenising"):  # the others read what it kept
            return {s.name: tokenize(s, raw[s.name][split][0], tokenizer, limit, raw[s.name][split][1]) for s in there}

    trainer = MultiTaskTrainer(
        model=model,
        args=args,
        tasks=tasks,
        train_dataset=tokens("train") if args.do_train else None,
        eval_dataset=tokens("validation") if scored else None,
        processing_class=tokenizer,
    )
    if args.do_train:
        train(trainer)
    if args.do_eval and scored:
        evaluate(trainer)
    if args.do_predict:
        predict(trainer, tokens("test"))
    if args.push_to_hub:
        trainer.push_to_hub()
        logger.info("pushed; load it with MultiTaskModel.from_pretrained(%r)", trainer.hub_model_id)
    elif args.do_train:
        trainer.create_model_card()
    if trainer.is_world_process_zero():
        say_what_is_next(args, data_args)
    trainer.accelerator.end_training()


def set_up_logging(args: MultiTaskTrainingArguments) -> None:
    """Plain messages, from the main process only."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[BarHandler()])
    logging.getLogger("hf_mtl").setLevel(logging.INFO if args.process_index == 0 else logging.ERROR)


def check_output_folder(args: MultiTaskTrainingArguments) -> str | None:
    """The checkpoint to go on from, if any.

    Refuses a folder that cannot be written and, before training, one that holds something already or in which another
    run trains.
    """
    folder = Path(args.output_dir)
    parent = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise InputError(f"output_dir {args.output_dir!r} cannot be written: {error.strerror}") from error
    if args.resume_from_checkpoint is not None:
        checkpoint = choose_checkpoint(args.resume_from_checkpoint, args.output_dir)
        if args.do_train and folder.is_dir():
            lock_output_folder(folder)
        return checkpoint
    if args.do_train and folder.is_dir() and {path.name for path in folder.iterdir()} - {LOCK_FILE}:
        raise InputError(
            f"output_dir {args.output_dir!r} is not empty; choose another, or go on from its last checkpoint with "
            "--resume_from_checkpoint latest"
        )
    return None


def refuse_fresh_heads(model_args: ModelArguments, args: MultiTaskTrainingArguments, tasks: list[TaskSpec]) -> None:
    """Refuse to write untrained heads into a trained model's folder or to the Hub, or to answer with them."""
    folder, name = Path(args.output_dir), model_args.model_name_or_path
    config = None if name == EMBEDDED else load_config(name, **hub_options(model_args))
    saved = config.heads if isinstance(config, MultiTaskConfig) else {}
    fresh = ", ".join(spec.name for spec in tasks if spec.name not in saved)
    if not fresh:
        return
    if args.push_to_hub:
        what = "would be pushed"
    elif (folder / "config.json").exists():
        what = f"would write into the trained model's folder {str(folder)!r}"
    elif saved:
        what = f"fresh ones answer at random; its heads are {', '.join(saved)}"
    else:
        logger.warning("nothing was trained for %s: the scores and predictions are those of random heads", fresh)
        return
    raise InputError(
        f"model_name_or_path {name!r} has no trained heads for {fresh}, and {what}; add --do_train, or name a trained "
        "model"
    )


def use_the_cpu_threads(args: MultiTaskTrainingArguments) -> None:
    """On CPUs, share the cores among the local processes where a launcher has set one thread each."""
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    if args.device.type != "cpu" or not launched or os.environ.get("OMP_NUM_THREADS") != "1":
        return
    threads = max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    torch.set_num_threads(threads)
    logger.info("CPU threads per process: %d (the launcher had set 1; OMP_NUM_THREADS=N chooses another)", threads)


def load_splits(
    spec: TaskSpec, args: MultiTaskTrainingArguments, on_bad_row: str
) -> dict[str, tuple[Dataset, NDArray[Any]]]:
    """Split -> raw rows and checked labels, for the splits that the run needs."""
    wanted = {"train": args.do_train, "validation": args.do_train or args.do_eval, "test": args.do_predict}
    splits = {}
    for split in (name for name, needed in wanted.items() if needed):
        rows = load_rows(spec, split, on_bad_row)
        if rows is not None:
            splits[split] = rows, read_labels(spec, rows, split)
        elif split == "test":
            logger.warning("task %s has no test split: no predictions for it", spec.name)
        elif split == "train":
            raise InputError(f"task {spec.name!r} has no split 'train'; {splits_there(spec)}")
    return splits


def splits_there(spec: TaskSpec) -> str:
    """The splits that a task's data has, for an error."""
    names = split_names(spec)
    return f"it has {', '.join(map(repr, names)) or 'none'}; the key 'splits' of a task file says which is which"


def tasks_to_score(tasks: list[TaskSpec], raw: dict[str, Any], args: MultiTaskTrainingArguments) -> list[TaskSpec]:
    """The tasks with a validation split, where one is wanted; those without are named, and not scored.

    Raises:
        InputError: when no task has one, and nothing is to be done but evaluate.
    """
    if not (args.do_train or args.do_eval):
        return []
    scored = [spec for spec in tasks if "validation" in raw[spec.name]]
    without = [spec for spec in tasks if spec not in scored]
    if not scored:
        there = "; ".join(f"task {spec.name!r}: {splits_there(spec)}" for spec in without)
        if not args.do_train:
            raise InputError(f"--do_eval wants a validation split, and no task has one: {there}")
        go_without_evaluations(args, there)
    for spec in without if scored else ():
        logger.warning("task %s has no validation split, so it is not scored; %s", spec.name, splits_there(spec))
    return scored


def hub_options(model_args: ModelArguments) -> dict[str, Any]:
    """What `from_pretrained` gets beside a name."""
    return {"revision": model_args.model_revision, "trust_remote_code": model_args.trust_remote_code}


def load_model_and_tokenizer(
    model_args: ModelArguments, tasks: list[TaskSpec]
) -> tuple[MultiTaskModel, PreTrainedTokenizerBase]:
    """A saved model, an encoder with fresh heads, or the small untrained encoder of the demo."""
    name = model_args.model_name_or_path
    heads = [spec.head for spec in tasks]
    shape: dict[str, Any] = {k: v for k in ("pooling", "head_dropout") if (v := getattr(model_args, k)) is not None}
    if name == EMBEDDED:
        tokenizer = demo_tokenizer()
        return MultiTaskModel(MultiTaskConfig(demo_encoder_config(len(tokenizer)), heads, **shape)), tokenizer
    hub = hub_options(model_args)
    model = load_model(name, heads, **shape, **hub)
    tokenizer = load_tokenizer(name, **hub)
    fit_embeddings(model, tokenizer, name, model_args.resize_embeddings)
    return model, tokenizer


def train(trainer: MultiTaskTrainer) -> None:
    """Train, then leave the model, the state, the metrics and the curves in the output folder."""
    result = trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()
    trainer.save_final()
    if trainer.is_world_process_zero():
        trainer.draw_curves()


def evaluate(trainer: MultiTaskTrainer) -> None:
    """Score every task on its validation split and print the closing table."""
    state, best_loaded = trainer.state, trainer.args.load_best_model_at_end
    scored = [row for row in state.log_history if "eval_average" in row and row["step"] == state.global_step]
    metrics = dict(scored[-1]) if scored and not best_loaded else trainer.evaluate()
    metrics.pop("step", None)
    trainer.save_metrics("eval", metrics)
    if trainer.is_world_process_zero():
        from hf_mtl.training.training_curves import closing_table

        print(closing_table(list(trainer.tasks.values()), metrics))


def predict(trainer: MultiTaskTrainer, rows: dict[str, Dataset]) -> None:
    """Write predictions/<task>.tsv for every test split; score the rows that have a label."""
    from hf_mtl.training.training_curves import write_predictions

    metrics: dict[str, float] = {}
    for name, output in (trainer.predict(rows) if rows else {}).items():
        spec = trainer.tasks[name]
        scores = {f"test_{name}_{metric}" for metric in spec.metrics}
        metrics.update({key: value for key, value in output.metrics.items() if key in scores})
        if trainer.is_world_process_zero():
            decoded = trainer.model.decode(name, torch.from_numpy(output.predictions)).numpy()
            write_predictions(spec, decoded, Path(trainer.args.output_dir) / "predictions" / f"{name}.tsv")
    trainer.save_metrics("test", metrics)


def say_what_is_next(args: MultiTaskTrainingArguments, data_args: DataArguments) -> None:
    """Name what is in the output folder and the commands that use it."""
    folder = args.output_dir
    files = ("README.md", "all_results.json", CURVES, "predictions")
    found = [name for name in files if (Path(folder) / name).exists()]
    print(f"in {folder}: {', '.join(found)}")
    if args.do_train:
        tasks = f"--tasks {' '.join(data_args.tasks)} " if data_args.tasks else ""
        data = f"--dataset_name {data_args.dataset_name} " if data_args.dataset_name else ""
        print(f"load:    MultiTaskModel.from_pretrained({folder!r})")
        print(
            f"predict: accelerate launch run_glue_mtl.py --model_name_or_path {folder} --task_set {data_args.task_set} "
            f"{tasks}{data}--output_dir {folder} --do_predict"
        )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (InputError, CheckpointError, PushError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")
    except KeyboardInterrupt:
        print(
            f"{Path(__file__).name}: stopped; --resume_from_checkpoint latest goes on from a checkpoint",
            file=sys.stderr,
        )
        sys.exit(130)
