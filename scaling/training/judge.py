"""What a model loses on held-out text: the one place where it is computed."""

from __future__ import annotations

from typing import Any

import numpy as np

from scaling.data.holdout import HoldoutWindows, iterate_windows
from scaling.training.step import Program


def holdout_losses(
    program: Program, params: Any, windows: HoldoutWindows, sequences: int
) -> np.ndarray:
    """The loss of every held-out token, nats: float32, shape (windows, sequence_length).

    `sequences` windows are judged at once; how many changes roundings at most.
    """
    losses = [
        np.asarray(program.evaluate(params, program.put_windows(part)))
        for part in iterate_windows(windows, sequences)
    ]
    return np.concatenate(losses)[: len(windows.tokens)]
