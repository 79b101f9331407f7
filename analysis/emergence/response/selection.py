"""The choice among the forms of a curve: each form's best curve, with its criteria.

Leave-one-scale-out cross-validation (all models of a scale are held out together) finds the forms
that predict as well as the best, within one standard error. Among these the information criterion
for small samples decides (Burnham and Anderson 2002, section 2.5: with the dispersion of the best
curve, since models differ by more than their questions explain).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.special import rel_entr

from analysis.array import Array
from analysis.emergence.response.deviance import (
    Curves,
    Data,
    deviances,
    levels,
    rounded,
    with_levels,
)
from analysis.emergence.response.search import Mesh
from analysis.emergence.scores.series import Series

CONSTANT = "constant"
SUPPORT = 10.0  # of AICc above the chosen form's: further, a form has essentially no support


@dataclass(frozen=True)
class FormFit:
    """The best curve of one form; of each criterion, less is better."""

    name: str
    k: int  # fitted parameters
    coefficients: Mapping[str, float]  # levels in the metric's units, midpoint in units of x
    log_likelihood: float
    aicc: float
    bic: float
    cv: float  # held-out deviance per point
    row: int  # of the mesh; −1 for the constant

    def to_json(self) -> dict[str, Any]:
        """Plain values; an infinite criterion is null."""
        found = asdict(self) | {"aicc": self.aicc if math.isfinite(self.aicc) else None}
        del found["row"]
        return found


class Selection(NamedTuple):
    """The best curve of every form, the least AICc first, and the one chosen of those that rise."""

    fits: tuple[FormFit, ...]
    chosen: FormFit

    @property
    def supported(self) -> list[str]:
        """The forms that the criterion does not exclude, with the chosen one (section 2.6)."""
        if not math.isfinite(self.chosen.aicc):
            return [fit.name for fit in self.fits if fit.k <= self.chosen.k]
        return [fit.name for fit in self.fits if fit.aicc <= self.chosen.aicc + SUPPORT]


def form_names(curves: Curves) -> Array:
    """The form of each curve: that of its shape, and which levels were fitted (`search.Kind`)."""
    names = np.array([shape.form for shape in curves.shapes])[curves.shape.astype(int)]
    return np.char.add(names, np.array(["", "_free", "_four"])[curves.free.astype(int)])


def parameters(data: Data, curves: Curves, row: int) -> int:
    """How many numbers of a curve were fitted."""
    shape = curves.shapes[int(curves.shape[row])]
    placed = 2 if shape.floored else 1
    open_levels = int(data.chance is None)
    open_levels += int(curves.free[row]) if data.bounded else 1
    return placed + open_levels + shape.searched


def select_form(series: Series, data: Data, mesh: Mesh, least: float) -> Selection:
    """The forms of a mesh, compared. `least` is the deviance that questions alone would leave."""
    names = form_names(mesh.curves)
    best_rows = {
        str(name): int(of[np.argmin(mesh.deviance[of])])
        for name in np.unique(names)
        for of in [np.flatnonzero(names == name)]
    }
    held = _held_out(data, mesh, names, list(best_rows))
    points = len(data.t)
    count = {name: parameters(data, mesh.curves, row) for name, row in best_rows.items()}
    best = min(best_rows, key=lambda name: mesh.deviance[best_rows[name]])
    freedom = max(points - count[best], 1)
    scale = max(float(mesh.deviance.min()) / freedom, least / points, 1e-12)

    curves = with_levels(data, mesh.curves[list(best_rows.values())], data.observed)
    floor, ceiling = series.from_unit(curves.floor), series.from_unit(curves.ceiling)
    coefficients = [
        {
            "midpoint": series.to_x(float(curves.midpoint[i])),
            "width_decades": float(curves.width[i]),
            "floor": float(floor[i]),
            "ceiling": float(ceiling[i]),
        }
        for i in range(len(curves))
    ]

    def fit(
        name: str, named: Mapping[str, float], deviance: float, held_out: float, row: int
    ) -> FormFit:
        k = count.get(name, 1)
        left, fitted = deviance / scale, k + 1  # the dispersion is fitted too
        rest, bic = points - fitted - 1, left + fitted * math.log(points)
        penalty = 2 * fitted + 2 * fitted * (fitted + 1) / rest if rest > 0 else math.inf
        return FormFit(name, k, named, -left / 2, left + penalty, bic, held_out / points, row)

    fits = [
        fit(name, named, float(mesh.deviance[row]), float(held[name].sum()), row)
        for (name, row), named in zip(best_rows.items(), coefficients, strict=True)
    ]
    level = {"level": float(series.from_unit(np.array(_mean(data))))}
    constant = fit(CONSTANT, level, *_constant_deviances(data), -1)
    ordered = sorted([constant, *fits], key=lambda fit: fit.aicc)
    return Selection(tuple(ordered), _chosen(fits, held))


def _mean(data: Data) -> float:
    """The weighted mean of all scores, on the unit scale."""
    return float(np.average(data.unit, weights=data.weight))


def _chosen(rising: list[FormFit], held: Mapping[str, Array]) -> FormFit:
    """Of the forms that predict held-out scales as well as the best, the one of least AICc."""
    best = min(rising, key=lambda fit: fit.cv)
    able = []
    for fit in rising:
        worse = held[fit.name] - held[best.name]
        error = float(worse.std(ddof=1)) * math.sqrt(len(worse)) if len(worse) > 1 else 0.0
        if float(worse.sum()) <= error:
            able.append(fit)
    finite = [fit for fit in able or [best] if math.isfinite(fit.aicc)]
    if finite:
        return min(finite, key=lambda fit: (fit.aicc, fit.k))
    return min(able, key=lambda fit: (fit.k, fit.bic))


def _constant_deviances(data: Data) -> tuple[float, float]:
    """The deviance from the mean of all scores, and that of each scale from the mean of others."""
    weight, score = data.observed.weight[0], data.observed.score[0]
    scales, level = np.arange(len(data.at)), _mean(data)
    left = float(sum(_at_scale(data, level, i) for i in range(len(scales))))
    held = 0.0
    for i in range(len(scales)):
        rest = scales != i
        if rest.any():
            held += _at_scale(data, score[rest].sum() / weight[rest].sum(), i)
    return left, held


def _at_scale(data: Data, mean: float, scale: int) -> float:
    """The deviance of the points of one scale from their expected score."""
    of = data.scale_of == scale
    unit, weight = data.unit[of], data.weight[of]
    if not data.bounded:
        return float((weight * (unit - mean) ** 2).sum())
    fine = data.resolution[scale]
    mean = np.clip(mean, fine, 1 - fine)
    return float(2 * (weight * (rel_entr(unit, mean) + rel_entr(1 - unit, 1 - mean))).sum())


def _held_out(data: Data, mesh: Mesh, names: Array, forms: list[str]) -> dict[str, Array]:
    """By form, the deviance of each scale from the curve that was fitted to the other scales."""
    scales = len(data.at)
    counts = (data.scale_of[None, :] != np.arange(scales)[:, None]).astype(float)
    tables = data.tables(np.tile(data.unit, (scales, 1)), counts)
    deviance = deviances(data, mesh.basis, tables)
    held = {}
    for form in forms:
        of = np.flatnonzero(names == form)
        rows = of[np.argmin(deviance[:, of], axis=1)]
        curves = mesh.curves[rows]
        if not data.bounded:
            a, b = levels(data, mesh.basis, tables)
            floor, rise = (each[np.arange(scales), rows] for each in (a, b))
            curves = replace(curves, floor=floor, ceiling=floor + rise)
        mean = curves.scores(data.at).diagonal()
        left = np.array([_at_scale(data, float(each), i) for i, each in enumerate(mean)])
        held[form] = rounded(left, data.weight.sum())
    return held
