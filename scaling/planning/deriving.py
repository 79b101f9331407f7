"""How a run is laid out on the devices that share it: derived, where its study asks for nothing.

A layout is no part of what a run is: it changes roundings, speed and memory alone. Every way to run
a step has a rough cost in time and an estimate of its memory; the cheapest that fits is taken. It
is a function of the run and of what it is laid out for, so that a run that goes on elsewhere on the
same devices is laid out alike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import get_args

from models.architecture import (
    Execution,
    Layers,
    LossForm,
    Remat,
    Sharding,
    architecture,
)
from scaling.hardware import Hardware
from scaling.planning.layout import STEPS_PER_CALL, Layout, Target
from scaling.planning.memory import step_memory
from scaling.spec import RunSpec
from scaling.store.records import Refusal

# FLOPs of each device in a call: a second at half the peak of an H100 in bfloat16. What asks a run
# to stop waits for the end of a call.
CALL_FLOPS = 5e14
# Tokens of each device in a microbatch, at most: half of the memory would gain nothing more. 64
# sequences of 1,024 (llm.c, on an A100 and an H100) and 32 of 2,048 (nanochat, on an H100) are as
# many.
SATURATING = 1 << 16
# Layers from which they are scanned on accelerators. XLA compiles each unrolled layer anew: libtpu
# took 47 s for 12 layers of width 768. Scanned layers take longer to run, for what the backward
# pass needs is copied into one array of all layers.
DEEP = 16

# Rough costs, as parts of the time of the plain program; only their order matters.
HALF = 2048  # tokens of a microbatch at which its kernels are as long as what surrounds them
# What is gathered of a divided state in a microbatch, in tokens: 4 bytes a parameter at 400 GB/s
# are as long as 6 FLOPs a parameter for this many at 5e14 FLOP/s.
GATHERED = 1000
ELEMENTWISE = 0.02  # norms, rotations and activations, computed again by both kinds of remat

# The estimate of memory is within 15% of what compilers need (tests/agreement).
SAFE = 0.85
SMALLEST = 16e9  # bytes of an accelerator that does not say: a TPU v5e's, the least of its kind
CPU_BYTES = 8e9  # of a run on a CPU: a worker a core leaves no machine more
# Fields of [hardware] that may keep a run from fitting.
FREED = ("microbatch_tokens", "layers", "remat", "loss", "sharding")


class TooLarge(Refusal):
    """No layout of a run fits the memory of what it is to be trained on."""


def layout_of(run: RunSpec, target: Target) -> Layout:
    """The layout of a run: the cheapest that fits, with what the study asks for as it asks.

    On a CPU the layers are unrolled, nothing is computed again, and a microbatch is the whole batch
    unless that needs more than 8 GB; so it is a function of the run and the number of devices.
    An accelerator whose memory is not known is taken to have 16 GB.

    Raises Refusal, with field, value and remedy, for a batch that the devices do not divide, a
    microbatch of less than a sequence, and what its architecture cannot do there; TooLarge where
    nothing fits.
    """
    if (found := _fitting(run, target)) is None:
        raise TooLarge(_too_large(run, target))
    return found


def evaluation_layout(run: RunSpec, target: Target) -> Layout:
    """How the model of a finished run is evaluated, whatever its study asked for in training.

    On as many of the devices as divide its batch; where nothing fits that trains it, in the layout
    that needs least.
    """
    run = replace(run, hardware=Hardware())
    target = replace(target, devices=math.gcd(run.batch_sequences, target.devices))
    return _fitting(run, target) or _least(run, _layouts(run, target))


def better_batch(run: RunSpec, target: Target, layout: Layout) -> int | None:
    """The nearest batch, in sequences, with microbatches of more than four times as many.

    A batch whose divisors are few and far between is trained in small pieces. Null where this one
    is not, or where its study asks for a microbatch.
    """
    if run.hardware.microbatch_tokens is not None:
        return None
    share = run.batch_sequences // layout.devices
    part = 2 ** math.floor(math.log2(min(_most_sequences(run, target), share)))
    batch = max(1, round(share / part)) * part * layout.devices
    better = _fitting(replace(run, batch_sequences=batch), target)
    return batch if better and better.sequences > 4 * layout.sequences else None


def smaller_microbatch(run: RunSpec, layout: Layout) -> int | None:
    """Tokens of each device in the next smaller microbatch; null where it is one sequence."""
    share = layout.sequences * layout.accumulate
    found = next((n for n in _divisors(share) if n < layout.sequences), None)
    return None if found is None else found * run.sequence_length


def _fitting(run: RunSpec, target: Target) -> Layout | None:
    """The cheapest layout that surely fits, else the one that needs least if that may."""
    found = sorted(_layouts(run, target), key=lambda layout: relative_time(run, layout))
    on_cpu = target.platform == "cpu"
    memory = CPU_BYTES if on_cpu else SAFE * (target.memory or SMALLEST)
    for layout in found:
        if step_memory(run, layout).total <= memory:
            return layout
    least = _least(run, found)
    if on_cpu or step_memory(run, least).total <= (target.memory or SMALLEST):
        return least
    return None


def _least(run: RunSpec, layouts: Sequence[Layout]) -> Layout:
    return min(layouts, key=lambda layout: step_memory(run, layout).total)


def relative_time(run: RunSpec, layout: Layout) -> float:
    """Time a token, as a multiple of what the plain program needs in one endless microbatch."""
    flops, execution = run.token_flops, layout.execution
    forward = {
        "none": 0.0,
        # cuDNN's attention is kept.
        "dots": flops.attention / 3 * (execution.attention != "cudnn") + ELEMENTWISE * flops.total,
        "full": (flops.blocks + flops.attention) / 3 + ELEMENTWISE * flops.total,
    }
    again = forward[execution.remat]
    if execution.loss == "chunked":
        again += flops.head / 3
    tokens = layout.sequences * run.sequence_length
    beside = HALF + (GATHERED if layout.sharding == "fsdp" and layout.devices > 1 else 0)
    return 1 + again / flops.total + beside / tokens


def _layouts(run: RunSpec, target: Target) -> list[Layout]:
    """Every way to lay out a run. Raises Refusal where there is none."""
    on_cpu, asked = target.platform == "cpu", run.hardware
    share, rest = divmod(run.batch_sequences, target.devices)
    if rest:
        raise Refusal(
            f"[training] batch_sequences = {run.batch_sequences} does not divide among "
            f"{target.devices} devices. Give a multiple of {target.devices}, or the run fewer "
            "devices."
        )
    shardings: Sequence[Sharding] = ("data",) if on_cpu or target.devices == 1 else ("data", "fsdp")
    if asked.sharding is not None:
        shardings = (asked.sharding,)
    steps = asked.steps_per_call
    if steps is None:
        step_flops = run.flops_per_token * run.batch_tokens / target.devices
        most = STEPS_PER_CALL if on_cpu else min(STEPS_PER_CALL, CALL_FLOPS / step_flops)
        # A power of two, for evaluations and checkpoints come at multiples of such.
        steps = 2 ** math.floor(math.log2(max(1, most)))
    executions = _executions(run, target)
    return [
        Layout(
            microbatch_sequences=sequences * target.devices,
            accumulate=share // sequences,
            devices=target.devices,
            sharding=sharding,
            execution=execution,
            steps_per_call=steps,
        )
        for sequences in _microbatches(run, target, share)
        for sharding, execution in itertools.product(shardings, executions)
    ]


def _microbatches(run: RunSpec, target: Target, share: int) -> Iterator[int]:
    """Sequences of a microbatch on each device, of `share` in a batch; the largest first."""
    largest = min(_most_sequences(run, target), share)
    if (asked := run.hardware.microbatch_tokens) is not None:
        _refuse_indivisible(asked, run.sequence_length, share)
    return (n for n in _divisors(share) if n <= largest)


def _divisors(number: int) -> list[int]:
    """The divisors of a number, which may have ten digits; the largest first."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)}, reverse=True)


