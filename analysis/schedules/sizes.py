"""Fit the multi-power law to the loss curves of several sizes, and predict those of another.

    fit = fit_sizes(curves)                        # columns curve, step, lr, loss, params
    print(fit)
    fit.forecast(schedule, params=1e9)             # columns step, lr

Every logged point of trunks, cooldowns and whole runs is evidence, of the size that it was trained
at and, by powers of N (`analysis.schedules.size_powers`), of every other. Two sizes determine any
power of N: what a fit is worth is seen on sizes it was not given, which three or more allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.array import Array
from analysis.fitting.result import Status
from analysis.interval import Interval, student
from analysis.schedules.annealing import losses
from analysis.schedules.curves import after_warmup, by_curve, read
from analysis.schedules.fit import LEAN, scores_of
from analysis.schedules.size_powers import (
    Model,
    coefficients_at,
    columns_of_models,
    named_of,
    problem_of,
)
from analysis.text import counted, paragraph, text_table
from scaling.store.records import Refusal

FORMULA = (
    "L = L0 + A·S1^-alpha - B·sum_k (lr_{k-1} - lr_k)·(1 - (1 + C·lr_k^-gamma·S_k)^-beta); "
    "L0 = E + K·(N/N0)^-kappa; A, alpha and B go as (N/N0)^power"
)


@dataclass(frozen=True)
class SizesFit:
    """The law's coefficients for all sizes. `str()` of it is `summary()`."""

    coefficients: Mapping[str, float]  # A, alpha, B and K at the model `middle`
    middle: Model  # geometric means of the sizes and of the batches
    status: Status
    reason: str
    warnings: tuple[str, ...]
    scores: pd.DataFrame  # one row per curve: how well the fit describes it, as from `score`
    # One row per size of three or more: its curves by a fit without it. `end` is the mean log
    # error, observed against predicted, of the last loss of its curves, `end_rms` its root mean
    # square, for errors of opposite sign under two schedules do not make up for each other.
    left_out: pd.DataFrame
    objective: float  # sum of Huber of log residuals, with what the priors add
    n: int  # losses fitted
    level: float
    warmup_steps: int | None

    def at(self, params: float, batch_tokens: float | None = None) -> dict[str, float]:
        """The seven coefficients of the multi-power law for one model, as `fit_schedules` has them.

        batch_tokens: by default the geometric mean of the fit's.
        """
        batch = self.middle.batch_tokens if batch_tokens is None else batch_tokens
        for name, value in (("params", params), ("batch_tokens", batch)):
            if not (np.isfinite(value) and value > 0):
                raise Refusal(f"{name} = {value} is not a positive number. Give the model's.")
        return coefficients_at(self.coefficients, self.middle, params, batch)

    def predict(
        self, schedule: pd.DataFrame, *, params: float, batch_tokens: float | None = None,
        warmup_steps: int | None = None,
    ) -> Array:  # fmt: skip
        """The loss at each row of `schedule` (columns step, lr; curve, if there are several)."""
        named = schedule if "curve" in schedule else schedule.assign(curve="the schedule")
        rows = read(named.assign(loss=np.nan))
        every = np.ones(len(rows), dtype=bool)
        return losses(self.at(params, batch_tokens), rows, every, self._warmup(warmup_steps))

    def forecast(
        self, schedule: pd.DataFrame, *, params: float, batch_tokens: float | None = None,
        warmup_steps: int | None = None,
    ) -> pd.DataFrame:  # fmt: skip
        """Columns step, loss, low and high: the curve of a model, with an interval at `level`.

        The interval is as wide as the ends of whole sizes lay from fits without them, NaN with two
        sizes. It does not grow with the distance from the sizes fitted.
        """
        found = self.predict(
            schedule, params=params, batch_tokens=batch_tokens, warmup_steps=warmup_steps
        )
        reach = np.nan
        if len(self.left_out) >= 3:
            spread = float(np.sqrt(np.nanmean(self.left_out["end_rms"] ** 2)))
            reach = student(len(self.left_out), self.level) * spread
        columns = {"loss": found, "low": found * np.exp(-reach), "high": found * np.exp(reach)}
        return pd.DataFrame({"step": schedule["step"].to_numpy(), **columns})

    def interval(
        self, schedule: pd.DataFrame, *, params: float, batch_tokens: float | None = None
    ) -> Interval:
        """Of the loss in the last row of a schedule."""
        last = self.forecast(schedule, params=params, batch_tokens=batch_tokens).iloc[-1]
        return Interval(float(last["low"]), float(last["high"]))

    def score(self, curves: pd.DataFrame, warmup_steps: int | None = None) -> pd.DataFrame:
        """How well curves (with `params`) are predicted after their warmup, one row per curve."""
        rows = columns_of_models(curves)
        warmup = self._warmup(warmup_steps)
        kept = after_warmup(rows, warmup)
        predicted = np.full(len(rows), np.nan)
        for places, each in by_curve(rows):
            model = Model(*each[["params", "batch_tokens"]].iloc[0])
            predicted[places] = losses(
                self.at(*model), each.reset_index(drop=True), kept[places], warmup
            )
        return scores_of(rows[kept], predicted[kept])

    def _warmup(self, given: int | None) -> int | None:
        return self.warmup_steps if given is None else given

    def summary(self) -> str:
        """The fit on one screen."""
        values = [[name, f"{value:.4g}"] for name, value in self.coefficients.items()]
        scores = [
            [str(curve), str(n), f"{rmse:.4f}", f"{worst:.2%}"]
            for curve, n, rmse, worst in self.scores[["curve", "n", "rmse", "worst"]].to_numpy()
        ]
        parts = [
            f"multi_power of sizes on {self.n} losses of {counted(len(scores), 'curve')}: "
            f"{self.status.value}; N0 = {self.middle.params:.4g}",
            paragraph(FORMULA),
            text_table(["", "estimate"], values),
            "",
            text_table(["curve", "losses", "rmse", "worst"], scores),
        ]
        if len(self.left_out):
            rows = [
                [f"{params:.4g}", str(n), f"{rmse:.4f}", f"{np.expm1(end):+.2%}"]
                for params, n, rmse, end in self.left_out[
                    ["params", "curves", "rmse", "end"]
                ].to_numpy()
            ]
            header = ["size left out", "curves", "rmse", "end, observed - predicted"]
            parts += ["", text_table(header, rows)]
        if self.status is not Status.CONVERGED:
            parts.append(paragraph(f"{self.status.value}: {self.reason}"))
        return "\n".join([*parts, *(paragraph(f"warning: {each}") for each in self.warnings)])

    __str__ = summary


