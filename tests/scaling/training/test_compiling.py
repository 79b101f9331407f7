"""What cannot be compiled ahead of time is refused in one line, before anything is compiled."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from models.devices import devices
from scaling.hardware import Hardware
from scaling.planning.layout import Target
from scaling.planning.plan import Plan
from scaling.store.records import Refusal
from scaling.training import compiling
from scaling.training.compiling import compile_step, topology_of


def test_chips_are_named_by_their_device_and_how_they_lie() -> None:
    topology = topology_of("tpu-v5e:2x4")
    assert (topology.name, topology.count) == ("tpu-v5e:2x4", 8)
    assert topology.target == Target("tpu", 8, devices()["tpu-v5e"].memory)
    assert topology_of("tpu-v5p:2x2x1").count == 4 and topology_of("tpu-v6e:1x1").count == 1


@pytest.mark.parametrize(
    "asked, said",
    [
        ("tpu-v5x:2x2", r"unknown device. Did you mean tpu-v5[ep]\? Known: tpu-v5e, tpu-v5p, tpu-"),
        ("v5e:2x2", r"unknown device. Did you mean tpu-v5e\?"),
        ("h200:8", r"no compiler for h200 is here. `--device h200` gives the estimate .* tpu-v5e,"),
        ("tpu-v4:2x2x1", r"no compiler for tpu-v4 is here"),
        ("tpu-v5e", r"give how the chips lie, such as tpu-v5e:1x1 for one"),
        ("tpu-v5e:4", r"give how the chips lie"),
        ("tpu-v5e:2x0", r"give how the chips lie"),
        ("tpu-v5e:2x2\n", r"give how the chips lie"),
    ],
)
def test_other_words_are_refused_with_those_that_would_do(asked: str, said: str) -> None:
    with pytest.raises(Refusal, match=f"^--compile {re.escape(asked.strip())}(\\\\n)?: {said}"):
        topology_of(asked)


def test_without_its_compiler_the_extra_is_named(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "find_spec", lambda name: None)
    run = replace(plan().runs[0], dtype="bfloat16")
    with pytest.raises(Refusal, match=r"^--compile tpu-v5e:2x2: libtpu .* extra `tpu`"):
        compile_step(run, topology_of("tpu-v5e:2x2"))


def test_what_has_no_layout_there_is_not_compiled(plan: Callable[..., Plan]) -> None:
    run = replace(plan().runs[0], hardware=Hardware(attention="cudnn"))
    with pytest.raises(Refusal, match='"cudnn" needs a GPU'):
        compile_step(run, topology_of("tpu-v5e:2x2"))
