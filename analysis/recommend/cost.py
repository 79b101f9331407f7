"""What a run costs on real devices: days, device-hours, dollars, and whether it fits at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from analysis.text import bytes_text, dollars, duration, human, scientific
from scaling.store.records import Refusal

# Weights and gradients in 16 bits, weights, mean and variance of Adam in 32 (Rajbhandari et al.
# 2019, arXiv:1910.02054, section 3.1), all divided among the devices.
STATE_BYTES_PER_PARAM = 16.0


class Device(Protocol):
    """What a cost needs to know of an accelerator; models/devices.py has a table of them."""

    @property
    def name(self) -> str: ...

    @property
    def peak(self) -> Mapping[str, float]:
        """FLOP/s by number format, dense."""

    @property
    def memory(self) -> float:
        """Bytes."""

    @property
    def price(self) -> float | None:
        """Dollars an hour; None where no list price is known."""

    @property
    def price_source(self) -> str: ...

    @property
    def price_date(self) -> str: ...


@dataclass(frozen=True)
class Cost:
    """A run on `count` devices that reach `mfu` of their peak."""

    device: Device
    count: int
    dtype: str
    mfu: float
    seconds: float
    state_bytes: float  # a device's share of weights, gradients and Adam; no activations

    @property
    def device_hours(self) -> float:
        return self.count * self.seconds / 3600

    @property
    def dollars(self) -> float | None:
        """None where the table has no price for the device."""
        return None if self.device.price is None else self.device.price * self.device_hours

    def bill(self) -> str:
        """Time and money for the terminal, with the source of the price."""
        device, money = self.device, "no list price"
        if self.dollars is not None:
            money = f"{dollars(self.dollars)} at ${device.price:g} an hour"
            money += f" ({device.price_source}, {device.price_date})"
        hours = "under 0.01" if self.device_hours < 0.01 else human(self.device_hours)
        return (
            f"{self.count} × {device.name} at {self.mfu:.0%} of "
            f"{scientific(device.peak[self.dtype])} FLOP/s ({self.dtype}): "
            f"{duration(self.seconds)}, {hours} device-hours, {money}"
        )

    def text(self) -> str:
        """One line: `bill`, and the model's state divided among the devices."""
        return f"{self.bill()}; {bytes_text(self.state_bytes)} of state on each, before activations"

    def json(self) -> dict[str, Any]:
        """Plain values at full precision."""
        names = ("count", "dtype", "mfu", "seconds", "device_hours", "dollars", "state_bytes")
        return {"device": self.device.name, **{name: getattr(self, name) for name in names}}


def cost(
    flops: float, params: float, device: Device, *, count: int, mfu: float, dtype: str = "bf16"
) -> Cost:
    """Time, money and memory of training `params` parameters for `flops` FLOPs.

    `mfu` is the share of the peak in `dtype` that model FLOPs reach: measure it, there is no
    default. Raises Refusal for one outside (0, 1], for a number format the device has no peak
    for, and for a model whose training state alone does not fit in the devices' memory.
    """
    for name, value in (("flops", flops), ("params", params)):
        if not (math.isfinite(value) and value > 0):
            raise Refusal(f"{name} = {value:g} is not possible: give a positive finite number.")
    if not 0 < mfu <= 1:
        meant = f"{mfu / 100:g} for {mfu:g}%" if 1 < mfu <= 100 else "a measured one, e.g. 0.4"
        raise Refusal(f"mfu = {mfu:g} is not a share of the peak. Give {meant}.")
    if count < 1:
        raise Refusal(f"count = {count} devices cannot train: give at least 1.")
    if dtype not in device.peak:
        known = ", ".join(device.peak)
        raise Refusal(f"dtype = {dtype} has no peak for {device.name}. It has: {known}.")
    state = STATE_BYTES_PER_PARAM * params / count
    if state > device.memory:
        needed = math.ceil(STATE_BYTES_PER_PARAM * params / device.memory)
        raise Refusal(
            f"count = {count}: {human(params)} parameters need {bytes_text(state)} of training "
            f"state on each {device.name}, which holds {bytes_text(device.memory)}. Give at least "
            f"{needed} devices, and more for activations."
        )
    return Cost(device, count, dtype, mfu, flops / (count * mfu * device.peak[dtype]), state)
