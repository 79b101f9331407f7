"""`scaling emergence`: where a task's score rises, whether the rise is sharp, what comes next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from experiments.cli import Conditions, JsonFile, Number, Numbers, app, number, numbers
from experiments.text import say
from scaling.quantity import parse_quantity
from scaling.store.records import Refusal, write_json

if TYPE_CHECKING:
    from analysis.emergence.curve import Curve
    from analysis.emergence.foresee import Forecast
    from analysis.emergence.scores import Assumed, Scores
    from analysis.emergence.tidy import PerTask

Method = Literal["auto", "logistic", "power_log_prob", "two_step"]
ScoresPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SCORES")]
Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME …")]
Columns = Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN …")]
PerTaskWords = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NUMBER|TASK=NUMBER …")]
Range = Annotated[str | None, tyro.conf.arg(name="range", metavar="WORST,BEST")]


@app.command
def emergence(
    scores: ScoresPath,
    /,
    *,
    scale: str,
    metric: Names = (),
    task: Names = (),
    where: Conditions = (),
    completed: Names = (),
    chance: PerTaskWords = (),
    n: PerTaskWords = (),
    span: Range = None,
    value_columns: Columns = (),
    task_column: str | None = None,
    metric_column: str | None = None,
    value_column: str | None = None,
    n_column: str | None = None,
    stderr_column: str | None = None,
    chance_column: str | None = None,
    group_column: str | None = None,
    seed_column: str | None = None,
    run_column: str | None = None,
    by: Columns = (),
    join: Path | None = None,
    on: str | None = None,
    steps: Literal["ends", "all"] = "ends",
    reach: Numbers = (),
    answer_length: Number = None,
    answer_tokens: Number = None,
    cut: Number = None,
    at: Numbers = (),
    method: Method | None = None,
    level: float = 0.9,
    bootstrap: int = 400,
    seed: int = 0,
    plot: Path | None = None,
    to_json: JsonFile = None,
) -> None:
    """Find the scale at which a task's score rises, and say whether the rise is sharp.

    SCORES has one row per score: task, metric, value, the scale, and if known n (questions),
    stderr, chance (the score of guessing), group (models that share their noise), seed, run (whose
    checkpoints they are). Or one column per task (--value-columns). Or it is a results folder, or
    what `scaling eval --json` wrote. The threshold is the scale at which the fitted curve is
    half-way from chance to its highest level. A curve is `sharp` if a smooth one is rejected and
    10-90% of the rise takes under half a decade; `smooth`; `none`; or `undetermined`: too few or
    too noisy scores.

    With --cut, scores above it are forecast from those below, and compared with the scores seen and
    with two baselines: persistence (the scores of the largest scale seen) and, of shares, a
    logistic. Metrics pass@1, pass@2 and so on of one task give thresholds by attempts, pass@k by a
    power law, and size against attempts at one price.

        scaling emergence results/emergence --scale params --metric exact_match
        scaling emergence scores.csv --scale flops --metric acc --chance 0.25 --cut 1e22
        scaling emergence wide.csv --join models.csv --on Model --scale 'FLOPs (1E21)' \\
            --value-columns addition spelling --metric exact_match --n 1000 spelling=500

    Args:
        scores: A CSV, JSON or Parquet file, a results folder, or the JSON of `scaling eval`.
        scale: params, tokens, flops, loss, or a column's name. Of loss, less is more.
        metric: Which metrics, a curve each; two of one task are compared.
        task: Which tasks; all, if none is named.
        where: Only rows that meet these; column, operator, literal.
        completed: Words of the status of a run that came to its end, besides completed, done, ok.
        chance: Chance level, for all tasks or as TASK=LEVEL; 0 for answers written out.
        n: Questions behind each score, if no column says; for all tasks or as TASK=NUMBER.
        span: The metric's worst and best value, such as 0,100 for percent.
        value_columns: Columns of scores, a task each.
        task_column: If it is not `task`.
        metric_column: If it is not `metric`.
        value_column: If it is not `value`.
        n_column: If it is not `n`.
        stderr_column: If it is not `stderr`.
        chance_column: If it is not `chance`.
        group_column: If it is neither `group` nor `trunk_id`; models of a family are alike.
        seed_column: If it is not `seed`.
        run_column: The training run, if it is not `run`, `run_id`, or `model` of a known size.
        by: Columns of which each value has a curve of its own, such as n_layers.
        join: A table of the models, with the scale.
        on: The column that both tables have.
        steps: Of runs, the ends of a decay, or all evaluations.
        reach: Also the scales at which these scores are reached.
        answer_length: Tokens an answer, to predict exact match from a per-token metric.
        answer_tokens: Tokens read and written an attempt: FLOPs a question, not a token (pass@k).
        cut: Fit up to this scale, forecast above.
        at: Forecast at these scales too (without --cut from all scores).
        method: Of the forecast: auto (curves by their evidence), one curve, or two_step (by loss).
        level: Of the intervals.
        bootstrap: Simulated tables behind a p-value, at least 33.
        seed: Random seed.
        plot: Draw the figures into this folder.
        to_json: Write the results to this file too.
    """
    from analysis.emergence.scores import read_scores
    from analysis.emergence.tidy import Ask
    from analysis.emergence.verdict import analyse
    from experiments.emerging_text import (
        attempts_part,
        curves_text,
        pairs_part,
        predicted_of,
    )
    from experiments.forecasting_text import forecasts_text

    if not 0 < level < 1:
        raise Refusal(f"--level {level:g} is no share between 0 and 1, such as 0.9.")
    given = {
        "task": task_column, "metric": metric_column, "value": value_column, "n": n_column,
        "stderr": stderr_column, "chance": chance_column, "group": group_column,
        "seed": seed_column, "run": run_column,
    }  # fmt: skip
    cut_at, scales = number("--cut", cut), numbers("--at", at)
    if method is not None and cut_at is None and not scales:
        raise Refusal(f"--method {method} is of a forecast. Give --cut SCALE or --at SCALE.")
    if on is not None and join is None:
        raise Refusal(f"--on {on!r} names a column of two tables. Give --join FILE.")
    ask = Ask(
        scale=scale, metrics=metric, tasks=task, by=by, value_columns=value_columns,
        conditions=where, completed=completed,
        columns={wanted: column for wanted, column in given.items() if column is not None},
        chance=_per_task("--chance", chance, float), n=_per_task("--n", n, parse_quantity),
        span=_span(span), join=join, on=on, steps=steps,
    )  # fmt: skip
    found = read_scores(scores, ask)
    reached = numbers("--reach", reach)
    curves = [
        analyse(each, level=level, reach=reached, bootstrap=bootstrap, seed=seed)
        for each in found.series
    ]
    length = number("--answer-length", answer_length)
    predicted = predicted_of(curves, found.table, length)
    if length is not None and not any(each.length_from == "given" for each in predicted):
        raise Refusal(
            "--answer-length is of exact_match that a metric of tokens predicts, and no task has "
            "both. Name them with --metric, or leave it out."
        )
    lines = [curves_text(curves, found.assumed), *found.left_out(), *found.notes]
    texts = ["\n".join(lines)]
    result: dict[str, Any] = {
        "curves": [
            _curve_json(curve, assumed)
            for curve, assumed in zip(curves, found.assumed, strict=True)
        ],
        "scale": scale,
        "level": level,
        "excluded": found.left_out(),
        "notes": list(found.notes),
    }
    tokens = number("--answer-tokens", answer_tokens)
    for part in (pairs_part(curves, predicted), attempts_part(curves, tokens)):
        if part is not None:
            texts.append(part.text)
            result |= part.json
    forecasts = _forecasts(found, curves, cut_at, scales, method or "auto", level, seed)
    if forecasts:
        texts.append(forecasts_text(forecasts, curves))
        result["forecasts"] = [each.to_json() for each in forecasts]
    if to_json:
        write_json(to_json, result)
    drawn: list[Path] = []
    if plot is not None:
        from analysis.figures.emergence import draw

        drawn = draw(plot, curves, forecasts, found.tables, predicted, group_column)
    say("\n\n".join(texts))
    for path in drawn:
        say(str(path))


def _per_task(option: str, words: tuple[str, ...], read: Callable[[str], float]) -> PerTask:
    """NUMBER for all tasks, TASK=NUMBER for one. Raises Refusal for what `read` refuses."""
    from analysis.emergence.tidy import PerTask

    everywhere, single = None, {}
    for word in words:
        name, found, text = word.rpartition("=")
        try:
            value = read(text)
        except ValueError:
            raise Refusal(
                f"{option} {word!r} is not NUMBER or TASK=NUMBER, such as 0.25 or addition=0.25."
            ) from None
        if found:
            single[name] = value
        else:
            everywhere = value
    return PerTask(everywhere, single)


def _span(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        worst, best = (float(part) for part in text.split(","))
    except ValueError:
        raise Refusal(f"--range {text!r} is not WORST,BEST, such as 0,100.") from None
    return worst, best


def _curve_json(curve: Curve, assumed: Assumed) -> dict[str, Any]:
    from analysis.emergence.pairs import breakthroughness, linearity, resolution

    series = curve.series
    return {
        **curve.to_json(),
        "assumed": asdict(assumed),
        "breakthroughness": breakthroughness(series.t, series.unit),
        "linearity": linearity(series.t, series.unit),
        "resolution": resolution(series.n),
    }


def _forecasts(
    found: Scores,
    curves: list[Curve],
    cut: float | None,
    at: list[float],
    method: Method,
    level: float,
    seed: int,
) -> list[Forecast]:
    from analysis.emergence.foresee import foresee
    from analysis.emergence.scores import compute, losses

    if cut is None and not at:
        return []
    forecasts = []
    for curve, rows in zip(curves, found.tables, strict=True):
        series = curve.series
        last = series.x.min() if series.falling else series.x.max()
        upto = last if cut is None else cut
        loss = losses(rows) if method == "two_step" else None
        forecasts.append(
            foresee(
                series, upto, at=at, method=method, loss=loss, flops=compute(rows), level=level,
                seed=seed, cautions=curve.cautions,
            )
        )  # fmt: skip
    return forecasts
