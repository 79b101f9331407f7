"""How a run is laid out, and what for. No part of what a run is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from models.architecture import Attention, Execution, Platform, Sharding

STEPS_PER_CALL = 8  # at most, where a study says nothing: enough to hide the host between calls


@dataclass(frozen=True)
class Target:
    """What a run is laid out for."""

    platform: Platform
    devices: int = 1  # that share the run
    memory: float | None = None  # bytes of each; null where it is not known
    # The compute capability of GPUs with CUDA, such as 9.0; null where it is not known.
    capability: float | None = None


def native(attention: Attention | None) -> Target:
    """One device, as large as need be, of a kind that has this implementation of attention."""
    platforms: Mapping[Attention | None, Platform] = {"cudnn": "gpu", "splash": "tpu"}
    return Target(platforms.get(attention, "cpu"), memory=math.inf)


@dataclass(frozen=True)
class Layout:
    """How a run is laid out: its microbatches, its devices, and how its arithmetic is done."""

    microbatch_sequences: int  # of all devices together
    accumulate: int = 1  # microbatches a step
    devices: int = 1
    sharding: Sharding = "data"
    execution: Execution = field(default_factory=Execution)
    steps_per_call: int = STEPS_PER_CALL  # optimiser steps inside one compiled call, at most

    @property
    def sequences(self) -> int:
        """Of a microbatch on each device."""
        return self.microbatch_sequences // self.devices
