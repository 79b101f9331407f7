"""`scaling fit`, `compare` and `laws`: from a run table to a law."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cli import (
    Assignments,
    Failed,
    JsonFile,
    Numbers,
    RunsPath,
    app,
    numbers,
)
from experiments.tables import AS_NAMED, Options, say_left_out
from experiments.text import columns, say
from scaling.store.records import Refusal, write_json

if TYPE_CHECKING:
    import pandas as pd

    from analysis.constraints import Prior
    from analysis.runs.sweep import Sweep


@app.command
def fit(
    runs: RunsPath,
    /,
    *,
    law: str = "chinchilla",
    run_table: Options = AS_NAMED,
    objective: str = "huber_log",
    delta: float = 1e-3,
    weights: str | None = None,
    fix: Assignments = (),
    prior: Assignments = (),
    cluster: str = "auto",
    best_of: str | None = None,
    bootstrap: int = 4000,
    level: float = 0.9,
    seed: int = 0,
    out: Path | None = None,
    to_json: JsonFile = None,
) -> None:
    """Fit a law to a run table: the global optimum, intervals, and what to doubt.

    RUNS is a results folder or a table with a row a run: CSV, JSON lines, Parquet or a
    spreadsheet. Columns of usual names are found, and what was taken for what is printed. Rows of
    one run, or of one trunk, count as one cluster; rows that repeat another count once; columns
    that differ at equal N and D are named. The fit is written to fits/<law>.json in a results
    folder, else to <file>.<law>.json, or to --out.

    N* ∝ C^a is also read off the lower envelope (1) and isoFLOP minima (2), beside the law (3):
    approach 2 where budgets are equal in 6ND of the N fitted, its interval a jackknife over sizes
    where budgets have sizes in common. A swept study has its settings in the column `variant`: the
    law is fitted through all, with a warning, and approaches 1 and 2 wait for --where to pick one.

        scaling fit results/quickstart --law chinchilla
        scaling fit my_runs.csv --loss-column val_loss --where 'tokens>=5e8'
        scaling fit results/sweep --where 'variant==training.learning_rate_factor=0.5'
        scaling fit results/sweep --best-of learning_rate
        scaling fit my_runs.csv --fix alpha=0.34 --prior E=1.8:0.1

    Args:
        runs: A results folder, or a table: CSV, JSON lines, Parquet, spreadsheet.
        law: A law that `scaling laws` lists; yours too, once its package is installed.
        run_table: How the table is read. With --params-column all the law is fitted under each
            count of parameters too, and the spread printed.
        objective: What is minimised, summed over runs.
        delta: Where Huber's loss turns from square to linear, in log-loss.
        weights: Column that multiplies each row's penalty.
        fix: Coefficients held at a value, as NAME=VALUE.
        prior: What is known of coefficients, as NAME=VALUE:SD; SD is relative for amplitudes.
        cluster: Column that names the runs whose rows share noise, or `none`; by itself it is
            trunk_id, else a column that names runs.
        best_of: Column that was swept, such as learning_rate: print its best value at each N and
            D, and fit only the runs at it; a law of that column is fitted to the optima.
        bootstrap: Resamples; 0 leaves the intervals out.
        level: Of the intervals.
        seed: Of the resampling.
        out: Write the fit to this file, which ends in .json.
        to_json: Write the fit to this file too; one that failed is written to it alone.
    """
    from analysis.approaches import approaches, comparable
    from analysis.conventions import by_convention, counts
    from analysis.fit import Status, save_fit
    from analysis.fit import fit as fit_law
    from analysis.fit_file import fit_path, refuse_name, refuse_other, refuse_unwritable
    from analysis.forecast import leave_out_largest
    from analysis.laws import law as law_named
    from analysis.objective import objective as objective_named
    from analysis.runs.sweep import best_rows, optima, sweep
    from analysis.runs.sweep import to_json as sweep_json
    from experiments.fit_text import (
        approaches_text,
        conventions_json,
        conventions_text,
        ending,
        exponents_text,
        next_text,
    )

    named = law_named(law)
    require = (*named.features, named.target, *filter(None, [weights, best_of]))
    may_be_signed = [] if objective_named(objective, delta).log else [named.target]
    signed = [*filter(None, [best_of]), *may_be_signed]
    every_count = run_table.params_column == "all"
    if every_count:
        run_table = replace(run_table, params_column=None)
    table = run_table.read(runs, require, signed)
    # A count is read as the table is: in its units, and with D of FLOPs by the N that is counted.
    tables = {
        column: replace(run_table, params_column=column).load(runs, require, signed)
        for column in (counts(table) if every_count else ())
    }
    also: dict[str, Any] = {}
    if best_of is not None:
        swept = _swept(table, best_of, level)
        also["best_of"] = sweep_json(swept)
        chosen = optima if named.target == best_of else best_rows
        table = chosen(table, swept)
        tables = {n: chosen(t, sweep(t, best_of, level=level)) for n, t in tables.items()}
    path = out or fit_path(runs, law)
    for option, file in {"--out": path, "--json": to_json}.items():
        if file is not None:
            refuse_name(file)
            remedy = f"Give a file elsewhere with {option} FILE.json."
            refuse_unwritable(file, remedy)
            refuse_other(file, remedy)
    settings: dict[str, Any] = {
        "objective": objective,
        "delta": delta,
        "weights": weights,
        "cluster": cluster,
        "fixed": {name: _number("--fix", text) for name, text in _pairs("--fix", fix)},
        "prior": {name: _prior(text) for name, text in _pairs("--prior", prior)},
    }
    each = by_convention(named, tables, **settings)

    def estimated(coefficients: Mapping[str, float]) -> None:
        if bootstrap:
            values = "  ".join(f"{name} {value:.4g}" for name, value in coefficients.items())
            say(f"{law}: {values}; intervals follow\n")

    fitted = fit_law(
        named, table, bootstrap=bootstrap, level=level, seed=seed, on_estimate=estimated, **settings
    )
    texts = [fitted.summary()]
    doubts: list[str] = []
    if comparable(named):
        read = approaches(fitted)
        doubts += read.cautions
        also["approaches"] = read.to_json()
        texts.append(approaches_text(read))
    if each:
        also["conventions"] = conventions_json(each)
        texts.append(conventions_text(each))
        if comparable(named):
            by_count = {e.column: approaches(e.fit) for e in each}
            also["approaches_by_count"] = {n: a.to_json() for n, a in by_count.items()}
            texts.append(exponents_text(by_count))
    held_out = leave_out_largest(fitted)
    also["largest_left_out"] = {**asdict(held_out), "error": held_out.error}
    texts.append(held_out.sentence)
    doubts += held_out.cautions
    if doubts:
        lines = [textwrap.fill(f"warning: {each}", 92, subsequent_indent="  ") for each in doubts]
        texts.append("\n".join(lines))
    fitted = fitted.doubted(doubts)
    failed, existed = fitted.status is Status.FAILED, path.exists()
    try:
        if not failed:  # from which nothing can be answered, unlike one that may be there
            save_fit(fitted, path, also)
        if to_json is not None:
            save_fit(fitted, to_json, also)
    finally:  # where a disk is full, what was computed is shown at least
        say("\n\n".join(texts))
    if failed:
        kept = f"{path} keeps the fit of before" if existed else f"{path} is not written"
        say(f"\n{ending(fitted)}\n{kept}")
        raise Failed(f"the fit failed: {fitted.reason}")
    say(f"\n{ending(fitted)}\nFitted {law} → {path}{' (replaced)' if existed else ''}")
    if advised := next_text(fitted, path):
        say(advised)


def _swept(table: pd.DataFrame, column: str, level: float) -> Sweep:
    """The best of a swept column, printed at once: it stands whatever becomes of the law."""
    from analysis.runs.sweep import sweep
    from experiments.fit_text import sweep_text

    found = sweep(table, column, level=level)
    say(sweep_text(found, table.attrs["params_column"]) + "\n")
    return found


def _pairs(option: str, words: tuple[str, ...]) -> list[tuple[str, str]]:
    """NAME=VALUE words, split."""
    for word in words:
        if "=" not in word:
            raise Refusal(f"{option} {word!r}: give NAME=VALUE, e.g. alpha=0.34.")
    return [(word.split("=", 1)[0], word.split("=", 1)[1]) for word in words]


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise Refusal(f"{option}: {text!r} is not a number.") from None


def _prior(text: str) -> Prior:
    from analysis.constraints import Prior

    value, found, sd = text.partition(":")
    if not found:
        raise Refusal(f"--prior {text!r}: give NAME=VALUE:SD, e.g. E=1.8:0.1.")
    return Prior(_number("--prior", value), _number("--prior", sd))


@app.command
def compare(
    runs: RunsPath,
    /,
    *,
    laws: str,
    cut: Numbers = (),
    run_table: Options = AS_NAMED,
    to_json: JsonFile = None,
) -> None:
    """Say which law forecasts best: fit each below a compute cut, score it above.

    A lower objective on the rows that were fitted is no evidence; a forecast of larger runs is.
    The last rows are the mean over the later runs, each counted once though several cuts score it.
    "Inside 90%" is the share of the later runs in the intervals that `scaling predict` gives them,
    next to it that in the intervals of the curve alone. A law is the best only where the difference
    of its error to that of every other is clear: an interval of that difference, from the later
    runs, each counted once and those off one trunk together, then lies above 0.

        scaling compare results/quickstart --laws chinchilla,kaplan_nd
        scaling compare my_runs.csv --laws chinchilla,kaplan_nd --cut 1e20 3e20

    Args:
        runs: A results folder, or a table: CSV, JSON lines, Parquet, spreadsheet.
        laws: Names from `scaling laws`, with commas between.
        cut: Fit runs of at most this many FLOPs (6ND); by default at 50, 70 and 85% of the runs.
        run_table: How the table is read.
        to_json: Write the scores to this file too.
    """
    from analysis.compare import compare as compared
    from analysis.laws import law as law_named
    from analysis.runs.table import usable
    from analysis.units import scientific

    named = [law_named(name.strip()) for name in _listed(laws)]
    features = dict.fromkeys(column for each in named for column in each.features)
    table = run_table.read(runs, require=(*features, named[0].target))
    say_left_out(usable(table).excluded)
    found = compared(
        table,
        named,
        cuts=numbers("--cut", cut) or None,
    )
    rows = [
        [
            scientific(each.flops),
            score.law,
            str(score.n_fit),
            str(score.n_test),
            "" if math.isnan(score.mean_abs_rel_error) else f"{score.mean_abs_rel_error:.2%}",
            "" if math.isnan(score.coverage) else f"{score.coverage:.0%}",
            "" if math.isnan(score.curve_coverage) else f"{score.curve_coverage:.0%}",
            score.reason,
        ]
        for each in found.cuts
        for score in each.laws
    ]
    rows += [
        ["each run once", name, "", str(found.later), f"{error:.2%}", "", "", ""]
        for name, error in [(found.least, found.error), *((r.law, r.error) for r in found.rivals)]
    ]
    header = ["fitted up to", "law", "runs", "scored", "mean error", "inside 90%", "(curve)", "fit"]
    if to_json:
        write_json(to_json, found.to_json())
    say(columns(header, rows))
    for warning in found.warnings:  # before the verdict, which whoever reads one line reads
        say("\n" + textwrap.fill(f"Warning: {warning}", 100, subsequent_indent="  "))
    say(f"\n{textwrap.fill(found.verdict, 100)}")


def _listed(laws: str) -> list[str]:
    """The names between commas; the columns of `separable:x,y` belong to it."""
    from analysis.laws import LAWS, own_laws

    known = {*LAWS, *own_laws(), "separable"}
    names: list[str] = []
    for word in laws.split(","):
        begins = word.partition(":")[0].strip() in known
        if names and names[-1].startswith("separable:") and not begins:
            names[-1] += f",{word}"
        else:
            names.append(word)
    return names


@app.command
def laws(*, to_json: JsonFile = None) -> None:
    """List the laws that can be fitted, and the published coefficients.

    Args:
        to_json: Write the registry to this file too.
    """
    from analysis.laws import GROUP, LAWS, own_law, own_laws
    from analysis.published import PUBLISHED

    known, broken = list(LAWS.values()), []
    for name in own_laws():
        try:
            known.append(own_law(name))
        except Refusal as refusal:
            broken.append(str(refusal))
    if to_json:
        write_json(
            to_json,
            {
                "laws": [
                    {
                        "name": each.name,
                        "formula": each.formula,
                        "coefficients": list(each.coefficients),
                        "features": list(each.features),
                        "source": each.source,
                    }
                    for each in known
                ],
                "published": [
                    {
                        "name": entry.name,
                        "law": entry.law.name,
                        "coefficients": dict(entry.coefficients),
                        "params_convention": entry.params_convention,
                        "source": entry.source,
                    }
                    for entry in PUBLISHED.values()
                ],
            },
        )
    for each in known:
        say(f"{each.name}\n    {each.formula}\n    {', '.join(each.coefficients)}; {each.source}")
    say("\nOver columns of yours: separable:COLUMN,COLUMN and bnsl_1:COLUMN to bnsl_3:COLUMN")
    say(
        "Over whole learning-rate schedules, in Python: analysis.schedule.fit (the multi-power law)"
    )
    say("\n".join(broken) or f"Laws of yours: entry points of installed packages in {GROUP}")
    say("\nPublished coefficients, as published:NAME\n")
    for entry in PUBLISHED.values():
        values = ", ".join(f"{name} = {value:g}" for name, value in entry.coefficients.items())
        say(f"{entry.name}\n    {entry.law.name}: {values}")
        say(f"    N counts {entry.params_convention}; {entry.source}")
