"""What a grid costs on a device: its time by a share of the peak that was given or measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.cost import Cost, cost
from analysis.efficiency import Efficiency, efficiency_in
from analysis.units import human
from models.devices import Device
from scaling.planning.plan import Plan
from scaling.spec import spent_flops
from scaling.store.records import Refusal

DTYPE = "bfloat16"  # of what is measured, as runs name it
# Of a checkout; an installed wheel brings no measurements and asks for --measured or --mfu.
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


@dataclass(frozen=True)
class Bill:
    """What a grid costs on so many of a device."""

    cost: Cost  # of the whole grid
    seconds: tuple[float, ...]  # of each run of the plan, on all of them
    basis: str  # what the time rests on


def measured_on(device: Device, file: Path | None = None) -> Efficiency | None:
    """What was measured on a device, in a file or else the newest of benchmarks/results.

    Raises Refusal for a file, that was asked for, which says nothing of the device.
    """
    if file is not None:
        if (found := efficiency_in(file, device.kinds, DTYPE)) is None:
            raise Refusal(
                f"--measured {file}: it has no row of {device.name} in {DTYPE}. Give --mfu."
            )
        return found
    files = sorted(RESULTS.glob("accelerator*.json"), reverse=True)  # dated names
    return next(
        (found for each in files if (found := efficiency_in(each, device.kinds, DTYPE))), None
    )


def bill_of(
    plan: Plan,
    device: Device,
    *,
    count: int,
    mfu: float | None,
    dtype: str | None,
    file: Path | None,
) -> Bill | None:
    """What a plan's runs cost on `count` of a device; null where no share of its peak is known.

    The share is `mfu`, or else what was measured for each run's size on one device, in bfloat16. It
    is of the peak in `dtype`, or else in the format that the plan's products have there.
    Raises Refusal as `cost` does.
    """
    dtype = dtype or _format_of(plan, device)
    largest = max(run.params.total for run in plan.runs)
    flops = [spent_flops(run) for run in plan.runs]
    if mfu is not None:
        shares, basis = [mfu] * len(flops), f"{mfu:.3g} of the peak, as --mfu says"
    else:
        if file is not None and any(run.dtype != DTYPE for run in plan.runs):
            raise Refusal(f"--measured {file} is of {DTYPE}; runs are of float32. Give --mfu.")
        if dtype != "bf16" or any(run.dtype != DTYPE for run in plan.runs):
            return None
        if (measured := measured_on(device, file)) is None:
            return None
        shares = [measured.at(run.params.total) for run in plan.runs]
        basis = _basis(plan, measured, count)
    # The grid's share of the peak is the one that takes as long as its runs together.
    whole = sum(flops) / sum(each / share for each, share in zip(flops, shares, strict=True))
    total = cost(sum(flops), largest, device, count=count, mfu=whole, dtype=dtype)
    full = count * device.peak[dtype]
    seconds = tuple(each / (share * full) for each, share in zip(flops, shares, strict=True))
    return Bill(total, seconds, basis)


def _format_of(plan: Plan, device: Device) -> str:
    """The number format of a plan's products on a device; of several, the slowest.

    Raises Refusal for float32 where it is not known in which format a device multiplies it.
    """
    if all(run.dtype == "bfloat16" for run in plan.runs):
        return "bf16"
    if device.float32 is None:
        known = ", ".join(device.peak)
        raise Refusal(f"float32 on {device.name}: give --dtype, of which it has {known}.")
    return device.float32


def _basis(plan: Plan, measured: Efficiency, count: int) -> str:
    low, high = measured.params[0], measured.params[-1]
    sizes = sorted({run.params.total for run in plan.runs})
    least, most = measured.at(sizes[0]), measured.at(sizes[-1])
    said = (
        f"{least:.0%} to {most:.0%} of the peak by size, measured on one device at "
        f"{human(low)} to {human(high)} parameters ({measured.source})"
    )
    if beyond := [size for size in sizes if measured.is_beyond(size)]:
        said += (
            f"; {len(beyond)} of {len(sizes)} sizes lie outside and are given the nearest "
            "measured share"
        )
        if sizes[0] < low:
            said += ": those below reach less"
    if count > 1:
        said += "; what several devices lose to exchange was not measured"
    return said


def missing(devices: Sequence[Device], bills: Sequence[Bill]) -> str:
    """What to do about devices that have no bill; empty where all have one."""
    billed = {bill.cost.device.name for bill in bills}
    names = [device.name for device in devices if device.name not in billed]
    if not names:
        return ""
    return (
        "No time: give --mfu, the share of its peak that you measured, e.g. 0.4. There is no "
        f"measurement of bfloat16 on {', '.join(names)} (benchmarks/accelerator.py --json FILE "
        "makes one, --measured FILE reads it), or the study trains in another number format."
    )
