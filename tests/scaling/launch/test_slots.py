"""Every device of a host has a run, and no two workers fight for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from scaling.launch import slots, worker
from scaling.launch.slots import Host, core_count, devices_needed, slots_of, this_host, whole_host
from scaling.planning.layout import Target
from scaling.planning.plan import Plan
from scaling.spec import RunSpec
from scaling.store.records import Refusal
from scaling.training.flags import Slot, worker_environment

H200 = Host("gpu", "NVIDIA H200", tuple("01234567"))
TPU = Host("tpu", "TPU v5 lite", tuple("0123"))
CPU = Host("cpu", "cpu", ("0",))


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What is here is asked again."""
    this_host.cache_clear()
    yield
    this_host.cache_clear()


def seen(*words: Any, **asked: int) -> list[str]:
    """The devices that each worker sees."""
    made = slots_of(*words, **asked).slots
    return [worker_environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in made]


def test_each_gpu_has_a_run_of_its_own() -> None:
    assert seen(H200) == list("01234567")
    assert slots_of(H200).idle == ()


def test_a_run_may_have_several_gpus_and_a_gpu_several_runs() -> None:
    assert seen(H200, devices_per_run=4) == ["0,1,2,3", "4,5,6,7"]
    # Every GPU has its first run before one has its second.
    assert seen(H200, runs_per_device=2) == [*"0123456701234567"]
    assert {slot.sharing for slot in slots_of(H200, runs_per_device=2).slots} == {2}


def test_devices_without_a_run_are_named() -> None:
    assert slots_of(H200, devices_per_run=3).idle == ("6", "7")
    assert slots_of(H200, workers=6).idle == ("6", "7")
    assert slots_of(H200, workers=9, runs_per_device=2).idle == ()


def test_a_tpu_host_is_one_slot_unless_it_is_divided() -> None:
    assert slots_of(TPU).slots == (Slot("tpu"),)
    assert slots_of(TPU, devices_per_run=4).slots == (Slot("tpu"),)
    chips = [worker_environment(each) for each in slots_of(TPU, devices_per_run=2).slots]
    assert [each["TPU_VISIBLE_CHIPS"] for each in chips] == ["0,1", "2,3"]


def test_a_cpu_has_a_worker_a_core() -> None:
    assert slots_of(CPU).slots == (Slot("cpu"),) * core_count()
    assert len(slots_of(CPU, workers=3).slots) == 3


@pytest.mark.parametrize(
    ("host", "asked", "words"),
    [
        (H200, {"workers": 9}, r"--workers 9: this host has 8 devices.*at most 8.*--runs-per"),
        (H200, {"devices_per_run": 9}, r"--devices-per-run 9: this host has 8"),
        (H200, {"devices_per_run": 2, "runs_per_device": 2}, "one of the two"),
        (H200, {"workers": 0}, "--workers 0: give at least 1"),
        (H200, {"runs_per_device": 0}, "--runs-per-device 0: give at least 1"),
        (TPU, {"runs_per_device": 2}, "takes one process"),
        (TPU, {"devices_per_run": 3}, "not documented"),
        (CPU, {"devices_per_run": 1}, "no accelerator here"),
        (CPU, {"runs_per_device": 2}, "no accelerator here"),
    ],
)
def test_what_a_host_does_not_have_is_refused(host: Host, asked: Any, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        slots_of(host, **asked)


def fake_jax(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    """jax answers so when it is asked for its devices."""
    monkeypatch.setattr(slots, "expected_platform", lambda: "gpu")
    monkeypatch.setattr(slots, "ASK", f"print({said!r})")


@pytest.mark.parametrize(
    ("visible", "count", "devices"),
    [
        ("", 3, ("0", "1", "2")),
        ("2, 5", 2, ("2", "5")),
        ("GPU-8f1c,GPU-99ab", 2, ("GPU-8f1c", "GPU-99ab")),
        ("3,1,none,2", 2, ("3", "1")),  # the driver stops at what is no device
    ],
)
def test_the_devices_that_the_user_chose_are_those_that_are_used(
    monkeypatch: pytest.MonkeyPatch, visible: str, count: int, devices: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    fake_jax(monkeypatch, f"{count} gpu 78000000000 NVIDIA H100 80GB HBM3")
    assert this_host() == Host("gpu", "NVIDIA H100 80GB HBM3", devices, 78e9)
    assert whole_host() == Slot("gpu", devices)


def test_a_gpus_plugin_without_a_gpu_is_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_jax(monkeypatch, "1 cpu 0 cpu")
    assert this_host() == Host("cpu", "cpu", ("0",)) and whole_host() == Slot("cpu")


def test_a_platform_that_is_none_of_three_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_jax(monkeypatch, "1 metal 0 M9")
    with pytest.raises(Refusal, match="finds a 'metal' here"):
        this_host()


def test_where_jax_cannot_start_its_last_line_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "expected_platform", lambda: "gpu")
    monkeypatch.setattr(slots, "ASK", "raise SystemExit('no driver')")
    with pytest.raises(Refusal, match="jax finds no device here: no driver"):
        this_host()


def test_a_device_that_says_nothing_of_its_memory_has_none_that_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_jax(monkeypatch, "1 gpu 0 NVIDIA X")
    assert this_host().memory is None


def test_what_is_asked_of_jax_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the real one, which says a CPU's memory is nobody's."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    assert this_host() == Host("cpu", "cpu", ("0", "1"))


def test_devices_that_are_simulated_are_counted_by_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3")
    assert len(this_host().devices) == 3


@pytest.mark.parametrize(
    ("found", "refusal"),
    [
        ("gpu", r"jaxlib 0\.11\.0"),
        ("cpu", "holds no plan"),  # the plugin of a GPU is installed and there is none
    ],
)
def test_a_worker_on_a_gpu_under_a_faulty_jaxlib_refuses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, found: Any, refusal: str
) -> None:
    monkeypatch.setattr(worker, "expected_platform", lambda: "gpu")
    monkeypatch.setattr("scaling.training.target.target_here", lambda: Target(found))
    monkeypatch.setattr("scaling.training.flags.version", lambda name: "0.11.0")
    with pytest.raises(Refusal, match=refusal):
        worker.work(tmp_path, "cheapest-first")


@pytest.mark.parametrize(("least", "needed"), [(1, 1), (2, 2), (3, 4), (5, 6)])
def test_a_run_gets_as_many_gpus_as_it_needs(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch, least: int, needed: int
) -> None:
    seen: list[Target] = []

    def laid_out(run: RunSpec, target: Target) -> None:
        seen.append(target)
        if target.devices < least:
            raise Refusal("it does not fit")

    monkeypatch.setattr(slots, "layout_of", laid_out)
    six = Host("gpu", "NVIDIA H200", tuple("012345"), 130e9)
    assert devices_needed(plan().runs, six) == needed
    # As a worker will find it, known or not.
    assert {target.memory for target in seen} == {130e9}
    devices_needed(plan().runs, six, 2)
    assert seen[-1].memory == 65e9
    devices_needed(plan().runs, replace(six, memory=None), 2)
    assert seen[-1].memory is None


def test_what_fits_no_number_of_gpus_is_refused_as_on_one(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def laid_out(run: RunSpec, target: Target) -> None:
        raise Refusal(f"it does not fit {target.devices}")

    monkeypatch.setattr(slots, "layout_of", laid_out)
    with pytest.raises(Refusal, match="does not fit 1"):
        devices_needed(plan().runs, H200)
