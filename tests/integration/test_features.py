"""The step stays the same under the features that people turn on."""

import pytest
import torch
from torch._dynamo import register_backend

from hf_mtl import InputError
from hf_mtl.gradients.combine import combine_gradients


def flat(parameters):
    return torch.cat([p.detach().flatten() for p in parameters])


def relative_error(found, wanted):
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def update(make_trainer, make_model, **arguments):
    """The change of all weights after a short run."""
    model = make_model(layers=3)
    start = flat(model.parameters())
    trainer = make_trainer(model, optim="sgd", learning_rate=0.05, max_steps=6, **arguments)
    trainer.train()
    return flat(model.parameters()) - start


@pytest.mark.parametrize("schedule", ["none", "0:0,2:1,4:all steps"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(make_trainer, make_model, schedule, reentrant):
    plain = update(make_trainer, make_model, unfreeze_schedule=schedule)
    found = update(
        make_trainer,
        make_model,
        unfreeze_schedule=schedule,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": reentrant},
    )
    assert plain.norm() > 0.01
    assert relative_error(found, plain) <= 1e-6  # the same kernels on the same numbers


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters_are_refused(make_trainer, make_model, dtype):
    with pytest.raises(InputError, match=r"parameters are torch\.\w+16, wanted torch\.float32"):
        make_trainer(make_model().to(dtype))


def test_bf16_autocast_keeps_the_rows_in_fp32_and_comes_close(make_trainer, make_model, monkeypatch):
    plain = update(make_trainer, make_model)
    model = make_model(layers=3)
    start = flat(model.parameters())
    trainer = make_trainer(model, optim="sgd", learning_rate=0.05, max_steps=6, bf16=True)
    dtypes = set()

    def noting(gradients, *how):
        dtypes.add(gradients.buffer.values.dtype)
        combine_gradients(gradients, *how)

    monkeypatch.setattr("hf_mtl.training.step.combine_gradients", noting)
    trainer.train()
    assert dtypes == {torch.float32}
    assert relative_error(flat(model.parameters()) - start, plain) <= 0.05  # bf16 carries 8 bits


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # from inside torch's tracer
def test_compiled_layers(make_trainer, make_model, caplog):
    plain = update(make_trainer, make_model)
    seen = []

    def backend(graph, example_inputs):
        seen.append(len(example_inputs))
        return graph.forward

    torch._dynamo.reset()
    register_backend(backend, name="counting")
    with caplog.at_level("INFO", "hf_mtl"):
        found = update(make_trainer, make_model, torch_compile=True, torch_compile_backend="counting")
    assert "layers are compiled" in caplog.text
    assert len(seen) >= 1  # the layers did go through the compiler
    assert len(seen) <= 4  # one graph for all layers, tasks and lengths, and one for each kind of mode
    assert relative_error(found, plain) <= 1e-5
