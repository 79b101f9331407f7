"""The sweeps of `scaling tune`, and the rules that are fitted to their optima.

Every size and budget of a study is swept at the same multiples of the rate that it gives, and where
it is asked for, of its batch: all rates at each. Where the best of one is an end, the sweep doubles
outward there, and the runs before are kept: what is tried next follows from what has ended, so the
command goes on where it was stopped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from analysis.fitting.fit import Fit, Status, fit
from analysis.laws.catalogue import law
from analysis.runs.replicates import levelled
from analysis.runs.status import LEFT_OUT
from analysis.runs.sweep import Best, Sweep, optima, sweep
from analysis.runs.table import read_runs
from analysis.text import decimal, human, scientific
from models.architecture import architecture
from scaling.planning.plan import Plan
from scaling.store.records import Refusal
from scaling.study import Study

FIELD, BATCH_FIELD = "training.learning_rate_factor", "training.batch_sequences"
COLUMN, BATCH = "learning_rate", "batch_tokens"
LAWS: Mapping[str, str] = MappingProxyType(  # k·N^a·D^b and k·D^b
    {COLUMN: "steplaw_lr", BATCH: "steplaw_batch"}
)
NOUNS: Mapping[str, str] = MappingProxyType({COLUMN: "rate", BATCH: "batch"})
STEPS = 2  # of the sweep in a factor of two: curves through values further apart place the best ill
DOUBLINGS = 5  # to each side of where a sweep begins, at most: a factor of 32 is a slip of the pen
SIZES, BUDGETS = 3, 2  # at least: exponents of N and of D
SPARE = 2  # optima beyond the coefficients of a law, at least


@dataclass(frozen=True)
class Reach:
    """How far a sweep reaches: doublings below and above the study's rate, and its batch."""

    down: int = 1
    up: int = 1
    smaller: int = 0  # of the batch; with neither it is not swept
    larger: int = 0

    @property
    def multiples(self) -> tuple[float, ...]:
        """Of the study's rate, in three digits, so that a study file has them as they are."""
        steps = range(-STEPS * self.down, STEPS * self.up + 1)
        return tuple(float(f"{2 ** (step / STEPS):.3g}") for step in steps)

    def batches(self, own: int) -> tuple[int, ...]:
        """Sequences of a step, of a study that has `own`; half a sequence is none."""
        halves = [own // 2**k for k in range(self.smaller, 0, -1) if own % 2**k == 0]
        return (*halves, *(own * 2**k for k in range(self.larger + 1)))


@dataclass(frozen=True)
class Rates:
    """What the sweep of the rate has shown so far, at one batch."""

    table: pd.DataFrame
    best: Sweep
    diverged: tuple[Best, ...]  # points above whose best rate runs diverge


@dataclass(frozen=True)
class Swept:
    """What the sweeps have shown so far."""

    rates: Mapping[float, Rates]  # by the tokens of a batch
    batch: Sweep | None  # of the batch, each at its best rate; null where one batch was trained

    @property
    def sweeps(self) -> dict[str, Sweep]:
        """Of the rate, at the best batch of each size and budget; and of the batch, if swept."""
        first = next(iter(self.rates.values())).best
        if self.batch is None:
            return {COLUMN: first}
        cells = tuple(
            cell
            for each in self.batch.cells
            for cell in self.rates[each.value].best.cells
            if (cell.params, cell.tokens) == (each.params, each.tokens)
        )
        return {COLUMN: replace(first, noise=None, cells=cells), BATCH: self.batch}

    def next(self, reach: Reach, own: int) -> Reach:
        """How far the sweeps have to reach: the same where every best lies inside.

        `own` is the batch of the study, in sequences: the least one is no end to go beyond.
        """
        ends = [
            each.edge
            for at in self.rates.values()
            for each in at.best.bounds
            if each not in at.diverged
        ]
        batches = [] if self.batch is None else [each.edge for each in self.batch.bounds]
        halves = own % 2 ** (reach.smaller + 1) == 0
        return Reach(
            reach.down + ("lowest" in ends),
            reach.up + ("highest" in ends),
            reach.smaller + ("lowest" in batches and halves),
            reach.larger + ("highest" in batches),
        )


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


def own_batch(study: Study) -> int:
    """The batch of a study, in sequences, from which its sweep begins.

    Raises Refusal for a rule, and for a batch that has no half.
    """
    own = study.training.batch_sequences
    if isinstance(own, str):
        raise Refusal(
            f"[training] batch_sequences = {own!r} follows size, and --batch sweeps one of all "
            "sizes. Give a number from which the sweep is to begin."
        )
    if own % 2:
        raise Refusal(
            f"[training] batch_sequences = {own} cannot be halved, and --batch begins at half. "
            f"Give {own + 1}."
        )
    return own


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
    rows = pd.DataFrame(
        (run.params.non_embedding, run.tokens, run.batch_tokens) for run in plan.points
    ).set_axis(["params", "tokens", BATCH], axis=1)
    rows = levelled(rows)
    fewest = int(rows.groupby("params")["tokens"].nunique().min())
    if rows["params"].nunique() < SIZES or fewest < BUDGETS:
        raise Refusal(
            f"[grid] has {rows['params'].nunique()} sizes and {fewest} budgets of each at least: a "
            f"rule in N and D needs {SIZES} sizes and {BUDGETS} budgets of each. Give more."
        )
    there = rows.groupby(["params", "tokens"])[BATCH].nunique()
    if there.min() < rows[BATCH].nunique():
        unit = plan.study.training.round_to_steps * int(rows[BATCH].max())
        raise Refusal(
            f"[training] round_to_steps = {plan.study.training.round_to_steps}: the largest batch "
            f"has D in multiples of {unit:,} tokens, so batches would be compared at different D. "
            "Give tokens that are such multiples, or a smaller round_to_steps."
        )


def with_sweep(toml: bytes, reach: Reach, own: int | None) -> bytes:
    """The study file with the sweep of its rate, and of its batch where it has an `own` one."""
    axes: dict[str, Sequence[float]] = {FIELD: reach.multiples}
    if own is not None:
        axes[BATCH_FIELD] = reach.batches(own)
    lines = (f"{json.dumps(name)} = {json.dumps(values)}" for name, values in axes.items())
    return toml + "\n".join(["", "", "[sweep]  # by `scaling tune`", *lines, ""]).encode()


def swept(folder: Path, level: float) -> Swept:
    """The best of a results folder. Raises Refusal as `read_runs` and `sweep` do."""
    table = levelled(
        read_runs(
            folder,
            params_column="params_non_embedding",
            require=("params", "tokens", "loss", COLUMN, BATCH),
            where=("run_kind!=trunk",),
            drop_invalid=True,
        )
    )
    rates = {
        batch: _rates(table[table[BATCH] == batch], level) for batch in sorted({*table[BATCH]})
    }
    if len(rates) == 1:
        return Swept(rates, None)
    return Swept(rates, sweep(reached(rates), BATCH, level=level))


def reached(rates: Mapping[float, Rates]) -> pd.DataFrame:
    """The loss of each batch at its own best rate: a row at each size and budget."""
    return pd.DataFrame(
        (cell.params, cell.tokens, batch, cell.loss)
        for batch, each in rates.items()
        for cell in each.best.cells
    ).set_axis(["params", "tokens", BATCH, "loss"], axis=1)


def _rates(table: pd.DataFrame, level: float) -> Rates:
    best = sweep(table, COLUMN, level=level)
    gone = table[table["status"].eq("diverged")]
    rates = gone.groupby("params")[COLUMN].min()  # the least that diverged at each size
    diverged = tuple(
        each
        for each in best.bounds
        if each.edge == "highest" and each.value < rates.get(each.params, 0.0)
    )
    return Rates(table, best, diverged)


def refuse_open(study: Study, found: Swept, reach: Reach) -> None:
    """Raise Refusal where a sweep that is to reach so far has doubled often enough."""
    if max(reach.smaller, reach.larger) > DOUBLINGS and found.batch is not None:
        _refuse_open(study, "batch_sequences", found.batch.bounds[0])
    if max(reach.down, reach.up) > DOUBLINGS:
        _refuse_open(
            study,
            COLUMN,
            next(
                each
                for at in found.rates.values()
                for each in at.best.bounds
                if each not in at.diverged
            ),
        )


def _refuse_open(study: Study, field: str, each: Best) -> None:
    what = "rates" if field == COLUMN else "batches, in tokens,"
    tried = f"{scientific(each.tried[0])} to {scientific(each.tried[-1])}"
    raise Refusal(
        f"[training] {field} = {getattr(study.training, field)!r}: of {what} from {tried} the "
        f"{each.edge} is still the best at {_place(each.params, each.tokens)}, after {DOUBLINGS} "
        f"doublings. Give a number near the best as {field}, or more tokens: what hardly "
        "trains has no best."
    )


def fitted_rules(found: Swept, level: float, bootstrap: int) -> dict[str, Fit]:
    """lr* = k·N^a·D^b, and where batches were swept B* = k·D^b, through the optima.

    Raises Refusal where too few points have one: a best value at an end of its sweep is a bound.
    """
    table = next(iter(found.rates.values())).table
    return {
        column: _fitted(column, optima(table, each), level, bootstrap)
        for column, each in found.sweeps.items()
    }


def _fitted(column: str, table: pd.DataFrame, level: float, bootstrap: int) -> Fit:
    the_law = law(LAWS[column])
    bounds = table[table[LEFT_OUT] != ""]
    enough = len(the_law.coefficients) + SPARE
    if len(table) - len(bounds) < enough:
        places = ", ".join(map(_place, bounds["params"], bounds["tokens"]))
        raise Refusal(
            f"{len(table) - len(bounds)} of {len(table)} points have a best {NOUNS[column]} inside "
            f"their sweep, and a rule needs {enough}. It lies at or beyond an end at {places}: "
            "where runs diverge just above the best rate, give a longer warmup_tokens or a smaller "
            "clip_norm; else give more sizes."
        )
    made = fit(the_law, table, bootstrap=bootstrap, level=level)
    if made.status is Status.FAILED:
        raise Refusal(f"no rule could be fitted to the best {NOUNS[column]}: {made.reason}.")
    return made


def rule_text(study: Study, column: str, made: Fit, cells: Sequence[Best]) -> str:
    """The rule file: what `scaling/planning/rules.py` reads."""
    inside = [each for each in cells if each.optimum is not None]
    # Five digits move a value by a thousandth at most, far less than its interval.
    found = {name: float(f"{value:.5g}") for name, value in made.coefficients.items()}
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
    of_rate = [f'schedule = "{schedule}"', f'optimizer = "{study.training.optimizer}"']
    powers = ", ".join(
        f"{name} = {{ exponent = {found[letter]!r} }}"
        for name, letter in (("params", "a"), ("tokens", "b"))
        if letter in found
    )
    best = f"best {NOUNS[column]} at {len(inside)} points"
    formula = "rate = k N^a D^b, N without embedding and head" if column == COLUMN else "B = k D^b"
    lines = [
        f"# {MADE} on the study {study.name}: {formula}.",
        f"# {made.interval.level:.0%} intervals: {'; '.join(spans.values()) or 'none'}",
        f'gives = "{column}"',
        f'source = "measured by scaling tune: {study.name}, {best}"',
        *(of_rate if column == COLUMN else []),
        f"factor = {found['k']!r}",
        f"powers = {{ {powers} }}",
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


def _place(params: float, tokens: float) -> str:
    return f"N = {human(params)}, D = {human(tokens)}"
