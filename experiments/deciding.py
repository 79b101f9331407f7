"""`scaling predict` and `recommend`: from a law to a decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from experiments.cli import (
    JsonFile,
    LawSource,
    Number,
    Numbers,
    app,
    law_source,
    number,
    numbers,
)
from experiments.tables import AS_NAMED, Options, TableOptions, say_left_out
from experiments.text import say
from scaling.store.records import Refusal, write_json
from scaling.study import read_study

if TYPE_CHECKING:
    import pandas as pd

    from analysis.fit import Fit
    from analysis.laws import Law
    from analysis.published import Published

Rules = Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="RULE …")]


@app.command
def predict(
    source: LawSource,
    /,
    *,
    params: Numbers = (),
    tokens: Numbers = (),
    flops: Numbers = (),
    table: Path | None = None,
    unique_tokens: Number = None,
    run_table: Options = AS_NAMED,
    observed: float | None = None,
    level: float | None = None,
    to_json: JsonFile = None,
) -> None:
    """Predict the loss of runs: one by --params and --tokens, or every row of a table.

    A law needs what it is a law of: of N alone, --params will do. A law of anything but the loss,
    such as a learning rate, predicts that.

    The interval is that of one run's loss: the uncertainty of the curve and the scatter of runs
    about it, which grows with the distance beyond the data as it did in published runs of five
    sources. Of those, intervals of 90% held 90% of the larger runs (81 to 98% by source); of tables
    that nobody had looked at before, 78%. The interval of the curve alone, printed too, is narrower
    still. What is doubtful about the fit comes first.

        scaling predict published:chinchilla-2022 --params 70e9 --tokens 1.4e12
        scaling predict results/quickstart/fits/chinchilla.json --params 2M --tokens 20M

    Args:
        source: A file that `scaling fit` wrote, or a published law of `scaling laws`.
        params: N, in the convention of the law; one for each run.
        tokens: D, one for each run.
        flops: C, one for each run, for a law of it; else it is 6ND.
        table: Predict every row of this run table instead.
        unique_tokens: Different tokens that exist; beyond them data repeats. Of more than a run
            trains on, as many as it trains on are used.
        run_table: How --table is read; N, by default, from the column the law was fitted to.
        observed: The loss that a single predicted run came to, in the unit of the fit (nats per
            token, byte or character: bits times ln 2 = 0.6931): did it fall inside?
        level: Of the intervals; by default that of the fit.
        to_json: Write the predictions to this file too.
    """
    import pandas as pd

    from analysis.caution import assumptions
    from analysis.fit import Fit
    from analysis.forecast import forecast_warnings
    from analysis.forecast import predict as predicted
    from analysis.limited import limit
    from analysis.runs.columns import TOKEN
    from analysis.runs.table import valid

    law = law_source(source)
    unique = number("--unique-tokens", unique_tokens)
    if table is None:
        given = {"params": params, "tokens": tokens, "flops": flops}
        rows = pd.DataFrame(_asked(law.law, given, unique))
    else:
        known = () if unique is None else ("unique_tokens",)
        needed = [name for name in law.law.features if name not in known]
        selected = valid(_counting(run_table, law, table).read(table, require=needed))
        say_left_out(selected.excluded)
        rows = selected.rows
    if observed is not None and len(rows) != 1:
        raise Refusal(f"--observed is one loss, and there are {len(rows)} runs. Give --table.")
    if unique is not None:
        rows = rows.assign(unique_tokens=unique)
        if "unique_tokens" not in law.law.features:
            law = replace(law, law=limit(law.law, unique))
    predictions = predicted(law, rows, level=level)
    warnings = [*forecast_warnings(law, rows, predictions), *_other_count(law, rows)]
    if to_json:
        written = [each.to_json() for each in predictions]
        write_json(
            to_json,
            {"predictions": written, "warnings": warnings, "assumed": assumptions(law)},
        )
    for warning in warnings:
        say(f"Warning: {warning}")
    for each in predictions:
        say(each.sentence)
    if observed is not None:
        unit = law.data.loss_unit if isinstance(law, Fit) else TOKEN
        say(predictions[0].verdict(observed, unit))
    say(assumptions(law))


def _asked(
    law: Law, given: Mapping[str, tuple[str, ...]], unique: float | None
) -> dict[str, list[float]]:
    """The runs that options ask about. What the law does not use may be given or left out.

    Raises Refusal for a feature of the law that is not given, and for values of unequal number.
    """
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
    if "flops" in law.features and len(columns) == len(given):
        raise Refusal(f"{law.name} is a law of C. Give --flops, or --params and --tokens for 6ND.")
    return columns


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _counting(options: TableOptions, law: Fit | Published, table: Path) -> TableOptions:
    """The options with N of the column that the law was fitted to, where the table has it and no
    other is named."""
    column = _count_of(law)
    # By the name `params` it is found first, and every table that was read has it.
    if column in (None, "params") or options.params_column:
        return options
    return replace(options, params_column=column) if column in options.load(table, ()) else options


def _count_of(law: Fit | Published) -> str | None:
    """The column that a law of params was fitted to; None for published ones."""
    from analysis.fit import Fit

    if isinstance(law, Fit) and "params" in law.law.features:
        return law.data.params_column
    return None


def _other_count(law: Fit | Published, rows: pd.DataFrame) -> list[str]:
    """A warning where N was read from a column of another name than the law was fitted to."""
    read, fitted = rows.attrs.get("params_column"), _count_of(law)
    if None in (read, fitted) or read == fitted:
        return []
    return [
        f"N of the table is its column {read}, and the fit is by {fitted}. If these "
        "count different parameters, name the column that counts as the fit does: --params-column."
    ]


@app.command
def recommend(
    source: LawSource,
    /,
    *,
    flops: Numbers = (),
    loss: Number = None,
    params: Number = None,
    tokens: Number = None,
    served: Number = None,
    unique_tokens: Number = None,
    by: Literal["law", "runs"] | None = None,
    flop_count: Literal["6nd", "exact"] = "6nd",
    study: Path | None = None,
    flat_bottom: bool = False,
    beside: bool = False,
    rules: Rules = None,
    device: str | None = None,
    devices: Path | None = None,
    count: int = 1,
    mfu: float | None = None,
    dtype: str = "bf16",
    level: float | None = None,
    plot: Path | None = None,
    to_json: JsonFile = None,
) -> None:
    """Say how large a model to train, and on how many tokens.

    For a budget, N* and D* are those of least loss at C = 6ND, with N in the convention of the
    fit: by the law, or by the runs' own minima where it misfits near them. Instead of a budget: a
    --loss to reach at least compute, a model size, or a number of tokens. A fit from a results
    folder also names the nearest shape its study can build.

        scaling recommend results/quickstart/fits/chinchilla.json --flops 1e14 1e15
        scaling recommend published:chinchilla-2022 --flops 5.76e23 --flat-bottom --beside
        scaling recommend published:besiroglu-2024 --loss 2.1 --served 2T
        scaling recommend published:muennighoff-2023 --flops 1e22 --unique-tokens 25B
        scaling recommend published:besiroglu-2024 --flops 1e22 --rules --plot figures \\
            --study experiments/accelerator.toml --flop-count exact \\
            --device h100-sxm --count 256 --mfu 0.4

    Args:
        source: A file that `scaling fit` wrote, or a published law of `scaling laws`.
        flops: Training budgets.
        loss: Reach this loss, in nats/token, for the least compute.
        params: Train a model of this size.
        tokens: Train on this many tokens.
        served: With --loss, tokens the model will read and write in use, paid for at 2N each.
        unique_tokens: Different tokens that exist; beyond them data repeats.
        by: Where N* is from: the law's optimum, or the valley that the fit's own runs show, carried
            on in compute (the law gives the loss there). By default as either describes runs left
            out of it: the runs, the law where it does so far better, in between a mean of both.
        flop_count: What a budget counts: 6ND, or exactly what the shapes of a ladder cost.
        study: A study file whose ladder builds the shapes, if not the one beside the fit.
        flat_bottom: Which other sizes and shapes are nearly as good; the price of being off by 2×.
        beside: Other laws on the same runs, other counts of N, and what Hoffmann, Besiroglu and
            Kaplan would train instead.
        rules: Learning rate and batch by these: steplaw-2025, deepseek-2024, kaplan-2020, or fits
            of steplaw_lr and steplaw_batch; all published ones if none is named.
        device: Time and money on this device; names and sources are in models/devices.toml.
        devices: A file of devices and prices of your own, in the form of that one.
        count: Of devices.
        mfu: Share of the device's peak that training reaches: measured, there is no default.
        dtype: Number format of the peak.
        level: Of the intervals; by default that of the fit.
        plot: Draw the loss, N* and D*, and tokens per parameter against compute, and the map of the
            loss, into this folder, with the runs recommended marked.
        to_json: Write the recommendations to this file too.
    """
    from analysis.buildable import answer_exactly
    from analysis.decide import decide
    from analysis.recommend import Ask, convention, to_text
    from analysis.recommend import to_json as as_json
    from experiments import advice as parts

    law = law_source(source)
    chosen_device = parts.device_asked(device, devices, mfu)
    shapes = None
    if (ladder := study or _study_beside(source)) is not None:
        from experiments.shapes import shapes_of

        shapes = shapes_of(read_study(ladder), convention(law))
    if flop_count == "exact" and shapes is None:
        raise Refusal(
            "--flop-count exact counts the shapes of a ladder. Give --study STUDY.toml whose "
            "[model] builds sizes."
        )
    around = "--flat-bottom and --beside look around the best run to train on fresh tokens"
    if (flat_bottom or beside) and unique_tokens is not None:
        raise Refusal(f"{around}. Give them without --unique-tokens {unique_tokens}.")
    if (flat_bottom or beside) and served is not None:
        raise Refusal(f"{around}, not to serve. Give them without --served {served}.")
    known: dict[str, Any] = {
        "loss": number("--loss", loss),
        "params": number("--params", params),
        "tokens": number("--tokens", tokens),
        "served": number("--served", served) or 0.0,
        "unique_tokens": number("--unique-tokens", unique_tokens),
    }
    asks = [Ask(flops=each, **known) for each in numbers("--flops", flops)] or [Ask(**known)]
    build = None if shapes is None else shapes.nearest
    advice = decide(law, asks, by=by, level=level, build=build)
    valley = None if advice[0].chosen is None else advice[0].chosen.valley
    # One set of shapes: what is named the best is the best of what is shown.
    offered = []
    if shapes is not None and (flop_count == "exact" or (flat_bottom and flops)):
        offered = parts.shapes_around(law, advice, shapes, flop_count)
    if flop_count == "exact":
        advice = [
            answer_exactly(law, each, shown, level=level)
            for each, shown in zip(advice, offered, strict=True)
        ]
    found = []
    if shapes is not None and flop_count == "6nd":
        found.append(parts.nearest_shapes(advice))
    if offered:
        found.append(parts.shape_tables(advice, offered, flop_count))
    if flat_bottom:
        found.append(parts.flat_bottoms(law, advice, valley))
    if beside:
        found.append(parts.others(law, source, advice, valley))
    if rules is not None:
        found.append(parts.rule_tables(law, advice, rules, shapes))
    if chosen_device is not None and mfu is not None:
        found.append(parts.bills(advice, chosen_device, count, mfu, dtype))
    # Printed last: whatever is refused is refused before, and what reads the text may stop early.
    drawn = [] if plot is None else parts.draw(law, advice, plot)
    if to_json:
        write_json(to_json, {**as_json(law, advice, flop_count), **parts.collected(found)})
    say("\n\n".join([to_text(law, advice, flop_count), *(part.text for part in found)]))
    for path in drawn:
        say(str(path))


def _study_beside(source: str) -> Path | None:
    """The study file of the results folder that a fit lies in, if it lies in one."""
    fit = Path(source)
    path = fit.parent.parent / "study.toml"
    return path if fit.parent.name == "fits" and path.exists() else None
