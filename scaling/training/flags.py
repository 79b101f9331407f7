"""The environment that a worker starts in: XLA's flags and its share of the host. Loads no jax.

XLA reads its flags once, when a process first asks for a device, and aborts on one that it does not
know; those here are known to jaxlib 0.10.0 to 0.12.0 (tests/scaling/training/test_flags.py starts
the installed one with all of them).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from models.architecture import Platform
from models.devices import GPUS
from scaling.store.records import Refusal

# Vector width and fast math are worth 1.5x to 2x on small float32 models on a CPU. Fast math may
# fold NaN checks away, so finiteness is always checked on the host.
CPU_FLAGS = ("--xla_cpu_prefer_vector_width=512", "--xla_cpu_enable_fast_math=true")
# Without the expander, a scatter becomes a loop over its rows, one after the other
# (openxla/xla#34917). Either flag for determinism makes XLA take the first algorithm that compiles
# instead of the fastest, unless it finds results that were recorded without the flag
# (GetConfigAssignerOptions in xla/service/gpu/autotuning/autotuner_pass.cc).
DETERMINISTIC_FLAGS = (
    "--xla_gpu_exclude_nondeterministic_ops=true",
    "--xla_gpu_enable_scatter_determinism_expander=true",
)
LOAD_FLAG = "--xla_gpu_load_autotune_results_from"
DUMP_FLAG = "--xla_gpu_dump_autotune_results_to"
# Runs gradient exchange beside the backward pass; of no use to one device.
SEVERAL_FLAGS = ("--xla_gpu_enable_latency_hiding_scheduler=true",)
# Of a GPU's memory; CUDA's contexts, its libraries and other processes have the rest. XLA's default
# takes 75%. The older name is read too, and both at once are refused by jax.
MEMORY_SHARE = 0.92
MEMORY_NAMES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")

# jax from the first on and before the second compiles a GPU's atomic additions to loops.
FAULTY = ((0, 10, 2), (0, 11, 1))

# The shape of so many chips of a TPU host, which a process that takes some of them must be told:
# https://gist.github.com/skye/f82ba45d2445bb19d53545538754f9a3 (by one of jax's authors) has these
# two, and jax/_src/test_multiprocess.py sets the same variables.
TPU_BOUNDS: Mapping[int, str] = {1: "1,1,1", 2: "1,2,1"}

# The variables by which a process is told which devices to see.
VISIBLE: Mapping[Platform, str] = {
    "gpu": "CUDA_VISIBLE_DEVICES",
    "rocm": "HIP_VISIBLE_DEVICES",
    "tpu": "TPU_VISIBLE_CHIPS",
}

Algorithms = Literal["fastest", "recorded", "deterministic"]


@dataclass(frozen=True)
class Slot:
    """A place for one worker at a time."""

    platform: Platform = "cpu"
    # The devices of the host that it uses, by the names that VISIBLE's variable has for them; null:
    # all that a process started here sees.
    devices: tuple[str, ...] | None = None
    sharing: int = 1  # workers that use the same devices at once
    alone: bool = True  # whether its process is the whole worker, and not one of several


def worker_environment(
    slot: Slot | None = None, algorithms: Algorithms = "fastest", file: Path | None = None
) -> dict[str, str]:
    """The environment that a worker process of a slot starts in; by default one of a CPU.

    How a GPU's algorithms are chosen: the `fastest` as measured when a program is compiled, which
    may not be the same ones the next time; `recorded`, the same and written to `file`; or
    `deterministic`, those that give the same bits every time, of `file` where it is given
    (scaling/training/autotuning.py records it). The user's own XLA_FLAGS come last, so that they
    win. Raises Refusal for a number of TPU chips whose shape is not known.
    """
    slot = slot or Slot()
    choice = _choice(algorithms, file) if slot.platform in GPUS else _Part()
    parts = (_PLATFORMS[slot.platform](slot), choice)
    flags = [flag for part in parts for flag in part.flags] + [os.environ.get("XLA_FLAGS", "")]
    said = " ".join(filter(None, flags))
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return {
        **os.environ,
        # Without empty entries, which are the working directory: anything may lie there.
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "PYTHONUNBUFFERED": "1",
        **{name: value for part in parts for name, value in part.variables.items()},
        **({"XLA_FLAGS": said} if said else {}),
    }


@dataclass(frozen=True)
class _Part:
    """What is added to the user's environment."""

    flags: tuple[str, ...] = ()  # of XLA
    variables: Mapping[str, str] = field(default_factory=dict)


