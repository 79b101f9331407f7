"""`scaling simulate`: what a plan would be able to determine, before it is paid for."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from analysis.text import duration, paragraph
from experiments.cli.app import (
    Folder,
    LawName,
    Numbers,
    StudyPath,
    app,
    numbers,
)
from experiments.cli.output import TO_TERMINAL, Outputs
from experiments.cli.table_options import AS_NAMED, Options, TableOptions
from experiments.cli.text import say
from experiments.cli.words import each_once
from scaling.store.records import Refusal

if TYPE_CHECKING:
    import pandas as pd

    from analysis.design.noise import Noise
    from analysis.design.result import Simulation
    from analysis.fitting.source import Source
    from experiments.cli.join.plan import Planned

LOG_SECONDS = 10.0  # between lines of progress


@app.command
def simulate(
    study: StudyPath,
    /,
    *,
    law: Annotated[str, arg(metavar="FIT|published:NAME")],
    fit_law: LawName = None,
    flops: Numbers = (),
    noise: float | None = None,
    seed_noise: float | None = None,
    noise_from: Annotated[Path | None, arg(metavar="RUNS")] = None,
    run_table: Options = AS_NAMED,
    noise_power: float = 0.0,
    repeats: int = 200,
    level: float = 0.9,
    seed: int = 0,
    by: Literal["law", "runs"] | None = None,
    output: Outputs = TO_TERMINAL,
    plot: Folder = None,
) -> None:
    """Simulate a study to see how precise its fit would be (power analysis).

    Hundreds of simulated studies of exactly this plan (its sizes, tokens, trunks and seeds) follow
    a law that is taken for the truth. Each is fitted and asked for a recommendation as a real one
    would be: how wide the intervals are, how far the answers really scatter, how often the
    intervals contain the truth, and what following the recommendation would cost. Nothing is
    trained, and the data need not be here where the study declares its size.

        scaling simulate experiments/isoflop.toml --law published:chinchilla-2022 --flops 1e14
        scaling simulate my_study.toml --law results/pilot/fits/chinchilla.json \\
            --noise-from results/pilot --fit-law chinchilla --flops 1e21 1e22

    Args:
        study: A study file.
        law: The truth: a file that `scaling fit` wrote, or a published law of `scaling laws`. N is
            counted as that law counts it.
        fit_law: Law that is fitted, if different from --law.
        flops: Compute budgets to recommend for; by default the power of ten above the largest run.
        noise: Standard deviation of log loss between branches of one trunk. By default that of the
            replicate seeds of the fit that is the truth; without any, that of the tiny models of
            results/reference/isoflop: .0045. Runs at lower losses differ less.
        seed_noise: The same between trunks, shared by their branches; .0058 in
            results/reference/isoflop.
        noise_from: Take both from the replicate seeds of this results folder or run table.
        run_table: How the table of --noise-from is read.
        noise_power: Let both fall as this power of the loss, from the plan's largest loss down;
            Porian et al. (2024) measured 2.8.
        repeats: Number of simulated studies.
        level: Level of all intervals.
        seed: Random seed.
        by: Where each study's N* is from, as in `recommend`. The runs' own minima have intervals
            widened by the error of such minima on published tables, however good the plan is.
        plot: Draw every study's intervals into this folder.
    """
    from analysis.design.simulate import above_chance, params_column
    from analysis.design.simulate import simulate as simulated
    from experiments.cli.join.identifiability import few_trunks
    from experiments.cli.join.plan import plan_file
    from experiments.cli.join.saved import law_source

    truth = law_source(law)
    column = params_column(truth)
    scatter = _noise(truth, noise, seed_noise, noise_from, run_table, noise_power, column)
    planned = plan_file(study)
    design = design_of(planned, column)
    budgets = each_once("--flops", numbers("--flops", flops))
    found = simulated(
        truth, design, law=fit_law, noise=scatter, flops=budgets, repeats=repeats,
        level=level, seed=seed, by=by, watch=_progress,
    )  # fmt: skip
    doubts = above_chance(truth, design, planned.plan.corpus.vocab_size)
    if fit_law in (None, truth.law.name):
        doubts += few_trunks(truth.law, truth.coefficients, design)
    drawn: list[Path] = []
    try:
        if output.to_json:
            plan = _plan_json(planned, found, column)
            output.write({"plan": {**plan, "warnings": doubts}, **found.json()})
        if plot:
            from analysis.figures.simulated import simulated_studies
            from analysis.figures.style import save

            made = simulated_studies(found)
            drawn = output.draw(plot, lambda into: save(made, into / "simulated_studies"))
    finally:  # where a disk is full, what was computed is shown at least
        for doubt in doubts:
            say(paragraph(f"Warning: {doubt}") + "\n")
        say(found.text())
    for path in drawn:
        say(str(path))
    say(f"Next: scaling run {study}")


def _noise(
    truth: Source, own: float | None, shared: float | None, runs: Path | None,
    run_table: TableOptions, power: float, column: str,
) -> Noise:  # fmt: skip
    """The noise of the options: as given, measured on `runs`, or the usual one."""
    from analysis.design.noise import REFERENCE, Noise, noise_of, usual_noise
    from analysis.runs.table import CORE, usable

    options = {"shared": shared, "own": own}
    given = {name: sd for name, sd in options.items() if sd is not None}
    if runs is None and not given:
        return usual_noise(truth, power)
    if runs is None:
        return replace(REFERENCE, power=power, source=Noise.source, **given)
    if given:
        raise Refusal(
            f"--noise-from {runs} measures what --noise and --seed-noise give. Leave one out."
        )
    table = usable(run_table.read(runs, CORE)).rows
    if column in table:
        table = table.assign(params=table[column])
    return noise_of(table, power, str(runs))


def design_of(planned: Planned, column: str) -> pd.DataFrame:
    """The plan's points as the fit will see them. Raises Refusal for a study with a sweep."""
    import pandas as pd

    plan = planned.plan
    if plan.study.sweep:
        raise Refusal(
            f"[sweep] {', '.join(plan.study.sweep)}: a law of params and tokens does not depend on "
            "it, so its variants would be simulated as replicates. Simulate the study without it."
        )
    name = column.removeprefix("params_")
    runs = [(getattr(run.params, name), run.tokens, run.trunk_id) for run in plan.points]
    rows = pd.DataFrame(runs, columns=["params", "tokens", "trunk_id"])
    return rows.astype({"params": float, "tokens": float})


def _plan_json(planned: Planned, found: Simulation, column: str) -> dict[str, Any]:
    params, tokens = found.plan["params"], found.plan["tokens"]
    return {
        "study": planned.plan.study.name,
        "runs": len(found.plan),
        "trunks": found.trunks,
        "params_column": column,
        "params": [float(params.min()), float(params.max())],
        "tokens": [float(tokens.min()), float(tokens.max())],
        "flops_max": found.flops_max,
        "flops_spent": planned.plan.flops_spent,
        "condition_number": planned.condition_number,
    }


def _progress(numbers: range) -> Iterator[int]:
    """The numbers, one by one; stderr shows how many are done, after the first and then rarely."""
    start = last = time.monotonic()
    for each in numbers:
        yield each
        now = time.monotonic()
        done = each - numbers.start + 1
        left = (len(numbers) - done) * (now - start) / done
        if now - last > LOG_SECONDS or (done == 1 and left > LOG_SECONDS):
            last = now
            say(f"{done}/{len(numbers)} studies simulated, {duration(left)} left", sys.stderr)
