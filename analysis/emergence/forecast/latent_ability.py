"""Latent ability: a line in log scale with a spread between models, and a link to the score.

The ability of a model is a + b·t + q·t² plus a deviation of its own, normal with standard deviation
s. Its expected score is chance + (ceiling − chance)·link(ability), and the questions of a test add
their own noise. Because the spread is one of abilities, it is small where everybody guesses and
large on the slope, and a forecast is of a new model and not of the average one. Priors describe
published tasks. The posterior is a normal approximation at its mode, corrected by importance
weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from scipy.optimize import minimize
from scipy.special import betaln, expit, gammaln

from analysis.array import Array
from analysis.emergence.response.links import (
    complementary_log_log,
    complementary_log_log_inverse,
    log_log,
    log_log_inverse,
)

# Spread between models is integrated over at these points: 15 give the mean to 1e-6 for s <= 2.
_POINTS, _WEIGHTS = hermegauss(15)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
UNKNOWN_N = 1000.0  # questions, where the table has no number: their noise is then negligible
TAILS = 5.0  # degrees of freedom of the importance sampler: heavier tails than the posterior's
LAST = 1.0  # decades of FLOPs from the origin of the coefficients to the largest scale fitted
LEAST_CURVATURE = 0.1  # of the posterior at its mode: a flatter direction is drawn with sd 3


@dataclass(frozen=True)
class Form:
    """A link from ability to score, with the prior of its line from published tasks."""

    name: str
    link: Callable[[Array], Array]
    half: float  # ability at the threshold, midway from chance to the ceiling
    prior: Mapping[str, tuple[float, float]]  # mean and standard deviation, t in decades
    free_ceiling: bool = False


# Means and widths are of 54 tasks of Ruan et al. 2024 (arXiv:2405.10938) fitted at all scales:
# slopes .8 to 2.3 per decade of FLOPs in the middle four fifths, spreads .4 to 1.6. They are wide
# compared with the information in 40 models. `q` leans upwards: below a cutoff slopes are less than
# over all scales (1.0 and 1.4 for MMLU, 1.5 and 2.0 for unscrambling), as larger models are later
# ones, better trained. `guess` is the logarithm of a spread in units of one guessed answer's.
_LOGISTIC = {
    "a": (-1.0, 4.0), "b": (1.6, 1.0), "q": (0.1, 0.2), "s": (-0.3, 0.6), "guess": (-3.5, 0.7),
    "ceiling": (3.0, 1.5),
}  # fmt: skip
FORMS: tuple[Form, ...] = (
    Form("logistic", expit, 0.0, _LOGISTIC),
    Form("logistic_ceiling", expit, 0.0, _LOGISTIC, free_ceiling=True),
    # The score itself is a power law of scale as long as it is small.
    Form(
        "power_rare", complementary_log_log, complementary_log_log_inverse(0.5),
        {**_LOGISTIC, "b": (1.4, 0.9), "q": (0.08, 0.2)},
    ),
    # −log p is a power law of scale.
    Form(
        "power_log_prob", log_log, log_log_inverse(0.5),
        {**_LOGISTIC, "b": (0.7, 0.5), "q": (0.05, 0.12), "s": (-1.0, 0.6)},
    ),
)  # fmt: skip


def with_floor(form: Form, about: tuple[float, float]) -> Form:
    """The form with a fitted floor, `about` being the mean and deviation of its log-odds."""
    return replace(form, prior={**form.prior, "floor": about})


@dataclass(frozen=True, eq=False)
class Observations:
    """The scores that a forecast is fitted to, on the unit scale where 0 is worst and 1 best."""

    t: Array  # log10 scale, rising with progress
    share: Array  # the scores
    n: Array  # questions behind each
    chance: float
    stretch: float = 1.0  # decades of FLOPs, the unit of the priors, per decade of this scale
    weight: Array | None = None  # the number of independent scores each counts for; None: one

    @property
    def origin(self) -> float:
        """t where the coefficients are defined: a decade of FLOPs below the largest scale."""
        return float(self.t.max()) - LAST / self.stretch

    def line(self, t: Array) -> Array:
        """`t` in decades of FLOPs from `origin`."""
        return (np.asarray(t, float) - self.origin) * self.stretch


@dataclass(frozen=True, eq=False)
class Posterior:
    """Draws of one form's coefficients, one column per name."""

    form: Form
    seen: Observations
    names: tuple[str, ...]
    draws: Array
    effective: float  # effective number of the importance draws

    @cached_property
    def coefficients(self) -> dict[str, Array]:
        """The draws of each coefficient, one row per draw."""
        return _by_name(self.names, self.draws)

    def ability(self, t: Array) -> Array:
        """The line, without the deviations of models, draws × t."""
        return _ability(self.coefficients, self.seen.line(t))

    def scores(self, t: Array, n: Array, rng: np.random.Generator) -> Array:
        """Scores of new models on `n` questions at `t`, draws × t."""
        own = self.coefficients
        chance = _floor(own, self.seen.chance)
        ability = self.ability(t)
        ability = ability + np.exp(own["s"]) * rng.standard_normal(ability.shape)
        rise = self.form.link(ability)
        share = chance + (_ceiling(own, chance) - chance) * rise
        if "guess" in own:
            luck = np.exp(own["guess"]) * rng.standard_normal(rise.shape)
            share = share + luck * np.sqrt(chance * (1 - chance)) * (1 - rise)
        return rng.binomial(np.round(n).astype(int), np.clip(share, 0.0, 1.0)) / np.round(n)

    def thresholds(self, rng: np.random.Generator) -> Array:
        """log10 scale at which a new model is midway from chance to the ceiling, one per draw.

        Infinite for a model that never gets there.
        """
        own = self.coefficients
        level, slope, bend, s = (own[name][:, 0] for name in ("a", "b", "q", "s"))
        rise = level + np.exp(s) * rng.standard_normal(len(self.draws)) - self.form.half
        u = _first_crossing(rise, slope, bend)
        return u / self.seen.stretch + self.seen.origin


