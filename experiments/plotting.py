"""`scaling plot`: the figures of a study, a run table or a fit."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from experiments.cli import app
from experiments.text import say
from scaling.store.records import Refusal, read_json
from scaling.store.run_record import run_folders
from scaling.store.steps import read_steps

if TYPE_CHECKING:
    import pandas as pd

Drawable = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUNS|FIT")]


@app.command
def plot(source: Drawable, /, *, law: str | None = None, out: Path | None = None) -> None:
    """Draw what was fitted, as PNG and SVG.

    RUNS is a results folder or run table that `scaling fit` has read; FIT the file that it wrote.
    A fit keeps its rows, so no column needs naming again.

    `residuals` always. For a law of params and tokens also `loss` (the fit through the runs),
    `loss_by_compute` (with the forecast), `frontier` (N* and D* against compute), `isoflop`
    (approach 2, where a budget has its minimum inside its sizes) and `envelope` (approach 1, where
    it gives an exponent); for a law of unique tokens `repeats` (what repeating data costs).
    `training` (curves against compute) where the step records are there; `sweep` of a fit with
    --best-of. Of a study with tasks also `emergence` (exact match against size), fitted or not.
    `scaling recommend --plot` marks the runs it recommends.

        scaling plot results/quickstart
        scaling plot my_runs.csv --law chinchilla
        scaling plot my_runs.chinchilla.json --out figures

    Args:
        source: A results folder or a run table that was fitted, or a fit.
        law: The fitted law to draw; the only one there is if not given.
        out: Folder for the figures, if not `figures` in the results folder, or for a file
            <file>.figures beside it.
    """
    from analysis.fit_file import law_in

    scored = (source / "scores.parquet").is_file()
    folder = out or (
        source / "figures" if source.is_dir() else source.with_name(f"{source.stem}.figures")
    )
    drawn: list[Path] = []
    path = source if law_in(source) else _fit_of(source, law, needed=not scored)
    if path is not None:
        from analysis.fit import load_fit
        from analysis.plots import draw
        from analysis.runs.table import read_runs

        fit, steps = load_fit(path), _steps(source)
        runs = None if steps is None else read_runs(source, require=())
        _make(folder)
        drawn += draw(folder, fit, runs, steps)
        best_of = read_json(path).get("best_of")
        if best_of is not None:
            from analysis.plots import save, sweep_curves
            from analysis.runs.sweep import from_json

            made = sweep_curves(from_json(best_of), fit.data.params_column, fit.data.loss_unit)
            drawn += save(made, folder / "sweep")
    if scored:
        from analysis.figures.emergence import draw_results

        _make(folder)
        drawn += draw_results(source, folder)
    for figure in drawn:
        say(str(figure))


def _make(folder: Path) -> None:
    """The folder of the figures. Raises Refusal where nothing can be written to it."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise Refusal(f"cannot write figures to {folder}. Give another folder with --out.")


def _fit_of(source: Path, law: str | None, needed: bool) -> Path | None:
    """The fit of a folder or table by the law asked for, else its only one; None where there is
    none and none is `needed`.

    Only a fit of the name that `scaling fit` gives it: another may be of other runs.
    """
    from analysis.fit_file import fit_path, law_in

    if not source.exists():
        raise Refusal(f"{source} does not exist. Give a results folder, a run table or a fit.")
    begins = "" if source.is_dir() else f"{source.stem}."
    files = sorted(fit_path(source, "any").parent.glob("*.json"))
    named = {path: law_in(path) for path in files if path.name.startswith(begins)}
    found = {name: path for path, name in named.items() if name and path == fit_path(source, name)}
    if law is not None and law not in found:
        known = f"; it has {', '.join(found)}" if found else ""
        raise Refusal(
            f"{source} has no fit of {law}{known}. First: scaling fit {source} --law {law}"
        )
    if law is not None:
        return found[law]
    if len(found) > 1:
        names = ", ".join(found)
        raise Refusal(f"{source} has fits of {names}. Give --law {next(iter(found))}, say.")
    if not found and needed:
        raise Refusal(
            f"{source} has no fit. First: scaling fit {source}, or give the file of a fit that "
            "--out put elsewhere."
        )
    return next(iter(found.values()), None)


def _steps(results: Path) -> pd.DataFrame | None:
    """The step records of all runs with their run_id; null where there are none."""
    import pandas as pd

    if not (results / "runs").is_dir():
        return None
    parts = [read_steps(folder).assign(run_id=folder.name) for folder in run_folders(results)]
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else None
