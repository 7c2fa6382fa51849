"""A run of the command line: arguments to results, top to bottom. `run_glue_mtl.py` and `hf-mtl train` call `main`."""

from __future__ import annotations

import functools
import logging
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase, set_seed

from ..data.auto_labels import resolve_tasks
from ..data.shared_reads import SharedReads
from ..data.task_data import TaskData, load_task_data, splits_there
from ..distributed import on_main_process
from ..errors import InputError
from ..hub.upload import CURVES
from ..model.input_length import training_max_length
from ..tasks.spec import TaskSpec
from ..tasks.task_file import load_tasks
from .alone import AloneTrainer, chosen_tasks
from .argument_parser import SCRIPT, parse_arguments
from .arguments import DataArguments, MultiTaskTrainingArguments
from .glue_submission import submit
from .output_folder import check_output_folder
from .progress import BarHandler
from .recipes import with_recipe
from .run_model import heads_to_keep, load_model_and_tokenizer, refuse_fresh_heads
from .run_results import closing_table, write_predictions
from .teacher_checks import check_teachers
from .trainer import MultiTaskTrainer
from .watched_metric import go_without_evaluations

logger = logging.getLogger("hf_mtl.run")
STOPPED = "stopped; --resume_from_checkpoint latest goes on from a checkpoint"


def main(argv: Sequence[str], *, command: str = SCRIPT) -> None:
    """Do what the arguments ask for.

    Args:
        argv: `[RECIPE|FILE.yaml|FILE.json] [--flag value ...]`.
        command: how this was called, for the commands that are printed at the end.

    Raises:
        InputError: for what cannot be used.
        CheckpointError: when a checkpoint cannot be written.
        PushError: when the Hub does not take the result.
    """
    model_args, data_args, args = parse_arguments(with_recipe(argv), command=command)
    set_up(args)
    all_tasks = load_tasks(data_args.task_set, tasks=data_args.tasks, dataset=data_args.dataset_name)
    tasks = chosen_tasks(all_tasks, data_args, args)
    if not args.do_train:
        refuse_fresh_heads(model_args, args, tasks)
    reads = SharedReads(all_tasks)
    with args.main_process_first(desc="reading what labels there are"):
        all_tasks = resolve_tasks(all_tasks, heads=heads_to_keep(model_args, args, all_tasks), reads=reads)
    tasks = chosen_tasks(all_tasks, data_args, args)
    model, tokenizer = load_model_and_tokenizer(model_args, tasks)
    limit = training_max_length(data_args.max_seq_length, tokenizer, model.config.encoder_config)
    model.config.max_seq_length = limit
    if args.do_train:
        check_teachers(args, model, {spec.name: spec for spec in tasks}, tokenizer)  # before all rows are tokenised
    data = load_data(all_tasks, tokenizer, limit, data_args, args, reads)
    del reads  # and the tables with it
    make_trainer: Any = MultiTaskTrainer
    if data_args.alone is not None:
        make_trainer = functools.partial(AloneTrainer, all_tasks=all_tasks)
    trainer = make_trainer(
        model=model,
        args=args,
        tasks=tasks,
        train_dataset=data.get("train"),
        eval_dataset=data.get("validation") or None,
        processing_class=tokenizer,
    )
    if args.do_train:
        train(trainer)
    if args.do_eval and data.get("validation"):
        evaluate(trainer)
    if args.do_predict:
        decoded = predict(trainer, data["test"])
        if data_args.task_set == "glue":
            submit(trainer, decoded, lambda spec: load_test_rows(spec, tokenizer, limit, args))
    publish(trainer)
    if trainer.is_world_process_zero():
        say_what_is_next(args, data_args, command)
    trainer.accelerator.end_training()


def set_up(args: MultiTaskTrainingArguments) -> None:
    """Log, check that there is something to do and a folder to do it in, share the threads, seed."""
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


