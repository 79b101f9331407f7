"""Whether the largest run of a plan fits the devices that were asked for, and what would."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from analysis.units import bytes_text, human
from models.devices import Device
from scaling.planning.memory import StepMemory, step_memory
from scaling.planning.plan import Plan
from scaling.spec import RunSpec

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
        (run.architecture, run.model, run.dtype, run.hardware, run.microbatch_sequences): run
        for run in plan.runs
    }
    found = [Placed(run, device, count, step_memory(run, count)) for run in kinds.values()]
    return max(found, key=lambda each: each.memory.total)


def to_text(each: Placed) -> str:
    """What it needs, of what the device has, in a sentence or two; and what would fit."""
    m, run = each.memory, each.run
    needs = (
        f"{each.count} × {each.device.name}: the largest run "
        f"({human(run.params.total)} parameters, {m.sequences} of "
        f"{run.microbatch_sequences} sequences of {run.sequence_length:,} tokens at once on each "
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
    run = each.run
    for remat in dict.fromkeys((run.hardware.remat, True)):
        for sequences in range(each.memory.sequences, 0, -1):
            micro = sequences * each.memory.devices
            accumulate, rest = divmod(run.batch_sequences, micro)
            if rest:
                continue
            hardware = replace(run.hardware, remat=remat, accumulate=accumulate)
            other = replace(run, hardware=hardware)
            made = replace(each, run=other, memory=step_memory(other, each.count))
            if made.verdict == "fits":
                changes = []
                if accumulate != run.hardware.accumulate:
                    changes.append(f"accumulate = {accumulate} (microbatches of {micro} sequences)")
                if remat != run.hardware.remat:
                    changes.append("remat = true")
                yield f"Give {' and '.join(changes)}: about {bytes_text(made.needed)} on each"
    for count in (each.count * 2**k for k in range(1, 12)):
        made = replace(each, count=count, memory=step_memory(run, count))
        if made.verdict == "fits":
            yield f"Give --count {count}: about {bytes_text(made.needed)} on each"
