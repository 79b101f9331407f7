"""What a plan would be able to determine: simulated studies of it, each through the real fit.

    found = simulate(published("besiroglu-2024"), plan, flops=[1e22])   # or a fit of your own
    print(found)

A study is the law's losses at the plan's own N and D, times log-normal noise that the branches of a
trunk partly share. It is fitted and asked for a recommendation as `scaling fit` and `scaling
recommend` would do, so the answer holds for the plan, its clusters and the method together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.arguments import as_numbers, as_table, refuse_seed, refuse_times
from analysis.array import Array
from analysis.design.noise import Noise, usual_noise
from analysis.design.result import Key, Simulation
from analysis.fitting.effective_clusters import clusters_of
from analysis.fitting.fit import Fit, fit
from analysis.fitting.result import Status
from analysis.fitting.source import Source, as_source, column_of, refuse_failed
from analysis.laws.catalogue import as_law
from analysis.laws.law import Law
from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN, require_params_and_tokens
from analysis.laws.published import Published
from analysis.recommend.by_law import answer
from analysis.recommend.choose import choose
from analysis.recommend.question import Question
from analysis.recommend.recommend import recommend
from analysis.recommend.recommendation import Alone, Recommendation
from analysis.runs.table import standardise
from analysis.text import counted, scientific
from scaling.store.records import Refusal

DRAWS = 200  # a study; the median of many studies' intervals steadies what so few leave unsteady
COUNTS = ("params_total", "params_non_embedding", "params_matmul")  # columns of a plan
AT_BUDGET = ("params", "tokens", "loss", "params_exponent", "tokens_exponent")


def params_column(truth: Source) -> str:
    """The column of a run table that the law's N counts; all parameters where nothing is said."""
    column = column_of(truth)
    return column if column in COUNTS else "params_total"


def simulate(
    truth: Source,
    plan: pd.DataFrame,
    *,
    law: Law | str | None = None,
    noise: Noise | None = None,
    flops: Sequence[float] | float = (),
    repeats: int = 200,
    draws: int = DRAWS,
    level: float = 0.9,
    seed: int = 0,
    by: Alone | None = None,
    watch: Callable[[range], Iterable[int]] = iter,
) -> Simulation:
    """`repeats` simulated studies of `plan`, whose losses follow the law `truth`.

    `plan` has one row per run, with params (counted as the truth counts them) and tokens; runs of
    one trunk_id share its noise, and without that column every run is independent. Each study is
    the truth's losses with `noise` (`usual_noise` by default), a function of (seed, number of the
    study) alone, fitted by `law` (by default the truth's own) and asked for the optimum at each
    budget of `flops` (by default the power of ten above the largest run), `by` the law or the runs,
    or as `choose` finds. `watch` sees the numbers of the studies go by.

    Raises Refusal for arguments of the wrong kind, a law that is not one of params and tokens, a
    plan it cannot be fitted to, a truth whose loss is not positive there or that has no optimum,
    and a budget below every run.
    """
    if repeats < 1:
        raise Refusal(f"repeats = {repeats} is no number of studies.", "Give at least 1, e.g. 200.")
    refuse_times("repeats", repeats, 200)
    refuse_seed(seed)
    refuse_failed(as_source("truth", truth))
    plan = as_table("plan", plan)
    law = truth.law if law is None else as_law(law, "Give a Law or the name of one.")
    for each in (truth.law, law):
        require_params_and_tokens(each)
    known = Published(
        truth.name if isinstance(truth, Published) else "your fit",
        truth.law, truth.coefficients, params_column(truth), truth.law.source,
    )  # fmt: skip
    noise = noise or usual_noise(truth)
    plan = standardise(plan, require=("params", "tokens"))
    losses = _losses(known, plan)
    budgets = _budgets(as_numbers("flops", flops).tolist(), plan)
    best = {budget: answer(known, Question(flops=budget), level=level) for budget in budgets}
    truths = {Key(name, c): getattr(each, name) for c, each in best.items() for name in AT_BUDGET}
    if law.form is truth.law.form:
        truths |= {Key(name): value for name, value in truth.coefficients.items()}
    keys = [*map(Key, law.coefficients)]
    keys += [Key(name, c) for c in budgets for name in (*AT_BUDGET, "excess_loss")]
    studies = {key: np.full((repeats, 3), np.nan) for key in keys}
    statuses, reasons = [Status.FAILED] * repeats, [""] * repeats
    warnings: Counter[str] = Counter()
    trunks = clusters_of(plan)
    for number in watch(range(repeats)):
        rng = np.random.default_rng([seed, number])
        table = plan.assign(loss=losses * np.exp(noise.deviations(losses, trunks, rng)))
        found = fit(law, table, bootstrap=draws, level=level, seed=number, checks=False)
        statuses[number], reasons[number] = found.status, found.reason
        warnings.update(found.warnings)
        for key, values in _estimates(found, known, best, level, by).items():
            studies[key][number] = values
    return Simulation(
        truth=known, law=law, plan=plan, noise=noise, level=level, flops=budgets, studies=studies,
        truths=truths, statuses=tuple(statuses), reasons=tuple(reasons), warnings=warnings,
    )  # fmt: skip


