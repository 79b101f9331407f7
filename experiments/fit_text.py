"""What the terminal shows of fits: conventions, approaches, shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, log10
from pathlib import Path
from textwrap import fill, shorten
from typing import Any

from analysis.answer import Recommendation
from analysis.approaches import Approaches
from analysis.conventions import Convention, spread
from analysis.fit import Fit
from analysis.rates import TARGETS
from analysis.runs.sweep import Sweep
from analysis.units import decimal, human, scientific, with_interval
from experiments.text import columns


def ending(fit: Fit) -> str:
    """How the fit ended and the law with its numbers, for whoever reads the last lines alone."""
    values = ", ".join(
        f"{name} = {decimal(value, fit.interval.coefficients[name])}"
        for name, value in fit.coefficients.items()
    )
    status = fill(f"Status: {fit.status.value}: {fit.reason}", 100, subsequent_indent="  ")
    return f"{status}\n{fill(f'Law: {fit.law.formula}; {values}', 100, subsequent_indent='  ')}"


def next_text(fit: Fit, path: Path) -> str:
    """What to do with a fit: what to mend first where every answer would repeat a doubt, then the
    command that takes it. Empty where nothing is to be done."""
    first = [
        "Mend first, and fit again, for every answer from this fit repeats:",
        *(f"  - {shorten(each, 94, placeholder=' …')}" for each in fit.cautions),
    ]
    asks = _asks(fit, path)
    following = [f"Next{', once mended' if fit.cautions else ''}: {asks}"] if asks else []
    return "\n".join([*(first if fit.cautions else []), *following])


def _asks(fit: Fit, path: Path) -> str:
    """The command that recommends by this fit; empty where none takes it."""
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
    """The best value of a swept setting at each N and D, and where it is only a bound."""
    rows = [
        [
            human(each.params),
            human(each.tokens),
            f"{len(each.tried)} from {scientific(each.tried[0])} to {scientific(each.tried[-1])}",
            scientific(each.value),
            decimal(each.loss),
            "at or beyond" if each.optimum is None
            else with_interval(scientific, each.optimum, each.interval),
            "" if each.edge is None else f"the {each.edge} tried",
        ]
        for each in swept.cells
    ]  # fmt: skip
    header = [
        params_column, "tokens", f"{swept.column} tried", "best", "its loss",
        f"optimum [{swept.level:.0%}]", "reaches",
    ]  # fmt: skip
    lines = [columns(header, rows)]
    if swept.noise is None:
        lines.append("No interval: no seeds, and too few values to tell the noise of a loss.")
    lines += [fill(f"warning: {each}", 92, subsequent_indent="  ") for each in swept.warnings]
    return "\n".join(lines)


def conventions_text(found: Sequence[Convention]) -> str:
    """The same runs under each count of parameters, and how far they disagree."""
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
    return columns(["N counts", "status", *names[:-1], "N* ∝ C^"], [*rows, last])


def conventions_json(found: Sequence[Convention]) -> list[dict[str, Any]]:
    """The same at full precision."""
    return [
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


def approaches_text(found: Approaches) -> str:
    """How N* grows with C by each approach, what it was read from, and whether they agree.

    The sentence alone where the law is the only one.
    """
    told = fill(found.sentence, 96)
    if all(each.exponent is None for each in found.rows[:-1]):
        return told
    rows, notes = [], []
    for each in found.rows:
        a, span = each.exponent, each.interval
        if each.reason:
            notes.append(f"{each.method}: {'refused' if a is None else 'left out'}, {each.reason}")
        if a is None or each.params is None or each.tokens is None:
            rows.append([each.method, "refused", "", "", "", ""])
            continue
        ends = "not known" if span is None else " … ".join(decimal(end, span) for end in span)
        pair = [human(each.params), human(each.tokens)]
        rows.append([each.method, decimal(a, span), ends, *pair, each.used])
    at = f"at {scientific(found.flops)}"
    header = ["approach", "N* ∝ C^", f"{found.level:.0%} interval", f"N* {at}", f"D* {at}", "from"]
    return "\n".join([columns(header, rows), *notes, told])


def exponents_text(by_column: Mapping[str, Approaches]) -> str:
    """The exponent of N* under each count of parameters (rows) by each approach.

    Below, why an approach is refused under one count that is not under the first.
    """
    rows = [
        [column, *("refused" if e.exponent is None else f"{e.exponent:.3f}" for e in found.rows)]
        for column, found in by_column.items()
    ]
    first = next(iter(by_column.values())).rows
    told = {each.reason for each in first if each.exponent is None}
    notes = []
    for column, found in by_column.items():
        refused: dict[str, list[str]] = {}
        for each in found.rows:
            if each.exponent is None and each.reason not in told:
                refused.setdefault(each.reason, []).append(each.method)
        notes += [f"{column}: {', '.join(m)} refused, {why}" for why, m in refused.items()]
    table = columns(["N* ∝ C^ by approach", *(each.method for each in first)], rows)
    return "\n".join([table, *notes])


def shapes_text(advice: Sequence[Recommendation]) -> str:
    """The nearest shape of the study's ladder for every recommendation."""
    lines = ["Nearest shapes of the study's ladder"]
    for each in advice:
        shape = each.shape
        built = "no shape of the ladder is near"
        if shape is not None:
            built = f"{shape['shape']} ({shape['dimensions']}), "
            built += f"{human(shape['params'])} parameters ({shape['error']:+.1%})"
        lines.append(f"  {scientific(each.flops)} FLOPs: {built}")
    return "\n".join(lines)
