"""What a plan would be able to tell: simulated studies of it, each through the real fit.

A study is simulated by a law's losses at the plan's own N and D, times log-normal noise that the
branches of a trunk partly share. What is fitted and recommended is what `scaling fit` and
`scaling recommend` would say of it, so the answer holds for the plan, its clusters and the
machinery together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.answer import Recommendation, answer
from analysis.caution import Alone, Source
from analysis.decide import choose, decide
from analysis.derived import percentiles
from analysis.expression import Array
from analysis.fit import Fit, Status, fit
from analysis.laws import Law
from analysis.optimum import FLOPS_PER_PARAM_TOKEN, require_params_and_tokens
from analysis.published import Published
from analysis.runs.settings import NO_SPREAD, replicates
from analysis.solve import Ask
from analysis.uncertainty import Index, clusters_of
from analysis.units import scientific
from scaling.store.records import Refusal

DRAWS = 200  # a study; the median of many studies' intervals steadies what so few leave unsteady
# What N of a law counts, as a column of the run table.
COLUMNS: Mapping[str, str] = {
    "all parameters": "params_total",
    "as reported by Hoffmann et al.": "params_total",
    "non-embedding": "params_non_embedding",
    "params": "params_total",  # as a fit takes it by default
}


@dataclass(frozen=True)
class Noise:
    """Standard deviations of log loss between runs alike in N and D, at the plan's largest loss."""

    shared: float  # of a trunk: its seed's, which its branches inherit
    own: float  # of each run beside that
    # Both fall as this power of the loss: 0 not at all. Seeds on RefinedWeb differ by .05 nats at
    # a loss of 7 and .002 at 3 (Porian et al. 2024, arXiv:2406.19146, configs.py of their code):
    # 2.8.
    power: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.own < 1:
            raise Refusal(
                f"noise = {self.own:g} is no standard deviation of log loss between runs. Give "
                "more than 0 and less than 1, e.g. 0.005 for half a percent."
            )
        if not 0 <= self.shared < 1:
            raise Refusal(
                f"seed_noise = {self.shared:g} is no standard deviation of log loss between "
                "trunks. Give 0 or more and less than 1, e.g. 0.006."
            )
        if not (math.isfinite(self.power) and self.power >= 0):
            raise Refusal(
                f"noise_power = {self.power:g}: give 0 where noise does not fall with the loss, "
                "or the power with which it does, e.g. 2.8."
            )

    def deviations(self, losses: Array, trunks: Index, rng: np.random.Generator) -> Array:
        """Errors of log loss for runs on these trunks, numbered from 0."""
        size = (losses / losses.max()) ** self.power
        seeds = rng.standard_normal(int(trunks.max()) + 1)[trunks]
        own = rng.standard_normal(len(losses))
        return np.asarray(size * (self.shared * seeds + self.own * own))


# results/reference/isoflop by `noise_of`: 28 pairs of runs of 29k to 603k parameters; together
# .8%, and 1.1% in results/reference/quickstart. Runs at lower losses differ less.
REFERENCE = Noise(shared=0.0066, own=0.0043)
MOST_ALIKE = 0.99  # of the variance that a trunk's branches can be found to share


class Measured(NamedTuple):
    """Noise between seeds, and how much it was measured on."""

    noise: Noise
    replicates: int  # runs beyond the first at their point
    pairs: int  # of branches off one trunk that are compared; 0: the split is the reference's


