"""The largest run against a fit without it: an alarm where it is missed, and none else."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.fitting.fit import Fit, fit
from analysis.forecast.leave_out import leave_out_largest
from analysis.laws.catalogue import law
from analysis.laws.published import published


def runs() -> pd.DataFrame:
    """A grid of 36 runs of a law, with noise."""
    grid = [(n, d) for n in np.geomspace(1e8, 3e9, 6) for d in np.geomspace(2e9, 6e10, 6)]
    table = pd.DataFrame(grid, columns=["params", "tokens"])
    loss = published("besiroglu-2024").predict({n: table[n].to_numpy() for n in table})
    return table.assign(loss=loss * np.exp(0.01 * np.random.default_rng(0).normal(size=36)))


def test_a_largest_run_that_is_missed_beyond_its_interval_is_an_alarm_and_else_none():
    table = runs()
    held = leave_out_largest(fit(law("chinchilla"), table, bootstrap=200, checks=False))
    assert (held.missed, held.cautions) == (False, ())
    assert "inside its 90% forecast interval" in held.sentence
    table.loc[35, "loss"] *= 1.05  # five times the scatter
    missed = leave_out_largest(fit(law("chinchilla"), table, bootstrap=200, checks=False))
    assert missed.missed and "OUTSIDE its 90%" in missed.sentence
    assert "expect larger runs to be missed" in missed.cautions[0]


def test_the_second_fit_has_the_clusters_of_the_first(monkeypatch):
    table = runs()
    table["run_id"] = np.repeat(np.arange(6), 6)
    seen, again = [], Fit.again
    monkeypatch.setattr(Fit, "again", lambda *a, **b: seen.append(again(*a, **b)) or seen[-1])
    for cluster, count in (("none", 35), ("run_id", 6), ("auto", 6)):
        first = fit(law("chinchilla"), table, cluster=cluster, bootstrap=0)
        leave_out_largest(first)
        assert seen[-1].data.clusters == count
        assert first.data.clusters == min(36, count + (cluster == "none"))


def test_no_alarm_is_raised_within_what_seeds_differ_by():
    table = pd.concat([runs()] * 2, ignore_index=True)
    table["loss"] *= np.where(np.arange(72) < 36, 0.95, 1.05)
    held = leave_out_largest(fit(law("chinchilla"), table, bootstrap=50, checks=False))
    assert held.interval[1] - held.interval[0] > 2 * 1.64 * held.seed_sd
