"""Whatever a study file holds, it is a study, or refused in words: soon, and in little memory."""

from __future__ import annotations

import copy
import functools
import tempfile
import tomllib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.cli.join.plan import Planned
from experiments.cli.render.plan import Shown, plan_text
from scaling.data.corpus import CorpusInfo
from scaling.planning.plan import make_plan, plan_table
from scaling.study import parse_study, read_study

Guard = Callable[[], AbstractContextManager[None]]
STUDIES = [path.read_bytes() for path in (Path(__file__).parents[2] / "experiments").glob("*.toml")]
CORPUS = CorpusInfo("0" * 12, "a corpus", 256, 1000, 10**12, 10, 10**7, 10**7)

# What is too large to be printed where a test fails stands under its name until it is read.
LARGE: dict[str, Any] = {
    "<text>": "a" * 10**6,
    "<texts>": ["a" * 10**5] * 9,
    "<counts>": [*range(1, 2001)],
    "<numbers>": [10.0 + i for i in range(2000)],
    "<nested>": functools.reduce(lambda inner, _: [inner], range(500), []),
}

hostile = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(
        [
            *(0, -1, 1, 2, 3, 10**9, 2**31, 2**63, 10**18, 10**30, 10**400, -(10**30)),
            *(0.0, -0.5, 0.1, 1e-300, 1e300, 5e-324, float("nan"), float("inf"), -float("inf")),
            *("", "x", "1e999", "300B", "nan", "../../x", "\x1b[2J", "\udc80", *LARGE),
            *("sotu", "hf:x", "bytes", "bpe:9", "llama", "gpt2", "scanned", "causal", "total"),
            *([], {}, [[]], [{}], {"x": {}}, [1, "1"], [10**30] * 9, [None] * 9, [[[[]]]] * 9),
        ]
    ),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.integers(1, 10**12) | st.floats(min_value=0), max_size=5),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)
KNOWN = (
    *(
        "unique_tokens",
        "allow_repeats",
        "microbatch_tokens",
        "remat",
        "layers",
        "presets",
        "params",
    ),
    *("max_run_flops", "replicate_seeds", "overrides", "queries_per_kv", "z_loss", "sizes"),
    *("hardware", "steps_per_call", "round_to_steps", "nominal_tokens"),
    "allow_long_warmup",
    *("span", "center_params", "center_tokens_per_param", "budgets", "tokens", "train_tokens"),
)


def places(table: dict[str, Any]) -> list[tuple[str, ...]]:
    """The paths of a table's fields, and of its sections."""
    found: list[tuple[str, ...]] = []
    for key, value in table.items():
        found.append((key,))
        if isinstance(value, dict):
            found += [(key, *rest) for rest in places(value)]
    return found


@st.composite
def studies(draw: st.DrawFn) -> dict[str, Any]:
    """A shipped study with up to four fields replaced, removed, added or swept."""
    table = copy.deepcopy(tomllib.loads(draw(st.sampled_from(STUDIES)).decode()))
    for _ in range(draw(st.integers(1, 4))):
        fields = places(table)
        if not fields:
            break
        *parents, name = draw(st.sampled_from(fields))
        place = table
        for parent in parents:
            place = place[parent]
        match draw(st.sampled_from(["replace", "replace", "remove", "add", "sweep"])):
            case "replace":
                place[name] = draw(hostile)
            case "remove":
                del place[name]
            case "add":
                place[draw(st.text(max_size=9) | st.sampled_from(KNOWN))] = draw(hostile)
            case "sweep":
                table["sweep"] = {".".join([*parents, name]): draw(st.lists(hostile, max_size=3))}
    return table


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A shipped study with bytes or lines cut, repeated or put in."""
    content = draw(st.sampled_from(STUDIES))
    for _ in range(draw(st.integers(1, 4))):
        at, end = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
        lines = content.split(b"\n")
        line = draw(st.integers(0, len(lines) - 1))
        new = draw(
            st.binary(max_size=9)
            | st.sampled_from(
                [
                    *(b"[", b"]", b'"', b"=", b"{", b"\0", b"\r", b"\xef\xbb\xbf", b"[[grid]]\n"),
                    *(b"[" * 5000, b"a." * 5000, b"9" * 5000, b"x = " + b"{a=" * 2000),
                    *(b"1979-05-27T07:32:00Z", b"99:99:99", b"0x", b"1e999", b"inf", b"-nan"),
                ]
            )
        )
        match draw(st.sampled_from(["cut", "put", "repeat line", "cut line"])):
            case "cut":
                content = content[:at] + content[end:]
            case "put":
                content = content[:at] + new + content[at:]
            case "repeat line":
                content = b"\n".join([*lines[: line + 1], *lines[line:]])
            case "cut line":
                content = b"\n".join([*lines[:line], *lines[line + 1 :]])
    return content


def in_full(value: Any) -> Any:
    """The value with what stands under its name put in."""
    match value:
        case str() if value in LARGE:
            return LARGE[value]
        case dict():
            return {key: in_full(inner) for key, inner in value.items()}
        case list():
            return [in_full(inner) for inner in value]
        case _:
            return value


def plan(guard: Guard, table: dict[str, Any]) -> None:
    """Plan a study as `scaling plan` does, but for its text."""
    with guard():
        made = make_plan(parse_study(in_full(table), "study.toml"), CORPUS)
        plan_table(made)
        assert len(plan_text(Shown(Planned(made, None, ())))) < 100_000


def read(guard: Guard, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.toml"
        path.write_bytes(content)
        with guard():
            read_study(path)


quick = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
thorough = settings(quick, max_examples=2000)


@quick
@given(studies())
def test_a_mutated_study_is_planned_or_refused(
    refused_or_done: Guard, table: dict[str, Any]
) -> None:
    plan(refused_or_done, table)


@quick
@given(files())
def test_a_mutated_study_file_is_read_or_refused(refused_or_done: Guard, content: bytes) -> None:
    read(refused_or_done, content)


@pytest.mark.slow
@thorough
@given(studies())
def test_many_mutated_studies_are_planned_or_refused(
    refused_or_done: Guard, table: dict[str, Any]
) -> None:
    plan(refused_or_done, table)


@pytest.mark.slow
@thorough
@given(files())
def test_many_mutated_study_files_are_read_or_refused(
    refused_or_done: Guard, content: bytes
) -> None:
    read(refused_or_done, content)
