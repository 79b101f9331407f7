"""A study is read strictly, and what is wrong with it is said by name."""

from __future__ import annotations

import contextlib
import copy
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.data.sources import open_sources
from scaling.engines import seconds_of
from scaling.planning.plan import Plan
from scaling.quantity import parse_quantity
from scaling.store.records import Refusal
from scaling.study import Study, parse_study, read_study
from scaling.study_errors import KINDS, USUAL

Table = Callable[..., dict[str, Any]]

TOML = """
name = "from-a-file"
[model]
head_dim = 16
aspect_ratio = 32
overrides = { head = "tied" }
[data]
source = "sotu"
sequence_length = 128
holdout_fraction = 0.05
[training]
schedule = "wsd"
batch_sequences = 8
learning_rate = "sotu-bytes"
nominal_tokens = "1M"
warmup_tokens = "25k"
weight_decay = 0
beta1 = 0.9
beta2 = "half-life-7M"
clip_norm = 1
[grid]
kind = "product"
params = ["25k", 98e3, 332_000, "1.3M"]
tokens = ["0.5M", 1e6]
replicate_seeds = [1, 2]
[evaluation]
tokens = "100k"
every_tokens = "250k"
"""


def test_a_study_means_what_its_file_says(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(TOML)
    study = read_study(tmp_path / "study.toml")
    assert study.grid.params == (25e3, 98e3, 332e3, 1.3e6)
    assert study.grid.tokens == (5e5, 1e6)
    assert study.training.warmup_tokens == 25_000.0
    assert study.training.learning_rate == "sotu-bytes"
    assert study.model.overrides == {"head": "tied"}
    assert (study.grid.seeds, study.grid.replicate_seeds) == ((0,), (1, 2))


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e21", 1e21),
        ("300B", 3e11),
        ("1.3M", 1.3e6),
        ("25k", 25e3),
        (".5T", 5e11),
        (7, 7),
        (2.5, 2.5),
    ],
)
def test_quantities_are_read_in_the_fields_units(text: Any, value: float) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", "k", "1.3m", "3 GB", "-1", "1e", "0", "1e999", "nan", "inf", "0x10", "1_000"),
        "9" * 10**6 + "x",
        *(0, -1, float("nan"), float("inf"), 10**400, True, None, [1], {}),
    ],
    ids=lambda text: repr(text)[:12],
)
def test_what_is_no_positive_number_is_no_quantity(text: Any) -> None:
    with pytest.raises(ValueError, match=r"number"):
        parse_quantity(text)