@dataclass(frozen=True, eq=False)
class Approximation:
    """A normal approximation of one form's posterior, at its mode."""

    form: Form
    seen: Observations
    names: tuple[str, ...]
    log_density: Callable[[Array], Array]  # of rows of coefficients, up to a constant
    mode: Array
    covariance: Array
    evidence: float  # log; only differences between forms have a meaning

    def posterior(self, count: int, candidates: int, rng: np.random.Generator) -> Posterior:
        """`count` draws of the coefficients, chosen by importance weights among `candidates`."""
        chosen, effective = _sample(self.log_density, self.mode, self.covariance, candidates, rng)
        return Posterior(self.form, self.seen, self.names, chosen[:count], effective)


def approximate(form: Form, seen: Observations) -> Approximation:
    """The posterior of the coefficients of `form`, given the scores."""
    names: tuple[str, ...] = ("a", "b", "q", "s")
    names += ("ceiling",) if form.free_ceiling else ()
    names += ("floor",) if "floor" in form.prior else ()
    names += ("guess",) if "floor" in form.prior or seen.chance > 0 else ()
    mean, spread = (np.array(each) for each in zip(*(form.prior[n] for n in names), strict=True))
    n = np.where(np.isfinite(seen.n), seen.n, UNKNOWN_N)
    right, u = seen.share * n, seen.line(seen.t)
    weight = np.ones(len(n)) if seen.weight is None else seen.weight

    def log_density(at: Array) -> Array:
        """Log of likelihood times prior at rows of coefficients, up to a constant."""
        own = _by_name(names, at)
        chance = _floor(own, seen.chance)
        deviations = np.exp(own["s"])[..., None] * _POINTS
        rise = form.link(_ability(own, u)[..., None] + deviations)
        middle = rise @ _WEIGHTS
        width = ((rise - middle[..., None]) ** 2) @ _WEIGHTS
        height = _ceiling(own, chance) - chance
        variance = height**2 * width + 1e-6
        if "guess" in own:
            luck = np.exp(2 * own["guess"])
            variance = variance + luck * chance * (1 - chance) * (1 - middle) ** 2
        likely = weight * _beta_binomial(right, n, chance + height * middle, variance)
        found = likely.sum(axis=1) - 0.5 * (((at - mean) / spread) ** 2).sum(axis=1)
        return np.where(np.isfinite(found), found, -1e10)

    mode, height, curvature = _mode(log_density, names, mean)
    value, vector = np.linalg.eigh(curvature)
    value = np.maximum(value, LEAST_CURVATURE)
    covariance = (vector / value) @ vector.T
    evidence = height - 0.5 * np.log(value).sum() - np.log(spread).sum()
    return Approximation(form, seen, names, log_density, mode, covariance, float(evidence))