def _cpu(slot: Slot) -> _Part:
    # NPROC sizes XLA's thread pool: two single-threaded workers do half again the tokens of one
    # with two threads.
    threads = {"NPROC": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return _Part(CPU_FLAGS, threads)


def _gpu(slot: Slot) -> _Part:
    variables: dict[str, str] = {}
    if slot.devices is not None:
        variables[VISIBLE[slot.platform]] = ",".join(slot.devices)
    name = next((name for name in MEMORY_NAMES if os.environ.get(name)), MEMORY_NAMES[0])
    share = os.environ.get(name) or MEMORY_SHARE
    try:
        variables[name] = f"{float(share) / slot.sharing:.3f}"
    except ValueError:
        raise Refusal(
            f"{name} = {share!r} is no share of a device's memory: give e.g. 0.9."
        ) from None
    several = not slot.alone or (slot.devices is not None and len(slot.devices) > 1)
    return _Part(SEVERAL_FLAGS if several else (), variables)


def _tpu(slot: Slot) -> _Part:
    if slot.devices is None:
        return _Part()
    if (bounds := TPU_BOUNDS.get(len(slot.devices))) is None:
        raise Refusal(
            f"--devices-per-run {len(slot.devices)}: which shape so many chips of a TPU have is "
            "not documented. Give 1 or 2, or leave it out: a run then takes all chips of the host."
        )
    variables = {
        VISIBLE["tpu"]: ",".join(slot.devices),
        "TPU_CHIPS_PER_PROCESS_BOUNDS": bounds,
        "TPU_PROCESS_BOUNDS": "1,1,1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    return _Part(variables=variables)


_PLATFORMS = {"cpu": _cpu, "gpu": _gpu, "rocm": _gpu, "tpu": _tpu}


def _choice(algorithms: Algorithms, file: Path | None) -> _Part:
    """How the algorithms of a GPU are chosen; of a file that is to be written, those in it stay."""
    if algorithms == "fastest":
        return _Part()
    loaded = () if file is None or not file.exists() else (f"{LOAD_FLAG}={_quoted(file)}",)
    # JAX keeps what XLA measured beside its compiled programs. Where the deterministic flags make
    # it take the first algorithm, that must not be found there by runs that want the fastest.
    variables = {"JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none"}
    if algorithms == "recorded":
        # Of a program that is in JAX's cache nothing would be measured.
        variables["JAX_ENABLE_COMPILATION_CACHE"] = "false"
        return _Part((*loaded, f"{DUMP_FLAG}={_quoted(file)}"), variables)
    return _Part((*DETERMINISTIC_FLAGS, *loaded), variables)


def _quoted(file: Path | None) -> str:
    """As XLA reads it among its flags, which spaces part."""
    said = str(file)
    return f'"{said}"' if any(character.isspace() for character in said) else said


def is_deterministic(platform: str, xla_flags: str) -> bool:
    """Whether a process with these XLA_FLAGS gives the same bits every time on the same device.

    A CPU does always; a GPU with DETERMINISTIC_FLAGS, unless a later flag takes one back. Of TPUs
    nothing is promised here.
    """
    given = dict(each.partition("=")[::2] for each in xla_flags.split())
    wanted = dict(each.partition("=")[::2] for each in DETERMINISTIC_FLAGS)
    if platform in GPUS:
        return all(given.get(name, "").lower() == value for name, value in wanted.items())
    return platform == "cpu"


def no_device(said: str) -> Refusal:
    """What to say where jax cannot start, and `said` why in its last line."""
    asked = os.environ.get("JAX_PLATFORMS")
    wanted = f" JAX_PLATFORMS = {asked!r}:" if asked else ""
    last = (said.strip().splitlines() or [""])[-1].strip()
    # What an assertion of jax's own says is no more than its name.
    reason = last if " " in last else "there is none of that kind"
    return Refusal(
        f"jax finds no device here:{wanted} {reason.rstrip('.')}. Look at what "
        f"`{Path(sys.executable).name} -c 'import jax; jax.devices()'` prints. "
        "JAX_PLATFORMS=cpu trains without one."
    )


def refuse_faulty_jax(platform: str) -> None:
    """Raise Refusal where the jaxlib that is installed is far too slow on a GPU."""
    installed = version("jaxlib")
    if platform == "gpu" and FAULTY[0] <= _numbers(installed) < FAULTY[1]:
        raise Refusal(
            f"jaxlib {installed} adds rows on a GPU (scatter-add, as in an embedding's gradient) "
            "up to 2,000 times more slowly than those before and after it (jax-ml/jax#38806). "
            "Install jax[cuda13]>=0.11.1, which needs Python 3.12, or jax[cuda13]==0.10.1."
        )


def _numbers(said: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", said)[:3]))
