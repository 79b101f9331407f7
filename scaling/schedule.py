"""Learning rates as pure functions of the absolute step.

A run's rate is computed on the host in float64 and handed to the compiled step, so every
schedule runs the same program and a cooldown shares its trunk's rates to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Decay = Literal["none", "1-sqrt", "linear", "cosine"]


@dataclass(frozen=True)
class Schedule:
    """Linear warmup, a constant rate, then a decay over the last `decay_steps`.

    A trunk decays by "none"; a cooldown branch shares the trunk's warmup and constant rate and
    ends in "1-sqrt" (Hägele et al. 2024, arXiv:2405.18392, eq. 4) or "linear"; a cosine run
    decays over all steps after its warmup to a tenth of the peak (Hoffmann et al. 2022,
    arXiv:2203.15556, section 3.1).
    """

    peak: float
    warmup_steps: int
    steps: int
    decay: Decay
    decay_steps: int

    @property
    def decay_start(self) -> int:
        """The branch point: the steps done at the full rate."""
        return self.steps - self.decay_steps


COSINE_FLOOR = 0.1  # of the peak; Hoffmann et al. 2022, section 3.1


def learning_rates(schedule: Schedule, first: int, count: int) -> np.ndarray:
    """The rates of steps first … first + count − 1: float32, shape (count,).

    Steps count from 0; step s of the warmup runs at peak·(s + 1)/warmup_steps, so no step is
    wasted at rate 0, and the last step of a decay still moves.
    """
    step = np.arange(first, first + count, dtype=np.float64)
    rate = np.full(count, schedule.peak)
    if schedule.warmup_steps:
        rate *= np.minimum(1.0, (step + 1) / schedule.warmup_steps)
    if schedule.decay != "none" and schedule.decay_steps:
        done = np.clip((step - schedule.decay_start) / schedule.decay_steps, 0.0, 1.0)
        rate *= {
            "1-sqrt": lambda: 1 - np.sqrt(done),
            "linear": lambda: 1 - done,
            "cosine": lambda: COSINE_FLOOR + (1 - COSINE_FLOOR) * 0.5 * (1 + np.cos(np.pi * done)),
        }[schedule.decay]()
    return rate.astype(np.float32)
