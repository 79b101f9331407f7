"""How a run is laid out on the devices that share it: derived, where its study asks for nothing.

A layout is no part of what a run is: it changes roundings, speed and memory alone. On CPUs it is a
function of the run and of how many devices share it, so that the same bits come out anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from models.architecture import Attention, Execution, Platform, Sharding, architecture
from scaling.spec import RunSpec
from scaling.store.records import Refusal

STEPS_PER_CALL = 8  # where a study says nothing: enough to hide the host between calls


@dataclass(frozen=True)
class Target:
    """What a run is laid out for."""

    platform: Platform
    devices: int = 1  # that share the run
    memory: float | None = None  # bytes of each; null where it is not known


def native(attention: Attention | None) -> Target:
    """One device of a kind that has this implementation of attention."""
    platforms: Mapping[Attention | None, Platform] = {"cudnn": "gpu", "splash": "tpu"}
    return Target(platforms.get(attention, "cpu"))


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


def layout_of(run: RunSpec, target: Target) -> Layout:
    """The layout of a run.

    Raises Refusal, with field, value and remedy, for a batch that the devices do not divide, a
    microbatch of less than a sequence, and what its architecture cannot do there.
    """
    asked, family = run.hardware, architecture(run.architecture)
    share, rest = divmod(run.batch_sequences, target.devices)
    if rest:
        raise Refusal(
            f"[training] batch_sequences = {run.batch_sequences} does not divide among "
            f"{target.devices} devices. Give a multiple of {target.devices}, or the run fewer "
            "devices."
        )
    sequences = share
    if asked.microbatch_tokens is not None:
        most = asked.microbatch_tokens // run.sequence_length
        if not most:
            raise Refusal(
                f"[hardware] microbatch_tokens = {asked.microbatch_tokens:,} is less than one "
                f"sequence. Give {run.sequence_length:,} (sequence_length) or more."
            )
        sequences = next(n for n in range(min(most, share), 0, -1) if share % n == 0)
    attention = asked.attention or family.attention(
        run.model, run.sequence_length, run.dtype, target.platform
    )
    execution = Execution(
        run.dtype,
        asked.layers or "unrolled",
        asked.remat or "none",
        attention,
        asked.loss or "whole",
    )
    try:
        family.check(execution)
        family.check_attention(
            run.model, run.sequence_length, run.dtype, target.platform, attention
        )
    except ValueError as error:
        raise Refusal(f"[hardware] architecture = {run.architecture!r}: {error}.") from error
    return Layout(
        devices=target.devices,
        sharding=asked.sharding or "data",
        microbatch_sequences=sequences * target.devices,
        accumulate=share // sequences,
        execution=execution,
        steps_per_call=asked.steps_per_call or STEPS_PER_CALL,
    )
