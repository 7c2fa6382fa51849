"""Engines that shard: methods that look at losses alone take the step of one plain process; the others are refused."""

import importlib.util
from types import SimpleNamespace

import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import load_file
from worker_runs import SETTINGS, train, train_here

from hf_mtl import InputError
from hf_mtl.training.unsupported import check_supported

SHARDED = {k: v for k, v in SETTINGS.items() if k != "per_device_train_batch_size"}
SHARDED |= {"unfreeze_schedule": "none", "max_steps": 6}
native_fsdp = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"), reason="transformers shards a model itself from 5.23 on"
)
zero = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
ENGINES = [
    pytest.param({"fsdp": 2}, marks=native_fsdp, id="fsdp"),
    *(
        pytest.param(
            {
                "deepspeed": {
                    "zero_optimization": {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True},
                    "zero_allow_untested_optimizer": True,
                    "zero_force_ds_cpu_optimizer": False,
                    "train_micro_batch_size_per_gpu": "auto",
                    "gradient_accumulation_steps": "auto",
                    "gradient_clipping": "auto",
                }
            },
            marks=zero,
            id=f"zero-{stage}",
        )
        for stage in (2, 3)
    ),
]


def end_weights(folder):
    return torch.cat([weight.flatten() for _, weight in sorted(load_file(folder / "model.safetensors").items())])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The model that every run starts from, and the plain run of a method, made once: (end weights, result)."""
    folder = tmp_path_factory.mktemp("plain")
    train_here(folder, "start", **{**SHARDED, "max_steps": 1})
    done = {}

    def run(method, **batches):
        if method not in done:
            result = train_here(
                folder, method, start=str(folder / "start"), gradient_method=method, **SHARDED, **batches
            )
            done[method] = end_weights(folder / method), result
        return done[method]

    return folder / "start", run


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("method", "micro_batches", "rows"),
    # 5 rows of two tasks: their numbers differ between micro-batches
    [("famo", 1, 8), ("uncertainty", 2, 5), pytest.param("fixed", 1, 8, marks=zero)],
)
def test_a_sharding_engine_takes_the_plain_step(plain, tmp_path, monkeypatch, engine, method, micro_batches, rows):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    start, run = plain
    weights, wanted = run(method, per_device_train_batch_size=rows, gradient_accumulation_steps=2 * micro_batches)
    batches = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": micro_batches}
    result = train(tmp_path, "two", 2, start=str(start), gradient_method=method, **engine, **SHARDED, **batches)
    begin = end_weights(start)
    update, found = weights - begin, end_weights(tmp_path / "two") - begin
    assert update.norm() > 0.01
    # six steps amplify the rounding of fp32 sums taken in another order
    assert float((found - update).norm() / update.norm()) <= 1e-5
    torch.testing.assert_close(torch.tensor(result["norms"]), torch.tensor(wanted["norms"]), rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.tensor(result["losses"]), torch.tensor(wanted["losses"]), rtol=1e-5, atol=0)
    numbers = [run["memory"].get("numbers", []) for run in (result, wanted)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"gradient_method": "pcgrad"}, "gradient_method is 'pcgrad'.* Add --gradient_method famo"),
        ({"gradient_method": "famo", "gradient_accumulation_steps": 2}, "gradient_accumulation_steps is 2, wanted 1"),
        ({"gradient_method": "fixed", "unfreeze_schedule": "0:0,1:2"}, "add --unfreeze_schedule none"),
        (
            {"gradient_method": "fixed", "push_to_hub": True, "hub_strategy": "checkpoint"},
            "hub_strategy is 'checkpoint'",
        ),
    ],
)
def test_what_cannot_be_right_is_refused_with_what_to_use_instead(make_trainer, monkeypatch, arguments, named):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match=named):
        make_trainer(**arguments)
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    make_trainer(**{**arguments, "push_to_hub": False})


def test_zero_3_that_could_not_save_its_model_is_refused(make_model, make_arguments, specs):
    args = make_arguments(gradient_method="fixed")
    args.deepspeed = "zero3.json"
    for gathers in (True, False):
        config = SimpleNamespace(get_value=lambda key, gathers=gathers: gathers)
        args.deepspeed_plugin = SimpleNamespace(zero_stage=3, hf_ds_config=config)
        if gathers:
            check_supported(make_model(), args, specs)
        else:
            with pytest.raises(InputError, match="stage3_gather_16bit_weights_on_model_save"):
                check_supported(make_model(), args, specs)
