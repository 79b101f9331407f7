"""What a law says of runs it did not see, and how it did on one it was not shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from analysis.constraints import Prior
from analysis.derived import interval_over_draws
from analysis.expression import Array
from analysis.fit import Fit, Status, fit
from analysis.published import Published
from analysis.runs.settings import NO_SPREAD, replicates
from analysis.units import Span, human
from scaling.records import Refusal

# Beyond the data laws err by more than their coefficients' intervals say. On nine published tables
# fitted below a cut, the residuals above it grew like rms·(1 + decades beyond), and the intervals
# below held 89% of 2,900 later losses at nominal 90% (68 to 100% by table), evenly over distances
# up to 2.4 decades; those of the curve held 45% (benchmarks/forecasts.py).
GROWTH = 1.0  # of the rms log residual, a decade of compute beyond the data


@dataclass(frozen=True)
class Prediction:
    """The loss of one run by a law."""

    features: dict[str, float]  # the law's features at the run
    loss: float  # nats/token
    level: float | None  # of the intervals; null for published coefficients, which have none
    interval: Span | None  # in which a run's loss should fall
    curve: Span | None  # of the fitted curve alone: what the coefficients leave open
    decades_beyond: float | None  # log10 of its compute over the largest fitted; 0 inside

    @property
    def sentence(self) -> str:
        """One line for the terminal."""
        at = ", ".join(f"{name} {human(value)}" for name, value in self.features.items())
        if self.interval is None or self.curve is None or self.level is None:
            return f"{at}: loss {self.loss:.4f}, no interval"
        text = f"{at}: loss {self.loss:.4f}, {self.level:.0%} forecast {_written(self.interval)}"
        if self.decades_beyond:
            text += f", {self.decades_beyond:.1f} decades beyond the data"
        return f"{text} (the curve alone {_written(self.curve)})"

    def verdict(self, observed: float) -> str:
        """Whether an observed loss fell inside, in words."""
        off = f"observed {observed:.4f}, off by {observed - self.loss:+.4f}"
        if observed > 0 and self.loss > 0:
            off += f" ({observed / self.loss - 1:+.2%})"
        if self.interval is None or self.level is None:
            return f"{off}; no interval to fall inside"
        where = "inside" if _holds(self.interval, observed) else "outside"
        return f"{off}, {where} the {self.level:.0%} forecast interval"

    def to_json(self) -> dict[str, Any]:
        """Plain values at full precision."""
        interval = self.interval and {"level": self.level, "loss": list(self.interval)}
        return {
            **self.features,
            "loss": self.loss,
            "interval": interval,
            "curve": self.curve and list(self.curve),
            "decades_beyond_data": self.decades_beyond,
        }


def predict(source: Fit | Published, rows: pd.DataFrame) -> list[Prediction]:
    """The loss at every row of `rows`, which needs the law's columns (`flops` is 6·N·D).

    Raises Refusal naming a column that is missing.
    """
    if {"params", "tokens"} <= set(rows.columns):
        rows = rows.assign(flops=6.0 * rows["params"] * rows["tokens"])
    missing = [name for name in source.law.features if name not in rows]
    if missing:
        raise Refusal(f"{source.law.name} needs {', '.join(missing)}. Give a --table with it.")
    features = {name: rows[name].to_numpy(dtype=float) for name in source.law.features}
    losses = np.atleast_1d(source.predict(features))
    level: float | None = None
    runs: Sequence[Span | None] = [None] * len(rows)
    curves: Sequence[Span | None] = [None] * len(rows)
    beyond: list[float | None] = [None] * len(rows)
    if isinstance(source, Fit) and len(source.draws):
        level = source.interval.level
        to, back = scale_of(source)
        low, high = interval_over_draws(
            source, lambda c: to(source.law.predict(c, features)), level
        )
        far = np.zeros(len(rows))
        if source.data.flops_max is not None and "flops" in rows:
            flops = rows["flops"].to_numpy(dtype=float)
            far = np.maximum(0.0, np.log10(flops / source.data.flops_max))
        curves = _spans(back(low), back(high))
        runs = run_spans(source, losses, back(low), back(high), far, level)
        beyond = [float(each) for each in far]
    return [
        Prediction(
            {name: float(values[i]) for name, values in features.items()},
            float(losses[i]),
            level,
            runs[i],
            curves[i],
            beyond[i],
        )
        for i in range(len(rows))
    ]


def scale_of(source: Fit) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """The scale on which the fit's losses scatter evenly, and back from it: logarithms, or the
    losses themselves where some have none."""
    target = source.law.target
    signed = target in source.table and not (source.table[target] > 0).all()
    if signed or not np.isfinite(source.rmse_log):
        return np.asarray, np.asarray
    return np.log, np.exp


def run_spans(
    source: Fit, loss: Array, low: Array, high: Array, decades: Array, level: float
) -> list[Span | None]:
    """The interval of each run's loss, around the curve's `loss`, `low` and `high`.

    `decades` is how far its compute lies beyond the fit's. None without the fit's rows, where
    losses have no logarithms.
    """
    to, back = scale_of(source)
    rms = source.rmse_log
    if to is not np.log:
        if {*source.law.features, source.law.target} - set(source.table):
            return [None] * len(loss)
        rows = {name: source.table[name].to_numpy(dtype=float) for name in source.law.features}
        observed = source.table[source.law.target].to_numpy(dtype=float)
        rms = float(np.sqrt(np.mean((observed - source.predict(rows)) ** 2)))
    ends = forecast_ends(to(loss), to(low), to(high), rms, decades, level)
    return [*_spans(back(ends[0]), back(ends[1]))]


def forecast_ends(
    middle: Array, low: Array, high: Array, rms: float, decades: Array, level: float
) -> tuple[Array, Array]:
    """Ends of the interval of a run's loss, from those of the curve's, on a scale (ln loss, or
    loss) on which `rms` is the fit's residual; `decades` is how far beyond the fit it lies.
    """
    scatter = NormalDist().inv_cdf((1 + level) / 2) * rms * (1 + GROWTH * decades)
    below, above = np.maximum(middle - low, 0.0), np.maximum(high - middle, 0.0)
    return middle - np.hypot(below, scatter), middle + np.hypot(above, scatter)


def _spans(low: Array, high: Array) -> list[Span]:
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def _written(span: Span) -> str:
    return f"{span[0]:.4f} … {span[1]:.4f}"


def _holds(span: Span, value: float) -> bool:
    return span[0] <= value <= span[1]


@dataclass(frozen=True)
class LeftOut:
    """The largest cell against the forecast of a fit without it."""

    features: dict[str, float]  # the law's features at the cell
    observed: float  # nats/token; the mean over seeds
    forecast: float | None  # null if the rest cannot be fitted
    seed_sd: float | None  # of one run's loss, from replicate seeds; null without any
    reason: str  # why there is no forecast

    @property
    def error(self) -> float | None:
        """forecast − observed, nats/token."""
        return None if self.forecast is None else self.forecast - self.observed

    @property
    def error_in_seed_sds(self) -> float | None:
        """The error in standard deviations between seeds."""
        if self.error is None or not self.seed_sd:
            return None
        return self.error / self.seed_sd

    @property
    def sentence(self) -> str:
        """One line for the terminal."""
        cell = ", ".join(f"{name} {human(value)}" for name, value in self.features.items())
        if self.forecast is None or self.error is None:
            return f"Largest run ({cell}) left out: {self.reason}"
        off = f"off by {self.error:+.4f}"
        if self.observed > 0:
            off += f" ({self.error / self.observed:+.2%})"
        if self.error_in_seed_sds is not None and self.seed_sd is not None:
            off += f", {self.error_in_seed_sds:+.1f} sd of a seed ({self.seed_sd:.4f})"
        return (
            f"Largest run ({cell}) left out of a second fit: forecast {self.forecast:.4f}, "
            f"observed {self.observed:.4f}, {off}"
        )


def leave_out_largest(
    fitted: Fit, *, weights: str | None = None, prior: Mapping[str, Prior] | None = None
) -> LeftOut:
    """Fit the same law without the cell of the largest 6·N·D (or largest feature), predict it.

    `weights` and `prior` are those that `fitted` was fitted with: it does not hold them.
    """
    rows = fitted.table
    features = list(fitted.law.features)
    if {"params", "tokens"} <= set(rows.columns):
        size = rows["params"] * rows["tokens"]
    else:
        size = rows[features[0]]
    at = {name: float(rows[name].to_numpy()[int(np.argmax(size))]) for name in features}
    cell = np.logical_and.reduce([np.isclose(rows[name], at[name], rtol=1e-9) for name in at])
    observed = float(rows.loc[cell, fitted.law.target].mean())
    sd = seed_sd(rows, features, fitted.law.target)
    try:
        again = fit(
            fitted.law,
            rows[~cell],
            objective=fitted.objective.name,
            delta=fitted.objective.delta,
            fixed={name: fitted.coefficients[name] for name in fitted.fixed},
            weights=weights,
            prior=prior,
            bootstrap=0,
        )
    except Refusal as error:
        return LeftOut(at, observed, None, sd, str(error))
    if again.status is Status.FAILED:
        return LeftOut(at, observed, None, sd, again.reason)
    return LeftOut(at, observed, float(again.predict(at)), sd, "")


def seed_sd(rows: pd.DataFrame, features: list[str], target: str = "loss") -> float | None:
    """Standard deviation of the loss between replicate runs, pooled over their cells.

    Null where no run was repeated, and where repeats differ by nothing.
    """
    cells = rows[target].groupby(replicates(rows, features, target))
    freedom = (cells.size() - 1).sum()
    if freedom == 0:
        return None
    sd = float(np.sqrt(((rows[target] - cells.transform("mean")) ** 2).sum() / freedom))
    return sd if sd > NO_SPREAD * float(rows[target].abs().mean()) else None