def above_chance(truth: Source, plan: pd.DataFrame, vocabulary: int) -> list[str]:
    """A warning where the law gives runs a larger loss than a uniform guess among the tokens of
    the vocabulary has, which is ln V; otherwise none."""
    losses, chance = _predicted(truth, plan), math.log(vocabulary)
    if not (count := int((losses > chance).sum())):
        return []
    return [
        f"the law gives {count} of {counted(len(plan), 'run')} a loss above {chance:.2f} "
        f"nats/token, up to {losses.max():.2f}: a random guess among the {vocabulary} tokens of "
        f"this study has {chance:.2f}. The law is one of other runs, and what follows does not "
        "hold for this plan. Simulate by a fit to runs like these (--law FIT)."
    ]


def _budgets(flops: Sequence[float], plan: pd.DataFrame) -> tuple[float, ...]:
    """The budgets, or the power of ten above the plan's largest run."""
    spent = FLOPS_PER_PARAM_TOKEN * plan["params"] * plan["tokens"]
    for budget in flops:
        if not budget >= spent.min():
            least = f"below every run of the plan ({scientific(spent.min())})."
            raise Refusal(f"flops = {scientific(budget)} is {least}", "Give a larger budget.")
    return tuple(flops) or (10.0 ** math.ceil(math.log10(spent.max()) + 1e-9),)


def _predicted(truth: Source, plan: pd.DataFrame) -> Array:
    features = {name: plan[name].to_numpy(dtype=float) for name in truth.law.features}
    return np.asarray(np.broadcast_to(truth.predict(features), len(plan)))


def _losses(truth: Published, plan: pd.DataFrame) -> Array:
    """The truth's loss of each run, (n,). Raises Refusal where one is not positive."""
    losses = _predicted(truth, plan)
    if not (np.isfinite(losses).all() and (losses > 0).all()):
        at = int(np.argmin(np.where(np.isfinite(losses), losses, -np.inf)))
        run = ", ".join(f"{name} {plan[name].iloc[at]:.3g}" for name in truth.law.features)
        raise Refusal(
            f"{truth.name} gives a loss of {losses[at]:.3g} at {run}, which no run can have.",
            "Simulate by a law that holds there.",
        )
    return losses


def _estimates(
    found: Fit,
    truth: Published,
    best: Mapping[float, Recommendation],
    level: float,
    by: Alone | None,
) -> dict[Key, tuple[float, float, float]]:
    """All that one study estimates, with low and high; nothing where its fit failed."""
    if found.status is Status.FAILED:
        return {}
    estimates = {
        Key(name): (value, *found.interval.coefficients[name])
        for name, value in found.coefficients.items()
    }
    chosen = None
    unknown = (float("nan"), float("nan"))
    for budget, right in best.items():
        try:
            chosen = chosen or choose(found, by)
            [each] = recommend(found, budget, by=by, level=level, chosen=chosen)
        except Refusal:  # these coefficients have no optimum there
            continue
        for name in AT_BUDGET:
            ends = each.span("curve_loss" if name == "loss" else name) or unknown
            estimates[Key(name, budget)] = (getattr(each, name), *ends)
        real = float(truth.predict({"params": each.params, "tokens": each.tokens}))
        estimates[Key("excess_loss", budget)] = (real / right.loss - 1, *unknown)
    return estimates
