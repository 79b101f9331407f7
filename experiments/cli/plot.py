"""`scaling plot`: the figures of a study, a run table or a fit."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from analysis.text import paragraph
from experiments.cli.app import Folder, LawName, app
from experiments.cli.output import TO_TERMINAL, Outputs
from experiments.cli.table_options import SetName
from experiments.cli.text import say
from scaling.store.records import Refusal, read_json
from scaling.store.run_record import damage, read_run, run_folders
from scaling.store.steps import read_steps

if TYPE_CHECKING:
    import pandas as pd

Drawable = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUNS|FIT")]


@app.command
def plot(
    source: Drawable,
    /,
    *,
    law: LawName = None,
    loss_set: SetName = None,
    out: Folder = None,
    output: Outputs = TO_TERMINAL,
) -> None:
    """Draw what was fitted, as PNG and SVG.

    RUNS is a results folder or run table that `scaling fit` has read; FIT the file that it wrote.
    A fit keeps its rows, so that no column has to be named again.

    Every fit has `residuals`. A law of params and tokens also has `loss` (the fit through the
    runs), `loss_by_compute` (with the forecast), `frontier` (N* and D* against compute), `isoflop`
    (approach 2, where a budget has its minimum inside its sizes) and `envelope` (approach 1, where
    it gives an exponent). A law of unique tokens has `repeats` (what repeating data costs).
    `training` is drawn where step records exist, `sweep` for a fit with --best-of, and
    `emergence` (exact match against size) for a study with tasks, fitted or not.
    `scaling recommend --plot` marks the runs it recommends.

        scaling plot results/quickstart
        scaling plot my_runs.csv --law chinchilla
        scaling plot my_runs.chinchilla.json --out figures

    Args:
        source: A results folder or a run table that was fitted, or the file of a fit.
        law: The fitted law to draw. It may be left out where only one law was fitted.
        loss_set: Validation set of the fit to draw, where `scaling fit` was given one.
        out: Folder for the figures. By default `figures` in the results folder, or for a file
            <file>.figures next to it.
    """
    from analysis.fitting.files import law_in

    scored = (source / "scores.parquet").is_file()
    folder = out or (
        source / "figures" if source.is_dir() else source.with_name(f"{source.stem}.figures")
    )
    path = source if law_in(source) else _fit_of(source, law, loss_set, needed=not scored)

    warnings: list[str] = []

    def figures(into: Path) -> list[Path]:
        drawn: list[Path] = []
        if path is not None:
            from analysis.figures.study import draw
            from analysis.fitting.files import load_fit
            from analysis.runs.sweep import from_json
            from analysis.runs.table import read_runs
            from experiments.cli.join.beside import beside

            fit, steps = load_fit(path), _steps(source)
            table = beside(path, fit)
            if source != path and table.another:
                raise Refusal(f"{table.another}. First: scaling fit {source} --law {fit.law.name}")
            warnings.extend(table.cautions)
            runs = None if steps is None else read_runs(source, require=())
            best_of = read_json(path).get("best_of")
            swept = None if best_of is None else from_json(best_of)
            drawn += draw(into, fit, runs, steps, swept=swept)
        if scored:
            from analysis.figures.emergence import draw_results

            try:
                drawn += draw_results(source, into)
            except Refusal as refused:
                raise Refusal(
                    f"the scores of {source} cannot be drawn here; scaling emergence {source} "
                    f"--scale params --plot FOLDER has more options, and says: {refused}"
                ) from refused
        return drawn

    _make(folder)
    drawn = output.draw(folder, figures)
    output.write({"figures": [str(figure) for figure in drawn], "warnings": warnings})
    for warning in warnings:
        say(paragraph(f"Warning: {warning}"))
    for figure in drawn:
        say(str(figure))


def _make(folder: Path) -> None:
    """The folder of the figures. Raises Refusal where nothing can be written to it."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise Refusal(f"cannot write figures to {folder}. Give another folder with --out.")


def _fit_of(source: Path, law: str | None, loss_set: str | None, needed: bool) -> Path | None:
    """The fit of a folder or table by the law asked for, else its only one, on a validation set
    where one is given; None where there is none and none is `needed`.

    Only a fit of the name that `scaling fit` gives it: another may be of other runs.
    """
    from analysis.fitting.files import fit_path, law_in

    if not source.exists():
        raise Refusal(f"{source} does not exist. Give a results folder, a run table or a fit.")
    begins = "" if source.is_dir() else f"{source.stem}."
    files = sorted(fit_path(source, "any").parent.glob("*.json"))
    named = {path: law_in(path) for path in files if path.name.startswith(begins)}
    found = {
        name: path
        for path, name in named.items()
        if name and path == fit_path(source, name, loss_set)
    }
    on = "" if loss_set is None else f" --loss-set {loss_set}"
    if law is not None and law not in found:
        known = f"; it has {', '.join(found)}" if found else ""
        raise Refusal(
            f"{source} has no fit of {law}{on}{known}. First: scaling fit {source} --law {law}{on}"
        )
    if law is not None:
        return found[law]
    if len(found) > 1:
        names = ", ".join(found)
        raise Refusal(f"{source} has fits of {names}. Give --law {next(iter(found))}, say.")
    if not found and needed:
        raise Refusal(
            f"{source} has no fit{on}. First: scaling fit {source}{on}, or give the file of a fit "
            "that --out put elsewhere."
        )
    return next(iter(found.values()), None)


def _steps(results: Path) -> pd.DataFrame | None:
    """The step records of all runs with their run_id; null where there are none."""
    import pandas as pd

    if not (results / "runs").is_dir():
        return None
    parts = []
    for folder in run_folders(results):
        _refuse_damaged(folder)
        parts.append(read_steps(folder).assign(run_id=folder.name))
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else None


def _refuse_damaged(run: Path) -> None:
    """Raise Refusal if the steps of a run are not those that were published."""
    try:
        wrong = damage(run, read_run(run))
    except Refusal:  # the record alone is damaged, or of another version
        return
    if "steps.parquet" in wrong:
        raise Refusal(f"{wrong['steps.parquet']}.")
