"""What the terminal shows of a fit besides its summary: sweeps, conventions, approaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import ceil, log10
from pathlib import Path

from analysis.allocation.approaches import Approaches
from analysis.allocation.conventions import Convention, spread
from analysis.fitting.fit import Fit
from analysis.forecast.leave_out import LeftOut
from analysis.recommend.hyperparameters import TARGETS
from analysis.runs.sweep import Sweep
from analysis.text import decimal, human, paragraph, scientific, text_table, with_interval
from experiments.cli.text import Part, rows_text


def conclusion(fit: Fit) -> str:
    """The status of the fit and the law with its numbers, for readers of the last lines alone."""
    values = ", ".join(
        f"{name} = {decimal(value, fit.interval.coefficients[name])}"
        for name, value in fit.coefficients.items()
    )
    status = paragraph(f"Status: {fit.status.value}: {fit.reason}")
    return f"{status}\n{paragraph(f'Law: {fit.law.formula}; {values}')}"


def next_text(fit: Fit, path: Path) -> str:
    """What to do with a fit: what to correct first, then the command that uses it.

    Empty where there is nothing to do.
    """
    first = [
        "Correct first, and fit again, because every answer from this fit repeats:",
        *(paragraph(f"- {each}") for each in fit.cautions),
    ]
    command = _command(fit, path)
    following = [f"Next{', once corrected' if fit.cautions else ''}: {command}"] if command else []
    return "\n".join([*(first if fit.cautions else []), *following])


def _command(fit: Fit, path: Path) -> str:
    """The command that recommends by this fit; empty where none accepts it."""
    features = {*fit.law.features}
    if fit.data.flops_max is None:
        return ""
    flops = f"--flops {scientific(10.0 ** ceil(log10(fit.data.flops_max)))}"
    if fit.law.target in TARGETS and features <= {"params", "tokens", "flops", "loss"}:
        return f"scaling recommend FIT_OF_THE_LOSS.json {flops} --rules {path}"
    if fit.law.target != "loss" or features - {"unique_tokens"} != {"params", "tokens"}:
        return ""
    if "unique_tokens" in features:
        flops += f" --unique-tokens {human(float(fit.table['unique_tokens'].max()))}"
    return f"scaling recommend {path} {flops}"


def sweep_text(swept: Sweep, params_column: str) -> str:
    """The best value of a swept setting at each N and D, and whether it lies at an edge."""
    rows = (
        {
            params_column: human(each.params),
            "tokens": human(each.tokens),
            f"{swept.column} tried": f"{len(each.tried)} from {scientific(each.tried[0])} to "
            f"{scientific(each.tried[-1])}",
            "best": scientific(each.value),
            "its loss": decimal(each.loss),
            f"optimum [{swept.level:.0%}]": "at or beyond" if each.optimum is None
            else with_interval(scientific, each.optimum, each.interval),
            "reaches": "" if each.edge is None else f"the {each.edge} tried",
        }
        for each in swept.cells
    )  # fmt: skip
    lines = [rows_text(rows)]
    if swept.noise is None:
        lines.append("No intervals: without seeds, or more values, the noise of a loss is unknown.")
    return "\n".join([*lines, *(paragraph(f"warning: {each}") for each in swept.warnings)])


def conventions_part(found: Sequence[Convention]) -> Part:
    """The same runs under each count of parameters, and how far the fits disagree."""
    names = [*found[0].fit.law.coefficients, "params_exponent"]
    rows = [
        [
            each.column,
            each.fit.status.value,
            *(f"{each.fit.coefficients[name]:.4g}" for name in names[:-1]),
            "" if each.params_exponent is None else f"{each.params_exponent:.3f}",
        ]
        for each in found
    ]
    widths = spread(list(found))
    last = ["spread", "", *(f"{widths[name]:.2g}" if name in widths else "" for name in names)]
    written = [
        {
            "column": each.column,
            "status": each.fit.status.value,
            "reason": each.fit.reason,
            "coefficients": dict(each.fit.coefficients),
            "objective": each.fit.objective.value,
            "params_exponent": each.params_exponent,
        }
        for each in found
    ]
    text = text_table(["N counts", "status", *names[:-1], "N* ∝ C^"], [*rows, last])
    return Part(text, {"conventions": written})


def approaches_part(found: Approaches) -> Part:
    """How N* grows with C by each approach, what it was read from, and whether they agree."""
    agreement = paragraph(found.sentence)
    if all(each.exponent is None for each in found.rows[:-1]):
        return Part(agreement, {"approaches": found.to_json()}, found.cautions)
    rows, notes = [], []
    for each in found.rows:
        a, span = each.exponent, each.interval
        if each.reason:
            verb = "refused" if a is None else "left out"
            notes.append(paragraph(f"{each.method}: {verb}, {each.reason}"))
        if a is None or each.params is None or each.tokens is None:
            rows.append([each.method, "refused", "", "", "", ""])
            continue
        ends = "not known" if span is None else " … ".join(decimal(end, span) for end in span)
        pair = [human(each.params), human(each.tokens)]
        rows.append([each.method, decimal(a, span), ends, *pair, each.used])
    at = f"at {scientific(found.flops)}"
    header = ["approach", "N* ∝ C^", f"{found.level:.0%} interval", f"N* {at}", f"D* {at}", "from"]
    text = "\n".join([text_table(header, rows), *notes, agreement])
    return Part(text, {"approaches": found.to_json()}, found.cautions)


def exponents_part(by_column: Mapping[str, Approaches]) -> Part:
    """The exponent of N* under each count of parameters (rows) by each approach.

    Below the table, why an approach is refused under a count that is accepted under the first.
    """
    rows = [
        [column, *("refused" if e.exponent is None else f"{e.exponent:.3f}" for e in found.rows)]
        for column, found in by_column.items()
    ]
    first = next(iter(by_column.values())).rows
    known = {each.reason for each in first if each.exponent is None}
    notes = []
    for column, found in by_column.items():
        refused: dict[str, list[str]] = {}
        for each in found.rows:
            if each.exponent is None and each.reason not in known:
                refused.setdefault(each.reason, []).append(each.method)
        notes += [
            paragraph(f"{column}: {', '.join(methods)} refused, {why}")
            for why, methods in refused.items()
        ]
    table = text_table(["N* ∝ C^ by approach", *(each.method for each in first)], rows)
    written = {column: found.to_json() for column, found in by_column.items()}
    return Part("\n".join([table, *notes]), {"approaches_by_count": written})


def left_out_part(found: LeftOut) -> Part:
    """The largest run against the forecast of a fit without it."""
    written = {**asdict(found), "error": found.error}
    return Part(paragraph(found.sentence), {"largest_left_out": written}, found.cautions)
