"""How many workers this host takes, and which devices each of them sees."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from models.architecture import Platform
from models.devices import (
    GPUS,
    device_of_kind,
    expected_platform,
    is_asked_for_others,
    platform_named,
)
from scaling.planning.deriving import layout_of
from scaling.planning.layout import Target
from scaling.spec import RunSpec
from scaling.store.records import Refusal
from scaling.training.autotuning import programs_of
from scaling.training.flags import VISIBLE, Slot, no_device, worker_environment

MOST_AT_ONCE = 10_000  # workers or devices of a host; each is an object, and soon a process
ASK = """
import jax
d = jax.devices()
limit = (d[0].memory_stats() or {}).get("bytes_limit", 0)
print(len(d), d[0].platform, limit, d[0].device_kind)
"""


@dataclass(frozen=True)
class Host:
    """The devices that a worker started here sees."""

    platform: Platform
    kind: str  # as jax calls one of them
    devices: tuple[str, ...]  # their names, as in the variable of VISIBLE
    memory: float | None = None  # bytes of each that one worker may use; null where jax says none

    def target(self, devices: int, sharing: int = 1) -> Target:
        """What a worker lays its runs out for that has so many of them, each shared by so many."""
        memory = None if self.memory is None else self.memory / sharing
        device = device_of_kind(self.kind)
        capability = None if device is None else device.capability
        return Target(self.platform, devices, memory, capability)


@dataclass(frozen=True)
class Slots:
    """The places for workers on this host."""

    host: Host
    slots: tuple[Slot, ...]  # in the order in which they are filled
    idle: tuple[str, ...]  # devices that no slot has


@cache
def this_host() -> Host:
    """What is here. Raises Refusal where jax cannot start.

    jax is asked in a process of its own, which leaves the devices' memory free again; where neither
    an accelerator nor XLA_FLAGS can make them several, and no other platform is asked for, it is
    one CPU and nobody is asked.
    """
    several = "--xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not several and expected_platform() == "cpu" and not is_asked_for_others():
        return Host("cpu", "cpu", ("0",))
    done = subprocess.run(
        [sys.executable, "-P", "-c", ASK],
        env={
            **worker_environment(Slot(expected_platform())),
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        },
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise no_device(done.stderr.strip() or f"exit code {done.returncode}")
    count, platform, limit, kind = done.stdout.splitlines()[-1].split(maxsplit=3)
    if (found := platform_named(platform)) is None:
        raise Refusal(
            f"jax finds a {platform!r} here, which is no CPU, GPU or TPU: set JAX_PLATFORMS."
        )
    asked = os.environ.get(VISIBLE.get(found, ""), "")
    names = [name.strip() for name in asked.split(",") if name.strip()]
    # The driver ends the user's list at the first name that is none.
    names = (names or [str(number) for number in range(int(count))])[: int(count)]
    memory = None if found == "cpu" else float(limit) or None
    return Host(found, kind, tuple(names), memory)


def refuse_count(option: str, value: int | None) -> None:
    """Raise Refusal for a number of processes or devices of which there cannot be so many."""
    if value is not None and value < 1:
        raise Refusal(f"{option} {value}: give at least 1.")
    if value is not None and value > MOST_AT_ONCE:
        raise Refusal(f"{option} {value}: give at most {MOST_AT_ONCE:,}.")


def slots_of(
    host: Host,
    workers: int | None = None,
    devices_per_run: int | None = None,
    runs_per_device: int | None = None,
) -> Slots:
    """The slots of a host: a core each on a CPU, a GPU each, all chips of a TPU host together.

    `workers` is how many of them to fill, `devices_per_run` how many devices one has and
    `runs_per_device` how many share one. Raises Refusal for what the host does not have.
    """
    given = {"--workers": workers, "--devices-per-run": devices_per_run}
    given["--runs-per-device"] = runs_per_device
    for option, value in given.items():
        refuse_count(option, value)
    if host.platform == "cpu":
        for option in ("--devices-per-run", "--runs-per-device"):
            if given[option] is not None:
                raise Refusal(
                    f"{option} {given[option]}: jax finds no accelerator here. Leave it out; "
                    "--workers says how many runs are trained at once."
                )
        return Slots(host, tuple([Slot("cpu")] * (workers or core_count())), ())
    return _accelerated(host, workers, devices_per_run, runs_per_device or 1)


def _accelerated(
    host: Host, workers: int | None, devices_per_run: int | None, sharing: int
) -> Slots:
    count = len(host.devices)
    usual = count if host.platform == "tpu" else 1
    width = devices_per_run or usual
    if width > count:
        raise Refusal(f"--devices-per-run {width}: this host has {count}. Give at most {count}.")
    if sharing > 1 and host.platform == "tpu":
        raise Refusal(f"--runs-per-device {sharing}: a TPU chip takes one process. Leave it out.")
    if sharing > 1 and width > 1:
        raise Refusal(
            f"--runs-per-device {sharing} and --devices-per-run {width}: a run that needs several "
            "devices shares none. Give one of the two."
        )
    whole = host.platform == "tpu" and width == count
    groups = [host.devices[i : i + width] for i in range(0, count - width + 1, width)]
    slots = [
        Slot(host.platform, None if whole else group, sharing)
        for _ in range(sharing)  # a device gets its second run when all have one
        for group in groups
    ]
    for slot in slots:
        worker_environment(slot)  # refuses what cannot be given to a worker
    if workers is not None and workers > len(slots):
        more = "" if host.platform == "tpu" else ", or more --runs-per-device"
        raise Refusal(
            f"--workers {workers}: this host has {count} devices, {len(slots)} places of {width} "
            f"for {sharing} at a time each. Give at most {len(slots)}{more}."
        )
    filled = slots[:workers]
    used = {name for slot in filled for name in (slot.devices or host.devices)}
    return Slots(host, tuple(filled), tuple(name for name in host.devices if name not in used))


def devices_needed(runs: Iterable[RunSpec], host: Host, runs_per_device: int = 1) -> int:
    """On how many GPUs of the host each of these runs can be laid out: 1, 2, 4, … or all.

    Raises Refusal, the one of a single device, where they cannot on any number of them.
    """
    distinct = programs_of(runs).values()
    first: Refusal | None = None
    widths = [2**k for k in range(len(host.devices).bit_length())]
    for width in sorted({*widths, len(host.devices)}):
        try:
            for run in distinct:
                layout_of(run, host.target(width, runs_per_device))
            return width
        except Refusal as error:
            first = first or error
    raise first or Refusal("this host has no devices.")


def whole_host() -> Slot:
    """The slot of a worker that was started by itself: all that it sees."""
    host = this_host()
    return Slot(host.platform, host.devices if host.platform in GPUS else None)


def core_count() -> int:
    """The cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, _container_cores()))


def _container_cores() -> int:
    """The processors that a container may use at once (cgroup v2); many if it is not limited."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return round(int(quota) / int(period))
    except (OSError, ValueError):  # no cgroup, or "max"
        return 1 << 16
