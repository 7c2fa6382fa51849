"""Every optimizer of pytorch_optimizer: refused by name, or it trains with a part of the model frozen."""

import pytest
import torch
from pytorch_optimizer import get_supported_optimizers
from torch import nn

from hf_mtl import InputError
from hf_mtl.training.optimizers import REFUSED, optimizer_class

NEEDED = {"ranger21": {"num_iterations": 100}}  # what a constructor asks for beside the parameters
USABLE = sorted(set(get_supported_optimizers()) - set(REFUSED))


class TinyEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.linear = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.linear(self.embedding(ids))))


def weight_decay_groups(model: nn.Module) -> list[dict]:
    """The Trainer's two groups: biases and norms do not decay."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    return [
        {"params": decayed, "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]


@pytest.mark.filterwarnings("ignore")  # what a library's optimizer warns of is not the point here
@pytest.mark.parametrize("name", USABLE)
def test_a_supported_optimizer_trains_and_leaves_frozen_parameters_alone(name):
    torch.manual_seed(0)
    model = TinyEncoder()
    options = NEEDED.get(name, {})
    optimizer = optimizer_class(name, options)(weight_decay_groups(model), **{"lr": 1e-3, **options})
    assert isinstance(optimizer, torch.optim.Optimizer)
    if callable(getattr(optimizer, "train", None)):
        optimizer.train()
    model.embedding.requires_grad_(False)
    frozen = model.embedding.weight.detach().clone()
    for step in range(4):
        if step == 2:
            assert torch.equal(model.embedding.weight, frozen)
            model.embedding.requires_grad_(True)
        optimizer.zero_grad()
        model(torch.arange(10)).square().sum().backward()
        assert (model.embedding.weight.grad is None) == (step < 2)
        optimizer.step()
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refused_optimizer_is_refused_with_the_reason(name):
    with pytest.raises(InputError, match=f"'{name}' cannot be used here: ") as refusal:
        optimizer_class(name.upper(), {})
    assert REFUSED[name] in str(refusal.value)


def test_every_refused_name_is_one_that_there_is():
    assert set(REFUSED) <= set(get_supported_optimizers())


@pytest.mark.parametrize("name", ["lion", "Lion", "AdamW"])
def test_names_do_not_depend_on_case(name):
    assert optimizer_class(name, {}).__name__.lower() == name.lower()


def test_an_unknown_name_gives_the_closest():
    with pytest.raises(InputError, match=r"unknown optimizer 'lionn' \(did you mean 'lion'\?\)"):
        optimizer_class("lionn", {})


@pytest.mark.parametrize("options", [{"betas": [0.9, 0.98]}, {"weight_decouple": False}])
def test_options_as_json_gives_them_reach_the_optimizer(options):
    model = TinyEncoder()
    optimizer = optimizer_class("lion", options)(model.parameters(), **options)
    model(torch.arange(10)).sum().backward()
    optimizer.step()
    assert all(optimizer.param_groups[0][key] == value for key, value in options.items())


@pytest.mark.parametrize(
    "name, options, problem",
    [
        ("lion", {"beta": 0.9}, "'beta' .did you mean 'betas'"),
        ("lion", {"betas": [0.9, 2]}, "beta"),
        ("lion", {"betas": "fast"}, "beta"),
        ("lion", {"lr": 1e-3}, "gets its lr from --learning_rate"),
        ("Lion", {"lr": None}, "gets its lr from --learning_rate"),
        ("adan", {"weight_decay": 0.2}, "gets its weight_decay from --weight_decay"),
        ("lion", {"betas": [0.9]}, "beta"),
        ("ranger21", {}, "num_iterations"),
        ("lion", {"params": 1}, "params"),
    ],
)
def test_options_that_the_constructor_does_not_take_are_refused(name, options, problem):
    with pytest.raises(InputError, match=f"optimizer '{name.lower()}'.*({problem})"):
        optimizer_class(name, options)
