"""What a training step needs in the memory of each device: an estimate, by configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

from models.architecture import architecture
from models.output import BLOCK_ROWS
from scaling.optimizers import state_numbers
from scaling.planning.layout import Layout
from scaling.spec import RunSpec


@dataclass(frozen=True)
class StepMemory:
    """Bytes on each of the devices that share a run."""

    devices: int  # that share it
    sequences: int  # of a microbatch on each of them
    state: float  # parameters and what the optimiser keeps of them, float32
    sums: float  # gradients of the microbatches before, float32
    copies: float  # weights in the format that multiplies
    activations: float  # kept for the backward pass of a microbatch
    working: float  # the most that is needed beside at a time: see `step_memory`

    @property
    def total(self) -> float:
        return self.state + self.sums + self.copies + self.activations + self.working


def logits_memory(run: RunSpec, layout: Layout) -> float:
    """Bytes of the logits that a step holds at once on each device, and of their gradient."""
    execution, tokens = layout.execution, layout.sequences * run.sequence_length
    rows = min(tokens, BLOCK_ROWS) if execution.loss == "chunked" else tokens
    # Their gradient is in the format that multiplies; libtpu makes it inside the products.
    gradient = execution.bytes_each * (0.25 if execution.attention == "splash" else 1)
    return rows * run.model.vocab_size * (4.0 + gradient)


def step_memory(run: RunSpec, layout: Layout) -> StepMemory:
    """The memory of a step of `run` on each of the devices of its layout.

    Counted are the arrays that the step must hold at once. They are most either when the backward
    pass begins, with the logits, their gradient and that of the head, or when it ends, with the
    arrays of a layer and the gradients of all parameters.
    """
    c, execution, family = run.model, layout.execution, architecture(run.architecture)
    shared = layout.devices if layout.sharding == "fsdp" else 1
    size, params = execution.bytes_each, run.params.total
    kept = state_numbers(run.optimizer.name, params, run.params.matrix)
    tokens = layout.sequences * run.sequence_length
    gradients = 4.0 * params / shared
    head = 4.0 * run.params.head_matmul
    whole = family.held_whole(c)
    layer = tokens * family.working_bytes(c, execution)
    copies = size * params / shared if size < 4 else 0.0
    if shared > 1:  # what is gathered: the table in float32, for lookups
        copies += size * whole + 4.0 * run.params.embedding
    activations = tokens * family.activation_bytes(c, execution)
    if execution.layers == "scanned":  # arrays of all layers, from the first to the last
        layer += gradients
        if size < 4:
            layer += (2.0 + size) * whole  # weights and gradients before they join those of all
    else:  # the first layer's gradients come when all other activations are gone
        layer += max(head, gradients - activations)
    return StepMemory(
        devices=layout.devices,
        sequences=layout.sequences,
        state=4.0 * (params + kept) / shared,
        sums=gradients if layout.accumulate > 1 else 0.0,
        copies=copies,
        activations=activations,
        working=max(logits_memory(run, layout) + head, layer),
    )
