"""Small fixtures that every test may use: the demo's rows and tokenizer, and tiny models and trainers."""

import logging
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # models this small only lose time to a second thread

import datasets
import pytest
import torch
from accelerate.state import GradientState
from datasets import Dataset
from families import FAMILIES, SMALL
from transformers import AutoConfig, BertConfig

from hf_mtl import (
    WEIGHTINGS,
    MultiTaskConfig,
    MultiTaskModel,
    MultiTaskTrainer,
    MultiTaskTrainingArguments,
    TaskSpec,
    load_tasks,
    plugins,
)
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.data.task_shares import TASK_SAMPLING
from hf_mtl.data.tokenization import tokenize
from hf_mtl.gradients.method import GRADIENT_METHODS
from hf_mtl.model.heads import HEADS
from hf_mtl.tasks.demo import demo_tokenizer
from hf_mtl.tasks.kinds import KINDS
from hf_mtl.tasks.labels import read_labels
from hf_mtl.tasks.metric_names import FIRST_METRICS, METRICS
from hf_mtl.tasks.spec import KIND_CHECKS


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What the tests cache of data stays out of the user's folders, and none of it is older than the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="session", autouse=True)
def cpu_kernels_on_any_processor():
    """The kernels give the same everywhere; where they pay is no matter here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_mtl.kernels.strategy.has_measured_processor", lambda: True)
        yield


@pytest.fixture(autouse=True)
def nothing_left_by_other_tests():
    """accelerate keeps one gradient state for a process, which a test that stops in mid-step leaves as it is.

    And a run sets the level of the package's log lines.
    """
    GradientState._reset_state()
    logging.getLogger("hf_mtl").setLevel(logging.NOTSET)


@pytest.fixture
def transformers_speaks_again():
    """`hf-mtl` silences transformers, for a process of its own; here other tests follow."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    yield
    logging.set_verbosity(verbosity)
    logging.enable_progress_bar()


@pytest.fixture
def plugins_of_this_test():
    """What a test registers, and the plugins that it loads, are gone after it."""
    registries = (HEADS, KINDS, KIND_CHECKS, METRICS, FIRST_METRICS, TASK_SAMPLING, WEIGHTINGS, plugins.LOADED)
    before, modules = [dict(registry) for registry in registries], set(sys.modules)
    yield
    folders = {str(path.parent) for path in plugins.LOADED}
    for name in set(sys.modules) - modules:
        if os.path.dirname(getattr(sys.modules[name], "__file__", None) or "") in folders:
            del sys.modules[name]
    for registry, content in zip(registries, before, strict=True):
        for name in registry.keys() - content.keys():
            del registry[name]


@pytest.fixture
def gradient_methods_of_this_test():
    """The gradient methods that a test registers are gone after it, and those that it replaces are back."""
    before = [dict(methods) for methods in GRADIENT_METHODS.maps]
    yield
    for methods, kept in zip(GRADIENT_METHODS.maps, before, strict=True):
        methods.clear()
        methods.update(kept)


@pytest.fixture(scope="session")
def tokenizer():
    return demo_tokenizer()


@pytest.fixture(scope="session")
def specs() -> list[TaskSpec]:
    """The demo's two tasks, reviews (classification) and pairs (regression)."""
    return load_tasks("demo")


@pytest.fixture(scope="session")
def rows(specs, tokenizer) -> dict[str, dict[str, Dataset]]:
    """Split -> task -> tokenised rows: 96 and 40 for training, 24 each for validation."""
    sizes = {"train": {"reviews": 96, "pairs": 40}, "validation": {"reviews": 24, "pairs": 24}}
    result: dict[str, dict[str, Dataset]] = {}
    for split, wanted in sizes.items():
        result[split] = {}
        for spec in specs:
            raw = load_rows(spec, split).select(range(wanted[spec.name]))
            result[split][spec.name] = tokenize(spec, raw, tokenizer, 64, read_labels(spec, raw, split))
    return result


@pytest.fixture
def make_model(tokenizer, specs):
    """A BERT of two layers and width 32, without dropout unless asked for, with seeded weights."""

    def make(tasks=None, *, layers=2, dropout=0.0, seed=0, **config) -> MultiTaskModel:
        torch.manual_seed(seed)
        encoder = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        heads = [spec.head for spec in (tasks or specs)]
        return MultiTaskModel(MultiTaskConfig(encoder, heads, head_dropout=dropout, **config))

    return make


@pytest.fixture
def make_arguments(tmp_path):
    """Arguments of a short quiet run on the CPU, nothing frozen; keywords override."""

    def make(**overrides) -> MultiTaskTrainingArguments:
        values = {
            "output_dir": str(tmp_path / "out"),
            "do_train": True,
            "use_cpu": True,
            "max_steps": 4,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-3,
            "warmup_steps": 0,
            "unfreeze_schedule": "none",
            "eval_strategy": "no",
            "save_strategy": "no",
            "logging_steps": 1,
            "disable_tqdm": True,
            "train_metric_rows": 16,
        }
        return MultiTaskTrainingArguments(**{**values, **overrides})

    return make


@pytest.fixture
def make_trainer(make_model, make_arguments, specs, rows, tokenizer):
    """A trainer on the demo's two tasks; keywords go to the arguments."""

    def make(model=None, callbacks=(), **arguments) -> MultiTaskTrainer:
        return MultiTaskTrainer(
            model=model or make_model(),
            args=make_arguments(**arguments),
            tasks=specs,
            train_dataset=rows["train"],
            eval_dataset=rows["validation"],
            processing_class=tokenizer,
            callbacks=callbacks,
        )

    return make


@pytest.fixture(params=FAMILIES)
def family_config(request):
    """A three-layer configuration of each encoder family that the project names."""
    return AutoConfig.for_model(request.param, **{**SMALL, **FAMILIES[request.param]})
