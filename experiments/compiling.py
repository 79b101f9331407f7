"""What the largest step of a plan needs as a compiler has it, beside the estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from analysis.units import bytes_text, duration, human
from experiments.placing import SHEET, Placed, layout_line, placed
from scaling.spec import RunSpec
from scaling.training.compiling import Compiled, Topology, compile_step


@dataclass(frozen=True)
class CompiledStep:
    """The step of a plan that needs the most memory, compiled for chips that need not be here."""

    topology: Topology
    size: Placed
    compiled: Compiled

    @property
    def fits(self) -> bool:
        return self.compiled.needed <= self.topology.device.memory


def compiled_largest(runs: Sequence[RunSpec], topology: Topology) -> CompiledStep:
    """Raises Refusal as `compile_step` does, and where the estimate fits no size there."""
    placing = placed(runs, topology.name, topology.target, SHEET)
    placing.refuse_too_large()
    largest = max(placing.sizes, key=lambda each: each.memory.total)
    return CompiledStep(topology, largest, compile_step(largest.run, topology))


def to_text(step: CompiledStep) -> str:
    """One sentence: what was compiled, what it needs, and whether it fits."""
    run, compiled, estimate = step.size.run, step.compiled, step.size.memory.total
    return (
        f"Compiled for {step.topology.name} in {duration(compiled.seconds)}: the largest step "
        f"({human(run.params.total)} parameters; {layout_line(step.size)}) needs "
        f"{bytes_text(compiled.needed)} on each chip of {bytes_text(step.topology.device.memory)}, "
        f"and {'fits' if step.fits else 'does not fit'}. The estimate is {bytes_text(estimate)}."
    )


def to_json(step: CompiledStep) -> dict[str, Any]:
    """The same as JSON values; bytes on each chip."""
    return {
        "topology": step.topology.name,
        "run_id": step.size.run.run_id,
        "estimated_bytes": step.size.memory.total,
        **asdict(step.compiled),
        "memory_bytes": step.topology.device.memory,
        "fits": step.fits,
    }
