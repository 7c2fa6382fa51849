"""A step without the optimizer, and what it is compared with."""

import torch


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


def relative_error(found, wanted):
    """2-norm of the difference over that of the wanted vector, in fp64."""
    found, wanted = found.double(), wanted.double()
    return float((found - wanted).norm() / wanted.norm())


def step(trainer, batch):
    """Run one step without the optimizer; the flat gradient over the shared parameters."""
    trainer.step.begin(trainer.state.global_step)
    trainer.training_step(trainer.model, batch)
    return flat([p.grad for p in trainer.model.shared_parameters()]).clone()


def assert_step_is_backward_of(trainer, batch, loss):
    """After a step of the plain sum, every parameter has the gradient of `loss(trainer)`, up to fp32's rounding."""
    trainer.create_optimizer_and_scheduler(4)
    trainer.current_gradient_accumulation_steps = 1
    trainer.evaluator.prepare_heads(trainer.train_dataset.tasks)  # as a training does at its beginning
    step(trainer, batch)
    found = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
    trainer.model.zero_grad()
    loss(trainer).backward()
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)


def paper_algorithm_1(gradients, orders):
    """Yu et al. 2020, algorithm 1, in fp64."""
    total = torch.zeros_like(gradients[0], dtype=torch.float64)
    for i, gradient in enumerate(gradients):
        projected = gradient.double().clone()
        for j in orders[i].tolist():
            other = gradients[j].double()
            inner = projected @ other
            if inner < 0:
                projected -= inner / (other @ other) * other
        total += projected
    return total
