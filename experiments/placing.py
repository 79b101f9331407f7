"""Whether the largest run of a plan fits the devices that were asked for, and what would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from analysis.units import bytes_text, human
from experiments.devices import platform_of
from models.devices import Device
from scaling.planning.layout import Layout, Target, layout_of
from scaling.planning.memory import StepMemory, step_memory
from scaling.planning.plan import Plan
from scaling.spec import RunSpec
from scaling.store.records import Refusal

# What compilers need at most of the count beside the state. libtpu's compiled step of the largest
# run of experiments/accelerator.toml takes 10.1 GB where 7.1 are counted
# (tests/agreement/test_tpu_compiler.py compiles it); a 21M model took .4 of this.
COMPILED = 1.42


@dataclass(frozen=True)
class Placed:
    """The run of a plan that needs the most memory, on so many of a device."""

    run: RunSpec
    device: Device
    count: int
    layout: Layout
    memory: StepMemory

    @property
    def needed(self) -> float:
        """Bytes on each device, with what compilers add to the estimate's temporaries."""
        return self.memory.state + COMPILED * (self.memory.working + self.memory.activations)

    @property
    def verdict(self) -> str:
        """`fits`, `tight` where only the plain estimate does, or `does not fit`."""
        if self.needed <= self.device.memory:
            return "fits"
        return "tight" if self.memory.total <= self.device.memory else "does not fit"


def placed(plan: Plan, device: Device, count: int) -> Placed:
    """The plan's largest run by memory, on `count` of a device."""
    # Of very many runs most differ in their seed or length, which need no memory.
    kinds = {
        (run.architecture, run.model, run.dtype, run.hardware, run.batch_sequences): run
        for run in plan.runs
    }
    found = [place(run, device, count) for run in kinds.values()]
    return max(found, key=lambda each: each.memory.total)


def place(run: RunSpec, device: Device, count: int) -> Placed:
    """A run on so many of a device. Raises Refusal where it cannot be laid out there."""
    layout = layout_of(run, Target(platform_of(device), count, device.memory))
    return Placed(run, device, count, layout, step_memory(run, layout))


def to_text(each: Placed) -> str:
    """What it needs, of what the device has, in a sentence or two; and what would fit."""
    m, run, at_once = each.memory, each.run, each.layout.microbatch_sequences
    needs = (
        f"{each.count} × {each.device.name}: the largest run "
        f"({human(run.params.total)} parameters, {m.sequences} of "
        f"{at_once} sequences of {run.sequence_length:,} tokens at once on each "
        f"of {m.devices}) needs about {bytes_text(each.needed)} of its "
        f"{bytes_text(each.device.memory)}: {bytes_text(m.state)} parameters and moments, "
        f"{bytes_text(COMPILED * m.working)} gradients and copies, "
        f"{bytes_text(COMPILED * m.activations)} activations. (Counted, not compiled: meant to be "
        "on the safe side; a 21M model took 0.4 of it.)"
    )
    if each.verdict == "fits":
        return f"{needs} It fits."
    word = "It may not fit" if each.verdict == "tight" else "It does not fit"
    remedy = next(_remedies(each), "Give larger devices, or leave the largest sizes out")
    return f"{needs} {word}. {remedy}."


def to_json(each: Placed) -> dict[str, Any]:
    """The estimate as JSON values; bytes on each device."""
    return {
        "device": each.device.name,
        "count": each.count,
        "params_total": each.run.params.total,
        "memory_bytes": each.device.memory,
        "needed_bytes": each.needed,
        **asdict(each.memory),
        "verdict": each.verdict,
    }


def _remedies(each: Placed) -> Iterator[str]:
    """Changes of [hardware] or --count with which it fits, those that cost least first."""
    run, asked = each.run, each.run.hardware
    for remat in dict.fromkeys((asked.remat, "full")):
        for sequences in range(each.memory.sequences, 0, -1):
            tokens = sequences * run.sequence_length
            hardware = replace(asked, remat=remat, microbatch_tokens=tokens)
            made = place(replace(run, hardware=hardware), each.device, each.count)
            if made.memory.sequences == sequences and made.verdict == "fits":
                changes = []
                if sequences != each.memory.sequences:
                    changes.append(f"microbatch_tokens = {tokens}")
                if remat != asked.remat:
                    changes.append(f'remat = "{remat}"')
                yield f"Give {' and '.join(changes)}: about {bytes_text(made.needed)} on each"
    for count in (each.count * 2**k for k in range(1, 12)):
        with suppress(Refusal):
            made = place(run, each.device, count)
            if made.verdict == "fits":
                yield f"Give --count {count}: about {bytes_text(made.needed)} on each"
