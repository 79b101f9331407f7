"""`scaling simulate`: what a plan would be able to tell, before it is paid for."""

from __future__ import annotations

import contextlib
import math
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from tyro.conf import arg

from analysis.units import duration
from experiments.cli import JsonFile, Numbers, StudyPath, app, law_source, numbers
from experiments.tables import AS_NAMED, Options, TableOptions
from experiments.text import columns, say
from scaling.store.records import Refusal, write_json

if TYPE_CHECKING:
    import pandas as pd

    from analysis.caution import Source
    from analysis.laws import Law
    from analysis.simulation import Key, Measured, Noise, Simulation, Summary
    from experiments.planning import Planned

LOG_SECONDS = 10.0  # between lines of progress
MOSTLY = 0.5  # of the studies: what is said of the plan rather than of chance


@app.command
def simulate(
    study: StudyPath,
    /,
    *,
    law: Annotated[str, arg(metavar="FIT|published:NAME")],
    fit_law: str | None = None,
    flops: Numbers = (),
    noise: float | None = None,
    seed_noise: float | None = None,
    noise_from: Path | None = None,
    run_table: Options = AS_NAMED,
    noise_power: float = 0.0,
    repeats: int = 200,
    level: float = 0.9,
    seed: int = 0,
    by: Literal["law", "runs"] | None = None,
    to_json: JsonFile = None,
    plot: Path | None = None,
) -> None:
    """Say what a study would be able to tell, before it is trained.

    Hundreds of simulated studies of exactly this plan (its sizes, tokens, trunks and seeds), by a
    law taken for the truth, each fitted and asked for a recommendation as a real one would be:
    how wide the intervals come out, how far the answers really scatter, how often the intervals
    hold the truth, and what following the recommendation would cost. Nothing is trained, and the
    data need not be here where the study declares its size.

        scaling simulate experiments/isoflop.toml --law published:chinchilla-2022 --flops 1e14
        scaling simulate my_study.toml --law results/pilot/fits/chinchilla.json \\
            --noise-from results/pilot --fit-law chinchilla --flops 1e21 1e22

    Args:
        study: A study file.
        law: The truth: a file that `scaling fit` wrote, or a published law of `scaling laws`. N is
            counted as that law counts it.
        fit_law: The law that is fitted, if another than the truth's: how wrong would it be?
        flops: Budgets to forecast; by default the power of ten above the largest run.
        noise: Standard deviation of log loss between branches of one trunk. By default that of the
            replicate seeds of the fit that is the truth; without any, that of
            results/reference/isoflop, tiny models: .0043; runs at lower losses differ less.
        seed_noise: The same between trunks, shared by their branches; of results/reference/isoflop
            .0066.
        noise_from: Take both from the replicate seeds of this results folder or run table.
        run_table: How the table of --noise-from is read.
        noise_power: Let both fall as this power of the loss, from the plan's largest loss down;
            Porian et al. (2024) measured 2.8.
        repeats: Simulated studies.
        level: Of the intervals.
        seed: Of the simulation.
        by: Where each study's N* is from, as in `recommend`; its own runs' minima carry what such
            minima were off on published tables, which widens intervals however good the plan.
        to_json: Write all numbers to this file too.
        plot: Draw every study's intervals as PNG and SVG with this name.
    """
    from analysis.laws import law as law_named
    from analysis.simulation import params_column
    from analysis.simulation import simulate as simulated
    from analysis.simulation import to_json as as_json
    from experiments.design import few_trunks
    from experiments.planning import plan_file

    truth = law_source(law)
    column = params_column(truth)
    deviations = _noise(truth, noise, seed_noise, noise_from, run_table, noise_power, column)
    planned = plan_file(study)
    design = design_of(planned, column)
    largest = 6 * float((design["params"] * design["tokens"]).max())
    found = simulated(
        truth,
        design,
        law=None if fit_law is None else law_named(fit_law),
        noise=deviations.noise,
        flops=numbers("--flops", flops) or [10.0 ** math.ceil(math.log10(largest) + 1e-9)],
        repeats=repeats,
        level=level,
        seed=seed,
        by=by,
        watch=_progress,
    )
    doubts = _above_chance(truth, design, planned.plan.corpus.vocab_size)
    if fit_law in (None, truth.law.name):
        doubts += few_trunks(truth.law, truth.coefficients, design)
    plan = {**_plan_json(planned, design, column, largest), "warnings": doubts}
    drawn: tuple[Path, ...] = ()
    try:
        if to_json:
            write_json(to_json, {"plan": plan, **as_json(found)})
        if plot:
            from analysis.figures.simulated import simulated_studies
            from analysis.figures.style import save

            drawn = save(simulated_studies(found), plot.with_suffix(""))
    finally:  # where a disk is full, what was computed is shown at least
        for doubt in doubts:
            say(textwrap.fill(f"Warning: {doubt}", 100, subsequent_indent="  ") + "\n")
        say(_text(plan, found, law, deviations.said))
    for path in drawn:
        say(str(path))
    say(f"Next: scaling run {study}")


# --- in ---------------------------------------------------------------------------------------


