"""What a run's process last reported may be anything by the time it is read."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.launch import watch

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
fields = ("first_step", "last_step", "step", "tokens_per_s")


def looked(progress: Any) -> watch._Seen:
    """A run that somebody trains, after a look at this progress."""
    results: Any = SimpleNamespace(living_owner=lambda _: "somebody", progress=lambda _: progress)
    seen = watch._Seen(SimpleNamespace(run_id="a"), before=0.0, share=0.0)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "has_ended", lambda *_: False)
        seen.look(results)
    return seen


def test_a_report_is_read() -> None:
    seen = looked({"first_step": 10, "last_step": 30, "step": 15, "tokens_per_s": 2e4})
    assert (seen.share, seen.tokens_per_s) == (0.25, 2e4)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(fields, anything)) | anything)
def test_any_report_leaves_numbers_to_add_up(progress: Any) -> None:
    seen = looked(progress)
    assert isinstance(seen.share + seen.tokens_per_s, float) or math.isnan(seen.share)
