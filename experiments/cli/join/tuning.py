"""The sweeps of `scaling tune`, and the rule that is fitted to their optima.

Every size and budget of a study is swept at the same multiples of the rate that it gives. Where the
best rate of one is an end, the sweep doubles outward there, and the runs before are kept: what is
tried next follows from what has ended, so the command goes on where it was stopped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.fitting.fit import Fit, Status, fit
from analysis.laws.catalogue import law
from analysis.runs.sweep import Best, Sweep, optima, sweep
from analysis.runs.table import read_runs
from analysis.text import decimal, human, scientific
from models.architecture import architecture
from scaling.planning.plan import Plan
from scaling.store.records import Refusal
from scaling.study import Study

FIELD = "training.learning_rate_factor"
COLUMN = "learning_rate"
LAW = "steplaw_lr"  # k·N^a·D^b
STEPS = 2  # of the sweep in a factor of two: curves through values further apart place the best ill
DOUBLINGS = 5  # to each side of where a sweep begins, at most: a factor of 32 is a slip of the pen
SIZES, BUDGETS = 3, 2  # at least: exponents of N and of D
ENOUGH = 5  # optima, of which the law has three coefficients


@dataclass(frozen=True)
class Reach:
    """How far a sweep reaches: doublings below and above the study's rate."""

    down: int = 1
    up: int = 1

    @property
    def multiples(self) -> tuple[float, ...]:
        """Of the study's rate, in three digits, so that a study file has them as they are."""
        steps = range(-STEPS * self.down, STEPS * self.up + 1)
        return tuple(float(f"{2 ** (step / STEPS):.3g}") for step in steps)


@dataclass(frozen=True)
class Swept:
    """What the sweeps have shown so far."""

    table: pd.DataFrame
    best: Sweep
    diverged: tuple[Best, ...]  # points above whose best rate runs diverge

    def next(self, reach: Reach) -> Reach:
        """How far the sweep has to reach: the same where every best lies inside."""
        ends = [each.edge for each in self.best.bounds if each not in self.diverged]
        return Reach(reach.down + ("lowest" in ends), reach.up + ("highest" in ends))


def refuse_untunable(study: Study) -> None:
    """Raise Refusal for a study that sweeps something itself."""
    if study.sweep:
        raise Refusal(
            f"[sweep] {', '.join(study.sweep)}: `scaling tune` makes the sweep itself. Remove "
            "[sweep], and tune what is left."
        )
    if study.training.learning_rate_factor != 1:
        raise Refusal(
            f"[training] learning_rate_factor = {study.training.learning_rate_factor:g}: `scaling "
            "tune` varies it. Remove it; learning_rate is where the sweep begins."
        )


def refuse_following(plan: Plan) -> None:
    """Raise Refusal for models whose rate follows size already: no rule in N would serve them."""
    if any(architecture(run.architecture).ratios(run.model) for run in plan.points):
        raise Refusal(
            '[model] parametrization = "mup" has one learning_rate for all sizes, and a rule in N '
            'is refused with it. Give [sweep] "training.learning_rate" in the study, `scaling '
            "run` it, and read the best rates from `scaling fit --best-of learning_rate`."
        )


def refuse_narrow(plan: Plan) -> None:
    """Raise Refusal for a grid from which the exponents of N and D could not be read."""
    budgets: dict[int, set[int]] = {}
    for run in plan.points:
        budgets.setdefault(run.params.non_embedding, set()).add(run.tokens)
    fewest = min(map(len, budgets.values()))
    if len(budgets) < SIZES or fewest < BUDGETS:
        raise Refusal(
            f"[grid] has {len(budgets)} sizes and {fewest} budgets of each at least: a rule in N "
            f"and D needs {SIZES} sizes and {BUDGETS} budgets of each. Give more."
        )


def with_sweep(toml: bytes, reach: Reach) -> bytes:
    """The study file with the sweep of its rate."""
    values = json.dumps(reach.multiples)
    return toml + f'\n\n[sweep]  # by `scaling tune`\n"{FIELD}" = {values}\n'.encode()


