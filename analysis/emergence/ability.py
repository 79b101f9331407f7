"""A model's ability lies on a gently bent line in log scale, more or less; its score follows.

Ability is the line a + b·t + q·t² of the scale plus what this model has that others of its scale
have not, normal with standard deviation s. The score is chance + (ceiling - chance)·link(ability),
and the questions of a test add their own noise. Because the spread lies in the ability, it shows
little where everybody guesses and much on the slope, and a forecast is for a new model and not for
the average one. Priors say what published tasks look like; the posterior is a normal approximation
at its mode, corrected by importance weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import betaln, expit, gammaln

Floats = NDArray[np.float64]

# Spread between models is integrated over at these points: 15 give the mean to 1e-6 for s <= 2.
_POINTS, _WEIGHTS = hermegauss(15)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
UNKNOWN_N = 1000.0  # questions, where the table does not say: their noise is then beside the point
TAILS = 5.0  # degrees of freedom of the importance sampler: heavier tails than the posterior's
LEAST_CURVATURE = 0.1  # of the posterior at its mode: a flatter direction is drawn to sd 3


def _power(ability: Floats) -> Floats:
    """-log p = e^-ability: a power law of scale in log probability."""
    return np.exp(-np.exp(-np.clip(ability, -30.0, 30.0)))


def _rare(ability: Floats) -> Floats:
    """-log(1 - p) = e^ability: p itself is a power law of scale while it is small."""
    return -np.expm1(-np.exp(np.clip(ability, -30.0, 30.0)))


@dataclass(frozen=True)
class Form:
    """A link from ability to score, with what published tasks say of its line."""

    name: str
    link: Callable[[Floats], Floats]
    half: float  # ability at which the score is half-way
    prior: Mapping[str, tuple[float, float]]  # mean and standard deviation, t in decades
    free_ceiling: bool = False


# Means and widths are of 54 tasks of Ruan et al. 2024 (arXiv:2405.10938) fitted at all scales:
# slopes .8 to 2.3 a decade of FLOPs in the middle four fifths, spreads .4 to 1.6. They are wide
# beside what 40 models say. `q` leans upwards: below a cut slopes are less than over all scales
# (1.0 and 1.4 for MMLU, 1.5 and 2.0 for unscrambling), as larger models are later ones, better
# trained. `guess` is the logarithm of a spread in units of one guessed answer's.
_LOGISTIC = {
    "a": (-1.0, 4.0), "b": (1.6, 1.0), "q": (0.1, 0.2), "s": (-0.3, 0.6), "guess": (-3.5, 0.7),
    "ceiling": (3.0, 1.5),
}  # fmt: skip
FORMS: tuple[Form, ...] = (
    Form("logistic", expit, 0.0, _LOGISTIC),
    Form("logistic_ceiling", expit, 0.0, _LOGISTIC, free_ceiling=True),
    Form(
        "power_rare", _rare, float(np.log(np.log(2))),
        {**_LOGISTIC, "b": (1.4, 0.9), "q": (0.08, 0.2)},
    ),
    Form(
        "power_log_prob", _power, float(-np.log(np.log(2))),
        {**_LOGISTIC, "b": (0.7, 0.5), "q": (0.05, 0.12), "s": (-1.0, 0.6)},
    ),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Seen:
    """What a forecast learns from, on the unit scale where 0 is worst and 1 best."""

    t: Floats  # log10 scale, rising with progress
    share: Floats  # the scores
    n: Floats  # questions behind each
    chance: float
    stretch: float = 1.0  # decades of FLOPs, of which the priors speak, to one of this scale
    weight: Floats | None = None  # how many independent scores each counts for; None: one

    @property
    def origin(self) -> float:
        """Where the line's coefficients are stated: a decade of FLOPs below the largest scale."""
        return float(self.t.max()) - 1.0 / self.stretch

    def line(self, t: Floats) -> Floats:
        """`t` in decades of FLOPs from `origin`."""
        return (np.asarray(t, float) - self.origin) * self.stretch


