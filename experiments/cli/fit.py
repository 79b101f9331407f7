"""`scaling fit`: from a run table to a law."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro

from analysis.text import paragraph
from experiments.cli.app import (
    Assignments,
    Column,
    Failed,
    File,
    JsonFile,
    RunsPath,
    app,
    described,
)
from experiments.cli.output import Output
from experiments.cli.table_options import AS_NAMED, Options, TableOptions
from experiments.cli.text import Part, joined, say
from experiments.cli.words import pairs
from scaling.store.records import Refusal, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

    from analysis.allocation.conventions import Convention
    from analysis.fitting.fit import Fit
    from analysis.laws.law import Law
    from analysis.runs.sweep import Sweep
    from analysis.solver.priors import Prior

Value = TypeVar("Value")
Name = Annotated[str, tyro.conf.arg(metavar="NAME")]
Priors = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE:SD …")]


@dataclass(frozen=True)
@described
class Method:
    """How coefficients are estimated: the objective, and prior knowledge.

    Args:
        objective: Penalty of a residual; the fit minimises its sum over runs.
        delta: Residual in log loss at which Huber's penalty turns from quadratic to linear.
        weights: Column of weights, by which each row's penalty is multiplied.
        fix: Coefficients to hold at a value, as NAME=VALUE.
        prior: Prior knowledge of coefficients, as NAME=VALUE:SD; SD is relative for amplitudes.
        cluster: Column that names the runs whose rows share noise, or `none`. The default, auto,
            takes trunk_id, else a column that names runs.
    """

    objective: Literal["huber_log", "log_l2", "l2", "huber", "asymmetric"] = "huber_log"
    delta: float = 1e-3
    weights: Column = None
    fix: Assignments = ()
    prior: Priors = ()
    cluster: Annotated[str, tyro.conf.arg(metavar="COLUMN")] = "auto"

    def settings(self) -> dict[str, Any]:
        """The arguments of `analysis.fitting.fit.fit`. Raises Refusal for a bad value."""
        return {
            "objective": self.objective,
            "delta": self.delta,
            "weights": self.weights,
            "cluster": self.cluster,
            "fixed": _assigned("--fix", self.fix, float, "NAME=VALUE, e.g. alpha=0.34"),
            "prior": _assigned("--prior", self.prior, _prior, "NAME=VALUE:SD, e.g. E=1.8:0.1"),
        }


BY_DEFAULT = Method()
SWEEP_AT = ("params", "tokens", "loss")  # what every sweep has, and none is of


@dataclass(frozen=True)
class Rows:
    """The rows to fit, and the same rows with N of each column that counts parameters."""

    table: pd.DataFrame
    by_count: Mapping[str, pd.DataFrame]  # empty unless --params-column all
    sweep: Sweep | None  # the best values of --best-of


@app.command
def fit(
    runs: RunsPath,
    /,
    *,
    law: Name = "chinchilla",
    best_of: Column = None,
    bootstrap: int = 4000,
    level: float = 0.9,
    seed: int = 0,
    out: File = None,
    to_json: JsonFile = None,
    overwrite: bool = False,
    method: Annotated[Method, tyro.conf.OmitArgPrefixes] = BY_DEFAULT,
    run_table: Options = AS_NAMED,
) -> None:
    """Fit a law to a run table: the global optimum, intervals and warnings.

    RUNS is a results folder, or a table with one row per run: CSV, JSON lines, Parquet or a
    spreadsheet. Columns are found by their usual names, and how they were read is printed. Rows of
    one run, or of one trunk, form one cluster; a row that repeats another counts once. Columns that
    differ between runs of equal N and D are reported. The fit is written to fits/<law>.json in a
    results folder (fits/<law>.<set>.json with --loss-set), otherwise to <file>.<law>.json, or to
    --out. A fit that failed is written to --json alone.

    The exponent of N* ∝ C^a is estimated in three ways: from the lower envelope of the runs
    (approach 1), from isoFLOP minima (approach 2) and from the law (approach 3). Approach 2 needs
    budgets of equal 6ND in the N that is fitted; its interval is a jackknife over sizes where
    budgets share sizes. If a study swept a setting, its column `variant` names the settings: the
    law is then fitted to all variants, with a warning, and approaches 1 and 2 need --where to
    select one.

        scaling fit results/quickstart --law chinchilla
        scaling fit my_runs.csv --loss-column val_loss --where 'tokens>=5e8'
        scaling fit results/sweep --where 'variant==training.learning_rate_factor=0.5'
        scaling fit results/sweep --best-of learning_rate
        scaling fit results/web-mix --loss-set code
        scaling fit my_runs.csv --fix alpha=0.34 --prior E=1.8:0.1

    Args:
        law: Law to fit: one that `scaling laws` lists, or one from a package of yours.
        best_of: Swept column, such as learning_rate: print its best value at each N and D, and fit
            only the runs with that value. A law of this column is fitted to the best values.
        bootstrap: Number of bootstrap resamples; with 0, there are no intervals.
        level: Level of the intervals.
        seed: Random seed of the bootstrap.
        out: Write the fit to this file, which ends in .json.
        overwrite: Replace files even if they hold no fit, or if this command reads them.
        method: The law's coefficients minimise an objective, by default as in Hoffmann et al. 2022.
        run_table: The columns and rows to use. With --params-column all, the law is also fitted
            under each count of parameters, and the spread is printed.
    """
    from analysis.allocation.conventions import by_convention
    from analysis.fitting.files import fit_path, save_fit
    from analysis.fitting.fit import Status
    from analysis.fitting.fit import fit as fit_law
    from analysis.laws.catalogue import law as law_named
    from experiments.cli.join.unfinished import unfinished
    from experiments.cli.render import fit as shown

    named = law_named(law)
    rows = _read(runs, named, run_table, method, best_of, level)
    left = unfinished(runs)
    path = out or fit_path(runs, law, run_table.loss_set)
    _refuse_targets({"--out": path, "--json": to_json}, Output(overwrite=overwrite))
    settings = method.settings()
    each = by_convention(named, rows.by_count, **settings)

    def estimated(coefficients: Mapping[str, float]) -> None:
        if bootstrap:
            values = "  ".join(f"{name} {value:.4g}" for name, value in coefficients.items())
            say(f"{law}: {values}; intervals follow\n")

    fitted = fit_law(
        named, rows.table, bootstrap=bootstrap, level=level, seed=seed, on_estimate=estimated,
        **settings,
    )  # fmt: skip
    report = _checked(fitted, each, rows.sweep, left)
    fitted = fitted.doubted(report.warnings)
    failed, existed = fitted.status is Status.FAILED, path.exists()
    try:
        if not failed:  # a failed fit answers nothing, and an earlier one may be at `path`
            save_fit(fitted, path, report.json)
        if to_json is not None:
            save_fit(fitted, to_json, report.json)
    finally:  # where the disk is full, at least print what was computed
        say(report.text)
    if failed:
        kept = f"{path} keeps the earlier fit" if existed else f"{path} is not written"
        say(f"\n{shown.conclusion(fitted)}\n{kept}")
        raise Failed(f"the fit failed: {fitted.reason}")
    say(f"\n{shown.conclusion(fitted)}\nFitted {law} → {path}{' (replaced)' if existed else ''}")
    if advised := shown.next_text(fitted, path):
        say(advised)


def _read(
    runs: Path, law: Law, run_table: TableOptions, method: Method, best_of: str | None, level: float
) -> Rows:
    """The rows that a law is fitted to; the best values of a swept column are printed at once,
    since they stand whatever becomes of the law."""
    from analysis.allocation.conventions import counts
    from analysis.runs.sweep import chosen, sweep
    from analysis.solver.objective import objective
    from experiments.cli.render.fit import sweep_text

    if best_of in SWEEP_AT:
        raise Refusal(
            f"--best-of {best_of}: the best of a sweep is the one of least loss at each params and "
            "tokens. Name the column that was swept, such as learning_rate."
        )
    require = (*law.features, law.target, *filter(None, [method.weights, best_of]))
    may_be_negative = [] if objective(method.objective, method.delta).log else [law.target]
    signed = [*filter(None, [best_of]), *may_be_negative]
    every_count = run_table.params_column == "all"
    if every_count:
        run_table = replace(run_table, params_column=None)
    try:
        table = run_table.read(runs, require, signed)
    except Refusal:
        named_columns = {"--weights": method.weights, "--best-of": best_of}
        _refuse_absent(run_table.load(runs, ()), named_columns)
        raise
    # Each is read anew: D that is computed from C depends on the count of N.
    tables = {
        column: replace(run_table, params_column=column).load(runs, require, signed)
        for column in (counts(table) if every_count else ())
    }
    if best_of is None:
        return Rows(table, tables, None)
    swept = sweep(table, best_of, level=level)
    say(sweep_text(swept, table.attrs["params_column"]) + "\n")
    tables = {n: chosen(t, sweep(t, best_of, level=level), law.target) for n, t in tables.items()}
    return Rows(chosen(table, swept, law.target), tables, swept)


def _refuse_absent(table: pd.DataFrame, named: Mapping[str, str | None]) -> None:
    """Raise Refusal for a column that an option names and the table does not have."""
    from analysis.runs.messages import listing, name_of

    for option, column in named.items():
        if column is not None and column not in table:
            near = did_you_mean(column, map(str, table.columns)) or " Give one of these."
            raise Refusal(
                f"{option} {column}: {name_of(table)} has no such column; it has "
                f"{listing(table.columns)}.{near}"
            )


def _refuse_targets(files: Mapping[str, Path | None], output: Output) -> None:
    """Raise Refusal for a file, by its option, that a fit cannot or must not be written to."""
    from analysis.fitting.files import law_in, refuse_name, refuse_unwritable

    for option, file in files.items():
        if file is not None:
            refuse_name(file)
            refuse_unwritable(file, f"Give a file elsewhere with {option} FILE.json.")
            output.refuse(option, file, lambda path: law_in(path) is not None)


def _checked(fitted: Fit, each: list[Convention], swept: Sweep | None, left: Sequence[str]) -> Part:
    """The summary of a fit and its checks: approaches, counts of N, the largest run left out, and
    what is `left` of the grid."""
    from analysis.allocation.approaches import approaches, comparable
    from analysis.forecast.leave_out import leave_out_largest
    from analysis.runs.sweep import to_json as sweep_json
    from experiments.cli.render import fit as shown

    parts = [Part(fitted.summary(), {} if swept is None else {"best_of": sweep_json(swept)})]
    if comparable(fitted.law):
        parts.append(shown.approaches_part(approaches(fitted)))
    if each:
        parts.append(shown.conventions_part(each))
    if each and comparable(fitted.law):
        parts.append(shown.exponents_part({one.column: approaches(one.fit) for one in each}))
    parts.append(shown.left_out_part(leave_out_largest(fitted)))
    parts.append(Part("", {}, tuple(left)))
    warnings = "\n".join(paragraph(f"warning: {each}") for part in parts for each in part.warnings)
    return joined([*parts, Part(warnings, {})])


def _assigned(
    option: str, words: Sequence[str], read: Callable[[str], Value], form: str
) -> dict[str, Value]:
    """The values by the names of NAME=VALUE words. Raises Refusal for a word of another form."""
    values = {}
    for word, name, text in pairs(option, words):
        try:
            if not name:
                raise ValueError
            values[name] = read(text)
        except ValueError:
            raise Refusal(f"{option} {word!r}: give {form}.") from None
    return values


def _prior(text: str) -> Prior:
    """VALUE:SD. Raises ValueError for anything else."""
    from analysis.solver.priors import Prior

    value, sd = map(float, text.split(":"))
    return Prior(value, sd)
