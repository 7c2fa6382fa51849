"""A subclass's `compute_loss` is what is trained: once per task, with gradients as a plain loop's."""

import logging

import numpy as np
import pytest
import torch
from packed_steps import packs
from plain_steps import flat, paper_algorithm_1, relative_error, step
from torch.nn import functional as F

from hf_mtl import InputError, MultiTaskTrainer
from hf_mtl.gradients.solvers import projection_orders
from hf_mtl.seeding import seeded_generator


class Smoothed(MultiTaskTrainer):
    """Label smoothing for classes, twice the error for values; keeps the names of the tasks that it was called for."""

    calls = ()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self.calls = (*self.calls, inputs["task"])
        outputs = model(**inputs)
        if self.tasks[inputs["task"]].kind == "classification":
            loss = F.cross_entropy(outputs.logits, inputs["labels"], label_smoothing=0.3)
        else:
            loss = 2 * outputs.loss
        return (loss, outputs) if return_outputs else loss


@pytest.fixture
def make(make_model, make_arguments, specs, rows, tokenizer):
    def make(trainer=Smoothed, **arguments):
        given = specs, rows["train"], rows["validation"], tokenizer
        return trainer(make_model(), make_arguments(**arguments), *given)

    return make


def by_hand(trainer, batches):
    """Task -> (flat gradient over the encoder, over its head) of the smoothed loss's mean over all micro-batches."""
    model, shared = trainer.model, trainer.model.shared_parameters()
    found = {}
    for task in trainer.tasks:
        sums, rows = 0, 0
        for batch in batches:
            inputs = dict(batch[task])
            logits = model.train()(task=task, **inputs).logits
            if task == "reviews":
                sums += F.cross_entropy(logits, inputs["labels"], label_smoothing=0.3, reduction="sum")
            else:
                sums += 2 * F.mse_loss(logits[:, 0], inputs["labels"].float() - 2.5, reduction="sum")
            rows += len(logits)
        head = list(model.heads[task].parameters())
        gradients = torch.autograd.grad(sums / rows, [*shared, *head])
        found[task] = flat(gradients[: len(shared)]), flat(gradients[len(shared) :])
    return found


@pytest.mark.parametrize("method", ["pcgrad", "sum"])
def test_the_step_is_that_of_a_plain_loop_over_ones_own_loss(make, method):
    trainer = make(gradient_method=method)
    trainer.current_gradient_accumulation_steps = 1
    batch = next(iter(trainer.get_train_dataloader()))
    wanted = by_hand(trainer, [batch])
    shared = [gradient for gradient, _ in wanted.values()]
    if method == "pcgrad":
        assert torch.dot(*shared) < 0, "without a conflict this would show nothing"
        combined = paper_algorithm_1(shared, projection_orders(2, seeded_generator(trainer.args.seed, 0)))
    else:
        combined = sum(shared)
    # fp32 sums over up to 10^5 elements
    assert relative_error(step(trainer, batch), combined) <= 1e-6
    for task, (_, head) in wanted.items():
        assert relative_error(flat([p.grad for p in trainer.model.heads[task].parameters()]), head) <= 1e-6
    assert trainer.calls == ("reviews", "pairs")


def test_micro_batches_weigh_by_their_rows(make):
    trainer = make(gradient_method="sum", gradient_accumulation_steps=2, per_device_train_batch_size=5)
    trainer.current_gradient_accumulation_steps = 2
    batches = list(trainer.get_train_dataloader())[:2]
    wanted = by_hand(trainer, batches)
    trainer.step.begin(trainer.state.global_step)
    for number, batch in enumerate(batches):
        trainer.accelerator.gradient_state._set_sync_gradients(number == 1)
        trainer.training_step(trainer.model, batch)
    found = flat([p.grad for p in trainer.model.shared_parameters()])
    assert relative_error(found, sum(shared for shared, _ in wanted.values())) <= 1e-6


def test_it_is_said_once_and_there_is_no_packed_pass(make, caplog):
    with caplog.at_level(logging.INFO, logger="hf_mtl"):
        assert packs(make(MultiTaskTrainer))
        assert "compute_loss" not in caplog.text
        trainer = make(max_steps=3)
        assert not packs(trainer)
        trainer.train()
    assert caplog.text.count("compute_loss is not the Trainer's") == 1
    assert trainer.calls == ("reviews", "pairs") * 3


