"""How much loss does following a recommendation cost? Fitted below a cut, judged above it.

    python benchmarks/decisions.py [--json FILE] [--data DIR]

Each published table of runs is fitted below a compute cut. At budgets above the cut N* is read off
by every way of deciding, and its price off the runs: the loss at N* over the least at that budget,
both from one curve of ln loss over ln N that joins the sizes run there (a size's loss at D = C/6N
lies between its shorter and its longer run). Budgets whose best size is the least or the largest
are left out. An N* outside the sizes is priced at their nearest end and counted in `outside`: its
excess is a lower limit. Means are of sources: tables of one origin share data or code, and count as
one. benchmarks/decision_constants.py sets the constants on all sources but the one that is judged.
Exit status 1 if the runs' own minima (`scaling recommend --by runs`) are not better than Kaplan's
and Chinchilla's published answers and approach 2's parabolas.

The tables are not in this repository (SCALING_REFERENCE_DATA, default ../shared/data); of those in
the index, nanochat has minima only, and datablations so few fresh runs that not every way answers.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator

from analysis.allocation.isoflop import optima
from analysis.allocation.valley import valley
from analysis.array import Array
from analysis.fitting.fit import Fit, fit
from analysis.laws.catalogue import law
from analysis.laws.optimum import compute_optimal
from analysis.laws.published import published
from analysis.recommend.choose import choose
from analysis.recommend.recommend import recommend
from analysis.runs.table import usable
from scaling.store.records import Refusal

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SCALING_REFERENCE_DATA") or ROOT / "../shared/data")
SHARES = (0.3, 0.5, 0.7)  # of the runs lie at or below the cuts
FIRST = 0.2  # decades above the cut at which budgets are judged
STEP = 0.125  # decades between budgets where runs are not at equal compute
FEWEST = 5  # sizes at a budget
SAME_SIZE = 0.03  # in ln N

Decision: TypeAlias = Callable[[float], float]  # a budget to N*
Way: TypeAlias = Callable[[pd.DataFrame], Decision]


# --- tables -----------------------------------------------------------------------------------


class Table(NamedTuple):
    """Runs of one recipe and one count of N, by whom they were trained."""

    source: str  # independent of all others; its tables share data, code or runs
    name: str
    runs: pd.DataFrame  # params, tokens, loss, and trunk_id where runs share a trunk


def tables(folder: Path) -> Iterator[Table]:
    """Published runs, each once; those whose folder is there."""
    if (folder / "porian").is_dir():
        runs = pd.read_csv(folder / "porian/isoflop_points.csv")
        # Under Kaplan's count the table holds the runs of the standard one once more.
        runs = runs[runs["param_count"] == "standard"]
        for key, rows in runs.groupby(["hparams", "warmup", "decay"]):
            yield Table("porian", "porian " + " ".join(map(str, key)), cleaned(rows))
    if (folder / "gemstones").is_dir():
        runs = pd.read_json(folder / "gemstones/wandb_df_for_fitting_hot.jsonl", lines=True)
        names = {"params_active_precise": "params", "final_loss": "loss"}
        yield Table("gemstones", "gemstones", cleaned(runs.rename(columns=names)))
    if (folder / "epoch-chinchilla").is_dir():
        runs = pd.read_csv(folder / "epoch-chinchilla/svg_extracted_data.csv")
        runs = runs.assign(tokens=runs["Training FLOP"] / (6 * runs["Model Size"]))
        runs = runs.rename(columns={"Model Size": "params"}).sort_values("loss")
        kept = runs.iloc[:-5]  # as Besiroglu et al. filter it
        yield Table("epoch-chinchilla", "epoch-chinchilla", cleaned(kept))
    if (folder / "datablations").is_dir():
        runs = pd.read_csv(folder / "datablations/all_runs_c4.csv")
        fresh = runs[runs["tokens"] <= 1.01 * runs["unique_tokens"]]
        fresh = fresh.rename(columns={"val_loss": "loss"})
        yield Table("datablations", "datablations, fresh data", cleaned(fresh))
    runs = usable(pd.read_csv(ROOT / "results/reference/isoflop/runs.csv")).rows
    own = runs.assign(params=runs["params_total"])
    yield Table("own isoflop study", "own isoflop study", cleaned(own))


def cleaned(runs: pd.DataFrame) -> pd.DataFrame:
    """The three columns as floats, and the trunks where they are named."""
    rows = runs[["params", "tokens", "loss"]].astype(float)
    if "trunk_id" in runs:
        rows["trunk_id"] = runs["trunk_id"]
    return rows.reset_index(drop=True)


def compute(runs: pd.DataFrame) -> Array:
    """6·N·D."""
    return (6 * runs["params"] * runs["tokens"]).to_numpy()


# --- what the runs say ------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """ln loss over ln N at one budget."""

    log_n: Array
    log_loss: Array

    @property
    def best(self) -> int:
        return int(self.log_loss.argmin())

    @property
    def inside(self) -> bool:
        """Whether the best size lies between the least and the largest."""
        return 0 < self.best < len(self.log_n) - 1

    def excess(self, params: float) -> tuple[float, bool]:
        """loss(params) / least - 1, and whether `params` lies outside the sizes."""
        x = math.log(params)
        value = float(np.interp(x, self.log_n, self.log_loss)) - float(self.log_loss[self.best])
        return math.expm1(value), not self.log_n[0] <= x <= self.log_n[-1]


def curve(runs: pd.DataFrame, flops: float) -> Curve | None:
    """Each size's loss at D = C/6N, between its shorter and its longer run, joined over ln N."""
    points = []
    place = np.round(np.log(runs["params"].to_numpy()) / SAME_SIZE)
    for each in np.unique(place):
        rows = runs[place == each].groupby("tokens", as_index=False)[["params", "loss"]].mean()
        log_n, known = np.log(rows["params"]).mean(), np.log(rows["tokens"].to_numpy())
        at = math.log(flops / 6) - log_n
        if known[0] - 0.02 <= at <= known[-1] + 0.02:
            points.append((log_n, float(np.interp(at, known, np.log(rows["loss"])))))
    if len(points) < FEWEST:
        return None
    x, y = np.transpose(points)
    grid = np.linspace(x[0], x[-1], 401)
    return Curve(grid, PchipInterpolator(x, y)(grid))


