"""What a model loses on held-out text: the one place where it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from scaling.data.holdout import HoldoutWindows, iterate_windows
from scaling.training.step import Program


@dataclass(frozen=True)
class Judging:
    """Losses that the devices have been asked for, and may still be at work on.

    Until they are fetched, 8 bytes of device memory a held-out token: the tokens and the losses.
    """

    parts: tuple[jax.Array, ...]  # each (windows at once, sequence_length), float32
    windows: int  # without those that fill up the last part

    def losses(self) -> np.ndarray:
        """The loss of every held-out token, nats: float32, shape (windows, sequence_length)."""
        return np.concatenate(jax.device_get(self.parts))[: self.windows]


def judge(program: Program, params: Any, windows: HoldoutWindows) -> Judging:
    """Ask the devices for the losses of all held-out windows, and wait for none.

    A microbatch of windows is judged at once; how many changes roundings at most. The parameters
    may be donated to a step that is asked for afterwards.
    """
    parts = tuple(
        program.evaluate(params, program.put_windows(part))
        for part in iterate_windows(windows, program.layout.microbatch_sequences)
    )
    return Judging(parts, len(windows.tokens))


def holdout_losses(program: Program, params: Any, windows: HoldoutWindows) -> np.ndarray:
    """As `judge`, and wait for the losses: float32 nats, shape (windows, sequence_length)."""
    return judge(program, params, windows).losses()