def test_one_that_was_put_in_its_place_is_called_too(make):
    trainer, calls = make(MultiTaskTrainer, max_steps=2), []
    stock = trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, **options: (
        calls.append(inputs["task"]) or stock(model, inputs, **options)
    )
    trainer.train()
    assert calls == ["reviews", "pairs"] * 2


def test_a_subclass_that_calls_the_stock_one_trains_as_without(make):
    class Plain(MultiTaskTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            assert set(inputs) >= {"task", "input_ids", "attention_mask", "labels"}
            return super().compute_loss(model, inputs, *args, **kwargs)

    plain, wanted = make(Plain), make(MultiTaskTrainer)
    wanted.step.strategy.may_pack = False
    plain.train(), wanted.train()
    assert torch.equal(flat(plain.model.parameters()), flat(wanted.model.parameters()))


@pytest.mark.parametrize("arguments", [{"bf16": True}, {"gradient_checkpointing": True}], ids=str)
def test_half_precision_and_checkpointing_train_on_it(make, arguments):
    trainer, stock = make(max_steps=2, **arguments), make(MultiTaskTrainer, max_steps=2, **arguments)
    trainer.train(), stock.train()
    assert trainer.calls == ("reviews", "pairs") * 2
    losses = [t.state.log_history[0]["loss_pairs"] for t in (trainer, stock)]
    assert losses[0] == pytest.approx(2 * losses[1], rel=1e-2)


def test_evaluation_reports_its_mean_over_the_rows(make):
    trainer = make(per_device_eval_batch_size=7, train_metric_rows=0)
    stock = make(MultiTaskTrainer, per_device_eval_batch_size=7, train_metric_rows=0).evaluate()
    scores = trainer.evaluate()
    assert scores["eval_pairs_loss"] == pytest.approx(2 * stock["eval_pairs_loss"], rel=1e-5)
    assert scores["eval_reviews_loss"] != pytest.approx(stock["eval_reviews_loss"], rel=1e-5)
    assert scores["eval_pairs_pearson"] == stock["eval_pairs_pearson"]
    assert scores["eval_loss"] == pytest.approx(scores["eval_pairs_loss"] + scores["eval_reviews_loss"])


def test_famo_looks_at_the_same_losses_again(make):
    trainer = make(gradient_method="famo", max_steps=1)
    seen, learn = [], trainer.step.method.after_step
    trainer.step.method.after_step = lambda *losses: seen.append(losses) or learn(*losses)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.train()
    ((before, after),) = seen
    with torch.no_grad():
        trainer.model.train()
        wanted = [trainer.compute_loss(trainer.model, {"task": task, **batch[task]}).item() for task in trainer.tasks]
    np.testing.assert_allclose(after, wanted, rtol=1e-5)
    assert not np.allclose(before, after, rtol=1e-4)


def loss_giving(give):
    class Wrong(MultiTaskTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return give(super().compute_loss(model, inputs))

    return Wrong


@pytest.mark.parametrize(
    ("give", "named"),
    [
        (lambda loss: loss.repeat(3), r"for task 'reviews' is of shape \[3\], wanted its rows' mean, a scalar"),
        (lambda loss: (loss, None), "for task 'reviews' is a tuple"),
        (lambda loss: None, "for task 'reviews' is a NoneType"),
        (lambda loss: loss.item(), "for task 'reviews' is a float"),
        (lambda loss: loss.detach(), "for task 'reviews' is without a gradient"),
    ],
)
def test_what_is_no_loss_is_named(make, give, named):
    with pytest.raises(InputError, match=named):
        make(loss_giving(give)).train()


def test_one_that_forgets_the_outputs_in_evaluation_is_told(make):
    with pytest.raises(InputError, match=r"compute_loss.*return_outputs=True.*\(loss, outputs\)"):
        make(loss_giving(lambda loss: loss)).evaluate()


def test_a_signature_that_cannot_be_called_is_refused_when_the_trainer_is_built(make):
    class NoOutputs(MultiTaskTrainer):
        def compute_loss(self, model, inputs):
            return super().compute_loss(model, inputs)

    with pytest.raises(InputError, match=r"'return_outputs'; wanted compute_loss\(self, model, inputs, return_outputs"):
        make(NoOutputs)


def test_the_signature_of_earlier_releases_works(make):
    class Old(MultiTaskTrainer):
        def compute_loss(self, model, inputs, return_outputs=False):
            return super().compute_loss(model, inputs, return_outputs)

    trainer = make(Old, max_steps=1)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0


def test_an_engine_that_shards_is_refused(make, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match="compute_loss is overridden, and DeepSpeed and FSDP"):
        make(gradient_method="famo")