class _Noise(NamedTuple):
    noise: Noise
    said: str  # where it is from


def _above_chance(truth: Source, design: pd.DataFrame, vocabulary: int) -> list[str]:
    """A warning where the law gives runs a larger loss than guessing at random does."""
    from analysis.units import counted

    features = {name: design[name].to_numpy(dtype=float) for name in truth.law.features}
    losses, chance = truth.predict(features), math.log(vocabulary)
    if not (count := int((losses > chance).sum())):
        return []
    return [
        f"the law gives {count} of {counted(len(design), 'run')} a loss above {chance:.2f} "
        f"nats/token, up to {losses.max():.2f}: to guess at random among the {vocabulary} tokens "
        f"of this study costs {chance:.2f}. The law is of other runs, and what follows does not "
        "hold for this plan. Simulate by a fit to runs like these (--law FIT)."
    ]


def _noise(
    truth: Source, own: float | None, shared: float | None, runs: Path | None,
    run_table: TableOptions, power: float, column: str,
) -> _Noise:  # fmt: skip
    from analysis.fit import Fit
    from analysis.runs.table import CORE, usable
    from analysis.simulation import REFERENCE, Noise, noise_of

    if runs is None and own is None and shared is None and isinstance(truth, Fit):
        with contextlib.suppress(Refusal):  # no run of the fit was repeated
            return _measured(noise_of(truth.table, power), "the fit's own runs")
    if runs is None:
        given = own is not None or shared is not None
        source = "as given" if given else "as between the tiny models of results/reference/isoflop"
        own, shared = (
            REFERENCE.own if own is None else own,
            REFERENCE.shared if shared is None else shared,
        )
        return _Noise(Noise(shared, own, power), source)
    if own is not None or shared is not None:
        raise Refusal(
            f"--noise-from {runs} measures what --noise and --seed-noise give. Leave one out."
        )
    table = usable(run_table.read(runs, CORE)).rows
    if column in table:
        table = table.assign(params=table[column])
    return _measured(noise_of(table, power), str(runs))


def _measured(found: Measured, runs: str) -> _Noise:
    split = "" if found.pairs else ", divided as in results/reference/isoflop"
    return _Noise(found.noise, f"from {found.replicates} replicates of {runs}{split}")


def design_of(planned: Planned, column: str) -> pd.DataFrame:
    """The plan's points as the fit will see them."""
    import pandas as pd

    plan = planned.plan
    if plan.study.sweep:
        raise Refusal(
            f"[sweep] {', '.join(plan.study.sweep)}: a law of params and tokens knows nothing of "
            "it, so that its variants would be simulated as replicates. Simulate the study without."
        )
    name = column.removeprefix("params_")
    return pd.DataFrame(
        {
            "params": [float(getattr(run.params, name)) for run in plan.points],
            "tokens": [float(run.tokens) for run in plan.points],
            "trunk_id": [run.trunk_id for run in plan.points],
        }
    )


def _plan_json(
    planned: Planned, design: pd.DataFrame, column: str, largest: float
) -> dict[str, Any]:
    return {
        "study": planned.plan.study.name,
        "runs": len(design),
        "trunks": int(design["trunk_id"].nunique()),
        "params_column": column,
        "params": [float(design["params"].min()), float(design["params"].max())],
        "tokens": [float(design["tokens"].min()), float(design["tokens"].max())],
        "flops_max": largest,
        "flops_spent": planned.plan.flops_spent,
        "condition_number": planned.condition_number,
    }


def _progress(numbers: range) -> Iterator[int]:
    """The numbers, and how far it is, after the first and now and then, to where no result goes."""
    start = last = time.monotonic()
    for each in numbers:
        yield each
        now = time.monotonic()
        done = each - numbers.start + 1
        left = (len(numbers) - done) * (now - start) / done
        if now - last > LOG_SECONDS or (done == 1 and left > LOG_SECONDS):
            last = now
            say(f"{done}/{len(numbers)} studies simulated, {duration(left)} left", sys.stderr)


# --- out --------------------------------------------------------------------------------------


def _text(plan: dict[str, Any], found: Simulation, law: str, source: str) -> str:
    from analysis.units import human, scientific

    noise = found.noise
    falls = f", falling as the loss to the {noise.power:g}" if noise.power else ""
    fitted = f"; fitted: {found.law.name}" if found.misspecified else ""
    low, high = plan["params"]
    few, many = plan["tokens"]
    head = (
        f"{plan['study']}: {plan['runs']} runs on {plan['trunks']} trunks, "
        f"N {human(low)} … {human(high)} ({plan['params_column']}), D {human(few)} … "
        f"{human(many)}, up to {scientific(plan['flops_max'])} FLOPs (6ND)\n"
        f"Truth: {found.truth.law.name} of {law}{fitted}; {found.repeats} studies\n"
        f"Noise of log loss: {noise.shared:.2%} of a trunk, {noise.own:.2%} of a run{falls}, "
        f"{source}"
    )
    rows = [
        _row(name, found.summary(key), _is_scale(found.law, key)) for name, key in _listed(found)
    ]
    header = ["", "truth", "median study", f"{found.level:.0%} of studies", "interval's width",
              "holds the truth"]  # fmt: skip
    said = [textwrap.fill(each, 100, subsequent_indent="  ") for each in verdict(found)]
    return "\n".join([head, "", columns(header, rows), "", *said])


