"""What the pages promise is held by tests, and the numbers that they quote are those measured."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.schedules.extrapolate import WIDENED
from scaling.launch.queue import LONGEST_PAUSE
from scaling.launch.worker import WAIT_SHARE
from scaling.store import claims
from scaling.store.bucket.bucket import PAUSE_SECONDS

ROOT = Path(__file__).parents[2]


def page(name: str) -> str:
    return " ".join((ROOT / name).read_text().split())


@cache
def kept(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def decimal(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".removeprefix("0")


@cache
def known_tests() -> set[str]:
    sources = (path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    return {name for text in sources for name in re.findall(r"def (test_\w+)", text)}


def test_every_test_that_a_page_names_exists() -> None:
    named = {
        name
        for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]
        for name in re.findall(r"`(test_\w+)`", path.read_text())
    }
    assert len(named) > 60
    assert named - known_tests() == set()


def test_every_file_that_a_page_names_exists() -> None:
    packages = "analysis|scaling|models|experiments|benchmarks|tests|docs|results/reference"
    named = {
        (path.name, name)
        for path in [ROOT / "README.md", ROOT / "experiments/README.md", *ROOT.glob("docs/*.md")]
        for name in re.findall(rf"`((?:{packages})/[\w./-]*)`", path.read_text())
    }
    assert len(named) > 30
    assert {(page, name) for page, name in named if not (ROOT / name).exists()} == set()


def test_every_link_of_the_readmes_leads_somewhere() -> None:
    for path in (ROOT / "README.md", ROOT / "experiments/README.md"):
        links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text())
        found = [link for link in links if not link.startswith("http")]
        assert found and [link for link in found if not (path.parent / link).exists()] == []


def test_every_promise_names_a_test() -> None:
    text = (ROOT / "docs" / "when-things-go-wrong.md").read_text()
    rows = [line for line in text.splitlines() if line.count(" | ") == 2]
    promises = [row for row in rows if not re.match(r"what happened|---", row)]
    assert len(promises) > 20
    assert [row for row in promises if "`test_" not in row.split(" | ")[2]] == []


def test_the_coverage_of_forecasts_is_the_benchmark_s() -> None:
    ratios, rows = kept("forecasts")["ratios"], kept("forecasts")["rows"]
    shares = [row["forecast"] for row in rows]
    said = (
        f"held {ratios['forecast coverage']:.0%} of the larger runs of the published tables of "
        f"five independent sources ({min(shares):.0%} to {max(shares):.0%} by source), the curve's "
        f"interval alone {ratios['curve coverage']:.0%}"
    )
    assert len(rows) == 5
    assert said.replace("% to", " to") in page("docs/statistics.md")
    assert f"held {ratios['forecast coverage']:.0%} of the larger runs" in page("README.md")


def test_the_coverage_of_coefficients_is_the_benchmark_s() -> None:
    rows = pd.DataFrame(kept("coverage")["rows"])
    quiet = rows[~rows["warns"]]
    [wide] = quiet[~quiet["covers"]].index
    others = [value for held in quiet.drop(index=wide)["coverage"] for value in held.values()]
    text = page("docs/statistics.md")
    assert f"in {len(rows)} settings" in text and len(quiet) == 10
    assert f"in {100 * min(others):.1f} to {100 * max(others):.0f}% of tables" in text
    held = rows.loc[wide, "coverage"]
    assert held["B"] == max(held.values())
    assert f"holds B in {held['B']:.1%} and beta in {held['beta']:.1%}:" in text
    assert f"{100 * min(others):.1f} to {held['B']:.1%} of simulated tables" in page("README.md")


def test_the_cost_of_recommendations_is_the_benchmark_s() -> None:
    budgets = pd.DataFrame(**kept("decisions")["budgets"])
    source = budgets["table"].str.split(",").str[0].replace(r"^porian .*", "porian", regex=True)
    by_source = budgets.drop(columns=["table", "share", "flops"]).groupby(source).mean()
    mean, ours = by_source.mean(), by_source["scaling recommend"]
    said = (
        f"At {len(budgets)} held-out budgets of eight tables from five sources the default costs "
        f"{decimal(mean['scaling recommend'])}% of the loss (mean of sources; "
        f"{decimal(budgets['scaling recommend'].median())}% in the median), the fitted law "
        f"{mean['chinchilla fit']:.1f}%, Chinchilla's printed law "
        f"{decimal(mean['Hoffmann 2022'], 1)}%, 20 tokens per parameter "
        f"{decimal(mean['20 tokens/param'], 1)}% (`benchmarks/decisions.py`; by source "
        f"{decimal(ours.min())} to {decimal(ours.max())}%)"
    )
    assert budgets["table"].nunique() == 8 and len(ours) == 5
    assert said in page("docs/statistics.md")
    for part in (f"cost {decimal(mean['scaling recommend'])}% of the loss",
                 f"law alone {mean['chinchilla fit']:.1f}%",
                 f"20 tokens per parameter {decimal(mean['20 tokens/param'], 1)}%"):  # fmt: skip
        assert part in page("README.md")
    # Where it was not the best.
    better = by_source.lt(ours, axis=0)
    assert better.loc["datablations", "Hoffmann 2022"]
    assert better.loc["epoch-chinchilla", "20 tokens/param"]
    assert better.loc["own isoflop study", ["isoFLOP parabolas", "chinchilla fit"]].all()


def test_how_often_the_interval_of_n_held_is_the_benchmark_s() -> None:
    found = kept("decision_constants")["intervals"]
    held = {name: round(each["held"], 2) for name, each in found.items()}
    assert sorted(held.values()) == [0.67, 0.92, 0.99, 1.0, 1.0]
    assert held["epoch-chinchilla"] == 0.67
    assert round(found["epoch-chinchilla"]["held, as shipped"], 2) == 0.87
    said = "99% of them on one, 92% on one and 67% on `epoch-chinchilla`"
    assert said in page("docs/statistics.md")


def test_the_speed_of_training_on_a_cpu_is_the_benchmark_s() -> None:
    ratios = kept("train")["ratios"]
    for other, called in (("torch", "a nanoGPT-shaped model"), ("nanodo", "a nanodo-shaped one")):
        found = [value for name, value in ratios.items() if name.endswith(f"/ {other}")]
        low, high = min(found), max(found)
        text = page("docs/accelerators.md")
        assert re.search(rf"{low:.1f} to {high:.1f} times (the tokens|those) of {called}", text)
    slow = kept("host")["ratios"]["p90: checkpoints / alone"]
    assert f"slowest tenth of steps take {slow:.1f} times as long" in page("docs/accelerators.md")


def test_the_cost_of_polling_is_the_benchmark_s() -> None:
    rows = {(row["workers"], row["name"]): row for row in kept("polling")["rows"]}
    text = page("docs/clusters.md")
    names = {
        "pauses of 5 s": "5 s",
        "pauses up to 1 min": "doubling up to 1 min, as it is",
        "pauses up to 5 min": "doubling up to 5 min",
    }
    for name, called in names.items():
        row = rows[1000, name]
        cells = (
            called,
            f"{row['requests_per_second']:,.0f}",
            f"{row['peak_per_second']['list']:,.0f}",
            f"${row['dollars_per_day']['all']:.0f}",
            f"{row['hours']:.2f}",
        )
        assert " | ".join(cells) in text
    as_it_is = rows[1000, "pauses up to 1 min"]
    dollars = as_it_is["dollars_per_day"]
    assert f"{as_it_is['waiting']:.0%} of their time these workers wait" in text
    assert f"costs ${dollars['stored']:.0f} a day" in text
    assert f"who trains ${dollars['beats']:.0f};" in text
    assert f"read {as_it_is['peak_per_second']['read']:,.0f} manifests and claims a second" in text
    assert (claims.STALE_SECONDS, LONGEST_PAUSE, WAIT_SHARE, PAUSE_SECONDS) == (60, 60, 1 / 20, 5)
    few = rows[8, "pauses up to 1 min"]["dollars_per_day"]["all"]
    assert f"Eight workers on 100 runs cost ${decimal(few)} a day" in text


def test_the_errors_of_loss_curves_are_the_benchmark_s() -> None:
    ratios, rows = kept("curves")["ratios"], kept("curves")["rows"]
    text = page("docs/curves.md")
    laws = ("m1", "m2", "m3", "m4", "bnsl_1")
    domains = ("BB", "LM", "NMT")
    ours = [decimal(ratios[f"{each}: ours"], 4) for each in domains]
    best = [decimal(min(ratios[f"{each}: {name}"] for name in laws), 4) for each in domains]
    assert "{} on BIG-bench, {} on language modelling and {} on translation".format(*ours) in text
    assert "fitted to the same points, has {}, {} and {}.".format(*best) in text
    of = {(row["source"], row["kind"], row.get("given")): row["ours"] for row in rows}
    sizes = ("csv_25", "csv_100")
    six = [decimal(of[each, "schedules", None], 4) for each in sizes]
    assert "RMSE of {} (25M) and {} (100M) nats".format(*six) in text
    for given, end in (("wsd_20000_24000", " nats;"), ("constant_24000", ".")):
        found = [decimal(of[each, "sizes", given], 4) for each in sizes]
        assert f"to {found[0]} and {found[1]}{end}" in text
    medians = [decimal(100 * ratios[f"runs: median error, {each}"]) for each in ("ours", "m2")]
    assert "the end is {}%, against {}% by".format(*medians) in text
    held = [value for name, value in ratios.items() if "held by" in name]
    assert f"held {100 * min(held):.0f} to {max(held):.0%} by source" in text
    assert f"a factor of {WIDENED} " in text.replace(",", " ")