def swept(folder: Path, level: float) -> Swept:
    """The best rates of a results folder. Raises Refusal as `read_runs` and `sweep` do."""
    table = read_runs(
        folder,
        params_column="params_non_embedding",
        require=("params", "tokens", "loss", COLUMN),
        where=("run_kind!=trunk",),
        drop_invalid=True,
    )
    best = sweep(table, COLUMN, level=level)
    gone = table[table["status"].eq("diverged")]
    rates = gone.groupby("params")[COLUMN].min()  # the least that diverged at each size
    diverged = tuple(
        each
        for each in best.bounds
        if each.edge == "highest" and each.value < rates.get(each.params, 0.0)
    )
    return Swept(table, best, diverged)


def refuse_open(study: Study, found: Swept, reach: Reach) -> None:
    """Raise Refusal where a sweep that is to reach so far has doubled often enough."""
    if max(reach.down, reach.up) <= DOUBLINGS:
        return
    each = next(each for each in found.best.bounds if each not in found.diverged)
    rates = f"{scientific(each.tried[0])} to {scientific(each.tried[-1])}"
    raise Refusal(
        f"[training] learning_rate = {study.training.learning_rate!r}: of rates from {rates} the "
        f"{each.edge} is still the best at {_place(each)}, after {DOUBLINGS} doublings. Give a "
        "number near the best as learning_rate, or more tokens: what hardly trains has no best."
    )


def fitted_rule(found: Swept, level: float, bootstrap: int) -> Fit:
    """lr* = k·N^a·D^b through the optima.

    Raises Refusal where too few points have one: a best rate at an end of its sweep is a bound.
    """
    table = optima(found.table, found.best)
    inside = [each for each in found.best.cells if each.optimum is not None]
    if len(inside) < ENOUGH:
        places = ", ".join(map(_place, found.best.bounds))
        raise Refusal(
            f"{len(inside)} of {len(found.best.cells)} points have a best rate inside their sweep, "
            f"and a rule needs {ENOUGH}. Just above the best rate runs diverge at {places}: give a "
            "longer warmup_tokens, a smaller clip_norm, or more sizes."
        )
    made = fit(law(LAW), table, bootstrap=bootstrap, level=level)
    if made.status is Status.FAILED:
        raise Refusal(f"no rule could be fitted to the best rates: {made.reason}.")
    return made


def rule_text(study: Study, made: Fit, cells: Sequence[Best]) -> str:
    """The rule file: what `scaling/planning/rules.py` reads."""
    inside = [each for each in cells if each.optimum is not None]
    # Five digits move a rate by a thousandth at most, far less than its interval.
    k, a, b = (float(f"{made.coefficients[name]:.5g}") for name in ("k", "a", "b"))
    ends = {
        name: [min(values), max(values)]
        for name, values in (
            ("params", [each.params for each in inside]),
            ("tokens", [each.tokens for each in inside]),
        )
    }
    spans = {
        name: f"{name} {decimal(made.coefficients[name], span)} [{decimal(span.low, span)} … "
        f"{decimal(span.high, span)}]"
        for name, span in made.interval.coefficients.items()
        if math.isfinite(span.low)  # without resamples there are none
    }
    schedule = "plateau" if study.training.schedule == "wsd" else "decay"
    lines = [
        f"# {MADE} on the study {study.name}: rate = k N^a D^b, N without embedding and head.",
        f"# {made.interval.level:.0%} intervals: {'; '.join(spans.values()) or 'none'}",
        f'gives = "{COLUMN}"',
        f'source = "measured by scaling tune: {study.name}, {len(inside)} best rates"',
        f'schedule = "{schedule}"',
        f'optimizer = "{study.training.optimizer}"',
        f"factor = {k!r}",
        f"powers = {{ params = {{ exponent = {a!r} }}, tokens = {{ exponent = {b!r} }} }}",
        f"measured = {{ params = {ends['params']}, tokens = {ends['tokens']} }}",
        "optima = [",
        *(_optimum(each) for each in inside),
        "]",
    ]
    return "\n".join([*lines, ""])


MADE = "Made by `scaling tune`"


def _optimum(each: Best) -> str:
    assert each.optimum is not None
    tried = f"[{each.tried[0]:.4g}, {each.tried[-1]:.4g}]"
    interval = ""
    if each.interval is not None:
        interval = f", interval = [{each.interval.low:.4g}, {each.interval.high:.4g}]"
    return (
        f"    {{ params = {each.params:.0f}, tokens = {each.tokens:.0f}, tried = {tried}, "
        f"optimum = {each.optimum:.4g}{interval} }},"
    )


def _place(each: Best) -> str:
    return f"N = {human(each.params)}, D = {human(each.tokens)}"
