"""The devices that a command names: of the shipped table, or of the user's own file."""

from __future__ import annotations

from pathlib import Path

from models.devices import SHIPPED, Device, devices
from scaling.store.records import Refusal, did_you_mean


def device_named(name: str, own: Path | None = None) -> Device:
    """The device of that name: of one's own file, else as shipped. Raises Refusal listing both."""
    try:
        known = devices() | ({} if own is None else devices(own))
    except ValueError as error:
        raise Refusal(str(error)) from error
    if name not in known:
        where = f"models/{SHIPPED.name}" + ("" if own is None else f" and {own}")
        near = did_you_mean(name, known)
        raise Refusal(f"no device {name!r} in {where}.{near} Known: {', '.join(known)}.")
    return known[name]
