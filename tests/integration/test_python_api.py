"""What Python users hand the trainer beside rows: the usual works, and each mistake is one sentence with the way."""

import json

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    DataCollatorWithPadding,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from hf_mtl import InputError, MultiTaskModel, MultiTaskTrainer
from hf_mtl.data.collator import TaskCollator


@pytest.fixture
def make(make_model, make_arguments, specs, rows, tokenizer):
    def make(settings=None, **given):
        usual = {
            "model": make_model(),
            "args": make_arguments(**{"max_steps": 1, "train_metric_rows": 0, **(settings or {})}),
            "tasks": specs,
            "train_dataset": rows["train"],
            "eval_dataset": rows["validation"],
            "processing_class": tokenizer,
        }
        return MultiTaskTrainer(**{**usual, **given})

    return make


def plain_encoder(*_):
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return BertModel(BertConfig(vocab_size=100, **size))


def with_compiled_encoder(model):
    model.encoder = torch.compile(model.encoder, backend="eager")
    return model


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


MODELS = {
    "a plain encoder": (
        plain_encoder,
        r"model is a BertModel, wanted the MultiTaskModel that load_model\(",
    ),
    "a name": (lambda model: "bert-base-uncased", r"model is a str, wanted the MultiTaskModel that load_model"),
    "none": (lambda model: None, "model is a NoneType, wanted the MultiTaskModel that load_model"),
    "a compiled model": (
        lambda model: torch.compile(model, backend="eager"),
        "model is a OptimizedModule, wanted the MultiTaskModel before torch.compile: .*--torch_compile, compiles",
    ),
    "a model compiled in place": (compiled_in_place, "the model is compiled, for one task .*--torch_compile, compiles"),
    "a compiled encoder": (with_compiled_encoder, "encoder is compiled, for one task .*--torch_compile, compiles"),
    "a wrapped model": (torch.nn.DataParallel, "model is a DataParallel, wanted .*: .* give model.module"),
}


@pytest.mark.parametrize(("change", "named"), MODELS.values(), ids=MODELS)
def test_a_model_that_cannot_be_trained_as_it_is_is_told_the_way(make, make_model, tmp_path, change, named):
    with pytest.raises(InputError, match=named):
        make(model=change(make_model()))
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # from inside torch's tracer
def test_layers_that_an_earlier_trainer_compiled_stay_so(make, make_model):
    model = make_model()
    first = make({"torch_compile": True, "torch_compile_backend": "eager"}, model=model)
    second = make(model=model)
    assert first.step.strategy is second.step.strategy is None
    second.train()
    second.save_final()
    assert not any("_orig_mod" in name for name in model.state_dict())
    assert "pairs" in MultiTaskModel.from_pretrained(second.args.output_dir).task_heads


TASKS = {
    "one alone": (lambda specs: specs[0], "tasks is a TaskSpec, wanted a list of TaskSpec; load_tasks"),
    "by name": (lambda specs: {spec.name: spec for spec in specs}, "tasks is a dict, wanted a list of TaskSpec"),
    "a name": (lambda specs: "glue", "tasks is a str, wanted a list of TaskSpec"),
    "names": (lambda specs: ["reviews", "pairs"], "tasks has a str, 'reviews', wanted TaskSpec only; load_tasks"),
    "heads": (lambda specs: [spec.head for spec in specs], r"tasks has a HeadSpec, HeadSpec\(name='reviews'.*wanted"),
    "none of them": (lambda specs: [], "tasks is empty"),
    "none": (lambda specs: None, "tasks is a NoneType"),
    "twice": (lambda specs: [*specs, specs[0]], "tasks has 'reviews' 2 times, wanted each task once"),
}


@pytest.mark.parametrize(("change", "named"), TASKS.values(), ids=TASKS)
def test_tasks_that_are_no_list_of_declarations_are_refused(make, specs, change, named):
    with pytest.raises(InputError, match=named):
        make(tasks=change(specs))


class Callback(TrainerCallback):
    began = False

    def on_train_begin(self, *args, **kwargs):
        self.began = True


OPTIONS = {
    "plain arguments": (
        lambda folder: {"args": TrainingArguments(output_dir=str(folder), use_cpu=True)},
        "args is a TrainingArguments, wanted MultiTaskTrainingArguments",
    ),
    "no arguments": (lambda folder: {"args": None}, "args is a NoneType, wanted MultiTaskTrainingArguments"),
    "metrics of one task": (lambda folder: {"compute_metrics": len}, r"compute_metrics is .* wanted \{task: function"),
    "a model for each run": (
        lambda folder: {"model": None, "model_init": plain_encoder},
        "model_init is refused: .*; give model",
    ),
    "a model and one for each run": (lambda folder: {"model_init": plain_encoder}, "model_init is refused"),
    "a loss function": (lambda folder: {"compute_loss_func": len}, "would not be called: .*override compute_loss"),
    "logits of one's own": (lambda folder: {"preprocess_logits_for_metrics": max}, "preprocess_logits_for_metrics is"),
    "no tokenizer": (lambda folder: {"processing_class": None}, "processing_class is None, wanted the tokenizer"),
    "no tokenizer at all": (lambda folder: {"processing_class": "bert"}, "processing_class is a str, wanted the tok"),
    "the tokenizer's old name": (lambda folder: {"tokenizer": object()}, "tokenizer is called processing_class"),
    "a name that is none": (lambda folder: {"data_colator": len}, "'data_colator' .did you mean 'data_collator'"),
    "a callback alone": (
        lambda folder: {"callbacks": Callback()},
        "callbacks is a Callback, wanted a list of callbacks",
    ),
    "a collator for one task": (
        lambda folder: {"data_collator": default_data_collator},
        "data_collator default_data_collator would not keep the tasks apart, wanted .*TaskCollator",
    ),
}


