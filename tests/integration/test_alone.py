"""A task that is trained alone has, step by step, the rows that it has in a training of all tasks."""

import json

import pytest

from hf_mtl import InputError, MultiTaskTrainer, MultiTaskTrainingArguments
from hf_mtl.data.collator import TaskCollator
from hf_mtl.training.alone import AloneTrainer
from hf_mtl.training.run import main

TASKS = ("reviews", "pairs")


class Noting(TaskCollator):
    """Keeps the token ids of every row that a batch is made of."""

    def __call__(self, rows):
        self.batches.append({task: [list(r["input_ids"]) for r in rows if r["task"] == task] for task in TASKS})
        return super().__call__(rows)


SAMPLINGS = {
    "equal": {},
    "annealed": {},
    "explicit": {"task_sampling_args": {"weights": {"reviews": 1, "pairs": 2.3}}},
}


@pytest.fixture
def trained(make_model, make_arguments, specs, rows, tokenizer):
    """A trained trainer, and the rows of every batch that it took."""

    def train(alone=None, **arguments):
        collator = Noting(tokenizer)
        collator.batches = []
        tasks = [spec for spec in specs if alone in (None, spec.name)]
        trainer = (MultiTaskTrainer if alone is None else AloneTrainer)(
            model=make_model(tasks),
            args=make_arguments(**{"max_steps": -1, "num_train_epochs": 3, **arguments}),
            tasks=tasks,
            train_dataset=rows["train"],
            eval_dataset={spec.name: rows["validation"][spec.name] for spec in tasks},
            processing_class=tokenizer,
            data_collator=collator,
            **({} if alone is None else {"all_tasks": specs}),
        )
        trainer.train()
        return trainer, collator.batches

    return train


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_every_step_has_the_rows_of_the_joint_step(trained, sampling):
    options = {"task_sampling": sampling, **SAMPLINGS[sampling]}
    joint, batches = trained(**options)
    assert (len({len(batch["pairs"]) for batch in batches}) == 1) == (sampling == "equal")
    for task in TASKS:
        alone, own = trained(task, **options)
        assert own == [{other: batch[other] if other == task else [] for other in TASKS} for batch in batches]
        assert alone.state.global_step == joint.state.global_step
        assert alone.passes() == {task: joint.passes()[task]}


def test_a_run_resumed_within_an_epoch_goes_on_with_the_same_rows(trained, tmp_path):
    options = {"task_sampling": "annealed", "save_strategy": "steps", "save_steps": 5, "save_total_limit": None}
    whole, batches = trained("pairs", **options)
    last = whole.state.global_step
    again, _ = trained("pairs", **{**options, "output_dir": str(tmp_path / "other"), "save_strategy": "no"})
    again.data_collator.batches.clear()
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-5"))
    assert again.data_collator.batches[-(last - 5) :] == batches[5:]


SHORT = ["demo", "--use_cpu", "--disable_tqdm=true", "--train_metric_rows=0", "--max_steps=2", "--save_strategy=no"]


def test_the_flag_scores_the_one_task(tmp_path):
    out = tmp_path / "out"
    of_tasks = ["--loss_weights", '{"pairs": 2, "reviews": 3}', "--teachers", '{"reviews": "not/asked/for"}']
    main([*SHORT, "--alone", "pairs", *of_tasks, "--output_dir", str(out)])
    results = json.loads((out / "all_results.json").read_text())
    assert results["eval_average"] == results["eval_pairs_pearson"] and "eval_reviews_accuracy" not in results
    assert json.loads((out / "config.json").read_text())["tasks"][0]["name"] == "pairs"
    assert [path.name for path in (out / "predictions").iterdir()] == ["pairs.tsv"]
    assert "on its rows of batches over reviews, pairs" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--alone", "pair"], r"unknown task in alone: 'pair' \(did you mean 'pairs'\?\); choose from: pairs, reviews"),
        (["--alone", "pairs", "--loss_weights", '{"pear": 2}'], "unknown task in loss_weights: 'pear'"),
        (["--alone", "pairs", "--teachers", '{"pear": "out"}'], "unknown task in teachers: 'pear'"),
    ],
)
def test_what_is_no_task_is_refused_before_anything_is_loaded(tmp_path, flags, message):
    with pytest.raises(InputError, match=message):
        main([*SHORT, *flags, "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(MultiTaskTrainingArguments, "world_size", 2)
    with pytest.raises(InputError, match="alone is 'pairs' on 2 processes, wanted one process"):
        main([*SHORT, "--alone", "pairs", "--output_dir", str(tmp_path / "out")])