@pytest.mark.parametrize(
    "section, field, value, words",
    [
        ("model", "head_dim", 0, "greater than or equal to 1"),
        ("model", "head_dim", 2.0, "valid integer"),
        ("model", "head_dim", True, "valid integer"),
        ("model", "dialect", "bert", "'llama' or 'gpt2'"),
        ("data", "holdout_fraction", 1.0, "less than 1"),
        ("data", "holdout_fraction", float("nan"), ""),
        ("data", "holdout_fraction", 1e-300, "greater than or equal to 0.000000001"),
        ("hardware", "steps_per_call", 2**31 - 1, "is above 10000. Give fewer"),
        ("evaluation", "every_tokens", 1e-300, "beyond 1e-30 to 1e"),
        ("grid", "tokens", [1e34], "beyond 1e-30 to 1e"),
        ("data", "allow_repeats", "yes", "valid boolean"),
        ("training", "learning_rate", -0.1, "greater than 0"),
        ("training", "learning_rate", float("nan"), "finite"),
        ("training", "learning_rate", float("inf"), "finite"),
        ("training", "warmup_tokens", [1], "not a number"),
        ("training", "weight_decay", float("inf"), "finite"),
        ("training", "weight_decay", -1, "greater than or equal to 0"),
        ("training", "beta2", 1.0, "less than 1"),
        ("training", "compute_dtype", "float16", "float32"),
        ("grid", "tokens", [], "at least 1 item"),
        ("grid", "kind", "cube", "'product', 'ladder', 'isoflop'"),
        ("grid", "params", ["25x"], "'25x' is not a number"),
        ("grid", "tokens", 1e6, "valid array"),
        ("grid", "tokens", [[1]], "not a number"),
        ("grid", "tokens", [1e400], "positive, finite"),
        ("grid", "tokens", [10**400], "positive, finite"),
        ("grid", "seeds", [2**32], "less than"),
        ("training", "learning_rate_factor", 0.0, "greater than 0"),
        ("training", "learning_rate", 1e30, "less than or equal to 1000"),
        ("training", "round_to_steps", 0, "greater than or equal to 1"),
        ("hardware", "microbatch_tokens", 0, "greater than or equal to 1"),
        ("evaluation", "tokens", {"a": 1}, "not a number"),
        ("evaluation", "sets", "web.txt", "must be sources by name, such as {web = "),
        ("evaluation", "sets", {"web": ["a.txt"]}, "must be sources by name"),
        ("evaluation", "sets", {"My web": "a.txt"}, "name 'My web': give up to 32 small letters"),
        ("evaluation", "sets", {"val": "a.txt"}, "would make loss_val a column of another"),
        ("evaluation", "sets", {"a_stderr": "a.txt"}, "would make loss_a_stderr a column of"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_value_out_of_range_is_refused_by_section_and_field(
    table: Table, section: str, field: str, value: Any, words: str
) -> None:
    with pytest.raises(Refusal, match=rf"^here: \[{section}\] {field} = .*{words}") as refusal:
        parse_study(table(**{section: {field: value}}), "here")
    assert "\n" not in str(refusal.value)  # one mistake, one line


@pytest.mark.parametrize("field", ["layers", "remat", "steps_per_call"])
def test_a_field_that_moved_is_refused_with_its_place(table: Table, field: str) -> None:
    with pytest.raises(Refusal, match=rf"^here: \[training\] {field} moved to \[hardware\]"):
        parse_study(table(training={field: 1}), "here")


@pytest.mark.parametrize("section", ["training", "hardware"])
def test_a_field_that_is_gone_is_refused_with_what_took_its_place(
    table: Table, section: str
) -> None:
    said = rf"^here: \[{section}\] accumulate is no longer a field: .*microbatch_tokens"
    with pytest.raises(Refusal, match=said):
        parse_study(table(**{section: {"accumulate": 4}}), "here")


@pytest.mark.parametrize("name", ["lerning_rate", "learning-rate", "str"])
def test_an_unknown_field_is_refused_by_name(table: Table, name: str) -> None:
    with pytest.raises(Refusal, match=rf"^here: \[training\] {name} is not a known field"):
        parse_study(table(training={name: 1}), "here")


def test_an_unknown_section_is_refused_by_name(table: Table) -> None:
    with pytest.raises(Refusal, match=r"^here: gird is not a known field"):
        parse_study(table(gird={"params": [1]}), "here")


def test_a_missing_field_is_named(table: Table) -> None:
    raw = table()
    del raw["training"]["clip_norm"], raw["evaluation"]
    with pytest.raises(Refusal) as refusal:
        parse_study(raw, "here")
    assert "[training] clip_norm is missing" in str(refusal.value)
    assert "evaluation is missing" in str(refusal.value)


def test_what_is_missing_is_said_with_values_that_would_do(table: Table) -> None:
    raw = table()
    for section in ("model", "training", "evaluation"):
        raw[section] = {}
    del raw["data"]["holdout_fraction"], raw["grid"]["tokens"], raw["name"]
    with pytest.raises(Refusal) as refusal:
        parse_study(raw, "here")
    given = re.findall(r"such as (\w+) = .*\.$", str(refusal.value), re.MULTILINE)
    assert {"head_dim", "aspect_ratio", "clip_norm", "every_tokens", "name"} < set(given)


@pytest.mark.parametrize("section", ["model", "data", "training", "grid", "evaluation"])
def test_the_section_that_is_advised_where_one_is_missing_is_accepted(
    table: Table, section: str
) -> None:
    raw = table()
    del raw[section]
    with pytest.raises(Refusal, match=f"{section} is missing") as refusal:
        parse_study(raw, "here")
    advised = str(refusal.value).partition("such as\n")[2]
    study = parse_study(raw | tomllib.loads(advised), "here")
    assert open_sources(study.data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_study_of_the_values_that_are_usual_is_a_study(table: Table, kind: str) -> None:
    raw: dict[str, Any] = {}
    for section in ("", "model", "data", "training", "grid", "evaluation"):
        values = tomllib.loads("\n".join(f"{k} = {v}" for k, v in USUAL[section].items()))
        raw |= values if section == "" else {section: values}
    own = "\n".join(f"{k} = {v}" for k, v in USUAL[f"grid.{kind}"].items())
    raw["grid"] |= {"kind": kind, "params": ["10M", "40M"], **tomllib.loads(own)}
    assert parse_study(raw, "usual").grid.kind == kind


def test_a_misspelt_field_is_answered_with_the_one_that_was_meant(table: Table) -> None:
    with pytest.raises(Refusal, match=r"lerning_rate is not .* Did you mean learning_rate\?"):
        parse_study(table(training={"lerning_rate": 1}), "here")
    with pytest.raises(Refusal, match=r"gird is not a known field\. Did you mean grid\?"):
        parse_study(table(gird={}), "here")
    with pytest.raises(Refusal, match=r"kind = 'isoflops'.* Did you mean isoflop\?"):
        parse_study(table(grid={"kind": "isoflops"}), "here")


def test_a_misspelt_word_is_answered_with_the_one_that_was_meant(
    table: Table, tmp_path: Path
) -> None:
    with pytest.raises(Refusal, match=r"schedule = 'cosin'.* Did you mean cosine\?"):
        parse_study(table(training={"schedule": "cosin"}), "here")
    (tmp_path / "mine.toml").touch()
    with pytest.raises(Refusal, match=r"min\.toml: No such.* Did you mean mine\.toml\?"):
        read_study(tmp_path / "min.toml")


@pytest.mark.parametrize("value, count", [("2k", 2000), ("1.5k", 1500), (7, 7)])
def test_counts_are_quantities_too(table: Table, value: Any, count: int) -> None:
    assert (
        parse_study(table(training={"batch_sequences": value}), "").training.batch_sequences
        == count
    )


def test_sixteen_bits_hold_no_larger_vocabulary(table: Table) -> None:
    tokens = {"token_dtype": "uint16", "vocab_size": 119_547, "end_token": 0}
    with pytest.raises(Refusal, match=r"'uint16' holds 65,536 .* vocab_size = 119,547.* uint32"):
        parse_study(table(data=tokens), "here")
    assert parse_study(table(data={**tokens, "token_dtype": "uint32"}), "here")
    assert parse_study(table(data={**tokens, "vocab_size": 65_536}), "here")


@pytest.mark.parametrize("name", ["", "../up", "Upper", "a b", ".hidden", "x" * 65, "a\n"])
def test_a_name_that_is_no_plain_folder_is_refused(table: Table, name: str) -> None:
    with pytest.raises(Refusal, match=r"^here: name = "):
        parse_study(table(name=name), "here")


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "No such file"),
        (b"\xff\xfe", "not UTF-8"),
        (b"name = ", "not valid TOML"),
        (b"a = " + b"9" * 5000, "not valid TOML"),
        (b"a = " + b"[" * 100_000, "not valid TOML"),
        (b"a = 2026-02-30", "not valid TOML"),
        (b"", "name is missing"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_file_that_is_no_study_is_refused(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "study.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Refusal, match=words):
        read_study(path)
    with pytest.raises(Refusal, match="cannot read study"):
        read_study(tmp_path)


VALUES = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.dates()),
        st.sampled_from([10**400, "1e999", "params", "sotu", "25k", -0.0, 5e-324, 1e308]),
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=4,
)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_whatever_a_table_holds_it_is_a_study_or_refused(table: Table, data: st.DataObject) -> None:
    raw = copy.deepcopy(table())
    for _ in range(data.draw(st.integers(1, 3))):
        place = raw
        section = data.draw(st.sampled_from(sorted(raw)))
        if isinstance(raw[section], dict) and data.draw(st.booleans()):
            place = raw[section]
        fields = st.sampled_from(sorted(place)) if place else st.nothing()
        place[data.draw(fields | st.text(max_size=6))] = data.draw(VALUES)
    with contextlib.suppress(Refusal):
        assert isinstance(parse_study(raw, "fuzz"), Study)


@settings(deadline=None, max_examples=100)
@given(cut=st.integers(0, len(TOML)), noise=st.text(max_size=8))
def test_whatever_a_file_holds_it_is_a_study_or_refused(
    tmp_path_factory: pytest.TempPathFactory, cut: int, noise: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.toml"
    path.write_text(TOML[:cut] + noise + TOML[cut:], encoding="utf-8")
    with contextlib.suppress(Refusal):
        assert isinstance(read_study(path), Study)


@pytest.mark.parametrize(
    "sections, words",
    [
        (
            {"grid": {"params": [1e4 + i for i in range(501)]}},
            r"\[grid\] makes 501 shapes; 500 are allowed",
        ),
        (
            {"grid": {"tokens": [1e6 + i for i in range(1001)], "seeds": [*range(1000)]}},
            r"\[grid\] makes 1,001,000 runs; 100,000 are allowed",
        ),
        (
            {"sweep": {f"training.{n}": [*range(1000)] for n in ("beta1", "beta2", "z_loss")}},
            r"\[grid\] and \[sweep\] make 2,000,000,000 runs",
        ),
        ({"sweep": {"model.head_dim": [*range(600)]}}, r"make 600 shapes"),
        (
            {
                "grid": {
                    **{"kind": "isoflop", "budgets": [1e12], "flop_count": "6nd"},
                    **{"sizes": 10**9, "span": 9.0, "center_params": [1e5]},
                    **{"params": (), "tokens": None},
                }
            },
            r"\[grid\] makes 1,000,000,000 (runs|shapes)",
        ),
    ],
    ids=["shapes", "runs", "sweep", "swept shapes", "sizes"],
)
def test_a_grid_of_a_billion_runs_is_refused_before_it_is_built(
    table: Table, sections: dict[str, Any], words: str
) -> None:
    given = table(**sections)
    given["grid"] = {key: value for key, value in given["grid"].items() if value is not None}
    with pytest.raises(Refusal, match=words):
        parse_study(given, "")


def test_a_file_too_large_for_a_study_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(Refusal, match=r"study\.toml is larger than 1,048,576 bytes"):
        read_study(tmp_path / "study.toml")


def test_a_message_repeats_no_more_of_a_value_than_shows_which(table: Table) -> None:
    for value in ("a" * 10**6, ["a" * 10**6] * 9, {"a" * 10**6: 1}, 10**300):
        with pytest.raises(Refusal) as refused:
            parse_study(table(training={"weight_decay": value, "x" * 10**6: 1}), "")
        assert len(str(refused.value)) < 2000


# --- [launch]: where workers run ---


def test_where_workers_run_is_no_part_of_what_a_run_is(
    table: Table, plan: Callable[..., Plan]
) -> None:
    launch = {"slurm": {"partition": "gpu", "time": 90, "setup": ["module load cuda"]}}
    study = parse_study(table(launch=launch), "here")
    assert (study.launch.slurm.time, study.launch.slurm.partition) == ("90", "gpu")
    ids = [[run.run_id for run in plan(**each).runs] for each in ({}, {"launch": launch})]
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    "time, seconds",
    [
        ("90", 5400),
        ("1:30", 90),
        ("04:00:00", 14_400),
        ("2-0", 172_800),
        ("1-12:30", 131_400),
        ("1-00:00:01", 86_401),
    ],
)
def test_a_time_limit_is_read_as_slurm_reads_it(time: str, seconds: int) -> None:
    assert seconds_of(time) == seconds


@pytest.mark.parametrize(
    "launch, said",
    [
        ({"slrum": {}}, "[launch] slrum is not a known field. Did you mean slurm?"),
        (
            {"slurm": {"partitoin": "gpu"}},
            "[launch.slurm] partitoin is not a known field. Did you mean partition?",
        ),
        (
            {"slurm": {"time": "4h"}},
            "[launch.slurm] time = '4h': is no time that Slurm reads; give",
        ),
        ({"slurm": {"time": "0"}}, "[launch.slurm] time = '0': is no limit to Slurm"),
        ({"slurm": {"time": 1}}, "[launch.slurm] time = '1' leaves a worker no time before it"),
        ({"slurm": {"workers": 0}}, "[launch.slurm] workers = 0: Input should be greater"),
        (
            {"slurm": {"requeue": "no"}},
            "[launch.slurm] requeue = 'no': Input should be a valid bool",
        ),
        ({"slurm": {"mem": "32 GB"}}, "[launch.slurm] mem = '32 GB': "),
        # Each would be more than one option, or a line of its own.
        ({"slurm": {"partition": "a b"}}, "[launch.slurm] partition = 'a b': "),
        ({"slurm": {"account": "a\n#SBATCH --x"}}, "[launch.slurm] account = "),
        ({"slurm": {"qos": "-h"}}, "[launch.slurm] qos = '-h': "),
        ({"slurm": {"setup": ["a\nb"]}}, "[launch.slurm] setup = 'a\\nb': "),
        ({"slurm": 3}, "[launch] slurm = 3: Input should be an object."),
    ],
    ids=str,
)
def test_what_slurm_cannot_be_asked_is_refused_by_field(
    table: Table, launch: dict[str, Any], said: str
) -> None:
    with pytest.raises(Refusal) as refusal:
        parse_study(table(launch=launch), "here")
    assert str(refusal.value).startswith(f"here: {said}") and "\n" not in str(refusal.value)
