"""A run's layout is the cheapest that fits, and the same wherever it is asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from models.decoder.config import DIALECTS, ModelConfig
from models.devices import devices
from scaling.data.corpus import Corpus
from scaling.hardware import Hardware
from scaling.planning.deriving import (
    CALL_FLOPS,
    CPU_BYTES,
    DEEP,
    SAFE,
    SATURATING,
    SMALLEST,
    TooLarge,
    better_batch,
    layout_of,
    relative_time,
    smaller_microbatch,
)
from scaling.planning.layout import Target
from scaling.planning.memory import step_memory
from scaling.planning.plan import Plan, make_plan
from scaling.spec import RunSpec
from scaling.store.records import Refusal
from scaling.study import parse_study

H100 = Target("gpu", 1, 80e9)
V5E = Target("tpu", 8, 16e9)


@pytest.fixture
def size(plan: Callable[..., Plan]) -> Callable[..., RunSpec]:
    """A run of a decoder so deep and wide, in batches of half a million tokens."""
    (trunk,) = (run for run in plan().runs if run.run_kind == "trunk")

    def make(n_layers: int, d_model: int, hardware: Hardware | None = None, **fields: Any) -> Any:
        shape = (n_layers, d_model, d_model // 64, d_model // 64, 64, 4 * d_model)
        model = ModelConfig(32768, 2048, *shape, **DIALECTS["llama"], **fields)
        return replace(
            trunk,
            model=model,
            sequence_length=2048,
            batch_sequences=256,
            dtype="bfloat16",
            hardware=hardware or Hardware(),
        )

    return make


def test_a_cpu_runs_the_plain_program_on_the_whole_batch(size: Callable[..., RunSpec]) -> None:
    run = replace(size(20, 64), batch_sequences=4, dtype="float32")
    for count in (1, 2, 4):
        layout = layout_of(run, Target("cpu", count))
        execution = layout.execution
        assert (execution.layers, execution.remat, execution.loss) == ("unrolled", "none", "whole")
        assert (layout.microbatch_sequences, layout.accumulate) == (4, 1)
        assert (layout.steps_per_call, layout.sharding) == (8, "data")


def test_a_batch_that_a_cpu_cannot_hold_is_made_of_the_largest_microbatches_that_it_can(
    size: Callable[..., RunSpec],
) -> None:
    run = replace(size(12, 768), batch_sequences=64, dtype="float32")
    layout = layout_of(run, Target("cpu"))
    twice = replace(layout, microbatch_sequences=2 * layout.microbatch_sequences)
    assert layout.accumulate > 1 and layout.execution.remat == "none"
    assert step_memory(run, layout).total <= CPU_BYTES < step_memory(run, twice).total
    # However little there is, a CPU is not refused: its memory may be larger.
    assert layout_of(size(48, 4096), Target("cpu")).sequences == 1


def test_more_memory_is_used_for_cheaper_layouts(size: Callable[..., RunSpec]) -> None:
    run, times, remats = size(12, 1536), [], []
    for gigabytes in (15, 16, 20, 24, 30, 40, 80, 141, 400):
        layout = layout_of(run, Target("gpu", 1, gigabytes * 1e9))
        assert step_memory(run, layout).total <= SAFE * gigabytes * 1e9
        times.append(relative_time(run, layout))
        remats.append(layout.execution.remat)
    assert times == sorted(times, reverse=True) and times[0] > 1.5 > 1.04 > times[-1]
    assert set(remats) == {"full", "dots", "none"} and (remats[0], remats[-1]) == ("full", "none")
    assert layout.sequences * 2048 == SATURATING and layout.execution.loss == "whole"


def test_all_devices_of_the_table_have_a_layout_of_a_small_model_without_remat_of_all(
    size: Callable[..., RunSpec],
) -> None:
    for device in devices().values():
        platform: Any = "tpu" if device.name.startswith("tpu") else "gpu"
        layout = layout_of(size(8, 512), Target(platform, 1, device.memory))
        assert layout.execution.remat != "full", device.name


def test_the_state_is_divided_only_where_a_device_cannot_hold_it(
    size: Callable[..., RunSpec],
) -> None:
    small, large = layout_of(size(8, 512), V5E), layout_of(size(30, 2048), V5E)
    assert (small.sharding, large.sharding) == ("data", "fsdp")
    assert step_memory(size(30, 2048), replace(large, sharding="data")).state > 16e9
    for layout in (small, large):
        assert layout.microbatch_sequences % 8 == 0
        assert layout.microbatch_sequences * layout.accumulate == 256


def test_deep_models_are_scanned_where_programs_take_long_to_compile(
    size: Callable[..., RunSpec],
) -> None:
    for depth, layers in ((DEEP - 1, "unrolled"), (DEEP, "scanned")):
        assert layout_of(size(depth, 256), H100).execution.layers == layers
        assert layout_of(size(depth, 64), Target("cpu")).execution.layers == "unrolled"


def test_a_call_is_a_second_of_work_or_one_step(size: Callable[..., RunSpec]) -> None:
    found = set()
    for width in (64, 256, 512, 1024):
        run = size(8, width)
        layout = layout_of(run, H100)
        flops = run.flops_per_token * run.batch_tokens * layout.steps_per_call
        assert flops <= CALL_FLOPS or layout.steps_per_call == 1
        assert math.log2(layout.steps_per_call).is_integer()
        found.add(layout.steps_per_call)
    assert {1, 8} <= found


@pytest.mark.parametrize(
    "hardware",
    [
        Hardware(microbatch_tokens=4096),
        Hardware(remat="full", loss="chunked"),
        Hardware(layers="scanned", attention="plain"),
        Hardware(sharding="fsdp", steps_per_call=3),
    ],
    ids=str,
)
def test_what_a_study_asks_for_is_as_it_asks(
    size: Callable[..., RunSpec], hardware: Hardware
) -> None:
    for target in (H100, V5E, Target("cpu", 2)):
        layout = layout_of(size(4, 256, hardware), target)
        execution = layout.execution
        for field, found in (
            ("layers", execution.layers),
            ("remat", execution.remat),
            ("attention", execution.attention),
            ("loss", execution.loss),
            ("sharding", layout.sharding),
            ("steps_per_call", layout.steps_per_call),
            ("microbatch_tokens", layout.sequences * 2048),
        ):
            assert getattr(hardware, field) in (None, found)


def test_devices_of_unknown_memory_are_taken_for_small_ones(size: Callable[..., RunSpec]) -> None:
    known = layout_of(size(8, 512), Target("gpu", 1, SMALLEST))
    assert layout_of(size(8, 512), Target("gpu")) == known


def test_what_fits_nowhere_is_refused_with_a_number_of_devices_that_does(
    size: Callable[..., RunSpec],
) -> None:
    run = size(40, 5120)
    with pytest.raises(TooLarge, match=r"^params = [\d,]+ .* GB on 1 device with 80 GB\.") as said:
        layout_of(run, H100)
    found = re.search(r"Give each run (\d+) devices", str(said.value))
    assert found is not None and "\n" not in str(said.value)
    many = int(found[1])
    assert layout_of(run, replace(H100, devices=many)).sharding == "fsdp"
    with pytest.raises(TooLarge):
        layout_of(run, replace(H100, devices=many // 2))


def test_what_does_not_fit_because_of_what_was_asked_is_refused_with_its_name(
    size: Callable[..., RunSpec],
) -> None:
    run = size(24, 2048, Hardware(remat="none", steps_per_call=1))
    target = Target("tpu", 4, 16e9)
    with pytest.raises(TooLarge, match=r"Remove \[hardware\] remat, give larger devices, or"):
        layout_of(run, target)
    assert layout_of(replace(run, hardware=Hardware()), target)


@pytest.mark.parametrize(
    "fields, hardware, target, said",
    [
        ({}, {}, Target("gpu", 3), r"\[training\] batch_sequences = 256 does not divide among 3"),
        (
            {},
            {"microbatch_tokens": 2047},
            H100,
            r"\[hardware\] microbatch_tokens = 2047 is less than one sequence\. Give 2048, or ",
        ),
        (
            {},
            {"microbatch_tokens": 5000},
            H100,
            r"\[hardware\] .* = 5000 is no multiple of sequence_length = 2,048\. Give 4096, or ",
        ),
        (
            {},
            {"microbatch_tokens": 24 * 2048},
            V5E,
            r"\[hardware\] .* = 49152 is 24 sequences, .* makes the 32 that .*\. Give 32768, or ",
        ),
        (
            {"attention_softcap": 50.0},
            {"attention": "cudnn"},
            H100,
            r"\[hardware\] .*attention_softcap = 50.0.*attention = \"plain\"",
        ),
        ({}, {"attention": "cudnn"}, Target("cpu"), r"\[hardware\] .*\"cudnn\" needs a GPU"),
        ({}, {"attention": "splash"}, H100, r"\[hardware\] .*\"splash\" needs a TPU"),
    ],
    ids=str,
)
def test_what_no_memory_makes_possible_is_refused_in_one_line(
    size: Callable[..., RunSpec],
    fields: dict[str, Any],
    hardware: dict[str, Any],
    target: Target,
    said: str,
) -> None:
    with pytest.raises(Refusal, match=said) as error:
        layout_of(size(4, 256, Hardware(**hardware), **fields), target)
    assert "\n" not in str(error.value) and not isinstance(error.value, TooLarge)


def test_architectures_that_run_their_own_layers_are_laid_out_as_they_can(
    toy: str, table: Callable[..., dict[str, Any]], corpus: Corpus
) -> None:
    raw = {**table(), "model": {"architecture": toy, "expansion": 2}}
    run = make_plan(parse_study(raw, "bag"), corpus.info).runs[0]
    for target in (H100, V5E, Target("cpu")):
        execution = layout_of(replace(run, batch_sequences=8), target).execution
        assert (execution.layers, execution.remat, execution.loss) == ("unrolled", "none", "whole")


def test_a_microbatch_as_large_as_the_batch_is_all_of_it(size: Callable[..., RunSpec]) -> None:
    """Of a study whose batches differ by size, and of several devices."""
    run = replace(size(4, 256, Hardware(microbatch_tokens=48 * 2048)), batch_sequences=32)
    assert layout_of(run, H100).sequences == 32
    with pytest.raises(Refusal, match=r"is 48 sequences, .* makes the 61 that .* Give 124928, or"):
        layout_of(replace(run, batch_sequences=61), H100)


@pytest.mark.parametrize(
    "batch, devices, better",
    [(127, 1, 128), (61, 1, 64), (8 * 61, 8, 512), (96, 1, None), (33, 1, None), (31, 1, None)],
)
def test_a_batch_that_makes_small_microbatches_alone_has_a_better_one_near_it(
    size: Callable[..., RunSpec], batch: int, devices: int, better: int | None
) -> None:
    run, target = replace(size(8, 512), batch_sequences=batch), replace(H100, devices=devices)
    layout = layout_of(run, target)
    assert better_batch(run, target, layout) == better
    if better is not None:
        more = layout_of(replace(run, batch_sequences=better), target)
        assert layout.sequences == 1 and more.sequences == 32
    asked = replace(run, hardware=Hardware(microbatch_tokens=layout.sequences * 2048))
    assert better_batch(asked, target, layout) is None


def test_the_next_smaller_microbatch_divides_the_batch(size: Callable[..., RunSpec]) -> None:
    run = replace(size(8, 512), batch_sequences=12)
    layout = layout_of(run, H100)
    seen = []
    while (tokens := smaller_microbatch(run, layout)) is not None:
        run = replace(run, hardware=Hardware(microbatch_tokens=tokens))
        layout = layout_of(run, H100)
        assert layout.sequences * 2048 == tokens
        seen.append(layout.sequences)
    assert seen == [6, 4, 3, 2, 1]
