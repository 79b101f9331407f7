"""The rules give the numbers that their sources print."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from models.decoder.config import ModelConfig
from models.decoder.sizes import count_params
from models.sizes import ParamCount
from scaling.planning.plan import Plan
from scaling.planning.rules import BETA2, LEARNING_RATES, WARMUP_TOKENS, Rule, Scale, resolve
from scaling.store.records import Refusal

SMALL = count_params(ModelConfig(256, 128, 2, 64, 4, 4, 16, 176))


def sized(non_embedding: int) -> ParamCount:
    return ParamCount(embedding=0, matrix=non_embedding, vector=0, head=0, head_matmul=0)


@pytest.mark.parametrize("params, rate", [(10**6, 1.3117e-3), (10**8, 6.693e-4), (10**9, 3.481e-4)])
def test_kaplans_rate_is_equation_d1(params: int, rate: float) -> None:
    """0.003239 - 0.0001395 ln N, worked out by hand to four digits."""
    got = resolve("kaplan-2020", LEARNING_RATES, "learning_rate", Scale(sized(params), 2**19, None))
    assert got == pytest.approx(rate, rel=1e-3)


def test_kaplans_rate_is_refused_where_it_is_no_longer_positive() -> None:
    with pytest.raises(ValueError, match=r"learning_rate = 'kaplan-2020' gives -"):
        resolve(
            "kaplan-2020", LEARNING_RATES, "learning_rate", Scale(sized(2 * 10**10), 2**19, None)
        )


def test_beta2_is_the_customary_one_at_gpt3s_batch() -> None:
    """Brown et al. 2020 train with 0.95 on batches of 0.5M tokens."""
    assert round(resolve("half-life-7M", BETA2, "beta2", Scale(SMALL, 500_000, None)), 2) == 0.95


def test_beta2_forgets_half_over_seven_million_tokens_whatever_the_batch() -> None:
    for batch in (1024, 70_000, 500_000):
        beta2 = resolve("half-life-7M", BETA2, "beta2", Scale(SMALL, batch, None))
        assert beta2 ** (7e6 / batch) == pytest.approx(0.5)


def test_warmup_takes_as_many_tokens_as_there_are_parameters() -> None:
    assert (
        resolve("params", WARMUP_TOKENS, "warmup_tokens", Scale(SMALL, 1024, None)) == SMALL.total
    )


def test_a_number_means_itself() -> None:
    assert resolve(0.25, LEARNING_RATES, "learning_rate", Scale(SMALL, 1, None)) == 0.25


def test_an_unknown_rule_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"learning_rate = 'chinchila' is no known.*kaplan-2020"):
        resolve("chinchila", LEARNING_RATES, "learning_rate", Scale(SMALL, 1, None))


@pytest.mark.parametrize("rules", [LEARNING_RATES, WARMUP_TOKENS, BETA2])
def test_every_rule_states_formula_and_source(rules: dict[str, object]) -> None:
    for rule in rules.values():
        assert all(dataclasses.asdict(rule)[name] for name in ("formula", "source"))  # type: ignore[call-overload]


@pytest.mark.parametrize("name", LEARNING_RATES)
def test_larger_models_learn_at_lower_rates(name: str) -> None:
    rates = [
        resolve(name, LEARNING_RATES, "", Scale(sized(10**power), 1024, None))
        for power in (4, 6, 8)
    ]
    assert rates == sorted(rates, reverse=True) and len(set(rates)) == 3


# Of the tests: rate and warmup follow N and one declared D.
BY_D = Rule(lambda scale: 0.01 * (scale.tokens / 1e4) ** -0.5, "0.01 (D / 1e4)^-0.5", "the tests")
SHARE = Rule(lambda scale: scale.tokens / 40, "D / 40", "the tests")
BY_BOTH = {"learning_rate": "by-d", "warmup_tokens": "a-share"}


@pytest.fixture
def following(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LEARNING_RATES, "by-d", BY_D)  # type: ignore[arg-type]
    monkeypatch.setitem(WARMUP_TOKENS, "a-share", SHARE)  # type: ignore[arg-type]


@pytest.mark.usefixtures("following")
def test_a_rule_follows_the_declared_d_and_never_the_length_of_a_run(
    plan: Callable[..., Plan],
) -> None:
    made = plan(training={**BY_BOTH, "nominal_tokens": "10k"})
    assert {run.schedule.peak for run in made.runs} == {0.01}
    assert {run.schedule.warmup_steps for run in made.runs} == {4}
    longer = plan(training={**BY_BOTH, "nominal_tokens": "10k"}, grid={"tokens": [1536, 6144]})
    assert longer.runs[0].run_id == made.runs[0].run_id
    other = plan(training={**BY_BOTH, "nominal_tokens": "2.5k"})
    assert {run.schedule.peak for run in other.runs} == {0.02}
    assert not {run.run_id for run in other.runs} & {run.run_id for run in made.runs}


@pytest.mark.usefixtures("following")
def test_a_rule_that_follows_d_is_refused_where_none_is_declared(
    plan: Callable[..., Plan],
) -> None:
    with pytest.raises(Refusal) as caught:
        plan(training=BY_BOTH)
    rate, warmup = str(caught.value).splitlines()
    for line, field in ((rate, "learning_rate = 'by-d'"), (warmup, "warmup_tokens = 'a-share'")):
        assert line == f"[training] {field} follows D: declare one, [training] nominal_tokens."
