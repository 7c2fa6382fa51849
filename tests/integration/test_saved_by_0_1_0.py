"""What 0.1.0 saved: a checkpoint of six GradVac steps on the demo's rows, stopped after three, and what followed."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModel, pipeline

from hf_mtl import MultiTaskModel, MultiTaskTrainer, load_model
from hf_mtl.data.raw_rows import load_rows
from hf_mtl.data.tokenization import tokenize
from hf_mtl.tasks.labels import read_labels

SAVED = Path(__file__).parents[1] / "saved_by_0_1_0"
EXPECTED = json.loads((SAVED / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A copy that may be written beside."""
    return Path(shutil.copytree(SAVED / "checkpoint-3", tmp_path / "out" / "checkpoint-3"))


def assert_same_answers(found, expected):
    """Scores and values within 1e-4: other processors round differently."""
    for row, wanted in zip(found, expected, strict=True):
        for task, answer in wanted.items():
            assert row[task].keys() == answer.keys()
            for key, value in answer.items():
                assert row[task][key] == (value if isinstance(value, str) else pytest.approx(value, abs=1e-4))


def test_predicts_the_same_numbers(checkpoint):
    pipe = pipeline("multi-task-classification", model=str(checkpoint))
    assert_same_answers(pipe(EXPECTED["texts"]), EXPECTED["text_answers"])
    assert_same_answers(pipe([tuple(pair) for pair in EXPECTED["pairs"]]), EXPECTED["pair_answers"])


def test_keys_of_the_weights_are_the_same(checkpoint, specs):
    saved = set(load_file(checkpoint / "model.safetensors"))
    for model in (
        MultiTaskModel.from_pretrained(checkpoint),
        AutoModel.from_pretrained(checkpoint),
        load_model(str(checkpoint), [spec.head for spec in specs]),
    ):
        assert set(model.state_dict()) == saved


def test_a_run_goes_on_to_the_same_end(checkpoint, specs, tokenizer, make_arguments):
    rows = {}
    for spec in specs:
        raw = load_rows(spec, "train").select(range(32))
        rows[spec.name] = tokenize(spec, raw, tokenizer, 48, read_labels(spec, raw, "train"))
    # As if another run had made the model: all that goes on comes from the checkpoint.
    model = load_model(str(checkpoint), [spec.head for spec in specs])
    model.config.max_seq_length = 48
    args = make_arguments(max_steps=6, gradient_method="gradvac", output_dir=str(checkpoint.parent))
    trainer = MultiTaskTrainer(model, args, specs, rows, processing_class=tokenizer)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    losses = {str(row["step"]): row["loss"] for row in trainer.state.log_history if "loss" in row}
    assert losses == pytest.approx(EXPECTED["losses"], abs=1e-4)
    norms = {name: value.double().norm().item() for name, value in trainer.model.state_dict().items()}
    assert norms == pytest.approx(EXPECTED["norms"], abs=1e-4)
