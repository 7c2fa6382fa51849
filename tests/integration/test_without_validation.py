"""Tasks without a validation split are trained all the same; what cannot be had is said, or refused if asked for."""

import pytest
import yaml

from hf_mtl import InputError, MultiTaskTrainer
from hf_mtl.training.run import main


@pytest.fixture
def run(tmp_path, monkeypatch, caplog):
    """Runs the script on two tasks of csv files, with or without validation files; gives what was logged."""
    monkeypatch.chdir(tmp_path)
    rows = [f"a film of {number} minutes,{('bad', 'good')[number % 2]}" for number in range(24)]
    for name in ("rows", "dev"):
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *rows]))

    def run(splits: dict[str, list[str]], *flags: str):
        tasks = {
            task: {
                "kind": "classification",
                "files": dict.fromkeys(names, "rows.csv"),
                "text_columns": ["text"],
                "labels": ["bad", "good"],
            }
            for task, names in splits.items()
        }
        (tmp_path / "tasks.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
        model = ["--model_name_or_path", "embedded:demo", "--task_set", "tasks.yaml", "--output_dir", "out"]
        speed = ["--use_cpu", "--max_steps=1", "--per_device_train_batch_size=8", "--unfreeze_schedule=none"]
        with caplog.at_level("WARNING", logger="hf_mtl"):
            main([*model, *speed, "--disable_tqdm=true", *flags])
        return [message for message in caplog.messages if "valid" in message]

    return run


NONE, SOME = {"a": ["train"], "b": ["train"]}, {"a": ["train", "validation"], "b": ["train"]}


def test_without_any_it_trains_and_says_once_that_nothing_is_scored(run, tmp_path, capsys):
    said = run(NONE, "--do_train", "--do_eval")
    assert len(said) == 1 and "no task has validation rows, so the training is not evaluated" in said[0]
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert "eval_" not in (tmp_path / "out" / "all_results.json").read_text()
    assert "## Scores" not in (tmp_path / "out" / "README.md").read_text()
    assert "of the main metrics" not in capsys.readouterr().out


def test_the_tasks_that_have_one_are_scored(run, tmp_path, capsys):
    said = run(SOME, "--do_train", "--do_eval", "--save_strategy", "best")
    assert len(said) == 2 and "task b has no validation split, so it is not scored; it has 'train'" in said[0]
    assert "task 'a': 24 of the 24 rows of 'validation' have texts that rows of 'train' have too" in said[1]
    results = (tmp_path / "out" / "all_results.json").read_text()
    assert "eval_a_accuracy" in results and "eval_average" in results and "eval_b" not in results
    table = capsys.readouterr().out
    assert [line.split()[2] for line in table.splitlines() if line.startswith("b ")] == ["-"]


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (["--load_best_model_at_end"], "load_best_model_at_end: wants validation rows"),
        (["--save_strategy", "best"], "save_strategy best: wants"),
        (["--lr_scheduler_type", "reduce_lr_on_plateau"], "lr_scheduler_type reduce_lr_on_plateau: wants"),
        (["--early_stopping_patience", "1"], "early_stopping_patience: wants"),
        (["--eval_strategy", "steps", "--eval_steps", "1"], "eval_strategy steps: wants"),
        (["--eval_on_start"], "eval_on_start: wants"),
    ],
)
def test_what_was_asked_for_and_cannot_be_had_is_refused(run, tmp_path, asked, named):
    with pytest.raises(InputError, match=rf"{named}.*no task has any \(task 'a': it has 'train'"):
        run(NONE, "--do_train", *asked)
    assert not (tmp_path / "out").exists()


def test_evaluation_alone_wants_a_split_and_lists_those_there_are(run):
    with pytest.raises(InputError, match=r"--do_eval wants a validation split.*task 'a': it has 'train'; .*'b'"):
        run(NONE, "--do_eval")


def test_a_task_without_training_rows_lists_the_splits_there_are(run):
    with pytest.raises(InputError, match="task 'a' has no split 'train'; it has 'test', 'validation'"):
        run({"a": ["validation", "test"]}, "--do_train")


def test_the_trainer_itself_goes_without(make_model, make_arguments, specs, rows, tokenizer, caplog):
    with caplog.at_level("WARNING", logger="hf_mtl"):
        trainer = MultiTaskTrainer(
            make_model(), make_arguments(eval_strategy="epoch"), specs, rows["train"], processing_class=tokenizer
        )
    assert trainer.args.eval_strategy == "no"
    assert caplog.messages == ["no task has validation rows, so the training is not evaluated"]
    trainer.train()
    with pytest.raises(InputError, match="save_strategy best: wants validation rows"):
        MultiTaskTrainer(
            make_model(),
            make_arguments(eval_strategy="epoch", save_strategy="best"),
            specs,
            rows["train"],
            processing_class=tokenizer,
        )
