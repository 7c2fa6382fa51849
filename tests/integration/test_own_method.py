"""A user's own gradient method: registered, found by name, with options and a state, and never in another's place."""

import re
from pathlib import Path

import pytest
import torch

from hf_mtl import WEIGHTINGS, GradientMethod, InputError, make_weighting, register_gradient_method
from hf_mtl.gradients.method import GRADIENT_METHODS, make_gradient_method


@pytest.fixture(autouse=True)
def registry():
    """What a test registers is gone after it."""
    before = [dict(methods) for methods in GRADIENT_METHODS.maps]
    yield
    for methods, kept in zip(GRADIENT_METHODS.maps, before, strict=True):
        methods.clear()
        methods.update(kept)


def loudest(gramian, generator, *, share=1.0):
    """All for the task with the longest gradient."""
    weights = torch.zeros(len(gramian), dtype=torch.float64)
    weights[gramian.diagonal().argmax()] = share
    return weights


def test_a_function_is_a_method_in_training(make_trainer):
    register_gradient_method("loudest")(loudest)
    assert make_weighting("loudest", share=2.0)(torch.diag(torch.tensor([1.0, 4.0])), None).tolist() == [0, 2]
    trainer = make_trainer(gradient_method="loudest", gradient_method_args='{"share": 0.5}', max_steps=2)
    assert trainer.train().training_loss > 0
    with pytest.raises(InputError, match=r"option of gradient_method 'loudest': 'shrae' \(did you mean 'share'\?\)"):
        make_trainer(gradient_method="loudest", gradient_method_args='{"shrae": 0.5}')


def test_the_example_of_the_docs_trains(make_trainer):
    text = (Path(__file__).parents[2] / "docs" / "gradients.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    exec(example, {})
    arguments = {"gradient_method": "longest", "gradient_method_args": '{"weight": 0.5}', "max_steps": 1}
    assert make_trainer(**arguments).train().training_loss > 0


def test_what_is_put_into_the_public_mapping_trains_too(make_trainer):
    WEIGHTINGS["mine"] = loudest
    assert make_trainer(gradient_method="mine", max_steps=1).train().training_loss > 0


def test_a_class_keeps_its_state_over_a_resume(make_trainer, make_model, tmp_path):
    @register_gradient_method("counting")
    class Counting(GradientMethod):
        needs = "losses"

        def __init__(self):
            self.steps = 0

        def __call__(self, given, generator):
            return torch.full_like(given, 1 / (1 + self.steps))

        def after_step(self, before, after):
            assert before.shape == (2,) and after is None
            self.steps += 1

        def state_dict(self):
            return {"steps": self.steps}

        def load_state_dict(self, state):
            self.steps = state["steps"]

    settings = {"gradient_method": "counting", "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    straight = make_trainer(make_model(), **settings)
    straight.train()
    again = make_trainer(make_model(), **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert again.step.method.steps == straight.step.method.steps == 4
    for found, wanted in zip(again.model.parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(found, wanted)


def test_a_built_in_name_is_taken():
    with pytest.raises(InputError, match="gradient_method 'pcgrad' is registered already"):
        register_gradient_method("pcgrad")(loudest)
    register_gradient_method("loudest")(loudest)
    register_gradient_method("loudest")(loudest)  # a file that is imported twice


@pytest.mark.parametrize("answer", [None, torch.ones(3), 1.0])
def test_a_function_that_gives_no_weights_is_refused_when_made(answer):
    register_gradient_method("odd")(lambda gramian, generator: answer)
    with pytest.raises(InputError, match=r"gradient_method 'odd' gave .* wanted a tensor of two weights"):
        make_gradient_method("odd")
