"""What is kept of where a run was made, and what `deterministic` asks of where it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scaling.hardware import Hardware
from scaling.launch.prepare import prepare
from scaling.launch.worker import train_run
from scaling.planning.layout import Target
from scaling.planning.plan import Plan
from scaling.spec import RunSpec
from scaling.store.ready import run_folder
from scaling.store.records import Refusal, write_json
from scaling.store.run_record import read_run
from scaling.training.provenance import provenance


@pytest.fixture
def run(plan: Callable[..., Plan]) -> RunSpec:
    """In microbatches of 64 tokens."""
    return replace(plan().runs[0], hardware=Hardware(deterministic=True))


def sessions(run: RunSpec) -> list[dict[str, Any]]:
    """As a record has them."""
    found: list[dict[str, Any]] = json.loads(json.dumps([provenance(run)]))
    return found


def asks(run: RunSpec, **hardware: Any) -> RunSpec:
    return replace(run, hardware=replace(run.hardware, **hardware))


def test_a_deterministic_run_goes_on_in_the_layout_that_it_had(run: RunSpec) -> None:
    earlier = sessions(run)
    words = (
        r"^\[hardware\] deterministic = true: it was begun with microbatch_tokens = 64 and remat = "
        r'"none" and would go on here with microbatch_tokens = 32 and remat = "full", .*'
        r'\[hardware\] microbatch_tokens = 64 and remat = "none", and --retry failed; or leave'
    )
    with pytest.raises(Refusal, match=words):
        provenance(asks(run, microbatch_tokens=32, remat="full"), earlier)
    assert provenance(asks(run, microbatch_tokens=64, remat="none"), earlier)
    # The bits of a CPU do not depend on the length of a call.
    assert provenance(asks(run, steps_per_call=2), earlier)
    # Nor was anything promised of a session that was not deterministic, or asked for by others.
    assert provenance(asks(run, microbatch_tokens=32, deterministic=False), earlier)
    was_not = [{**each, "deterministic": False} for each in earlier]
    assert provenance(asks(run, microbatch_tokens=32), was_not)


def test_less_memory_is_no_other_layout_without_a_word(
    run: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a worker that shares its device, which its first one had alone."""
    run, memory = replace(run, batch_sequences=4096), [130e9]
    monkeypatch.setattr("scaling.training.target.target_here", lambda: Target("gpu", 1, memory[0]))
    earlier = sessions(run)
    memory[0] = 65e9
    assert provenance(run, earlier)
    memory[0] = 50e6
    with pytest.raises(Refusal, match="which changes its bits"):
        provenance(run, earlier)


def test_only_what_goes_on_from_a_checkpoint_is_bound_to_its_layout(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    """A smaller microbatch is free to what ran out of memory before it wrote one."""
    made = plan(hardware={"deterministic": True})
    first = run_folder(tmp_path, prepare(tmp_path, made, b"")[0].run_id)
    (session,) = sessions(made.runs[0])
    other = {**session, "layout": {**session["layout"], "microbatch_sequences": 2}}

    def begun_otherwise() -> None:
        record = read_run(first)
        write_json(first / "run.json", record.changed(provenance=[other]).plain())

    begun_otherwise()
    assert train_run(first, lambda: True) == "planned"
    assert len(read_run(first).provenance) == 2
    begun_otherwise()
    assert train_run(first) == "failed"
    assert "begun with microbatch_tokens = 32 and" in str(read_run(first).reason)
