"""The rule "sotu-bytes" is what its sweep measured."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from models.sizes import ParamCount
from scaling.planning.rules import Scale, shipped

SWEEP = Path(__file__).parents[3] / "results" / "reference" / "learning_rate" / "runs.csv"
RULE = shipped("learning_rate")["sotu-bytes"]
SEED_SD = 0.009  # nats; between seeds of the smallest size


def sizes():
    table = pd.read_csv(SWEEP)
    points = table[table["run_kind"] == "cooldown"].sort_values("learning_rate")
    return [(int(size), rows) for size, rows in points.groupby("params_non_embedding")]


def rule(non_embedding: int) -> float:
    params = ParamCount(embedding=0, matrix=non_embedding, vector=0, head=0, head_matmul=0)
    return RULE.value(Scale(params, 1024, None))


@pytest.mark.parametrize(("size", "rows"), sizes(), ids=lambda value: str(value)[:9])
def test_the_best_rate_lies_inside_its_bracket_and_the_rule_beside_it(size, rows):
    log_rate, loss = np.log(rows["learning_rate"].to_numpy()), rows["loss"].to_numpy()
    best = int(np.argmin(loss))
    assert 0 < best < len(rows) - 1, "the best rate is an end of the sweep"
    near = slice(max(0, best - 2), best + 3)
    parabola = np.poly1d(np.polyfit(log_rate[near], loss[near], 2))
    lowest = parabola(parabola.deriv().roots[0])
    # What the rule gives away to the parabola's minimum is less than a seed's noise.
    assert parabola(np.log(rule(size))) - lowest < SEED_SD / 3


def test_four_sizes_were_swept():
    assert len(sizes()) == 4


def test_its_file_has_what_the_sweep_tried_and_found():
    for optimum, (size, rows) in zip(RULE.optima, sizes(), strict=True):
        tried = rows["learning_rate"].min(), rows["learning_rate"].max()
        assert (optimum.params, optimum.tried) == (size, pytest.approx(tried, rel=3e-3))
        best = rows["learning_rate"][rows["loss"].idxmin()]
        assert optimum.optimum == pytest.approx(best, rel=0.2)
