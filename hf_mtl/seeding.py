"""Random generators that depend on nothing but integers, so that every rank and every resumed run draws alike."""

from __future__ import annotations

import numpy as np
import torch


def seeded_generator(*key: int) -> torch.Generator:
    """A CPU generator whose stream is a function of `key` only, e.g. (seed, global_step); keys are mixed, not added."""
    state = np.random.SeedSequence([part & 0xFFFFFFFF for part in key]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & 0x7FFFFFFFFFFFFFFF)