def noise_of(table: pd.DataFrame, power: float = 0.0) -> Measured:
    """The noise between replicates in `table`, rows that differ in seed alone, by `trunk_id`.

    By moments: the mean square of log loss within cells is shared² + own²; the mean product over
    branches of one trunk, each less its cell's mean, is shared². With `power`, at the largest
    loss. Raises Refusal where no cell was run twice.
    """
    cell = pd.factorize(replicates(table))[0]
    size = np.bincount(cell)[cell].astype(float)
    repeated = len(cell) - int(cell.max()) - 1
    if repeated < 1:
        raise Refusal(
            "no N and D was trained with two seeds, so the runs do not tell noise from law. Give "
            "--noise and --seed-noise, or a study with replicate_seeds."
        )
    losses = table["loss"].to_numpy(dtype=float)
    trunks = clusters_of(table)
    mean = np.bincount(cell, np.log(losses)) / np.bincount(cell)
    deviation = (np.log(losses) - mean[cell]) / (losses / losses.max()) ** power
    total = float(np.sum(deviation**2)) / float(np.sum(1 - 1 / size))
    if total <= NO_SPREAD**2:
        raise Refusal(
            "runs of equal N and D have equal losses: they are one run, or were not trained. Give "
            "--noise and --seed-noise."
        )
    products, factors, pairs = 0.0, 0.0, 0
    members = [np.flatnonzero((trunks == trunk) & (size > 1)) for trunk in np.unique(trunks)]
    for rows in members:
        for i, j in ((i, j) for i in rows for j in rows if i < j and cell[i] != cell[j]):
            common = len(np.intersect1d(trunks[cell == cell[i]], trunks[cell == cell[j]]))
            products += deviation[i] * deviation[j]
            # Each mean holds the run itself, and the two hold common trunks.
            factors += 1 - 1 / size[i] - 1 / size[j] + common / (size[i] * size[j])
            pairs += 1
    variance = REFERENCE.shared**2, REFERENCE.own**2
    share = products / factors / total if pairs else variance[0] / sum(variance)
    share = min(max(share, 0.0), MOST_ALIKE)
    noise = Noise(math.sqrt(share * total), math.sqrt((1 - share) * total), power)
    return Measured(noise, repeated, pairs)


# --- what is simulated ------------------------------------------------------------------------


class Key(NamedTuple):
    """One number that a study tells: a coefficient, or something at a budget."""

    name: str
    flops: float | None = None  # None: a coefficient


AT_BUDGET = ("params", "tokens", "loss", "params_exponent", "tokens_exponent", "excess_loss")


@dataclass(frozen=True)
class Summary:
    """One number over the simulated studies."""

    truth: float | None  # None: a coefficient that the truth's law does not have
    median: float
    spread: tuple[float, float]  # central interval of the estimates: what really happens
    interval_width: float  # median over studies: what they say of themselves
    interval_factor: float | None  # √(high/low), median; of what is positive
    coverage: float | None  # share of intervals that hold the truth
    intervals: int  # studies with an interval


@dataclass(frozen=True)
class Simulation:
    """The simulated studies of one plan."""

    truth: Published
    law: Law  # fitted
    noise: Noise
    level: float
    flops: tuple[float, ...]
    studies: Mapping[Key, Array]  # estimate, low and high a row a study; NaN where it has none
    truths: Mapping[Key, float]
    statuses: tuple[str, ...]  # of the fits, one a study
    reasons: tuple[str, ...]
    warnings: Mapping[str, int]  # of the fits, and in how many studies

    @property
    def repeats(self) -> int:
        return len(self.statuses)

    @property
    def misspecified(self) -> bool:
        return self.law.loss != self.truth.law.loss

    def summary(self, key: Key) -> Summary:
        """What the studies say of one number, over those that have it."""
        values = self.studies[key]
        estimate = values[np.isfinite(values[:, 0]), 0]
        ends = values[~np.isnan(values).any(axis=1), 1:]
        low, high = ends[:, 0], ends[:, 1]
        truth = self.truths.get(key)
        missing = float("nan")
        spread = percentiles(estimate[:, None], self.level) if len(estimate) else None
        with np.errstate(divide="ignore", invalid="ignore"):
            positive = len(ends) and (low > 0).all()
            factor = float(np.median(np.sqrt(high / low))) if positive else None
        return Summary(
            truth=truth,
            median=float(np.median(estimate)) if len(estimate) else missing,
            spread=(missing, missing)
            if spread is None
            else (float(spread[0][0]), float(spread[1][0])),
            interval_width=float(np.median(high - low)) if len(ends) else missing,
            interval_factor=factor,
            coverage=None
            if truth is None or not len(ends)
            else float(np.mean((low <= truth) & (truth <= high))),
            intervals=len(ends),
        )

    def excess_loss(self, flops: float) -> float:
        """What following a study's recommendation costs at most, in a share `level` of studies.

        Relative to the truth's own optimum: what an error in N* is worth. Infinite where more of
        the studies give no recommendation.
        """
        values = self.studies[Key("excess_loss", flops)][:, 0]
        lost = np.where(np.isfinite(values), values, np.inf)
        return float(np.quantile(lost, self.level, method="higher"))

    def share(self, *statuses: Status) -> float:
        """Of the studies whose fit ended so."""
        wanted = {each.value for each in statuses}
        return sum(each in wanted for each in self.statuses) / self.repeats


