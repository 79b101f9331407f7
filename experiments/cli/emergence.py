"""`scaling emergence`: where a task's score rises, whether the rise is sharp, what comes next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from experiments.cli.app import (
    Column,
    Conditions,
    File,
    Folder,
    Number,
    Numbers,
    app,
    described,
    number,
    numbers,
)
from experiments.cli.output import TO_TERMINAL, Outputs
from experiments.cli.text import joined, say
from experiments.cli.words import each_once, pairs
from scaling.quantity import parse_count
from scaling.store.records import Refusal

if TYPE_CHECKING:
    from analysis.emergence.exact_match import Predicted
    from analysis.emergence.forecast.forecast import Forecast
    from analysis.emergence.inference.analyse import Curve
    from analysis.emergence.scores.query import PerTask, ScoreQuery
    from analysis.emergence.scores.read import Scores

Method = Literal["auto", "direct", "logistic", "power_log_prob", "two_step"]
ScoresPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SCORES")]
Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME …")]
Columns = Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN …")]
PerTaskWords = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NUMBER|TASK=NUMBER …")]
Scale = Annotated[str, tyro.conf.arg(metavar="SCALE")]
Range = Annotated[str | None, tyro.conf.arg(name="range", metavar="WORST,BEST")]


@dataclass(frozen=True)
@described
class ScoreOptions:
    """Which scores of the table are read, and which column holds what.

    Args:
        metric: Metrics, with one curve each; two metrics of one task are compared.
        task: Tasks; all tasks by default.
        where: Use only rows that meet these conditions: column, operator, value.
        completed: Status words of runs that finished, besides completed, done, ok.
        chance: Chance level, for all tasks or as TASK=LEVEL; 0 for free-form answers.
        n: Number of questions per score, for all tasks or as TASK=NUMBER, if no column has it.
        span: The metric's worst and best value, such as 0,100 for percent.
        value_columns: Columns of scores in a wide table; each is a task.
        task_column: Column with the task's name; `task` by default.
        metric_column: Column with the metric's name; `metric` by default.
        value_column: Column with the score; `value` by default.
        n_column: Column with the number of questions; `n` by default.
        stderr_column: Column with the standard error of the score; `stderr` by default.
        chance_column: Column with the chance level; `chance` by default.
        group_column: Column with the group, such as the model family, whose models share their
            noise; by default it is `group` or `trunk_id`.
        seed_column: Column with the seed of replicates; `seed` by default.
        run_column: Column with the training run, whose scores are its checkpoints; by default it is
            `run`, or else `run_id`, or else `model` where its size is known.
        by: Columns such as n_layers; each of their values has its own curve.
        join: A table with one row per model, which has the scale.
        on: The column that both tables have and that identifies a model.
        steps: Use the ends of runs, after the learning rate has decayed, or all evaluations.
    """

    metric: Names = ()
    task: Names = ()
    where: Conditions = ()
    completed: Names = ()
    chance: PerTaskWords = ()
    n: PerTaskWords = ()
    span: Range = None
    value_columns: Columns = ()
    task_column: Column = None
    metric_column: Column = None
    value_column: Column = None
    n_column: Column = None
    stderr_column: Column = None
    chance_column: Column = None
    group_column: Column = None
    seed_column: Column = None
    run_column: Column = None
    by: Columns = ()
    join: File = None
    on: Column = None
    steps: Literal["ends", "all"] = "ends"

    def query(self, scale: str) -> ScoreQuery:
        """The query for scores against `scale`. Raises Refusal for options that do not fit."""
        from analysis.emergence.scores.query import ScoreQuery

        if self.on is not None and self.join is None:
            raise Refusal(f"--on {self.on!r} names a column of two tables. Give --join FILE.")
        columns = {
            "task": self.task_column, "metric": self.metric_column, "value": self.value_column,
            "n": self.n_column, "stderr": self.stderr_column, "chance": self.chance_column,
            "group": self.group_column, "seed": self.seed_column, "run": self.run_column,
        }  # fmt: skip
        return ScoreQuery(
            scale=scale, metrics=self.metric, tasks=self.task, by=self.by,
            columns={wanted: column for wanted, column in columns.items() if column is not None},
            value_columns=self.value_columns, conditions=self.where, completed=self.completed,
            chance=_per_task("--chance", self.chance, _level),
            n=_per_task("--n", self.n, parse_count), span=_span(self.span),
            join=self.join, on=self.on, steps=self.steps,
        )  # fmt: skip


@dataclass(frozen=True)
@described
class ForecastOptions:
    """Which scores of larger models are forecast, and how.

    Args:
        cut: Fit the scores up to this scale, and forecast those above.
        at: Forecast at these scales too; without --cut, from all scores.
        method: Forecast directly (direct: several curves, averaged by their evidence), by one curve
            (logistic, power_log_prob), or from scale to loss and from loss to score (two_step).
            By default, auto: whichever of direct and two_step did better above smaller cuts, where
            the table has a column `loss`; else direct.
    """

    cut: Number = None
    at: Numbers = ()
    method: Method | None = None

    def forecasts(
        self, found: Scores, curves: Sequence[Curve], level: float, seed: int
    ) -> list[Forecast]:
        """One forecast per curve; none without a cutoff and scales. Raises Refusal."""
        cutoff, scales = number("--cut", self.cut), each_once("--at", numbers("--at", self.at))
        if cutoff is None and not scales:
            if self.method is not None:
                raise Refusal(
                    f"--method {self.method} is for a forecast. Give --cut SCALE or --at SCALE."
                )
            return []
        from analysis.emergence.forecast.forecast import forecast_scores
        from analysis.emergence.scores.read import compute, losses

        forecasts = []
        for curve, rows in zip(curves, found.tables, strict=True):
            series = curve.series
            last = series.x.min() if series.falling else series.x.max()
            forecasts.append(
                forecast_scores(
                    series, last if cutoff is None else cutoff, at=scales,
                    method=self.method or "auto",
                    loss=losses(rows) if self.method in (None, "auto", "two_step") else None,
                    flops=compute(rows), level=level, seed=seed, cautions=curve.cautions,
                )
            )  # fmt: skip
        return forecasts


@app.command
def emergence(
    scores: ScoresPath,
    /,
    *,
    scale: Scale,
    table: Annotated[ScoreOptions, tyro.conf.OmitArgPrefixes] = ScoreOptions(),
    reach: Numbers = (),
    answer_length: Number = None,
    answer_tokens: Number = None,
    forecast: Annotated[ForecastOptions, tyro.conf.OmitArgPrefixes] = ForecastOptions(),
    level: float = 0.9,
    bootstrap: int = 400,
    seed: int = 0,
    plot: Folder = None,
    output: Outputs = TO_TERMINAL,
) -> None:
    """Find the scale at which a task's score rises, and test whether the rise is sharp.

    SCORES has one row per score: task, metric, value, the scale, and if known n (questions),
    stderr, chance (the chance level), group (models that share their noise), seed, run (the
    training run of a checkpoint). Or it has one column per task (--value-columns). Or it is a
    results folder, or the JSON file of `scaling eval`. The threshold is the scale at which the
    fitted curve is midway between its lowest level (chance, if known) and its highest. The verdict
    on a curve is `sharp` if a smooth curve is rejected and 10-90% of the rise takes less than half
    a decade; otherwise it is `smooth`, `none`, or `undetermined` (too few or too noisy scores).

    With --cut, scores above the cut are forecast from those below it, and compared with two
    baselines: persistence (the scores of the largest scale fitted) and, for bounded metrics, a
    logistic. Metrics pass@1, pass@2 and so on of one task give a threshold for each number of
    samples, pass@k as a power law, and a comparison of size and samples at equal compute.

        scaling emergence results/emergence --scale params --metric exact_match
        scaling emergence scores.csv --scale flops --metric acc --chance 0.25 --cut 1e22
        scaling emergence wide.csv --join models.csv --on Model --scale 'FLOPs (1E21)' \\
            --value-columns addition spelling --metric exact_match --n 1000 spelling=500

    Args:
        scores: A CSV, JSON or Parquet file, a results folder, or the JSON of `scaling eval`.
        scale: params, tokens, flops, loss, or the name of a column. A lower loss is progress.
        table: Which scores are read.
        reach: Also find the scales at which these scores are reached.
        answer_length: Tokens per answer, to predict exact match from a per-token metric.
        answer_tokens: Prompt and answer tokens per sample (pass@k): costs are FLOPs per question.
        forecast: Which scores are forecast.
        level: Level of the intervals.
        bootstrap: Bootstrap samples behind the p-value of the sharpness test, at least 33.
        seed: Random seed.
        plot: Draw the figures into this folder.
    """
    from analysis.emergence.inference.analyse import analyse
    from analysis.emergence.scores.read import read_scores
    from experiments.cli.render.emergence import curves_part, pairs_part, pass_at_k_part
    from experiments.cli.render.forecast import forecasts_part

    if not 0 < level < 1:
        raise Refusal(f"--level {level:g} is not between 0 and 1, such as 0.9.")
    found = read_scores(scores, table.query(scale))
    scores_reached = each_once("--reach", numbers("--reach", reach))
    curves = [
        analyse(each, level=level, reach=scores_reached, bootstrap=bootstrap, seed=seed)
        for each in found.series
    ]
    predicted = _predicted(found, curves, number("--answer-length", answer_length))
    forecasts = forecast.forecasts(found, curves, level, seed)
    parts = [
        curves_part(curves, found),
        pairs_part(curves, predicted),
        pass_at_k_part(curves, number("--answer-tokens", answer_tokens)),
        forecasts_part(forecasts, curves),
    ]
    result = joined([part for part in parts if part is not None])
    output.write({**result.json, "scale": scale, "level": level})
    drawn: list[Path] = []
    if plot is not None:
        from analysis.figures.emergence import draw

        groups = table.group_column
        drawn = output.draw(
            plot, lambda into: draw(into, curves, forecasts, found.tables, predicted, groups)
        )
    say(result.text)
    for path in drawn:
        say(str(path))


def _predicted(found: Scores, curves: Sequence[Curve], length: float | None) -> list[Predicted]:
    """Exact match as another metric predicts it, for each task that has both.

    Raises Refusal for a `length` that no task needs.
    """
    from analysis.emergence.exact_match import predict_exact_match

    tasks = dict.fromkeys(each.series.task for each in curves)
    all_tasks = [predict_exact_match(found.table, task, length) for task in tasks]
    predicted = [each for each in all_tasks if each is not None]
    if length is not None and not any(each.length_from == "given" for each in predicted):
        raise Refusal(
            "--answer-length is for exact_match predicted from a per-token metric, and no task has "
            "both. Name them with --metric, or leave it out."
        )
    return predicted


def _per_task(option: str, words: Sequence[str], read: Callable[[str], Any]) -> PerTask:
    """NUMBER for all tasks, TASK=NUMBER for one. Raises Refusal for what `read` refuses."""
    from analysis.emergence.scores.query import PerTask

    everywhere, single = None, {}
    for word, name, text in pairs(option, words):
        try:
            value = read(text)
        except ValueError as error:
            raise Refusal(
                f"{option} {word!r}: {error}. Give a number for all tasks, or one as TASK=NUMBER."
            ) from None
        if name:
            single[name] = value
        else:
            everywhere = value
    return PerTask(everywhere, single)


def _level(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number such as 0.25") from None


def _span(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        worst, best = (float(part) for part in text.split(","))
    except ValueError:
        raise Refusal(f"--range {text!r} is not WORST,BEST, such as 0,100.") from None
    return worst, best