@pytest.mark.parametrize(("given", "named"), OPTIONS.values(), ids=OPTIONS)
def test_what_would_not_be_heeded_is_refused_with_the_way(make, tmp_path, given, named):
    with pytest.raises(InputError, match=named):
        make(**given(tmp_path / "other"))
    assert not (tmp_path / "out").exists()


def test_a_collator_that_pads_one_task_is_refused(make, tokenizer):
    with pytest.raises(InputError, match="data_collator DataCollatorWithPadding would not keep the tasks apart"):
        make(data_collator=DataCollatorWithPadding(tokenizer))


def test_none_means_none(make):
    nothing = ("callbacks", "compute_metrics", "model_init", "data_collator", "optimizers", "compute_loss_func")
    make(**dict.fromkeys(nothing)).train()


def test_callbacks_are_called(make):
    callbacks = Callback(), Callback()
    make(callbacks=callbacks).train()
    assert all(callback.began for callback in callbacks)


def test_a_search_over_settings_is_refused(make):
    with pytest.raises(InputError, match=r"hyperparameter_search is refused: .*make a trainer for every trial"):
        make().hyperparameter_search(n_trials=2, direction="maximize")


def test_an_optimizer_of_ones_own_steps(make, make_model):
    model = make_model()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.heads.parameters(), lr=0.1)
    make(model=model, optimizers=(optimizer, None)).train()
    moved = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    heads = [name.startswith("heads.") for name, _ in model.named_parameters()]
    assert moved == heads


def test_two_optimizers_are_refused(make, make_model):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lion, sgd = {"optimizer": "lion"}, (torch.optim.SGD, {"lr": 0.1})
    for settings, given, named in (
        (lion, {"optimizers": (optimizer, None)}, "optimizers and args.optimizer"),
        (lion, {"optimizer_cls_and_kwargs": sgd}, "optimizer_cls_and_kwargs and args.optimizer"),
        ({}, {"optimizers": (optimizer, None), "optimizer_cls_and_kwargs": sgd}, "optimizer_cls_and_kwargs and optim"),
    ):
        with pytest.raises(InputError, match=f"{named}.* each choose an optimizer"):
            make(settings, model=model, **given)


def test_with_a_collator_of_ones_own_there_may_be_no_tokenizer_to_save(make, tokenizer, tmp_path):
    trainer = make(
        {"save_strategy": "steps", "save_steps": 1}, processing_class=None, data_collator=TaskCollator(tokenizer)
    )
    trainer.train()
    trainer.save_final()
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert "model.safetensors" in files and "tokenizer.json" not in files


@pytest.mark.parametrize("metric", ["average", "loss"])
def test_nan_is_never_the_best_metric(make, metric, tmp_path):
    settings = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1, "max_steps": 4}
    trainer = make({**settings, "load_best_model_at_end": True, "metric_for_best_model": f"eval_{metric}"})
    values, evaluate = iter([float("nan"), 0.5, float("nan"), 0.7 if metric == "loss" else 0.3]), trainer.evaluate
    trainer.evaluate = lambda *args, **kwargs: {**evaluate(*args, **kwargs), f"eval_{metric}": next(values)}
    trainer.train()
    assert (trainer.state.best_metric, trainer.state.best_global_step) == (0.5, 2)
    saved = json.loads((tmp_path / "out" / "checkpoint-4" / "trainer_state.json").read_text())
    assert saved["best_metric"] == 0.5


WATCHED = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}


def test_what_was_asked_for_holds_without_do_train(make):
    settings = {**WATCHED, "do_train": False, "max_steps": 2, "load_best_model_at_end": True}
    trainer = make({**settings, "lr_scheduler_type": "reduce_lr_on_plateau"})
    trainer.train()
    args, scored = trainer.args, [row["step"] for row in trainer.state.log_history if "eval_average" in row]
    assert (args.eval_strategy, args.load_best_model_at_end, args.lr_scheduler_type) == (
        "steps",
        True,
        "reduce_lr_on_plateau",
    )
    assert scored == [1, 2] and trainer.state.best_model_checkpoint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"early_stopping_patience": 1}, "early_stopping_patience: wants evaluations"),
        ({**WATCHED, "soup": 2, "load_best_model_at_end": True}, "soup is 2 and load_best_model_at_end is on"),
    ],
)
def test_what_does_not_fit_is_refused_without_do_train_too(make, settings, message):
    with pytest.raises(InputError, match=message):
        make({"do_train": False, **settings})


def test_a_trainer_that_only_predicts_needs_no_validation_rows(make, rows):
    trainer = make({**WATCHED, "do_train": False}, train_dataset=None, eval_dataset=None)
    assert set(trainer.predict(rows["validation"])) == {"reviews", "pairs"}
    assert trainer.args.eval_strategy == "steps"
