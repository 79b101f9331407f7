"""What a training step needs in the memory of each device: an estimate, by configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

from models.decoder.count import count_params
from scaling.spec import RunSpec


@dataclass(frozen=True)
class StepMemory:
    """Bytes on each of the devices that share a run."""

    devices: int  # that share it: as many as divide a microbatch
    sequences: int  # of a microbatch on each of them
    state: float  # parameters and both moments of Adam, float32
    working: float  # gradients, and weights in the format that multiplies
    activations: float  # kept for the backward pass of a microbatch, logits among them

    @property
    def total(self) -> float:
        return self.state + self.working + self.activations


def step_memory(run: RunSpec, devices: int) -> StepMemory:
    """The memory of a step of `run` on each of `devices`, whose matrices are divided among them.

    Counted are the arrays that the step must hold at once: state, gradients, copies of the
    weights in the compute format, and what the backward pass of one microbatch reads, attention
    scores in full (this decoder writes them out). A compiler keeps some more and shares some.
    """
    c, hardware = run.model, run.hardware
    shared = run.devices_used(devices)
    sequences = run.microbatch_sequences // shared
    params = count_params(c)
    size = {"float32": 4, "bfloat16": 2}[run.dtype]
    tokens = sequences * run.sequence_length
    # A layer's: norms, residuals and projections; the MLP; scores, their softmax and its gradient.
    layer = size * (8 * c.d_model + 4 * c.n_heads * c.head_dim + 3 * c.d_ff)
    layer += (4 + size + size) * c.n_heads * c.context_length
    kept = layer + c.n_layers * size * c.d_model if hardware.remat else c.n_layers * layer
    logits = 2 * 4 * c.vocab_size  # float32 always: they and their gradient
    # Microbatches add up their gradients in a second copy.
    gradients = (8 if hardware.accumulate > 1 else 4) * params.total / shared
    one_layer = params.non_embedding / c.n_layers
    whole = one_layer + c.vocab_size * c.d_model if shared > 1 else params.total
    copies = size * whole if shared > 1 or size < 4 else 0.0
    return StepMemory(
        devices=shared,
        sequences=sequences,
        state=12.0 * params.total / shared,
        working=gradients + copies,
        activations=float(tokens * (kept + logits)),
    )