def params_column(truth: Source) -> str:
    """The column of a run table that the law's N counts; all parameters where nothing is said."""
    said = truth.params_convention if isinstance(truth, Published) else truth.data.params_column
    return said if said in set(COLUMNS.values()) | {"params_matmul"} else COLUMNS.get(
        said, "params_total"
    )  # fmt: skip


def simulate(
    truth: Source,
    design: pd.DataFrame,
    *,
    law: Law | None = None,
    noise: Noise = REFERENCE,
    flops: Sequence[float] = (),
    repeats: int = 200,
    draws: int = DRAWS,
    level: float = 0.9,
    seed: int = 0,
    by: Alone | None = None,
    watch: Callable[[range], Iterable[int]] = iter,
) -> Simulation:
    """`repeats` studies of `design`: params (of the truth's convention), tokens and trunk_id.

    Each is the truth's losses with noise, a function of (seed, number of the study) alone,
    fitted by `law` (the truth's own if not given) and asked for the optimum at each budget of
    `flops`, `by` the law or the runs, or as `decide` chooses. `watch` sees the numbers of the
    studies go by. Raises Refusal for a law that is not one of params and tokens, a design it
    cannot be fitted to, a truth whose loss is not positive there or that has no optimum, and a
    budget below every run.
    """
    if repeats < 1:
        raise Refusal(f"repeats = {repeats}: give at least 1; 200 tell a coverage to 2%.")
    if isinstance(truth, Fit) and truth.status is Status.FAILED:
        raise Refusal(f"the truth is a fit that failed ({truth.reason}). Give another law.")
    law = law or truth.law
    for each in (truth.law, law):
        require_params_and_tokens(each)
    known = Published(
        truth.name if isinstance(truth, Published) else "fit",
        truth.law, truth.coefficients, params_column(truth), truth.law.source,
    )  # fmt: skip
    losses = _losses(known, design)
    least = FLOPS_PER_PARAM_TOKEN * design["params"].min() * design["tokens"].min()
    for budget in flops:
        if not budget >= least:
            raise Refusal(
                f"flops = {scientific(budget)} is below every run of the plan "
                f"({scientific(least)}). Give a larger budget."
            )
    best = {budget: answer(known, Ask(flops=budget), level=level) for budget in flops}
    truths = {Key(n, c): v for c, each in best.items() for n, v in _numbers(each).items()}
    if law.form is truth.law.form:
        truths |= {Key(name): value for name, value in truth.coefficients.items()}
    keys = [Key(n) for n in law.coefficients] + [Key(n, c) for c in flops for n in AT_BUDGET]
    studies = {key: np.full((repeats, 3), np.nan) for key in keys}
    ends: list[tuple[str, str]] = []
    warnings: Counter[str] = Counter()
    trunks = clusters_of(design)
    for number in watch(range(repeats)):
        rng = np.random.default_rng([seed, number])
        table = design.assign(loss=losses * np.exp(noise.deviations(losses, trunks, rng)))
        found = fit(law, table, bootstrap=draws, level=level, seed=number, checks=False)
        ends.append((found.status.value, found.reason))
        warnings.update(found.warnings)
        for key, values in _told(found, known, best, level, by).items():
            studies[key][number] = values
    return Simulation(
        truth=known, law=law, noise=noise, level=level, flops=tuple(flops), studies=studies,
        truths=truths, statuses=tuple(s for s, _ in ends), reasons=tuple(r for _, r in ends),
        warnings=warnings,
    )  # fmt: skip


