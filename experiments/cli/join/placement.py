"""How the sizes of a plan are laid out on the devices that train them, and whether they fit."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from analysis.text import human
from models.devices import GPUS, Device
from scaling.launch.slots import Host, Slots, devices_needed, slots_of
from scaling.planning.deriving import SAFE, TooLarge, layout_of
from scaling.planning.layout import Layout, Target
from scaling.planning.memory import StepMemory, step_memory
from scaling.planning.refusals import Refusals
from scaling.spec import RunSpec
from scaling.store.records import Refusal
from scaling.training.autotuning import programs_of
from scaling.training.compiling import Compiled, Topology, compile_step
from scaling.training.flags import MEMORY_SHARE

SHEET = "its data sheet's"  # the source of the memory of a device that is not here


@dataclass(frozen=True)
class Placed:
    """The runs of one size, laid out."""

    run: RunSpec  # one of them
    layout: Layout
    memory: StepMemory


@dataclass(frozen=True)
class Placing:
    """The sizes of a plan on the devices of one run, in the order of the plan."""

    name: str  # such as 8 × h200
    target: Target
    source: str  # of the figure for its memory
    sizes: tuple[Placed, ...]
    too_large: tuple[str, ...]  # a sentence for each size that does not fit

    @property
    def needed(self) -> float | None:
        """Bytes on each device for the size that needs most; None where none fits."""
        return max((each.memory.total for each in self.sizes), default=None)

    @property
    def verdict(self) -> str:
        """`fits`, `tight` (the estimate may be exceeded) or `does not fit`."""
        if self.too_large:
            return "does not fit"
        return "tight" if any(is_tight(each, self.target) for each in self.sizes) else "fits"

    def refuse_too_large(self) -> None:
        """Raises one Refusal for all sizes that do not fit, if there are any."""
        refusals = Refusals()
        for said in self.too_large:
            refusals.add(said)
        refusals.raise_any()


def places_for(
    runs: Sequence[RunSpec],
    host: Host,
    workers: int | None = None,
    devices_per_run: int | None = None,
    runs_per_device: int | None = None,
) -> Slots:
    """The slots of a host for these runs, each with as many GPUs as the largest run needs, if the
    host has them. Raises Refusal as `slots_of` does, and for runs that no memory makes possible.
    """
    if runs and host.platform in GPUS and (runs_per_device or 1) > 1:
        _refuse_crowded(runs, host, runs_per_device or 1)
    elif runs and host.platform in GPUS and devices_per_run is None:
        with suppress(TooLarge):
            needed = devices_needed(runs, host)
            devices_per_run = needed if needed > 1 else None
    return slots_of(host, workers, devices_per_run, runs_per_device)


def _refuse_crowded(runs: Sequence[RunSpec], host: Host, sharing: int) -> None:
    """Raise Refusal if some runs do not fit a device that `sharing` runs share."""

    def is_too_large(run: RunSpec, sharing: int) -> bool:
        try:
            layout_of(run, host.target(1, sharing))
        except TooLarge:
            return True
        return False

    lost = [run for run in programs_of(runs).values() if is_too_large(run, sharing)]
    if not lost:
        return
    largest = max(lost, key=lambda run: run.params.total)
    fits = (k for k in range(sharing - 1, 0, -1) if not any(is_too_large(run, k) for run in lost))
    most = next(fits, 1)
    remedy = f"Give at most {most}" if most > 1 else "Leave it out"
    raise Refusal(
        f"--runs-per-device {sharing}: {human(largest.params.total)} parameters with "
        f"sequence_length = {largest.sequence_length:,} do not fit 1/{sharing} of {host.kind}. "
        f"{remedy}."
    )


def is_tight(placed: Placed, target: Target) -> bool:
    """Whether the compiled step may need more memory than the device has."""
    return target.memory is not None and placed.memory.total > SAFE * target.memory


def placed_on(runs: Sequence[RunSpec], device: Device, count: int) -> Placing:
    """The sizes of some runs, each on `count` of a device. Raises Refusal as `placed` does."""
    share, source = 1.0, SHEET
    if device.platform in GPUS:  # of which jax keeps a part for itself
        share, source = MEMORY_SHARE, f"{MEMORY_SHARE:.0%} of {SHEET}"
    target = Target(device.platform, count, share * device.memory, device.capability)
    return placed(runs, f"{count} × {device.name}", target, source)


def placed_here(runs: Sequence[RunSpec], places: Slots) -> Placing:
    """The sizes of some runs in the slots of this host. Raises Refusal as `placed` does."""
    host, slot = places.host, places.slots[0]
    count = len(host.devices if slot.devices is None else slot.devices)
    name = "CPU" if host.platform == "cpu" else host.kind
    target = host.target(count, slot.sharing)
    return placed(runs, f"{count} × {name}", target, "as jax says here")


def placed(runs: Sequence[RunSpec], name: str, target: Target, source: str) -> Placing:
    """The layouts of some runs on a target whose memory is known from `source`.

    Raises one Refusal for all sizes that no memory would make possible there."""
    refusals = Refusals()
    sizes: list[Placed] = []
    too_large: list[str] = []
    for run in programs_of(runs).values():
        with refusals.gathered():
            try:
                layout = layout_of(run, target)
                sizes.append(Placed(run, layout, step_memory(run, layout)))
            except TooLarge as error:
                too_large.append(str(error))
    refusals.raise_any()
    return Placing(name, target, source, tuple(sizes), tuple(dict.fromkeys(too_large)))


@dataclass(frozen=True)
class CompiledStep:
    """The step of a plan that needs the most memory, compiled for chips of elsewhere."""

    topology: Topology
    size: Placed
    compiled: Compiled

    @property
    def fits(self) -> bool:
        return self.compiled.needed <= self.topology.device.memory


def compiled_largest(runs: Sequence[RunSpec], topology: Topology) -> CompiledStep:
    """Compile the largest step. Raises Refusal as `compile_step` does, and for sizes that do not
    fit by the estimate."""
    placing = placed(runs, topology.name, topology.target, SHEET)
    placing.refuse_too_large()
    largest = max(placing.sizes, key=lambda each: each.memory.total)
    return CompiledStep(topology, largest, compile_step(largest.run, topology))
