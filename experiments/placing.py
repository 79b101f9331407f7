"""How the sizes of a plan are laid out on what they are to be trained on, and whether they fit."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from analysis.units import bytes_text, human
from experiments.text import columns
from models.devices import GPUS, Device
from scaling.launch.slots import Host, Slots, devices_needed, slots_of
from scaling.planning.deriving import SAFE, TooLarge, better_batch, layout_of
from scaling.planning.layout import Layout, Target
from scaling.planning.memory import StepMemory, step_memory
from scaling.planning.refusals import Refusals
from scaling.spec import RunSpec, shape_text
from scaling.store.records import Refusal
from scaling.training.autotuning import programs_of
from scaling.training.flags import MEMORY_SHARE

SHEET = "its data sheet's"  # where a device's memory is from that is only named


@dataclass(frozen=True)
class Placed:
    """The runs of one size, laid out."""

    run: RunSpec  # one of them
    layout: Layout
    memory: StepMemory


@dataclass(frozen=True)
class Placing:
    """The sizes of a plan on what each run is to be trained on, in the order of the plan."""

    name: str  # such as 8 × h200
    target: Target
    source: str  # of its memory
    sizes: tuple[Placed, ...]
    too_large: tuple[str, ...]  # of the sizes that fit nowhere there: what is said of them

    @property
    def needed(self) -> float | None:
        """Bytes on each device of the size that needs most; null where none fits."""
        return max((each.memory.total for each in self.sizes), default=None)

    @property
    def verdict(self) -> str:
        """`fits`, `tight` where the estimate may be exceeded, or `does not fit`."""
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
    """The slots of a host for these runs: with as many GPUs each as the largest needs, if the host
    has them. Raises Refusal as `slots_of` does, and for what no memory would make possible.
    """
    if runs and host.platform in GPUS and (runs_per_device or 1) > 1:
        _refuse_crowded(runs, host, runs_per_device or 1)
    elif runs and host.platform in GPUS and devices_per_run is None:
        with suppress(TooLarge):
            needed = devices_needed(runs, host)
            devices_per_run = needed if needed > 1 else None
    return slots_of(host, workers, devices_per_run, runs_per_device)


def _refuse_crowded(runs: Sequence[RunSpec], host: Host, sharing: int) -> None:
    """Raise Refusal where not all of the runs fit a device that so many share."""

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
    """Whether a compiler may need more than there is."""
    return target.memory is not None and placed.memory.total > SAFE * target.memory


def placed_on(runs: Sequence[RunSpec], device: Device, count: int) -> Placing:
    """The sizes of some runs, each run on so many of a device. Raises Refusal as `placed` does."""
    platform = device.platform
    said = SHEET if platform == "tpu" else f"{MEMORY_SHARE:.0%} of {SHEET}"
    target = Target(platform, count, usable(device), device.capability)
    return placed(runs, f"{count} × {device.name}", target, said)


def usable(device: Device) -> float:
    """Bytes of a device that a worker may use."""
    return device.memory * (MEMORY_SHARE if device.platform in GPUS else 1.0)


def placed_here(runs: Sequence[RunSpec], places: Slots) -> Placing:
    """The sizes of some runs in the slots of this host. Raises Refusal as `placed` does."""
    host, slot = places.host, places.slots[0]
    count = len(host.devices if slot.devices is None else slot.devices)
    name = "CPU" if host.platform == "cpu" else host.kind
    target = host.target(count, slot.sharing)
    return placed(runs, f"{count} × {name}", target, "as jax says here")


def placed(runs: Sequence[RunSpec], name: str, target: Target, source: str) -> Placing:
    """Layouts by a memory that is known from `source`.

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


def to_text(placing: Placing) -> list[str]:
    """A row a size: how it is laid out and what it needs; one line where all are alike."""
    kinds = {(each.run.architecture, each.run.model, each.layout): each for each in placing.sizes}
    rows = [
        [
            shape_text(each.run.architecture, each.run.model),
            human(each.run.params.total),
            *layout_cells(each),
            bytes_text(each.memory.total) + " (tight)" * is_tight(each, placing.target),
        ]
        for each in kinds.values()
    ]
    lines = []
    has = placing.target.memory
    memory = "" if has is None else f", with {bytes_text(has)} for each ({placing.source})"
    if rows and all(row[2:-1] == rows[0][2:-1] for row in rows):
        most = bytes_text(placing.needed or 0.0)
        said = f"{layout_line(placing.sizes[0])}; at most {most} on each device{memory}"
        lines.append(filled(f"Layout of every size on {placing.name}: {said}."))
    elif rows:
        lines += [f"Layouts on {placing.name}{memory}:"]
        lines += columns(["shape", "N total", *CELLS, "on each"], rows).splitlines()
    lines += [filled(f"Does not fit {placing.name}: {said}") for said in placing.too_large]
    if placing.target.memory is not None and not placing.too_large:
        tight = ", though some may not: an estimate may be 15% too low"
        lines.append(f"Every size fits{tight if placing.verdict == 'tight' else ''}.")
    return lines + [filled(f"warning: {said}") for said in small_microbatches(placing)]


def small_microbatches(placing: Placing) -> list[str]:
    """What is said of batches that divide into small microbatches alone, each once."""
    said: dict[str, None] = {}
    for each in placing.sizes:
        batch = better_batch(each.run, placing.target, each.layout)
        if batch is not None:
            said[
                f"a device's share of batch_sequences = {each.run.batch_sequences} divides into "
                f"microbatches of {each.layout.sequences} × {each.run.sequence_length:,} tokens, "
                f"and {placing.name} could take more than four times as many, which are faster. "
                f"Give batch_sequences = {batch}."
            ] = None
    return list(said)


def filled(said: str) -> str:
    """A sentence in lines of a terminal's width."""
    return textwrap.fill(said, 100, subsequent_indent="  ")


CELLS = ("microbatch", "a step", "layers", "remat", "loss", "attention", "state", "steps a call")


def layout_cells(placed: Placed) -> list[str]:
    """A layout in the columns of CELLS: sequences × tokens on each device, microbatches a step."""
    layout, execution = placed.layout, placed.layout.execution
    whole = layout.devices == 1
    return [
        f"{layout.sequences} × {placed.run.sequence_length:,}",
        f"{layout.accumulate}",
        execution.layers,
        execution.remat,
        execution.loss,
        execution.attention,
        "whole" if whole else {"data": "whole on each", "fsdp": "a share each"}[layout.sharding],
        f"{layout.steps_per_call}",
    ]


def layout_line(placed: Placed) -> str:
    """A layout in one line."""
    return ", ".join(
        f"{name} {cell}" for name, cell in zip(CELLS, layout_cells(placed), strict=True)
    )


def to_json(placing: Placing) -> dict[str, Any]:
    """The layouts and the estimates as JSON values; bytes on each device."""
    return {
        "device": placing.name,
        "platform": placing.target.platform,
        "count": placing.target.devices,
        "memory_bytes": placing.target.memory,
        "memory_source": placing.source,
        "needed_bytes": placing.needed,
        "verdict": placing.verdict,
        "too_large": list(placing.too_large),
        "sizes": [
            {
                "run_id": each.run.run_id,
                "shape": shape_text(each.run.architecture, each.run.model),
                "params_total": each.run.params.total,
                "layout": asdict(each.layout),
                "memory": {**asdict(each.memory), "total": each.memory.total},
            }
            for each in placing.sizes
        ],
    }
