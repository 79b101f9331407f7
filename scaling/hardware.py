"""What a study asks of how its runs are laid out: its [hardware] section."""

from __future__ import annotations

from pydantic import ConfigDict, StrictBool
from pydantic.dataclasses import dataclass

from models.architecture import Attention, Layers, LossForm, Remat, Sharding
from scaling.fields import Count


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Hardware:
    """How runs are laid out on what they train on: no part of what they are.

    What is not given is derived for each size and device (scaling/planning/deriving.py).
    """

    microbatch_tokens: Count | None = None  # of each device, at most
    layers: Layers | None = None  # scanned: compile time constant in depth
    remat: Remat | None = (
        None  # computed again in the backward pass: nothing, all but products, all
    )
    attention: Attention | None = None
    loss: LossForm | None = None  # chunked: the logits of a few rows at a time
    sharding: Sharding | None = None  # each device holds all of the state, or a share of it
    steps_per_call: Count | None = None  # optimiser steps inside one compiled call, at most
    deterministic: StrictBool = False  # the same bits on a GPU too, at a cost