def _losses(truth: Published, design: pd.DataFrame) -> Array:
    features = {name: design[name].to_numpy(dtype=float) for name in truth.law.features}
    losses = np.broadcast_to(truth.predict(features), len(design))
    if not (np.isfinite(losses).all() and (losses > 0).all()):
        at = int(np.argmin(np.where(np.isfinite(losses), losses, -np.inf)))
        cell = ", ".join(f"{name} {values[at]:.3g}" for name, values in features.items())
        raise Refusal(
            f"{truth.name} gives a loss of {losses[at]:.3g} at {cell}, which no run can have. "
            "Simulate by a law that holds there."
        )
    return np.asarray(losses)


def _numbers(each: Recommendation) -> dict[str, float]:
    names = ("params", "tokens", "loss", "params_exponent", "tokens_exponent")
    return {name: getattr(each, name) for name in names}


def _told(
    found: Fit,
    truth: Published,
    best: Mapping[float, Recommendation],
    level: float,
    by: Alone | None,
) -> dict[Key, tuple[float, float, float]]:
    """All that one study tells, as estimate, low and high; nothing where its fit failed."""
    if found.status is Status.FAILED:
        return {}
    told = {
        Key(name): (value, *found.interval.coefficients[name])
        for name, value in found.coefficients.items()
    }
    chosen = None
    for budget, right in best.items():
        try:
            chosen = chosen or choose(found, by)
            [each] = decide(found, [Ask(flops=budget)], by=by, level=level, chosen=chosen)
        except Refusal:  # these coefficients have no optimum there
            continue
        spans: dict[str, tuple[float, float]] = {}
        if each.interval is not None:
            low, high = each.interval.params_exponent
            spans = {**asdict(each.interval), "tokens_exponent": (1 - high, 1 - low)}
        missing = (float("nan"), float("nan"))
        for name, value in _numbers(each).items():
            told[Key(name, budget)] = (value, *spans.get(name, missing))
        real = float(truth.predict({"params": each.params, "tokens": each.tokens}))
        told[Key("excess_loss", budget)] = (real / right.loss - 1, *missing)
    return told


# --- out --------------------------------------------------------------------------------------


def to_json(simulation: Simulation) -> dict[str, Any]:
    """The plain values of `scaling simulate --json`, without the plan."""

    def entry(name: str, flops: float | None = None) -> dict[str, Any]:
        return asdict(simulation.summary(Key(name, flops)))

    at = simulation.flops[:1]
    return {
        "truth": {
            "law": simulation.truth.law.name,
            "name": simulation.truth.name,
            "coefficients": dict(simulation.truth.coefficients),
        },
        "law": simulation.law.name,
        "noise": asdict(simulation.noise),
        "repeats": simulation.repeats,
        "level": simulation.level,
        "coefficients": {name: entry(name) for name in simulation.law.coefficients},
        "allocation": {n: entry(n, c) for c in at for n in ("params_exponent", "tokens_exponent")},
        "recommendations": [
            {
                "flops": budget,
                **{name: entry(name, budget) for name in ("params", "tokens", "loss")},
                "params_exponent": entry("params_exponent", budget),
                "excess_loss": excess if math.isfinite(excess) else None,
            }
            for budget in simulation.flops
            for excess in [simulation.excess_loss(budget)]
        ],
        "status": {
            status.value: {
                "share": simulation.share(status),
                "reasons": {} if status is Status.CONVERGED else dict(reasons(simulation, status)),
            }
            for status in Status
        },
        "warnings": dict(simulation.warnings),
    }


def reasons(simulation: Simulation, status: Status) -> list[tuple[str, int]]:
    """Why fits ended with this status, and how many, most frequent first."""
    pairs = zip(simulation.statuses, simulation.reasons, strict=True)
    return Counter(reason for each, reason in pairs if each == status.value).most_common()
