"""How the sizes of a plan are laid out on what they are to be trained on, and whether they fit."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from analysis.units import bytes_text, human
from experiments.devices import platform_of
from experiments.text import columns
from models.devices import GPUS, Device, device_of_kind
from scaling.launch.slots import Host, Slots, devices_needed, slots_of
from scaling.planning.layout import SAFE, Layout, Target, TooLarge, layout_of
from scaling.planning.memory import StepMemory, step_memory
from scaling.planning.refusals import Refusals
from scaling.spec import RunSpec, shape_text
from scaling.training.autotuning import programs_of
from scaling.training.flags import MEMORY_SHARE


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
    if runs and host.platform in GPUS and devices_per_run is None:
        with suppress(TooLarge):
            needed = devices_needed(runs, host, runs_per_device or 1)
            devices_per_run = needed if needed > 1 else None
    return slots_of(host, workers, devices_per_run, runs_per_device)


def is_tight(placed: Placed, target: Target) -> bool:
    """Whether a compiler may need more than there is."""
    return target.memory is not None and placed.memory.total > SAFE * target.memory


def placed_on(runs: Sequence[RunSpec], device: Device, count: int) -> Placing:
    """The sizes of some runs, each run on so many of a device. Raises Refusal as `placed` does."""
    platform = platform_of(device)
    target = Target(platform, count, usable(device), device.capability)
    return placed(runs, f"{count} × {device.name}", target)


def usable(device: Device) -> float:
    """Bytes of a device that a worker may use."""
    return device.memory * (MEMORY_SHARE if platform_of(device) in GPUS else 1.0)


def placed_here(runs: Sequence[RunSpec], places: Slots) -> Placing:
    """The sizes of some runs in the slots of this host. Raises Refusal as `placed` does.

    Of a device that is not known the memory is found out where a run is trained, and not here.
    """
    host, slot = places.host, places.slots[0]
    count = len(host.devices if slot.devices is None else slot.devices)
    device, memory = device_of_kind(host.kind), None
    if host.platform != "cpu":
        memory = usable(device) / slot.sharing if device else math.inf
    name = "CPU" if host.platform == "cpu" else host.kind
    capability = None if device is None else device.capability
    target = Target(host.platform, count, memory, capability)
    return placed(runs, f"{count} × {name}", target)


def placed(runs: Sequence[RunSpec], name: str, target: Target) -> Placing:
    """Raises one Refusal for all sizes that no memory would make possible there."""
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
    return Placing(name, target, tuple(sizes), tuple(dict.fromkeys(too_large)))


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
    if rows and all(row[2:-1] == rows[0][2:-1] for row in rows):
        most = bytes_text(placing.needed or 0.0)
        said = f"{layout_line(placing.sizes[0])}; at most {most} on each device"
        lines.append(filled(f"Layout of every size on {placing.name}: {said}."))
    elif rows:
        has = placing.target.memory
        each = f", with {bytes_text(has)} for each" if has is not None else ""
        lines += [f"Layouts on {placing.name}{each}:"]
        lines += columns(["shape", "N total", *CELLS, "on each"], rows).splitlines()
    lines += [filled(f"Does not fit {placing.name}: {said}") for said in placing.too_large]
    if placing.target.memory is not None and not placing.too_large:
        tight = ", though some may not: an estimate may be 15% too low"
        lines.append(f"Every size fits{tight if placing.verdict == 'tight' else ''}.")
    return lines


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
