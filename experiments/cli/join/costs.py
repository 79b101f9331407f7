"""What a grid costs on a device, from a share of its peak that is given or was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.recommend.cost import Cost, cost
from analysis.recommend.efficiency import Efficiency, efficiency_in
from analysis.text import human
from experiments.cli.join.devices import DeviceOptions
from models.devices import Device
from scaling.planning.plan import Plan
from scaling.spec import spent_flops
from scaling.store.records import Refusal

DTYPE = "bfloat16"  # of what is measured, as runs name it
# In a checkout; an installed package has no measurements, and needs --measured or --mfu.
RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


@dataclass(frozen=True)
class Bill:
    """What a grid costs on `cost.count` of a device."""

    cost: Cost  # of the whole grid
    seconds: tuple[float, ...]  # of each run of the plan, on all of them
    basis: str  # of the time, in words


def measured_on(device: Device, file: Path | None = None) -> Efficiency | None:
    """The share of the peak measured on a device, in `file` or else the newest of
    benchmarks/results; None where none was measured.

    Raises Refusal for a `file` without rows of the device.
    """
    if file is not None:
        if (found := efficiency_in(file, device.kinds, DTYPE)) is None:
            raise Refusal(f"--measured {file} has no row of {device.name} in {DTYPE}. Give --mfu.")
        return found
    files = sorted(RESULTS.glob("accelerator*.json"), reverse=True)  # dated names
    return next(
        (found for each in files if (found := efficiency_in(each, device.kinds, DTYPE))), None
    )


def bill_of(
    plan: Plan, device: Device, options: DeviceOptions, file: Path | None = None
) -> Bill | None:
    """What a plan's runs cost on `options.count` of a device; None where no share of its peak is
    known.

    The share is `options.mfu`, or else what was measured for each run's size on one device, in
    bfloat16. It refers to the peak in `options.dtype`, or else in the format in which the device
    multiplies. Raises Refusal as `cost` does.
    """
    dtype, count, mfu = options.dtype or _format_of(plan, device), options.count, options.mfu
    largest = max(run.params.total for run in plan.runs)
    flops = [spent_flops(run) for run in plan.runs]
    if mfu is not None:
        shares, basis = [mfu] * len(flops), f"{mfu:.3g} of the peak, from --mfu"
    else:
        as_measured = all(run.dtype == DTYPE for run in plan.runs)
        if file is not None and not as_measured:
            raise Refusal(f"--measured {file} is for {DTYPE}; runs are in float32. Give --mfu.")
        if dtype != "bf16" or not as_measured or (found := measured_on(device, file)) is None:
            return None
        shares = [found.at(run.params.total) for run in plan.runs]
        basis = _basis(plan, found, count)
    # The share at which the whole grid takes as long as its runs together.
    whole = sum(flops) / sum(each / share for each, share in zip(flops, shares, strict=True))
    total = cost(sum(flops), largest, device, count=count, mfu=whole, dtype=dtype)
    full = count * device.peak[dtype]
    seconds = tuple(each / (share * full) for each, share in zip(flops, shares, strict=True))
    return Bill(total, seconds, basis)


def _format_of(plan: Plan, device: Device) -> str:
    """The number format in which a device multiplies for a plan; the slowest if there are several.

    Raises Refusal for float32 where it is not known how the device multiplies it.
    """
    if all(run.dtype == "bfloat16" for run in plan.runs):
        return "bf16"
    if device.float32 is None:
        known = ", ".join(device.peak)
        raise Refusal(f"float32 on {device.name}: give --dtype, one of {known}.")
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
            f"; {len(beyond)} of {len(sizes)} sizes lie outside and take the nearest measured share"
        )
        if sizes[0] < low:
            said += ", though smaller sizes reach less"
    if count > 1:
        said += "; the loss to communication between devices was not measured"
    return said


def missing(devices: Sequence[Device], bills: Sequence[Bill]) -> str:
    """What to do about devices without a known cost; empty where all have one."""
    billed = {bill.cost.device.name for bill in bills}
    names = [device.name for device in devices if device.name not in billed]
    if not names:
        return ""
    return (
        "No time: give --mfu, the share of the peak that you measured, e.g. 0.4. There is no "
        f"measurement of bfloat16 on {', '.join(names)} (benchmarks/accelerator.py --json FILE "
        "makes one, --measured FILE reads it), or the study trains in another number format."
    )