def held_out(runs: pd.DataFrame, cut: float) -> list[tuple[float, Curve]]:
    """Budgets above the cut at which the runs show their best size."""
    flops = np.sort(compute(runs))
    groups = np.concatenate([[0], np.cumsum(np.diff(np.log(flops)) > 0.01)])
    counts = np.bincount(groups)
    if counts[counts >= FEWEST].sum() > len(runs) / 2:  # an isoFLOP design
        budgets = [float(flops[groups == k].mean()) for k in np.flatnonzero(counts >= FEWEST)]
    else:
        budgets = list(10 ** np.arange(math.log10(flops[0]), math.log10(flops[-1]), STEP))
    found = [(each, curve(runs, each)) for each in budgets if each >= cut * 10**FIRST]
    return [(c, each) for c, each in found if each is not None and each.inside]


# --- ways of deciding ---------------------------------------------------------------------------

_FITS: dict[tuple[object, ...], Fit] = {}


def fitted(name: str, runs: pd.DataFrame) -> Fit:
    """The law fitted to the runs, once."""
    key = (name, len(runs), float(runs["loss"].sum()))
    if key not in _FITS:
        _FITS[key] = fit(law(name), runs, bootstrap=0)
    return _FITS[key]


def by_law(name: str) -> Way:
    """The optimum of a law fitted to the runs."""

    def decision_of(runs: pd.DataFrame) -> Decision:
        source = fitted(name, runs)
        return lambda flops: optimum(source, flops)

    return decision_of


def by_published(name: str) -> Way:
    """The optimum of published coefficients, whatever the runs."""
    return lambda _: lambda flops: optimum(published(name), flops)


def optimum(source: Any, flops: float) -> float:
    """N* by a law's coefficients; NaN where they have none."""
    best = compute_optimal(source.law, source.coefficients, flops)
    return float(best.params) if best.interior else math.nan


def by_runs(runs: pd.DataFrame) -> Decision:
    """`scaling recommend --by runs`."""
    return valley(fitted("chinchilla", runs), draws=0).params


def by_default(runs: pd.DataFrame) -> Decision:
    """`scaling recommend`."""
    source = fitted("chinchilla", runs)
    chosen = choose(source, None, draws=0)

    def params(flops: float) -> float:
        return recommend(source, flops, chosen=chosen)[0].params

    return params


def by_parabolas(runs: pd.DataFrame) -> Decision:
    """Approach 2 (Hoffmann et al. 2022): a power law through the parabolas' minima."""
    found = optima(runs, "parabola").dropna(subset=["params"])
    if len(found) < 2:
        raise Refusal("fewer than two isoFLOP minima inside their sizes")
    slope, offset = np.polyfit(np.log(found["flops"]), np.log(found["params"]), 1)
    return lambda flops: math.exp(offset + slope * math.log(flops))


def by_mean(runs: pd.DataFrame) -> Decision:
    """The geometric mean of three laws' N*."""
    each = [by_law(n)(runs) for n in ("chinchilla", "chinchilla_coupled", "kaplan_nd")]
    return lambda flops: math.exp(np.mean([math.log(one(flops)) for one in each]))


def by_kaplan(runs: pd.DataFrame) -> Decision:
    """Kaplan's printed N*(C), whatever the runs are."""
    return lambda flops: float(published("kaplan-2020-params").predict({"flops": flops}))