def set_up_logging(args: MultiTaskTrainingArguments) -> None:
    """Plain messages, from the main process only."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[BarHandler()])
    logging.getLogger("hf_mtl").setLevel(logging.INFO if args.process_index == 0 else logging.ERROR)


def use_the_cpu_threads(args: MultiTaskTrainingArguments) -> None:
    """On CPUs, share the cores among the local processes where a launcher has set one thread each."""
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    if args.device.type != "cpu" or not launched or os.environ.get("OMP_NUM_THREADS") != "1":
        return
    threads = max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    torch.set_num_threads(threads)
    logger.info("CPU threads per process: %d (the launcher had set 1; OMP_NUM_THREADS=N chooses another)", threads)


def load_data(
    tasks: list[TaskSpec],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    data_args: DataArguments,
    args: MultiTaskTrainingArguments,
    reads: SharedReads,
) -> TaskData:
    """The rows of the splits that the run needs; with `--alone`, the others' training rows alone beside the task's own.

    Raises:
        InputError: for rows that cannot be used; and when no task has a validation split, and nothing is to be done but
            evaluate, or something was asked for that wants one.
    """
    wanted = {"train": args.do_train, "validation": args.do_train or args.do_eval, "test": args.do_predict}
    splits = [split for split, needed in wanted.items() if needed]
    with args.main_process_first(desc="loading the data"):  # the others read what it kept
        data = load_task_data(
            tasks, tokenizer, max_length=max_length, splits=splits, on_bad_row=data_args.on_bad_row, reads=reads
        )
    if data_args.alone is not None:
        tasks = [spec for spec in tasks if spec.name == data_args.alone]
        for split in data.keys() - {"train"}:
            data[split] = {task: rows for task, rows in data[split].items() if task == data_args.alone}
    if "validation" in data and not data["validation"]:
        there = "; ".join(f"task {spec.name!r}: {splits_there(spec)}" for spec in tasks)
        if not args.do_train:
            raise InputError(f"--do_eval wants a validation split, and no task has one: {there}")
        go_without_evaluations(args, there)
    return data


def train(trainer: MultiTaskTrainer) -> None:
    """Train, then leave the model, the state, the metrics and the curves in the output folder."""
    result = trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    trainer.save_metrics("train", result.metrics)
    evaluated = trainer.args.do_eval or any("eval_average" in row for row in trainer.state.log_history)
    for task, what in ({} if evaluated else trainer.evaluator.fitted_heads()).items():
        logger.warning("task %r: no evaluation took place, so its %s stay as they are; --do_eval fits them", task, what)
    trainer.save_state()
    trainer.save_final()
    if trainer.is_world_process_zero():
        trainer.draw_curves()


def evaluate(trainer: MultiTaskTrainer) -> None:
    """Score every task on its validation split and print the closing table."""
    state, best_loaded = trainer.state, trainer.args.load_best_model_at_end
    scored = [row for row in state.log_history if "eval_average" in row and row["step"] == state.global_step]
    metrics = dict(scored[-1]) if scored and not best_loaded else trainer.evaluate()
    if trainer.args.do_train and trainer.evaluator.fitted_heads() and not scored:
        trainer.save_final()  # with what the heads took from the validation rows
    metrics.pop("step", None)
    trainer.save_metrics("eval", metrics)
    if trainer.is_world_process_zero():
        print(closing_table(list(trainer.tasks.values()), metrics, trainer.passes()))


def load_test_rows(
    spec: TaskSpec, tokenizer: PreTrainedTokenizerBase, max_length: int, args: MultiTaskTrainingArguments
) -> Dataset | None:
    """The test rows of one task, or None where it has none."""
    with args.main_process_first(desc=f"loading test rows of {spec.name}"):
        return load_task_data([spec], tokenizer, max_length=max_length, splits=("test",))["test"].get(spec.name)


def predict(trainer: MultiTaskTrainer, rows: dict[str, Dataset]) -> dict[str, NDArray[Any]]:
    """Write predictions/<task>.tsv for every test split; score the rows that have a label.

    Returns:
        On the main process, task -> what its head decoded. *Shape:* (rows, ...)
    """
    metrics: dict[str, float] = {}
    answers: dict[str, NDArray[Any]] = {}
    for name, output in (trainer.predict(rows) if rows else {}).items():
        spec = trainer.tasks[name]
        scores = {f"test_{name}_{metric}" for metric in spec.metrics}
        metrics.update({key: value for key, value in output.metrics.items() if key in scores})
        if trainer.is_world_process_zero():
            answers[name] = trainer.evaluator.decoded(name, output.predictions)
            write_predictions(spec, answers[name], Path(trainer.args.output_dir) / "predictions" / f"{name}.tsv")
    trainer.save_metrics("test", metrics)
    return answers


def publish(trainer: MultiTaskTrainer) -> None:
    """Push to the Hub, if asked to; else write the model card of what was trained."""
    if trainer.args.push_to_hub:
        trainer.push_to_hub()
        branch = f", revision={trainer.args.hub_revision!r}" if trainer.args.hub_revision else ""
        logger.info("pushed; load it with MultiTaskModel.from_pretrained(%r%s)", trainer.hub_model_id, branch)
    elif trainer.args.do_train:
        trainer.create_model_card()


def say_what_is_next(args: MultiTaskTrainingArguments, data_args: DataArguments, command: str) -> None:
    """Name what is in the output folder and the commands that use it."""
    folder = args.output_dir
    files = ("README.md", "all_results.json", CURVES, "predictions")
    found = [name for name in files if (Path(folder) / name).exists()]
    print(f"in {folder}: {', '.join(found)}")
    if args.do_train:
        names = data_args.tasks if data_args.alone is None else [data_args.alone]
        tasks = f"--tasks {shlex.join(names)} " if names else ""
        data = f"--dataset_name {shlex.quote(data_args.dataset_name)} " if data_args.dataset_name else ""
        print(f"load:    MultiTaskModel.from_pretrained({folder!r})")
        plugins = f" --plugin {shlex.join(data_args.plugin)}" if data_args.plugin else ""
        path, task_set = shlex.quote(folder), shlex.quote(data_args.task_set)
        print(
            f"predict: {command} --model_name_or_path {path} --task_set {task_set} "
            f"{tasks}{data}--output_dir {path} --do_predict{plugins}"
        )