def _most_sequences(run: RunSpec, target: Target) -> int:
    """Of a microbatch on each device, where its batch has so many."""
    most = run.hardware.microbatch_tokens
    if most is None:
        most = run.batch_tokens if target.platform == "cpu" else SATURATING
    return max(1, most // run.sequence_length)


def _refuse_indivisible(asked: int, length: int, share: int) -> None:
    """Raise Refusal for so many tokens that are no part of a device's `share` of a batch."""
    if asked >= share * length:  # all of it
        return
    nearest = min(
        (n * length for n in reversed(_divisors(share))),
        key=lambda tokens: abs(tokens - asked),
    )
    if asked == nearest:
        return
    if asked < length:
        fault = "is less than one sequence"
    elif asked % length:
        fault = f"is no multiple of sequence_length = {length:,}"
    else:
        fault = f"is {asked // length} sequences, of which no whole number makes the {share}"
        fault += " that a device has of each batch"
    raise Refusal(
        f"[hardware] microbatch_tokens = {asked} {fault}. Give {nearest}, or leave it out."
    )


def _executions(run: RunSpec, target: Target) -> list[Execution]:
    """Every way to carry out the arithmetic. Raises Refusal where there is none."""
    on_cpu, asked, family = target.platform == "cpu", run.hardware, architecture(run.architecture)
    attention = asked.attention or family.attention(
        run.model, run.sequence_length, run.dtype, target.platform, target.capability
    )
    deep = not on_cpu and family.depth(run.model) >= DEEP
    layers: Layers = asked.layers or ("scanned" if deep else "unrolled")
    remats: Sequence[Remat] = ("none",) if on_cpu else get_args(Remat)
    losses: Sequence[LossForm] = ("whole",) if on_cpu else get_args(LossForm)
    found, refused = [], ""
    for remat, loss in itertools.product(
        (asked.remat,) if asked.remat else remats, (asked.loss,) if asked.loss else losses
    ):
        execution = Execution(run.dtype, layers, remat, attention, loss)
        try:
            family.check(execution)
            found.append(execution)
        except ValueError as error:
            refused = refused or str(error)
    try:
        family.check_attention(
            run.model,
            run.sequence_length,
            run.dtype,
            target.platform,
            attention,
            target.capability,
        )
    except ValueError as error:
        refused, found = str(error), []
    if not found:
        raise Refusal(f"[hardware] architecture = {run.architecture!r}: {refused}.")
    return found


def _too_large(run: RunSpec, target: Target) -> str:
    """One line for a run that fits nowhere there: what it needs, what there is, what would do."""
    layouts, memory = _layouts(run, target), target.memory or SMALLEST
    least = step_memory(run, _least(run, layouts)).total
    many = "1 device" if target.devices == 1 else f"each of {target.devices} devices"
    return (
        f"params = {run.params.total:,} with sequence_length = {run.sequence_length:,}: a step "
        f"needs about {least / 1e9:.3g} GB on {many} with {memory / 1e9:.3g} GB. "
        f"{_remedy(run, target)}"
    )


def _remedy(run: RunSpec, target: Target) -> str:
    """What would make it fit: less asked of its layout, else more devices, if any number does."""
    asked = run.hardware
    freed = replace(run, hardware=replace(Hardware(), attention=asked.attention))
    given = [name for name in FREED if getattr(asked, name) is not None]
    if given and _fitting(freed, target) is not None:
        names = " and ".join(given)
        return f"Remove [hardware] {names}, give larger devices, or leave the size out."
    for count in (target.devices * 2**k for k in range(1, 11)):
        if run.batch_sequences % count == 0 and _fitting(freed, replace(target, devices=count)):
            return f"Give each run {count} devices or larger ones, or leave the size out."
    return "Give larger devices, or leave the size out."
