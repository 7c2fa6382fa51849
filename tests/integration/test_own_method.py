"""A user's own gradient method: registered, found by name, with options and a state, and never in another's place."""

import re
from pathlib import Path

import pytest
import torch

from hf_mtl import WEIGHTINGS, GradientMethod, InputError, make_weighting, register_gradient_method
from hf_mtl.gradients.method import make_gradient_method

pytestmark = pytest.mark.usefixtures("gradient_methods_of_this_test")


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
    text = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
    example, *_ = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert '@register_gradient_method("longest")' in example
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


@pytest.mark.parametrize("answer", [None, torch.ones(3), 1.0, torch.tensor([1.0, float("nan")])])
def test_a_function_that_gives_no_weights_is_refused_when_made(answer):
    register_gradient_method("odd")(lambda gramian, generator: answer)
    with pytest.raises(InputError, match=r"gradient_method 'odd' gave .* wanted a tensor of two weights"):
        make_gradient_method("odd")


class NoCall(GradientMethod):
    pass


class UnknownNeeds(GradientMethod):
    needs = "everything"

    def __call__(self, given, generator):
        return given


class ByPlace(UnknownNeeds):
    needs = "rows"

    def __init__(self, decay):
        pass


class OneArgument(GradientMethod):
    def __call__(self, given):
        return given


NO_METHODS = {
    "one argument": (lambda gramian: None, r"cannot be called with \(gramian, generator\): too many positional"),
    "an option by place": (
        lambda gramian, generator, share: None,
        "missing a required argument: 'share'; options have",
    ),
    "a number": (3, r"cannot be called with \(gramian, generator\): 3 is not a callable object"),
    "a class of another kind": (dict, "is the class dict, wanted a function of the Gramian, or a subclass of Gradient"),
    "no call": (NoCall, r"is the class NoCall, wanted .* that defines __call__\(self, given, generator\)"),
    "a call of one argument": (OneArgument, r"__call__ cannot be called with \(self, given, generator\)"),
    "unknown needs": (
        UnknownNeeds,
        "unknown needs of gradient_method 'odd': 'everything'; choose from: gramian, losses",
    ),
    "an option of a class by place": (ByPlace, r"cannot be called with \(\): missing a required argument: 'decay'"),
}


@pytest.mark.parametrize(("factory", "named"), NO_METHODS.values(), ids=NO_METHODS)
def test_what_is_no_method_is_refused_when_registered_and_when_made(factory, named):
    with pytest.raises(InputError, match=named):
        register_gradient_method("odd")(factory)
    WEIGHTINGS["odd"] = factory
    with pytest.raises(InputError, match=named):
        make_gradient_method("odd")


def test_an_option_without_a_default_has_to_be_given(make_arguments):
    register_gradient_method("needy")(lambda gramian, generator, *, share: torch.ones(len(gramian)) * share)
    with pytest.raises(InputError, match="gradient_method 'needy' needs 'share' in gradient_method_args"):
        make_arguments(gradient_method="needy")
    make_arguments(gradient_method="needy", gradient_method_args={"share": 2})


def test_an_error_of_the_method_has_its_name():
    def fails(gramian, generator, *, share=1.0):
        raise ValueError("share must be below 1")

    register_gradient_method("odd")(fails)
    with pytest.raises(InputError, match="gradient_method 'odd' cannot be made: ValueError: share must be below 1"):
        make_gradient_method("odd")


def test_a_state_that_json_cannot_hold_stops_the_first_step(make_trainer, tmp_path):
    @register_gradient_method("averaging")
    class Averaging(GradientMethod):
        average = None

        def __call__(self, given, generator):
            self.average = given
            return torch.ones(len(given))

        def state_dict(self):
            return {"average": self.average}

    trainer = make_trainer(gradient_method="averaging", save_strategy="steps", save_steps=1)
    with pytest.raises(InputError, match=r"gradient_method 'averaging': state_dict gives .*tensor.*numbers and li"):
        trainer.train()
    assert not list((tmp_path / "out").glob("checkpoint-*"))