def fit_sizes(
    curves: pd.DataFrame,
    *,
    warmup_steps: int | None = None,
    delta: float = 1e-3,
    lean: float = LEAN,
    level: float = 0.9,
) -> SizesFit:
    """The multi-power law of several sizes fitted to their loss curves.

    curves: columns curve, step, lr, loss and params, as `read_curves` gives them for a results
        folder; batch_tokens where it varies. At least one curve has a rate that falls. The other
        arguments are those of `fit_schedules`.

    What a few sizes leave open is held near plausible values by priors (`size_powers.PRIORS`), all
    of which together weigh as one curve. Raises Refusal for curves that cannot be read or fitted.
    """
    if not 0 < level < 1:
        raise Refusal(f"level = {level} is not between 0 and 1. The usual value is 0.9.")
    rows = columns_of_models(curves)
    problem, middle = problem_of(rows, warmup_steps, delta, lean)
    theta, value, rest = problem.minimum()
    sizes = sorted(rows["params"].unique())
    warnings = []
    if len(sizes) < 3:
        warnings.append(
            f"{len(sizes)} sizes determine any power of N, and none is left to judge it by: no "
            "interval can be computed; add a third size"
        )
    fit = SizesFit(
        coefficients=named_of(theta, problem),
        middle=middle,
        status=Status.CONVERGED if rest else Status.FAILED,
        reason="" if rest else "the descent did not come to rest: plot the curves",
        warnings=tuple(warnings),
        scores=pd.DataFrame(),
        left_out=pd.DataFrame(columns=["params", "curves", "rmse", "worst", "end", "end_rms"]),
        n=problem.rows,
        objective=value,
        level=level,
        warmup_steps=warmup_steps,
    )
    left_out = []
    for size in sizes if len(sizes) > 2 else []:
        own = rows["params"] == size
        others, around = problem_of(rows[~own], warmup_steps, delta, lean)
        again = others.minimum_near(others.start_of(fit.coefficients, middle, around))
        without = _with(fit, named_of(again, others), around)
        left_out.append({"params": size, **_misses(without, rows[own])})
    return SizesFit(
        **{
            **vars(fit),
            "scores": fit.score(rows),
            "left_out": pd.DataFrame(left_out) if left_out else fit.left_out,
        }
    )


def _with(fit: SizesFit, coefficients: Mapping[str, float], middle: Model) -> SizesFit:
    return SizesFit(**{**vars(fit), "coefficients": coefficients, "middle": middle})


def _misses(fit: SizesFit, curves: pd.DataFrame) -> dict[str, float]:
    """How far the curves of one size lie from a fit: mean rmse, worst, and the ends' log error."""
    scores = fit.score(curves)
    ends = []
    for _, each in by_curve(curves):
        model = Model(*each[["params", "batch_tokens"]].iloc[0])
        kept = after_warmup(each.reset_index(drop=True), fit.warmup_steps)
        if not kept.any():  # rates alone, or all of it warmup
            continue
        last = np.zeros(len(each), dtype=bool)
        last[np.flatnonzero(kept)[-1]] = True
        own = each.reset_index(drop=True)
        predicted = losses(fit.at(*model), own, last, fit.warmup_steps)[last]
        ends.append(float(np.log(own["loss"].to_numpy()[last] / predicted)[0]))
    return {
        "curves": len(scores), "rmse": scores["rmse"].mean(), "worst": scores["worst"].max(),
        "end": float(np.mean(ends)) if ends else np.nan,
        "end_rms": float(np.sqrt(np.mean(np.square(ends)))) if ends else np.nan,
    }  # fmt: skip