def _first_crossing(rise: Array, slope: Array, bend: Array) -> Array:
    """The first u at which rise + slope·u + bend·u² comes up to zero; infinite where it never does.

    By the formula that does not cancel for small bends.
    """
    inside = slope**2 - 4 * bend * rise
    never = (inside < 0) | ((slope <= 0) & (bend <= 0))
    root = np.sqrt(np.maximum(inside, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        u = np.where(slope >= 0, -2 * rise / (slope + root), (root - slope) / (2 * bend))
    return np.where(never, np.inf, u)


def _by_name(names: Sequence[str], at: Array) -> dict[str, Array]:
    """The columns of `at`, rows × names, each as rows × 1."""
    return {name: at[:, i, None] for i, name in enumerate(names)}


def _ability(coefficients: Mapping[str, Array], u: Array) -> Array:
    """The line at `u` decades of FLOPs from the origin, rows × u."""
    a, b, q = (coefficients[name] for name in ("a", "b", "q"))
    return np.asarray(a + b * u + q * u * u, float)


def _floor(coefficients: Mapping[str, Array], chance: float) -> Array | float:
    """The chance level, where it is fitted; else the one that is known."""
    if "floor" not in coefficients:
        return chance
    return np.asarray(expit(coefficients["floor"]), float)


def _ceiling(coefficients: Mapping[str, Array], chance: Array | float) -> Array | float:
    """The ceiling, where it is fitted; else 1."""
    if "ceiling" not in coefficients:
        return 1.0
    return np.asarray(chance + (1 - chance) * expit(coefficients["ceiling"]), float)


def _beta_binomial(right: Array, n: Array, mean: Array, variance: Array) -> Array:
    """log probability of `right` of n answers whose share has that mean and variance."""
    mean = np.clip(mean, 1e-9, 1 - 1e-9)
    most = mean * (1 - mean)
    size = np.clip(most / np.clip(variance, 1e-9, 0.999 * most) - 1, 1e-3, 1e7)
    one, other = mean * size, (1 - mean) * size
    ways = gammaln(n + 1) - gammaln(right + 1) - gammaln(n - right + 1)
    return ways + betaln(right + one, n - right + other) - betaln(one, other)


def _mode(
    log_density: Callable[[Array], Array], names: tuple[str, ...], mean: Array
) -> tuple[Array, float, Array]:
    """The point of highest density, its logarithm there, and its negative second derivative."""
    step = 1e-4 * np.eye(len(mean))

    def descend(at: Array) -> tuple[float, Array]:
        found = -log_density(np.concatenate([at + step, at - step, at[None]]))
        k = len(at)
        return float(found[-1]), (found[:k] - found[k : 2 * k]) / 2e-4

    # Tasks still at chance and tasks midway up may have separate modes.
    starts = [np.where(np.array(names) == "a", a, mean) for a in (-2.0, 0.5)]
    found = [
        minimize(descend, at, jac=True, method="BFGS", options={"gtol": 1e-3, "maxiter": 100})
        for at in starts
    ]
    best = min(found, key=lambda each: each.fun)
    side = 1e-2 * np.eye(len(mean))
    curvature = np.array([(descend(best.x + e)[1] - descend(best.x - e)[1]) / 2e-2 for e in side])
    return best.x, float(-best.fun), (curvature + curvature.T) / 2


def _sample(
    log_density: Callable[[Array], Array],
    mode: Array,
    covariance: Array,
    draws: int,
    rng: np.random.Generator,
) -> tuple[Array, float]:
    """Draws from the density by importance sampling, and their effective number."""
    k = len(mode)
    scale = np.sqrt(rng.chisquare(TAILS, draws) / TAILS)[:, None]
    step = rng.standard_normal((draws, k)) / scale
    at = mode + step @ np.linalg.cholesky(covariance).T
    proposed = -0.5 * (TAILS + k) * np.log1p((step**2).sum(axis=1) / TAILS)
    blocks = [log_density(at[i : i + 100]) for i in range(0, draws, 100)]
    weight = np.concatenate(blocks) - proposed
    weight = np.exp(weight - weight.max())
    weight /= weight.sum()
    return at[rng.choice(draws, draws, p=weight)], float(1 / (weight**2).sum())
