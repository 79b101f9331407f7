"""The devices that a command names: of the shipped table, or of the user's own file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.cli.app import File, described
from experiments.cli.words import each_once
from models.devices import SHIPPED, Device, devices, devices_in
from scaling.given import read_once
from scaling.remedies import cannot_read
from scaling.store.records import Refusal, did_you_mean

MAX_BYTES = 1 << 20  # of a file of devices; the one shipped has 5 kB
Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="DEVICE …")]


@dataclass(frozen=True)
@described
class DeviceOptions:
    """What runs would take on devices that need not be here.

    Args:
        device: Devices, as models/devices.toml names them.
        count: Number of devices among which each run is divided.
        mfu: Share of the device's peak that training reaches (model FLOPs utilisation), as you
            measured it, such as 0.4.
        dtype: Number format of the peak; the default is that of training, bf16 where it is unknown.
        devices: A file with devices and prices of your own, in the form of models/devices.toml.
    """

    device: Names = ()
    count: int = 1
    mfu: float | None = None
    dtype: Annotated[str | None, tyro.conf.arg(metavar="FORMAT")] = None
    devices: File = None

    def named(self, measured: Path | None = None) -> list[Device]:
        """The devices of --device; `measured` is the file of --measured, if there is one.

        Raises Refusal for devices that are unknown, for options of a device where none is named,
        and for a --count or an --mfu that is out of range.
        """
        if self.mfu is not None and not 0 < self.mfu <= 1:
            percent = 1 < self.mfu <= 100
            meant = f"{self.mfu / 100:g} for {self.mfu:g}%" if percent else "e.g. 0.4"
            raise Refusal(f"--mfu {self.mfu:g} is not a share of the peak. Give {meant}.")
        if self.count < 1:
            raise Refusal(f"--count {self.count}: give at least 1.")
        given = {
            "--count": self.count > 1,
            "--mfu": self.mfu is not None,
            "--measured": measured is not None,
            "--devices": self.devices is not None,
        }
        if not self.device and (option := next((name for name in given if given[name]), None)):
            raise Refusal(f"{option} needs a device. Give --device too, e.g. --device h100-sxm.")
        if self.mfu is not None and measured is not None:
            raise Refusal(f"--mfu {self.mfu:g} and --measured {measured}: give one of the two.")
        if measured is not None and not measured.is_file():
            raise Refusal(
                f"--measured {measured} is no file. Give one of benchmarks/accelerator.py --json."
            )
        named = each_once("--device", self.device)
        known = _known(self.devices)
        return [_named(name, known, self.devices) for name in named]


ON_NO_DEVICE = DeviceOptions()


def device_named(name: str, file: Path | None = None) -> Device:
    """The device of that name: of those in one's own file, else as shipped.

    Raises Refusal listing all, and for a file that is none of devices.
    """
    return _named(name, _known(file), file)


def _known(file: Path | None) -> Mapping[str, Device]:
    """All devices; the file is read once, for it may be a pipe."""
    return {**devices(), **({} if file is None else _of_file(file))}


def _named(name: str, known: Mapping[str, Device], file: Path | None) -> Device:
    if name not in known:
        where = f"models/{SHIPPED.name}" + ("" if file is None else f" and {file}")
        near = did_you_mean(name, known)
        raise Refusal(f"--device: no device {name!r} in {where}.{near} Known: {', '.join(known)}.")
    return known[name]


def _of_file(path: Path) -> Mapping[str, Device]:
    """The devices of one's own file, a pipe too. Raises Refusal for a file that is none of them."""
    try:
        content = read_once(path, MAX_BYTES)
        if len(content) > MAX_BYTES:
            raise ValueError(f"{path} is larger than {MAX_BYTES:,} bytes. Give those you name.")
        return devices_in(content, path)
    except OSError as error:
        raise Refusal(f"--devices: {cannot_read(path, error, 'Give a TOML file.')}") from error
    except ValueError as error:
        raise Refusal(f"--devices: {error}") from error