@dataclass(frozen=True, eq=False)
class Posterior:
    """Draws of one form's coefficients, a column each by name, and how well the form did."""

    form: Form
    seen: Seen
    names: tuple[str, ...]
    draws: Floats
    evidence: float  # log; differences between forms matter
    effective: float  # importance draws that count, of len(draws)

    def column(self, name: str) -> Floats:
        """The draws of one coefficient."""
        return self.draws[:, self.names.index(name)]

    def ability(self, t: Floats) -> Floats:
        """The line, without a model's own share: a row a draw, a column a scale."""
        return _line(self.names, self.draws, self.seen.line(t))

    def scores(self, t: Floats, n: Floats, rng: np.random.Generator) -> Floats:
        """Scores of new models on `n` questions: a row a draw, a column a scale."""
        ability = self.ability(t)
        ability = ability + np.exp(self.column("s"))[:, None] * rng.standard_normal(ability.shape)
        rise = self.form.link(ability)
        chance = self.seen.chance
        share = chance + (_ceiling(self.names, self.draws, chance) - chance) * rise
        if "guess" in self.names:
            luck = np.exp(self.column("guess"))[:, None] * rng.standard_normal(rise.shape)
            share = share + luck * np.sqrt(chance * (1 - chance)) * (1 - rise)
        return rng.binomial(np.round(n).astype(int), np.clip(share, 0.0, 1.0)) / np.round(n)

    def emerges(self, rng: np.random.Generator) -> Floats:
        """log10 scale at which a new model is half-way up: a value a draw, infinite for never."""
        own = np.exp(self.column("s")) * rng.standard_normal(len(self.draws))
        rise = self.column("a") + own - self.form.half
        slope, bend = self.column("b"), self.column("q")
        # The line's first crossing of the half-way ability upwards: a root of
        # rise + slope·u + bend·u², by the formula that does not cancel for small bends.
        inside = slope**2 - 4 * bend * rise
        never = (inside < 0) | ((slope <= 0) & (bend <= 0))
        root = np.sqrt(np.maximum(inside, 0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            u = np.where(slope >= 0, -2 * rise / (slope + root), (root - slope) / (2 * bend))
        return np.where(never, np.inf, u / self.seen.stretch + self.seen.origin)


def posterior(form: Form, seen: Seen, draws: int, rng: np.random.Generator) -> Posterior:
    """The coefficients of `form` given what was seen."""
    names: tuple[str, ...] = ("a", "b", "q", "s")
    names += ("ceiling",) if form.free_ceiling else ()
    names += ("guess",) if seen.chance > 0 else ()
    mean, spread = (np.array(each) for each in zip(*(form.prior[n] for n in names), strict=True))
    n = np.where(np.isfinite(seen.n), seen.n, UNKNOWN_N)
    right, u = seen.share * n, seen.line(seen.t)
    weight = np.ones(len(n)) if seen.weight is None else seen.weight

    def log_density(at: Floats) -> Floats:
        chance = seen.chance
        ability = _line(names, at, u)
        s = np.exp(at[:, names.index("s"), None, None])
        spread_out = form.link(ability[..., None] + s * _POINTS)
        middle = spread_out @ _WEIGHTS
        width = ((spread_out - middle[..., None]) ** 2) @ _WEIGHTS
        height = _ceiling(names, at, chance) - chance
        variance = height**2 * width + 1e-6
        if "guess" in names:
            luck = np.exp(2 * at[:, names.index("guess"), None])
            variance = variance + luck * chance * (1 - chance) * (1 - middle) ** 2
        likely = weight * _beta_binomial(right, n, chance + height * middle, variance)
        found = likely.sum(axis=1) - 0.5 * (((at - mean) / spread) ** 2).sum(axis=1)
        return np.where(np.isfinite(found), found, -1e10)

    mode, height, curvature = _mode(log_density, names, mean)
    value, vector = np.linalg.eigh(curvature)
    value = np.maximum(value, LEAST_CURVATURE)
    covariance = (vector / value) @ vector.T
    evidence = height - 0.5 * np.log(value).sum() - np.log(spread).sum()
    chosen, effective = _sample(log_density, mode, covariance, draws, rng)
    return Posterior(form, seen, names, chosen, float(evidence), effective)


def _line(names: tuple[str, ...], at: Floats, u: Floats) -> Floats:
    a, b, q = (at[:, names.index(each), None] for each in ("a", "b", "q"))
    return np.asarray(a + b * u + q * u * u, float)


def _ceiling(names: tuple[str, ...], at: Floats, chance: float) -> Floats:
    if "ceiling" not in names:
        return np.ones((len(at), 1))
    return np.asarray(chance + (1 - chance) * expit(at[:, names.index("ceiling"), None]), float)


def _beta_binomial(right: Floats, n: Floats, mean: Floats, variance: Floats) -> Floats:
    """log probability of `right` of n where the share varies with that mean and variance."""
    mean = np.clip(mean, 1e-9, 1 - 1e-9)
    most = mean * (1 - mean)
    size = np.clip(most / np.clip(variance, 1e-9, 0.999 * most) - 1, 1e-3, 1e7)
    one, other = mean * size, (1 - mean) * size
    ways = gammaln(n + 1) - gammaln(right + 1) - gammaln(n - right + 1)
    return ways + betaln(right + one, n - right + other) - betaln(one, other)


def _mode(
    log_density: Callable[[Floats], Floats], names: tuple[str, ...], mean: Floats
) -> tuple[Floats, float, Floats]:
    """Where the density is highest, its logarithm there, and its negative second derivative."""
    step = 1e-4 * np.eye(len(mean))

    def descend(at: Floats) -> tuple[float, Floats]:
        found = -log_density(np.concatenate([at + step, at - step, at[None]]))
        k = len(at)
        return float(found[-1]), (found[:k] - found[k : 2 * k]) / 2e-4

    best = None
    for a in (-2.0, 0.5):  # tasks still at chance and tasks half-way up have valleys of their own
        start = mean.copy()
        start[names.index("a")] = a
        found = minimize(descend, start, jac=True, method="BFGS",
                         options={"gtol": 1e-3, "maxiter": 100})  # fmt: skip
        if best is None or found.fun < best.fun:
            best = found
    assert best is not None
    side = 1e-2 * np.eye(len(mean))
    rows = [(descend(best.x + e)[1] - descend(best.x - e)[1]) / 2e-2 for e in side]
    curvature = np.array(rows)
    return best.x, float(-best.fun), (curvature + curvature.T) / 2


def _sample(
    log_density: Callable[[Floats], Floats],
    mode: Floats,
    covariance: Floats,
    draws: int,
    rng: np.random.Generator,
) -> tuple[Floats, float]:
    """Draws from the density by importance, and how many of them count."""
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
