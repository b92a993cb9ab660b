"""Seeds of one ask from the study's seed and the trial's number."""

from __future__ import annotations

import numpy as np


def seed_of(seed: int, number: int) -> int:
    """32 bits, alike in every process."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
