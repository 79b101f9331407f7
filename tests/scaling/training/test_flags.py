"""A worker's environment is that of its platform, and one in which the installed jaxlib starts."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from scaling.store.records import Refusal
from scaling.training import flags
from scaling.training.flags import (
    CPU_FLAGS,
    DETERMINISTIC_FLAGS,
    SEVERAL_FLAGS,
    Slot,
    is_deterministic,
    refuse_faulty_jax,
    worker_environment,
)

THREADS = {"NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}
PAIR = Slot("gpu", ("2", "5"))


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that says nothing of XLA or devices."""
    for name in (*THREADS, "XLA_FLAGS", "CUDA_VISIBLE_DEVICES", *flags.MEMORY_NAMES):
        monkeypatch.delenv(name, raising=False)


def added(*words: object) -> dict[str, str]:
    """What a worker's environment has that this process's has not."""
    made = worker_environment(*words)  # type: ignore[arg-type]
    return {name: made[name] for name in made if os.environ.get(name) != made[name]}


def test_only_workers_on_a_cpu_have_its_flags_and_one_thread() -> None:
    assert added()["XLA_FLAGS"].split() == list(CPU_FLAGS)
    assert added().keys() >= THREADS
    for slot in (Slot("gpu"), Slot("gpu", ("0",)), Slot("tpu"), Slot("tpu", ("0",))):
        made = added(slot)
        assert made.keys().isdisjoint({*THREADS, "XLA_FLAGS"}), "one device needs no flag"


def test_a_worker_sees_the_devices_of_its_slot_and_its_share_of_their_memory() -> None:
    assert added(Slot("gpu", ("3",)))["CUDA_VISIBLE_DEVICES"] == "3"
    assert added(PAIR)["CUDA_VISIBLE_DEVICES"] == "2,5"
    assert added(PAIR)["XLA_FLAGS"].split() == list(SEVERAL_FLAGS)
    assert float(added(PAIR)["XLA_CLIENT_MEM_FRACTION"]) == 0.92
    assert float(added(Slot("gpu", ("3",), sharing=4))["XLA_CLIENT_MEM_FRACTION"]) == 0.23
    assert "CUDA_VISIBLE_DEVICES" not in added(Slot("gpu"))


def test_a_gpu_of_rocm_has_the_flags_of_one_of_cuda_and_its_own_name_for_devices() -> None:
    rocm, cuda = added(Slot("rocm", ("2", "5")), "deterministic"), added(PAIR, "deterministic")
    assert rocm.pop("HIP_VISIBLE_DEVICES") == cuda.pop("CUDA_VISIBLE_DEVICES")
    assert rocm == cuda
    refuse_faulty_jax("rocm")  # what is wrong with a jaxlib is wrong with CUDA


@pytest.mark.parametrize("name", flags.MEMORY_NAMES)
def test_the_users_share_of_memory_is_divided_under_the_name_it_was_given_by(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "0.5")
    made = worker_environment(Slot("gpu", ("0",), sharing=2))
    # jax refuses to start where both are given.
    assert {each: made[each] for each in flags.MEMORY_NAMES if each in made} == {name: "0.250"}
    monkeypatch.setenv(name, "half")
    with pytest.raises(Refusal, match=f"{name} = 'half'"):
        worker_environment(Slot("gpu"))


def test_a_share_of_a_tpu_host_is_asked_for_where_its_shape_is_known() -> None:
    assert added(Slot("tpu")).keys() <= {"PYTHONPATH", "PYTHONUNBUFFERED"}
    made = added(Slot("tpu", ("2", "3")))
    assert made["TPU_VISIBLE_CHIPS"] == "2,3" and made["TPU_CHIPS_PER_PROCESS_BOUNDS"] == "1,2,1"
    with pytest.raises(Refusal, match="--devices-per-run 3"):
        worker_environment(Slot("tpu", ("0", "1", "2")))


