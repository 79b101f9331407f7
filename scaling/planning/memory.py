"""What a training step needs in the memory of each device: an estimate, by configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

from models.architecture import architecture
from scaling.planning.layout import Layout
from scaling.spec import RunSpec


@dataclass(frozen=True)
class StepMemory:
    """Bytes on each of the devices that share a run."""

    devices: int  # that share it
    sequences: int  # of a microbatch on each of them
    state: float  # parameters and both moments of Adam, float32
    working: float  # gradients, and weights in the format that multiplies
    activations: float  # kept for the backward pass of a microbatch, logits among them

    @property
    def total(self) -> float:
        return self.state + self.working + self.activations


def step_memory(run: RunSpec, layout: Layout) -> StepMemory:
    """The memory of a step of `run` on each of the devices of its layout.

    Counted are the arrays that the step must hold at once: state, gradients, copies of the
    weights in the compute format, and what the backward pass of one microbatch reads. A compiler
    keeps some more and shares some.
    """
    c, execution, family = run.model, layout.execution, architecture(run.architecture)
    shared = layout.devices if layout.sharding == "fsdp" else 1
    params, size = run.params.total, execution.bytes_each
    logits = 2 * 4 * c.vocab_size  # float32 always: they and their gradient
    kept = family.activation_bytes(c, execution) + logits
    # Microbatches add up their gradients in a second copy.
    gradients = (8 if layout.accumulate > 1 else 4) * params / shared
    whole = family.held_whole(c) if shared > 1 else params
    copies = size * whole if shared > 1 or size < 4 else 0.0
    return StepMemory(
        devices=layout.devices,
        sequences=layout.sequences,
        state=12.0 * params / shared,
        working=gradients + copies,
        activations=float(layout.sequences * run.sequence_length * kept),
    )
