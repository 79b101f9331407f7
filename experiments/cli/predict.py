"""`scaling predict`: the loss that a law forecasts for runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.text import decimal, ends, human, paragraph, scientific
from experiments.cli.app import (
    File,
    LawSource,
    Number,
    Numbers,
    app,
    number,
    numbers,
)
from experiments.cli.output import TO_TERMINAL, Outputs
from experiments.cli.table_options import AS_NAMED, Options, TableOptions, say_left_out
from experiments.cli.text import rows_text, say
from scaling.store.records import Refusal

if TYPE_CHECKING:
    import pandas as pd

    from analysis.fitting.source import Source
    from analysis.forecast.predict import Prediction
    from analysis.laws.law import Law

FEW = 8  # predictions that are sentences; of more there is a table


@app.command
def predict(
    source: LawSource,
    /,
    *,
    params: Numbers = (),
    tokens: Numbers = (),
    flops: Numbers = (),
    table: File = None,
    unique_tokens: Number = None,
    observed: Number = None,
    level: float | None = None,
    plain: bool = False,
    output: Outputs = TO_TERMINAL,
    run_table: Options = AS_NAMED,
) -> None:
    """Predict the loss of runs, given by --params and --tokens or as rows of a table.

    Give the features of the law: for a law of N alone, --params is enough. A law of something other
    than the loss, such as a learning rate, predicts that.

    A loss is forecast by three fits to the same runs together, in which runs of more compute weigh
    more and more, whatever law was fitted; what that law says alone stands beside it, and is all
    with --plain. The forecast interval is that of one run's loss: the errors of the coefficients,
    the scatter of runs, more beyond the data, and how far the three fits differ there. On published
    tables 90% intervals held 94% of the larger runs (five sources), and 88% on tables that were not
    used to choose the method. Warnings about the fit are printed first.

        scaling predict published:chinchilla-2022 --params 70e9 --tokens 1.4e12
        scaling predict results/quickstart/fits/chinchilla.json --params 2M --tokens 20M

    Args:
        params: N, counted as the law counts it; one for each run.
        tokens: D, one for each run.
        flops: C, one for each run, for a law of C; otherwise it is 6ND.
        table: Predict every row of this run table instead.
        unique_tokens: Number of different tokens that exist; training beyond them repeats data. If
            it exceeds a run's tokens, the run's tokens are used.
        observed: The loss that a single predicted run reached, in the unit of the fit (nats per
            token, byte or character; bits times ln 2 = 0.6931): print whether it is in the
            interval.
        level: Level of the intervals; the default is that of the fit.
        plain: Predict by the fitted law alone.
        run_table: The columns and rows of --table; by default, N is the column that was fitted.
    """
    from analysis.fitting.fit import Fit
    from analysis.forecast.predict import forecast_warnings, law_predictions, predictions
    from analysis.forecast.warnings import assumptions
    from analysis.laws.repeated import limit
    from analysis.runs.columns.units import TOKEN
    from experiments.cli.join.saved import law_source

    law = law_source(source)
    unique, seen = number("--unique-tokens", unique_tokens), number("--observed", observed)
    given = {"params": params, "tokens": tokens, "flops": flops}
    _refuse_other_runs(table, given, run_table)
    rows = _named(law.law, given, unique) if table is None else _read(law, table, run_table, unique)
    if seen is not None and len(rows) != 1:
        raise Refusal(
            f"--observed {observed} is the loss of one run, and {len(rows)} are predicted. Name "
            "one run, or leave it out."
        )
    if unique is not None:
        rows = rows.assign(unique_tokens=unique)
        if "unique_tokens" not in law.law.features:
            law = replace(law, law=limit(law.law, unique))
    found = (law_predictions if plain else predictions)(law, rows, level=level)
    warnings = [*forecast_warnings(law, rows, found), *_other_count(law, rows)]
    if output.to_json:
        written = [each.to_json() for each in found]
        about = {"warnings": warnings, "assumed": assumptions(law)}
        output.write({"predictions": written, **about})
    for warning in warnings:
        say(paragraph(f"Warning: {warning}"))
    say(predictions_text(found))
    if seen is not None:
        unit = law.data.loss_unit if isinstance(law, Fit) else TOKEN
        say(paragraph(found[0].verdict(seen, unit)))
    say(paragraph(assumptions(law)))
    if advised := next_text(source, law, rows):
        say(advised)


def _read(law: Source, path: Path, options: TableOptions, unique: float | None) -> pd.DataFrame:
    """The rows of a run table with the features of the law, but for unique tokens if given."""
    from analysis.runs.table import valid

    known = () if unique is None else ("unique_tokens",)
    needed = [name for name in law.law.features if name not in known]
    selected = valid(_counting(options, law, path).read(path, require=needed))
    say_left_out(selected.excluded)
    return selected.rows


def _refuse_other_runs(
    table: Path | None, given: Mapping[str, tuple[str, ...]], run_table: TableOptions
) -> None:
    """Raise Refusal for runs that are given twice, and for options of a table without one."""
    named = [_option(name) for name, words in given.items() if words]
    if table is not None and named:
        raise Refusal(
            f"--table {table} has the runs, and {', '.join(named)} names others. Give one of them."
        )
    if table is None and run_table != AS_NAMED:
        raise Refusal(
            "options of the columns and rows are for a table, and there is none. Give --table "
            "RUNS, or leave them out."
        )
    if len(named) == len(given):
        raise Refusal(
            f"--flops is 6ND of {' and '.join(named[:2])}, and all are given. Leave out one."
        )


def _named(law: Law, given: Mapping[str, tuple[str, ...]], unique: float | None) -> pd.DataFrame:
    """The runs that options name. Features that the law does not use may be given too.

    Raises Refusal for a feature of the law that is not given, and for values of unequal number.
    """
    import pandas as pd

    columns = {name: numbers(_option(name), words) for name, words in given.items() if words}
    known = {*columns} | ({"unique_tokens"} if unique is not None else set())
    if {"params", "tokens"} <= known:
        known.add("flops")
    missing = [name for name in law.features if name not in known]
    if other := [name for name in missing if name not in (*given, "unique_tokens")]:
        raise Refusal(
            f"{law.name} needs {', '.join(other)}, which no option gives. Give --table RUNS with "
            f"the columns {', '.join(law.features)}."
        )
    if missing:
        options = " and ".join(map(_option, missing))
        raise Refusal(f"{law.name} needs {', '.join(missing)}. Give {options}, or --table RUNS.")
    if len({len(values) for values in columns.values()}) != 1:
        counts = " and ".join(f"{_option(n)} {len(values)}" for n, values in columns.items())
        raise Refusal(f"unequal numbers of values, {counts}: give one of each for each run.")
    return pd.DataFrame(columns)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _counting(options: TableOptions, law: Source, table: Path) -> TableOptions:
    """The options with N from the column that the law was fitted to, if the table has this column
    and no other is named."""
    column = _count_of(law)
    # A column called `params` is found without being named.
    if column in (None, "params") or options.params_column:
        return options
    return replace(options, params_column=column) if column in options.load(table, ()) else options


def _count_of(law: Source) -> str | None:
    """The column of N that a law was fitted to; None for published laws and laws without N."""
    from analysis.fitting.fit import Fit

    if isinstance(law, Fit) and "params" in law.law.features:
        return law.data.params_column
    return None


def _other_count(law: Source, rows: pd.DataFrame) -> list[str]:
    """A warning where N was read from a column of another name than the law was fitted to."""
    read, fitted = rows.attrs.get("params_column"), _count_of(law)
    if None in (read, fitted) or read == fitted:
        return []
    return [
        f"N of the table is its column {read}, and the fit is by {fitted}. If these "
        "count different parameters, name the column that counts as the fit does: --params-column."
    ]


def predictions_text(predictions: Sequence[Prediction]) -> str:
    """A sentence for each of few predictions, a table of many."""
    if len(predictions) <= FEW:
        return "\n".join(paragraph(each.sentence) for each in predictions)
    first = predictions[0]
    level = "" if first.level is None else f"{first.level:.0%} "
    return rows_text(
        {
            **{name: human(value) for name, value in each.features.items()},
            each.target: decimal(each.loss, each.interval),
            f"{level}forecast": ends(decimal, each.loss, each.interval).strip(),
            **(
                {}
                if each.law_loss is None
                else {"the law alone": decimal(each.law_loss, each.curve)}
            ),
            "its curve": ends(decimal, each.loss, each.curve).strip(),
            "decades beyond": f"{each.decades_beyond:.2g}" if each.decades_beyond else "",
            **({"the fit is": each.doubt} if each.doubt else {}),
        }
        for each in predictions
    )


def _by_law(each: Prediction) -> float:
    """What the fitted law alone says."""
    return each.loss if each.law_loss is None else each.law_loss


def next_text(source: str, law: Source, rows: pd.DataFrame) -> str:
    """The command that says how to spend the compute of the largest run; empty where none can."""
    from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN

    if law.law.target != "loss" or set(law.law.features) != {"params", "tokens"}:
        return ""
    flops = FLOPS_PER_PARAM_TOKEN * float((rows["params"] * rows["tokens"]).max())
    return f"Next: scaling recommend {source} --flops {scientific(flops)}"