@pytest.mark.parametrize("slot", [Slot(), Slot("gpu"), PAIR])
def test_the_users_flags_come_last(monkeypatch: pytest.MonkeyPatch, slot: Slot) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=here")
    made = worker_environment(slot, "deterministic")["XLA_FLAGS"].split()
    assert made[-1] == "--xla_dump_to=here"
    assert made.count("--xla_dump_to=here") == 1


def test_the_same_bits_are_promised_on_a_cpu_and_with_the_switch_on_a_gpu() -> None:
    switched = worker_environment(Slot("gpu"), "deterministic")["XLA_FLAGS"]
    assert set(DETERMINISTIC_FLAGS) <= set(switched.split())
    assert is_deterministic("gpu", switched)
    assert is_deterministic("cpu", "")
    assert not is_deterministic("gpu", worker_environment(PAIR)["XLA_FLAGS"])
    taken_back = f"{switched} --xla_gpu_enable_scatter_determinism_expander=false"
    assert not is_deterministic("gpu", taken_back)
    assert not is_deterministic("tpu", switched)


def test_what_a_deterministic_run_chose_is_not_kept_for_others() -> None:
    # Where it has no record it takes the first algorithm, which XLA would write there.
    made = worker_environment(Slot("gpu"), "deterministic")
    assert made["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] == "none"
    recording = worker_environment(Slot("gpu"), "recorded", Path("a"))
    assert recording["JAX_ENABLE_COMPILATION_CACHE"] == "false"
    assert not is_deterministic("gpu", recording["XLA_FLAGS"])


def test_the_installed_jaxlib_knows_every_flag_and_files_may_have_spaces(tmp_path: Path) -> None:
    # XLA aborts on a flag that it does not know, of whatever platform it is.
    file = tmp_path / "a folder" / "results.textproto"
    said = [
        worker_environment(slot, algorithms, file)["XLA_FLAGS"]
        for slot, algorithms in [(Slot(), "fastest"), (PAIR, "recorded"), (PAIR, "deterministic")]
    ]
    code = "import jax; jax.devices(); print(jax.config.values['jax_enable_compilation_cache'])"
    environment = {
        **worker_environment(PAIR, "recorded", file),
        "XLA_FLAGS": " ".join(said),
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
    unknown = {**environment, "XLA_FLAGS": f"{' '.join(said)} --xla_gpu_no_such_flag=true"}
    died = subprocess.run([sys.executable, "-c", code], env=unknown, capture_output=True, text=True)
    assert died.returncode != 0 and "xla_gpu_no_such_flag" in died.stderr
    assert died.stderr.count("Unknown flag") == 1 and "results.textproto" not in died.stderr


@pytest.mark.parametrize("faulty", ["0.10.2", "0.11.0", "0.11.0.1"])
def test_a_jaxlib_that_adds_rows_slowly_trains_on_no_gpu(
    monkeypatch: pytest.MonkeyPatch, faulty: str
) -> None:
    monkeypatch.setattr(flags, "version", lambda name: faulty)
    refuse_faulty_jax("cpu")
    with pytest.raises(Refusal, match=rf"jaxlib {faulty} .*0\.11\.1.*0\.10\.1"):
        refuse_faulty_jax("gpu")


@pytest.mark.parametrize("good", ["0.10.1", "0.11.1", "0.12.0.1"])
def test_others_do(monkeypatch: pytest.MonkeyPatch, good: str) -> None:
    monkeypatch.setattr(flags, "version", lambda name: good)
    refuse_faulty_jax("gpu")


def test_the_version_is_that_of_the_jaxlib_that_is_loaded() -> None:
    import jaxlib

    assert version("jaxlib") == jaxlib.__version__


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_cuda_extra_installs_no_such_jaxlib(python: str) -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    asked = [Requirement(each) for each in project["optional-dependencies"]["cuda"]]
    asked = [
        each for each in asked if each.marker and each.marker.evaluate({"python_version": python})
    ]
    for faulty in ("0.10.2", "0.11.0"):
        assert not all(each.specifier.contains(faulty) for each in asked)
    some = "0.10.1" if python == "3.11" else "0.12.0.1"
    assert asked and all(each.specifier.contains(some) for each in asked)