WAYS: Mapping[str, Way] = {
    "chinchilla fit": by_law("chinchilla"),
    "chinchilla_coupled fit": by_law("chinchilla_coupled"),
    "kaplan_nd fit": by_law("kaplan_nd"),
    "mean of the three": by_mean,
    "runs' own minima": by_runs,
    "scaling recommend": by_default,
    "isoFLOP parabolas": by_parabolas,
    "20 tokens/param": lambda _: lambda flops: math.sqrt(flops / 120),
    "Kaplan 2020": by_kaplan,
    "Hoffmann 2022": by_published("chinchilla-2022"),
    "Besiroglu 2024": by_published("besiroglu-2024"),
}


def judged(table: Table, share: float) -> Iterator[dict[str, Any]]:
    """A row for each way at each held-out budget of a cut."""
    runs = table.runs
    flops = compute(runs)
    cut = float(np.quantile(flops, share, method="lower"))
    seen = runs[flops <= cut * (1 + 1e-9)]
    budgets = held_out(runs, cut)
    for way, decision_of in WAYS.items() if budgets else ():
        try:
            decision, reason = decision_of(seen), ""
        except Refusal as refusal:
            decision, reason = (lambda _: math.nan), str(refusal)
        for each, known in budgets:
            params = decision(each)
            excess, outside = (math.nan, False) if math.isnan(params) else known.excess(params)
            yield {
                "source": table.source,
                "table": table.name,
                "share": share,
                "decades": math.log10(each / cut),
                "flops": each,
                "way": way,
                "params": params,
                "best_params": math.exp(known.log_n[known.best]),
                "excess": excess,
                "outside": outside,
                "reason": reason,
            }


def answered_alone(found: pd.DataFrame) -> pd.DataFrame:
    """The same of every budget that a way answers, whatever the others do."""
    tabled = found.pivot_table(values="excess %", index=["source", "table"], columns="way")
    cells = tabled.groupby("source").mean()[list(WAYS)].T
    count = found.groupby("way")["excess"].count()
    return cells.assign(mean=cells.mean(axis=1), budgets=count)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of fits to few runs: the ways are judged by what they cost
    rows = [
        row for table in tables(options.data) for share in SHARES for row in judged(table, share)
    ]
    found = pd.DataFrame(rows)
    found["excess %"] = 100 * found["excess"]
    found["off"] = np.abs(np.log10(found["params"].to_numpy() / found["best_params"].to_numpy()))
    # Judged alike: only budgets at which every way has an answer.
    budget = found.groupby(["table", "share", "flops"])["excess"]
    same = found[budget.transform("count") == len(WAYS)]
    tabled = same.pivot_table(values="excess %", index=["source", "table"], columns="way")
    cells = tabled.groupby("source").mean()[list(WAYS)].T
    medians = same.pivot_table(values="excess %", index="source", columns="way", aggfunc="median")
    summary = pd.DataFrame(
        {
            "mean of sources": cells.mean(axis=1),
            "worst source": cells.max(axis=1),
            "median of budgets": same.groupby("way")["excess %"].median(),
            "decades of N off": same.groupby("way")["off"].mean(),
            "outside": same.groupby("way")["outside"].mean(),
        }
    ).loc[list(WAYS)]
    asked, answered = found.groupby(["table", "share", "flops"]).ngroups, len(same) // len(WAYS)
    print(
        f"{asked} held-out budgets of {found['table'].nunique()} tables, 0.2 to "
        f"{found['decades'].max():.1f} decades above the cuts; every way answers at {answered}\n"
    )
    for title, shown in (
        ("Excess loss, %, by table", tabled[list(WAYS)].T),
        ("Excess loss, %, by source: mean of its tables", cells),
        ("Excess loss, %, by source: median of its budgets", medians[list(WAYS)].T),
        ("Over sources", summary),
        ("Of all budgets that a way answers: mean of sources, %", answered_alone(found)),
    ):
        print(f"{title}\n{shown.round(3).to_string()}\n")
    refused = found[found["excess"].isna()].groupby("way").size().to_dict()
    print("No answer at:", ", ".join(f"{way} {count}" for way, count in refused.items()))
    mean = summary["mean of sources"]
    if options.json:
        ratios = {f"excess, {way}": float(mean[way]) / 100 for way in WAYS}
        parts = {"by_source": cells, "by_table": tabled[list(WAYS)].T, "over_sources": summary}
        written = {
            name: json.loads(part.rename(columns=str).round(4).to_json())
            for name, part in parts.items()
        }
        each = found.pivot_table(
            values="excess %", index=["table", "share", "flops"], columns="way", dropna=False
        ).dropna(how="all")
        written["budgets"] = json.loads(each.round(3).reset_index().to_json(orient="split"))
        options.json.write_text(json.dumps({"ratios": ratios, **written}))
    rivals = ("isoFLOP parabolas", "Kaplan 2020", "Hoffmann 2022")
    return 0 if mean["runs' own minima"] < min(mean[way] for way in rivals) else 1


if __name__ == "__main__":
    sys.exit(main())
