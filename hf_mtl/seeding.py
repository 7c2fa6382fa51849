"""Random generators that depend on nothing but integers, so that every rank and every resumed run draws alike.

And the global generator's state, to draw the same dropout masks again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def seeded_generator(*key: int) -> torch.Generator:
    """A CPU generator whose stream is a function of `key` only, e.g. (seed, global_step); keys are mixed, not added."""
    state = np.random.SeedSequence([part & 0xFFFFFFFF for part in key]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & 0x7FFFFFFFFFFFFFFF)


def random_state(device: torch.device) -> Tensor:
    """State of the global generator that dropout on `device` draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


@contextmanager
def replayed(state: Tensor, device: torch.device) -> Iterator[None]:
    """Run the block with `device`'s random generator set to `state`, then put the generator back."""
    before = random_state(device)
    set_state = torch.cuda.set_rng_state if device.type == "cuda" else torch.set_rng_state
    set_state(state)
    try:
        yield
    finally:
        set_state(before)