def _listed(found: Simulation) -> list[tuple[str, Key]]:
    from analysis.simulation import Key
    from analysis.units import scientific

    rows = [(name, Key(name)) for name in found.law.coefficients]
    for budget in found.flops:
        at = scientific(budget)
        rows += [(f"a in N* ∝ C^a, {at}", Key("params_exponent", budget))]
        rows += [
            (f"{word}, {at}", Key(name, budget))
            for word, name in (("N*", "params"), ("D*", "tokens"), ("loss", "loss"))
        ]
    return rows


def _is_scale(law: Law, key: Key) -> bool:
    """Whether a number's error is a factor."""
    if key.flops is not None:
        return key.name in ("params", "tokens")
    return law.symbols[key.name].positive and key.name not in law.floors


def _row(name: str, each: Summary, scale: bool) -> list[str]:
    from analysis.units import decimal, human

    # A count, or an amplitude that is as large as one.
    write = human if max(abs(each.median), abs(each.truth or 0.0)) >= 1000 else decimal
    width = write(each.interval_width, None)
    if scale and each.interval_factor is not None:
        width = f"×/÷ {each.interval_factor:.3g}"
    return [
        name,
        "" if each.truth is None else write(each.truth, None),
        write(each.median, each.spread),
        f"{write(each.spread[0], each.spread)} … {write(each.spread[1], each.spread)}",
        width,
        "" if each.coverage is None else f"{each.coverage:.0%}",
    ]


def verdict(found: Simulation) -> list[str]:
    """What the plan would tell, in sentences."""
    from analysis.fit import Status
    from analysis.simulation import Key, reasons
    from analysis.units import scientific

    said = []
    if found.share(Status.CONVERGED) < MOSTLY:
        said.append(
            f"This plan would not determine {found.law.name}: only "
            f"{found.share(Status.CONVERGED):.0%} of the studies end with a fit that is neither "
            "open, at a bound nor failed."
        )
    for place, budget in enumerate(found.flops):
        of = {n: found.summary(Key(n, budget)) for n in ("params_exponent", "params", "loss")}
        if not of["params"].intervals:
            said.append(f"At {scientific(budget)} FLOPs no study gives an interval.")
            continue
        exponent = f"the allocation exponent to ±{of['params_exponent'].interval_width / 2:.2g}; "
        relative = of["loss"].interval_width / 2 / of["loss"].median
        narrow = any((each.coverage or 0.0) < _least(found) for each in of.values())
        would = f"This plan would {'claim to ' * narrow}tell {exponent if place == 0 else ''}"
        said.append(
            f"{would}N* at {scientific(budget)} "
            f"FLOPs to within a factor {of['params'].interval_factor:.3g} and the loss there to "
            f"±{relative:.1%} ({found.level:.0%} intervals). {_price(found, budget)}"
        )
    said += _held(found)
    words = {
        Status.WEAKLY_IDENTIFIED: "leave coefficients open",
        Status.AT_BOUND: "end at a bound",
        Status.FAILED: "fail",
    }
    for status, word in words.items():
        if share := found.share(status):
            why, count = reasons(found, status)[0]
            said.append(f"{share:.0%} of the fits {word}; {count} of them: {why}.")
    said += [
        f"Most of the fits warn: {warning}."
        for warning, count in found.warnings.items()
        if count > MOSTLY * found.repeats
    ]
    if found.misspecified:
        said.append(
            f"{found.law.name} is not the truth's law: what is off in the median study is an "
            "error of form, which no interval covers."
        )
    return said


def _chance(found: Simulation) -> float:
    """Standard deviation of a coverage over so many studies."""
    return math.sqrt(found.level * (1 - found.level) / found.repeats)


def _least(found: Simulation) -> float:
    """A coverage below this is no chance."""
    return found.level - 2 * _chance(found)


def _price(found: Simulation, budget: float) -> str:
    excess = found.excess_loss(budget)
    if math.isinf(excess):
        return f"More than {1 - found.level:.0%} of the studies give no recommendation to follow."
    return (
        f"To follow it would cost at most {excess:.2%} of loss in {found.level:.0%} of the studies."
    )


def _held(found: Simulation) -> Iterator[str]:
    """How often intervals hold the truth, against what they say."""
    held = {
        name: each.coverage
        for name, key in _listed(found)
        if (each := found.summary(key)).coverage is not None
    }
    if not held:
        return
    worst = min(held, key=lambda name: held[name] or 0.0)
    span = f"{held[worst]:.0%} to {max(c or 0.0 for c in held.values()):.0%}"
    narrow = (held[worst] or 0.0) < _least(found)
    yield (
        f"The intervals hold the truth in {span} of the studies (nominally {found.level:.0%}, "
        f"give or take {_chance(found):.0%} by chance)"
        + (f": too seldom for {worst}, whose interval is too narrow." if narrow else ".")
    )
