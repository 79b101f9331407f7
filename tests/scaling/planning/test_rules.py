"""The rules give the numbers that their sources print."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.laws.published import PUBLISHED
from models.decoder.config import ModelConfig
from models.decoder.sizes import count_params
from models.sizes import ParamCount
from scaling.planning.hyperparameters import in_few_digits, resolve
from scaling.planning.plan import Plan
from scaling.planning.rules import GIVES, NoRule, Scale, read_rule, shipped
from scaling.store.records import Refusal

SMALL = count_params(ModelConfig(256, 128, 2, 64, 4, 4, 16, 176))
SHIPPED = [(field, name) for field in GIVES for name in shipped(field)]


def sized(non_embedding: int) -> ParamCount:
    return ParamCount(embedding=0, matrix=non_embedding, vector=0, head=0, head_matmul=0)


def rate(name: str, params: int, tokens: int | None = None) -> float:
    return resolve(name, "learning_rate", Scale(sized(params), 2**19, tokens))


def batch(name: str, params: int, tokens: int | None = None) -> float:
    return resolve(name, "batch_sequences", Scale(sized(params), 0, tokens))


# What the rules gave when they were code, to the last bit.
BEFORE = {
    "kaplan-2020": lambda n: 0.003239 - 0.0001395 * math.log(n),
}


@pytest.mark.parametrize("name", BEFORE)
def test_rules_that_were_code_give_the_same_bits(name: str) -> None:
    for params in (6_720, 25_248, 791_680, 123_532_544, 2_000_000_017):
        assert rate(name, params) == BEFORE[name](params)


@pytest.mark.parametrize(
    "params, expected", [(10**6, 1.3117e-3), (10**8, 6.693e-4), (10**9, 3.481e-4)]
)
def test_kaplans_rate_is_equation_d1(params: int, expected: float) -> None:
    """0.003239 - 0.0001395 ln N, worked out by hand to four digits."""
    assert rate("kaplan-2020", params) == pytest.approx(expected, rel=1e-3)


def test_kaplans_rate_is_refused_where_it_is_no_longer_positive() -> None:
    with pytest.raises(ValueError, match=r"learning_rate = 'kaplan-2020' gives -"):
        rate("kaplan-2020", 2 * 10**10)


@pytest.mark.parametrize("target", ["learning_rate", "batch_sequences"])
@pytest.mark.parametrize("name", ["steplaw-2025", "deepseek-2024", "kaplan-2020"])
def test_a_rule_is_the_published_law_of_its_name(name: str, target: str) -> None:
    if name not in shipped(target):
        assert (target, name) == ("batch_sequences", "kaplan-2020")  # which follows the loss
        return
    law = PUBLISHED[f"{name}-{'lr' if target == 'learning_rate' else 'batch'}"]
    n, d = 3 * 10**8, 2 * 10**10
    predicted = float(law.predict({"params": n, "tokens": d, "flops": 6.0 * n * d}))
    assert resolve(name, target, Scale(sized(n), 1, d)) == pytest.approx(predicted, rel=1e-12)
    assert dict(shipped(target)[name].measured) == {k: tuple(v) for k, v in law.measured.items()}


def test_olmo_cores_rules_are_160_sequences_and_half_of_47e4_at_108m() -> None:
    assert batch("olmo-core", 108_000_000) == 160 * 2048
    assert batch("olmo-core", 8 * 108_000_000) == pytest.approx(4 * 160 * 2048)
    assert rate("olmo-core", 8 * 108_000_000) == pytest.approx(0.0047 / 2)


def test_nanochats_batch_is_half_a_million_at_its_reference() -> None:
    d12 = 12 * (12 * 12 * 768**2 + 32768 * 768)  # 12 tokens a parameter of its matrices and head
    assert batch("nanochat", 1, d12) == 2**19
    assert batch("nanochat", 1, 2 * d12) == pytest.approx(2**19 * 2**0.383)


def test_zhangs_batch_takes_a_fifth_more_tokens_in_their_own_runs() -> None:
    """Steps to one loss of 302M parameters by batch, from plots/chinchilla.ipynb of the authors."""
    steps = {256: 46_000, 1024: 13_300, 2048: 7_224}
    more = {size: size * steps[size] / (256 * steps[256]) for size in (1024, 2048)}
    part = (1.2 - more[1024]) / (more[2048] - more[1024])
    critical = 1024 * 2**part  # sequences of 512 tokens
    assert batch("zhang-2024", 1, 46_875 * 256 * 512) == pytest.approx(512 * critical, rel=0.01)
    assert shipped("batch_sequences")["zhang-2024"].follows == ("tokens",)


def test_a_batch_keeps_four_binary_digits() -> None:
    assert [in_few_digits(n) for n in (0.2, 7.4, 15.6, 117, 130, 1000, 1001)] == [
        *(1, 7, 16, 120, 128, 1024, 1024)
    ]
    for n in range(1, 5000):
        assert (abs(in_few_digits(n) / n - 1) <= 1 / 16 and in_few_digits(n) % 8 == 0) or n < 64


def test_beta2_is_the_customary_one_at_gpt3s_batch(plan: Callable[..., Plan]) -> None:
    """Brown et al. 2020 train with 0.95 on batches of 0.5M tokens."""
    half = resolve("half-life-7M", "beta2", Scale(SMALL, 500_000, None))
    assert round(0.5 ** (500_000 / half), 2) == 0.95
    (run, *_) = plan(training={"beta2": "half-life-7M"}).runs
    assert run.optimizer.beta2 == 0.5 ** (run.batch_tokens / 7e6)


def test_warmup_takes_as_many_tokens_as_there_are_parameters() -> None:
    assert resolve("params", "warmup_tokens", Scale(SMALL, 1024, None)) == SMALL.total


def test_a_number_means_itself() -> None:
    assert resolve(0.25, "learning_rate", Scale(SMALL, 1, None)) == 0.25


def test_an_unknown_rule_is_refused_in_whole_sentences(plan: Callable[..., Plan]) -> None:
    with pytest.raises(Refusal, match=r"rule\. Did you mean olmo-core\? Give .* ends in \.toml\.$"):
        plan(training={"batch_sequences": "olmo-cor"})


def test_an_unknown_rule_is_refused_with_the_known_ones() -> None:
    with pytest.raises(NoRule, match=r"learning_rate = 'kaplan-2021' is no known.*kaplan-2020"):
        resolve("kaplan-2021", "learning_rate", Scale(SMALL, 1, None))


@pytest.mark.parametrize("field, name", SHIPPED)
def test_every_rule_states_formula_and_source(field: str, name: str) -> None:
    rule = shipped(field)[name]
    assert rule.formula and rule.source and rule.gives == GIVES[field]


@pytest.mark.parametrize("name", shipped("learning_rate"))
def test_larger_models_learn_at_lower_rates(name: str) -> None:
    rates = [rate(name, 10**power, 10**9) for power in (4, 6, 8)]
    assert rates == sorted(rates, reverse=True) and len(set(rates)) == 3


# --- a file of one's own ------------------------------------------------------------------------

OWN = """
gives = "learning_rate"
source = "the tests"
schedule = "plateau"
factor = 0.01
powers = { tokens = { unit = 1e4, exponent = -0.5 } }
"""
SHARE = """
gives = "warmup_tokens"
source = "the tests"
factor = 0.025
powers = { tokens = { exponent = 1.0 } }
"""


@pytest.fixture
def following(tmp_path: Path) -> dict[str, str]:
    """Rate and warmup by rules that follow D."""
    (tmp_path / "rate.toml").write_text(OWN)
    (tmp_path / "warmup.toml").write_text(SHARE)
    return {
        "learning_rate": str(tmp_path / "rate.toml"),
        "warmup_tokens": str(tmp_path / "warmup.toml"),
    }


@pytest.mark.parametrize(
    "change, said",
    [
        (("factor = 0.01", "factor = 'x'"), "factor: Input should be a valid number"),
        (("schedule", "shedule"), "shedule: Unexpected keyword argument"),
        (('schedule = "plateau"', ""), "says what a learning rate is the peak of"),
        (("tokens =", "token ="), "powers.token"),
        (("learning_rate", "beta2_half_life"), "goes with no other rule; remove it"),
        (("exponent = -0.5", "exponent = -0.5,,"), "is not valid TOML"),
        (("factor = 0.01", "factor = 0.01\nmeasured = { params = [2.0, 1.0] }"), "ends before"),
        (
            ("0.01", "0.01\noptima = [{ params = 1, tokens = 1, tried = [2, 1], optimum = 1 }]"),
            "optima.0: tried = [2, 1] ends before it begins",
        ),
    ],
)
def test_a_file_that_is_no_rule_is_refused_by_field(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(OWN.replace(*change))
    with pytest.raises(NoRule) as caught:
        read_rule(path, "learning_rate")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"learning_rate = '{path}'") and said in line


def test_a_batch_that_follows_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'gives = "batch_tokens"\nsource = "the tests"\nfactor = 1\n'
        "powers = { batch_tokens = { exponent = -1.0 } }\n"
    )
    with pytest.raises(NoRule, match="a batch cannot follow batch_tokens"):
        read_rule(path, "batch_sequences")


def test_a_rule_beyond_all_numbers_is_refused(plan: Callable[..., Plan], tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        OWN.replace("tokens = { unit = 1e4, exponent = -0.5 }", "params = { exponent = 99.0 }")
    )
    with pytest.raises(Refusal, match=r"gives inf at \d+ parameters"):
        plan(training={"learning_rate": str(path)})


def test_a_rule_for_another_field_or_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    with pytest.raises(NoRule, match="cannot be read: No such file"):
        read_rule(path, "learning_rate")
    path.write_text(SHARE)
    with pytest.raises(NoRule, match="gives warmup_tokens, not learning_rate"):
        read_rule(path, "learning_rate")


def test_a_rule_follows_the_declared_d_and_never_the_length_of_a_run(
    plan: Callable[..., Plan], following: dict[str, str]
) -> None:
    made = plan(training={**following, "nominal_tokens": "10k"})
    assert {run.schedule.peak for run in made.runs} == {0.01}
    assert {run.schedule.warmup_steps for run in made.runs} == {4}
    longer = plan(training={**following, "nominal_tokens": "10k"}, grid={"tokens": [1536, 6144]})
    assert longer.runs[0].run_id == made.runs[0].run_id
    other = plan(training={**following, "nominal_tokens": "2.5k"})
    assert {run.schedule.peak for run in other.runs} == {0.02}
    assert not {run.run_id for run in other.runs} & {run.run_id for run in made.runs}


def test_a_rule_that_follows_d_is_refused_where_none_is_declared(
    plan: Callable[..., Plan], following: dict[str, str]
) -> None:
    with pytest.raises(Refusal) as caught:
        plan(training=following)
    rate, warmup = str(caught.value).splitlines()
    for line, (field, path) in zip((rate, warmup), following.items(), strict=True):
        said = f"{field} = {path!r} follows D: declare one, [training] nominal_tokens."
        assert line == f"[training] {said}"


# --- what follows the batch ---------------------------------------------------------------------


def test_a_batch_by_a_rule_follows_size_and_its_d_rounds_in_whole_batches(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    rule = tmp_path / "batch.toml"
    rule.write_text(
        'gives = "batch_tokens"\nsource = "the tests"\nfactor = 64\n'
        "powers = { params = { unit = 3400, exponent = 1.0 } }\n"
    )
    made = plan(training={"batch_sequences": str(rule)}, grid={"params": [3400, 6800]})
    batches = {run.params.non_embedding: run.batch_sequences for run in made.runs}
    assert [*batches.values()] == [in_few_digits(64 * n / 3400 / 16) for n in batches]
    assert len({*batches.values()}) == 2
    for run in made.points:
        assert run.schedule.steps % 4 == 0 and run.tokens % run.batch_tokens == 0


def test_a_batch_beyond_any_is_refused(plan: Callable[..., Plan], tmp_path: Path) -> None:
    rule = tmp_path / "batch.toml"
    rule.write_text('gives = "batch_tokens"\nsource = "the tests"\nfactor = 1e30\n')
    with pytest.raises(Refusal, match=r"gives 1e\+30 tokens at .* more than any batch"):
        plan(training={"batch_sequences": str(rule)})


def test_weight_decay_by_a_timescale_follows_batch_rate_and_d(plan: Callable[..., Plan]) -> None:
    of = {"weight_decay": "wang-2024", "nominal_tokens": 3072}
    for more in ({}, {"learning_rate_factor": 2.0}, {"batch_sequences": 8}):
        for run in plan(training={**of, **more}).runs:
            share = run.batch_tokens / (run.schedule.peak * run.optimizer.weight_decay * 3072)
            assert share == pytest.approx(1.0)
    with pytest.raises(Refusal, match=r"weight_decay = 'wang-2024' is a share of D: declare one"):
        plan(training={"weight_decay": "wang-2024"})


@pytest.mark.parametrize(
    "field, gives, factor, said",
    [
        ("beta2", "beta2_half_life", 1e-9, "gives 0 for a batch of 64 tokens"),
        ("beta2", "beta2_half_life", 1e300, "gives 1 for a batch of 64 tokens"),
        (
            "weight_decay",
            "weight_decay_timescale",
            1e-9,
            "more from a weight at a step than it has",
        ),
    ],
)
def test_what_a_rule_gives_that_no_optimiser_can_have_is_refused(
    plan: Callable[..., Plan], tmp_path: Path, field: str, gives: str, factor: float, said: str
) -> None:
    rule = tmp_path / "rule.toml"
    rule.write_text(f'gives = "{gives}"\nsource = "the tests"\nfactor = {factor}\n')
    with pytest.raises(Refusal, match=rf"\[training\] {field} = .*{said}"):
        plan(training={field: str(rule), "nominal_tokens": 3072})


def test_a_peak_becomes_a_plateaus_rate_only_where_the_source_says_how(
    plan: Callable[..., Plan],
) -> None:
    by = {"learning_rate": "olmo-core"}
    (wsd, *_), (cosine, *_) = (
        plan(training=by).runs,
        plan(training={**by, "schedule": "cosine"}).runs,
    )
    assert wsd.schedule.peak == cosine.schedule.peak / 2


def test_a_run_knows_whether_its_rate_lies_inside_what_a_sweep_tried(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    rule = tmp_path / "rate.toml"
    rule.write_text(
        'gives = "learning_rate"\nsource = "the tests"\nschedule = "plateau"\nfactor = 0.02\n'
        "measured = { tokens = [1500, 1600] }\n"
        "optima = [{ params = 3400, tokens = 1536, tried = [0.01, 0.03], optimum = 0.02 }]\n"
    )

    def inside(**more: Any) -> list[bool | None]:
        runs = plan(training={"learning_rate": str(rule), **more}).runs
        return [run.rate_bracketed for run in runs]

    assert inside() == [None, True, None]  # a trunk, its D, and a D where no sweep was
    assert inside(learning_rate_factor=2.0) == [None, False, None]
    assert {run.rate_bracketed for run in plan().runs} == {None}


def test_the_rate_of_a_run_is_judged_by_what_was_tried_at_its_own_d(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    """Rates from half to twice 0.02 (D / 1536) were tried; at a declared D the rate is one."""
    rule = tmp_path / "rate.toml"
    rule.write_text(
        'gives = "learning_rate"\nsource = "the tests"\nschedule = "plateau"\nfactor = 0.02\n'
        "powers = { tokens = { unit = 1536, exponent = 1.0 } }\n"
        "optima = [{ params = 3400, tokens = 1536, tried = [0.01, 0.04], optimum = 0.02 }]\n"
    )

    def inside(nominal: int) -> dict[int, bool | None]:
        made = plan(training={"learning_rate": str(rule), "nominal_tokens": nominal})
        return {run.tokens: run.rate_bracketed for run in made.points}

    assert inside(2304) == {1536: True, 3072: True}
    assert inside(4608) == {1536: False, 3072: True}
    assert inside(1024) == {1536: True, 3072: False}


def test_a_sweep_with_another_optimiser_brackets_no_rate(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    rule = tmp_path / "rate.toml"
    text = (
        'gives = "learning_rate"\nsource = "the tests"\nschedule = "plateau"\nfactor = 0.02\n'
        "optima = [{ params = 3400, tokens = 1536, tried = [0.01, 0.03], optimum = 0.02 }]\n"
    )

    def inside(optimizer: str) -> set[bool | None]:
        made = plan(training={"learning_rate": str(rule), "optimizer": optimizer})
        return {run.rate_bracketed for run in made.points}

    rule.write_text(text)
    assert (inside("adamw"), inside("muon")) == ({True}, {None})
    rule.write_text('optimizer = "muon"\n' + text)
    assert (inside("adamw"), inside("muon")) == ({None}, {True})


def test_an_unknown_rule_and_tokens_rounded_too_far_are_refused_together(
    plan: Callable[..., Plan],
) -> None:
    with pytest.raises(Refusal) as caught:
        plan(training={"learning_rate": "nobody"}, grid={"tokens": [100, 3072]})
    assert [line.split()[0] for line in str(caught.value).splitlines()] == ["[training]", "[grid]"]


def test_under_mup_a_rate_may_follow_d_which_mup_does_not(
    plan: Callable[..., Plan], following: dict[str, str]
) -> None:
    made = plan(model={"parametrization": "mup"}, training={**following, "nominal_tokens": "2.5k"})
    assert {run.schedule.peak for run in made.runs} == {0.02}
