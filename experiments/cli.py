"""The commands of `scaling`, each a function whose docstring is its help.

This is where the two halves meet: `scaling/` makes run tables, `analysis/` reads them. Each
command imports what it needs, so that fitting never waits for jax.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from scaling.records import Refusal, read_json, read_run, run_folders, write_json
from scaling.study import parse_quantity, read_study

if TYPE_CHECKING:
    import pandas as pd

    from analysis.fit import Fit
    from analysis.published import Published


class Failed(Exception):
    """The command did its work, and a run or a fit in it failed."""


class App(tyro.extras.SubcommandApp):
    """Collects the commands."""

    description = (
        "Train a scaling grid, fit its power laws, and get compute-optimal recommendations.\n\n"
        "    scaling run experiments/quickstart.toml\n"
        "    scaling fit results/quickstart --law chinchilla\n"
        "    scaling recommend results/quickstart/fits/chinchilla.json --flops 1e15\n"
        "    scaling plot results/quickstart\n\n"
        "Quantities read 1e21, 300B, 1.3M or 25k. Exit codes: 0 done, 1 a run or fit failed, "
        "2 bad input, 75 interrupted."
    )


app = App()


def _numbers(option: str, words: tuple[str, ...]) -> list[float]:
    """1e21, 300B, 25k as numbers."""
    try:
        return [parse_quantity(word) for word in words]
    except ValueError as error:
        raise Refusal(f"{option}: {error}.") from error


StudyPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="STUDY.toml")]
RunsPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUNS")]
Directory = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
JsonFile = Annotated[Path | None, tyro.conf.arg(name="json", metavar="FILE")]


# --- plan, run, status ------------------------------------------------------------------------


@app.command
def plan(study: StudyPath, /, *, to_json: JsonFile = None) -> None:
    """Show what a study would train, and what that costs, before anything is trained.

    One row a run: shape, parameters, tokens, steps, rates, FLOPs, estimated time and memory of
    one worker on this machine. Refuses a warmup above 20% of a run, more tokens than the corpus
    holds, duplicate runs, and a grid that cannot identify the law the study names.

        scaling plan experiments/quickstart.toml

    Args:
        study: A study file; experiments/quickstart.toml is a documented example.
        to_json: Write the table to this file too.
    """
    import pandas as pd

    from experiments.planning import plan_study
    from experiments.text import plan_text
    from scaling.hardware import worker_count
    from scaling.plan import plan_table

    planned = plan_study(read_study(study))
    print(plan_text(planned.plan, planned.condition_number, worker_count()))
    if to_json:
        table = plan_table(planned.plan).astype(object).replace({pd.NA: None})
        write_json(
            to_json,
            {
                "runs": table[table["refusal"].isna()].to_dict("records"),
                "left_out": table[table["refusal"].notna()].to_dict("records"),
                "flops_spent": planned.plan.flops_spent,
                "flops_unshared": planned.plan.flops_unshared,
                "condition_number": planned.condition_number,
            },
        )
    print(f"Next: scaling run {study}")


@app.command
def run(
    study: StudyPath,
    /,
    *,
    workers: int | None = None,
    results: Path = Path("results"),
) -> None:
    """Train every run of a study that is not done yet, then collect the run table.

    Each size trains one constant-rate trunk; every token budget is a cooldown branch off it.
    Runs that are finished are kept; killed ones go on from their last checkpoint. A run that
    diverges or fails gets a status and a reason, and the rest goes on.

        scaling run experiments/quickstart.toml --workers 2

    Args:
        study: The study file.
        workers: Single-threaded worker processes; one a core if not given.
        results: Where results/<study name>/ is made.
    """
    import pandas as pd

    from experiments.planning import plan_study
    from experiments.progress import Watch
    from experiments.text import runs_text
    from scaling.hardware import worker_count
    from scaling.launch import base
    from scaling.launch.local import run_jobs

    if workers is not None and workers < 1:
        raise Refusal(f"--workers {workers}: give at least 1.")
    read = read_study(study)
    planned = plan_study(read)
    folder = results / read.name
    with base.only_launcher(folder):
        jobs = base.prepare(folder, planned.plan, planned.corpus, study.read_bytes())
        todo = sum(len(job.folders) for job in jobs)
        print(f"{read.name}: {len(planned.plan.runs)} runs, {todo} to do, in {folder}")
        with Watch() as watch:
            unfinished = run_jobs(jobs, workers or worker_count(), watch) if jobs else 0
        path = base.publish_table(folder)
    print(runs_text(pd.read_parquet(path)))
    print(f"\nRun table → {path}")
    if unfinished:
        raise Failed(f"{unfinished} of {todo} runs did not complete; scaling status {folder}")
    print(f"Next: scaling fit {folder} --law {read.law or 'chinchilla'}")


@app.command
def status(directory: Directory, /, *, to_json: JsonFile = None) -> None:
    """Show what is done, running, failed and waiting in a results folder, and why.

        scaling status results/quickstart

    Args:
        directory: A folder that `scaling run` wrote.
        to_json: Write the rows to this file too.
    """
    from experiments.text import status_text

    rows = [_status(folder) for folder in run_folders(directory)]
    rows.sort(key=lambda row: (row["params_non_embedding"], row["seed"], row["tokens"]))
    print(status_text(rows))
    if to_json:
        write_json(to_json, {"runs": rows})


def _status(folder: Path) -> dict[str, Any]:
    """Where one run is, as plain values."""
    record = read_run(folder)
    seen = folder / "progress.json"
    progress = read_json(seen) if record["status"] == "running" and seen.exists() else {}
    return {
        "run_id": record["run_id"],
        "run_kind": record["run_kind"],
        "params_non_embedding": record["counts"]["params_non_embedding"],
        "tokens": record["counts"]["tokens"],
        "seed": record["counts"]["seed"],
        "status": record["status"],
        "step": progress.get("step"),
        "steps": record["counts"]["steps"],
        "loss": (record["result"] or {}).get("loss"),
        "reason": record["reason"],
    }


# --- fit, recommend ---------------------------------------------------------------------------


@app.command
def fit(
    runs: RunsPath,
    /,
    *,
    law: str = "chinchilla",
    params_column: str | None = None,
    tokens_column: str | None = None,
    loss_column: str | None = None,
    where: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CONDITION")] = (),
    objective: str = "huber_log",
    delta: float = 1e-3,
    bootstrap: int = 4000,
    level: float = 0.9,
    seed: int = 0,
    to_json: JsonFile = None,
) -> None:
    """Fit a law to a run table: the global optimum, intervals, and what to doubt.

    RUNS is a results folder, a CSV or a Parquet file with columns params, tokens and loss; the
    options below map other names. Runs that share a trunk count as one cluster. The fit is
    written to fits/<law>.json in a results folder, else to <file>.<law>.json.

        scaling fit results/quickstart --law chinchilla
        scaling fit my_runs.csv --loss-column val_loss --where 'tokens>=5e8'

    Args:
        runs: A results folder, CSV or Parquet.
        law: A law of the registry; `scaling laws` lists them.
        params_column: Column that holds N; `params` if there is one, else `params_total`.
        tokens_column: Column that holds D, if it is not `tokens`.
        loss_column: Column that holds the loss in nats/token, if it is not `loss`.
        where: Fit only rows that meet these; column, operator, literal.
        objective: What is minimised, summed over runs.
        delta: Where Huber's loss turns from square to linear, in log-loss.
        bootstrap: Resamples; 0 leaves the intervals out.
        level: Of the intervals.
        seed: Of the resampling.
        to_json: Write the fit to this file instead.
    """
    from analysis.fit import Status, save_fit
    from analysis.fit import fit as fit_law
    from analysis.forecast import leave_out_largest
    from analysis.laws import law as law_named
    from analysis.quality import read_runs
    from analysis.quality import where as select
    from analysis.units import scientific

    named = law_named(law)
    table = select(
        read_runs(
            runs,
            params_column=params_column,
            tokens_column=tokens_column,
            loss_column=loss_column,
            require=("loss",),
        ),
        list(where),
    )
    fitted = fit_law(
        named, table, objective=objective, delta=delta, bootstrap=bootstrap, level=level, seed=seed
    )
    print(fitted.summary())
    held_out = leave_out_largest(fitted)
    print(f"\n{held_out.sentence}")
    if to_json is not None:
        path = to_json
    elif runs.is_dir():
        path = runs / "fits" / f"{law}.json"
    else:
        path = runs.with_suffix(f".{law}.json")
    save_fit(fitted, path)
    print(f"\nFitted {law} → {path}")
    if fitted.status is Status.FAILED:
        raise Failed(f"the fit failed: {fitted.reason}")
    if {"params", "tokens"} <= set(named.features) and fitted.data.flops_max:
        ahead = 10.0 ** math.ceil(math.log10(fitted.data.flops_max))
        print(f"Next: scaling recommend {path} --flops {scientific(ahead)}")


@app.command
def recommend(
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FIT|published:NAME")],
    /,
    *,
    flops: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NUMBER …")],
    level: float = 0.9,
    study: Path | None = None,
    to_json: JsonFile = None,
) -> None:
    """Say how large a model to train, and on how many tokens, for a compute budget.

    N* and D* minimise the law's loss at C = 6ND, with N in the convention of the fit. A fit
    from a results folder also names the nearest shape its study can build.

        scaling recommend results/quickstart/fits/chinchilla.json --flops 1e14 1e15
        scaling recommend published:chinchilla-2022 --flops 5.76e23

    Args:
        source: A file that `scaling fit` wrote, or a published law of `scaling laws`.
        flops: Training budgets.
        level: Of the intervals.
        study: A study file whose ladder builds the shapes, if not the one beside the fit.
        to_json: Write the recommendations to this file too.
    """
    from analysis.recommend import convention, to_text
    from analysis.recommend import recommend as recommended
    from analysis.recommend import to_json as as_json
    from analysis.units import human

    law = _source(source)
    beside = study or _study_beside(source)
    build = None
    if beside is not None:
        from experiments.planning import builder

        build = builder(read_study(beside), convention(law))
    advice = recommended(law, _numbers("--flops", flops), level=level, build=build)
    print(to_text(law, advice))
    if build is not None:
        print("\nNearest shapes of the study's ladder")
        for each in advice:
            shape = each.shape or {}
            print(
                f"  {each.flops:.3g} FLOPs: {shape['n_layers']} layers × {shape['d_model']} wide, "
                f"{human(shape['params'])} parameters ({shape['error']:+.1%})"
            )
    if to_json:
        write_json(to_json, as_json(law, advice))


# --- plot, laws -------------------------------------------------------------------------------


@app.command
def plot(directory: Directory, /, *, law: str = "chinchilla") -> None:
    """Draw the figures of a study: training curves, the fit, its residuals, the frontier.

    Reads the run table, the step records and fits/<law>.json; writes figures/*.png and *.svg.

        scaling plot results/quickstart

    Args:
        directory: A folder that `scaling run` wrote and `scaling fit` read.
        law: The fitted law to draw.
    """
    from analysis.fit import load_fit
    from analysis.plots import draw
    from analysis.quality import read_runs

    path = directory / "fits" / f"{law}.json"
    if not path.exists():
        raise Refusal(f"{path} is missing. First: scaling fit {directory} --law {law}")
    table = read_runs(directory)
    for figure in draw(directory / "figures", load_fit(path), table, _steps(directory)):
        print(figure)


@app.command
def laws(*, to_json: JsonFile = None) -> None:
    """List the laws that can be fitted, and the published coefficients.

    Args:
        to_json: Write the registry to this file too.
    """
    from analysis.laws import LAWS
    from analysis.published import PUBLISHED

    for each in LAWS.values():
        print(f"{each.name}\n    {each.formula}\n    {', '.join(each.coefficients)}; {each.source}")
    print("\nPublished coefficients, as published:NAME\n")
    for entry in PUBLISHED.values():
        values = ", ".join(f"{name} = {value:g}" for name, value in entry.coefficients.items())
        print(f"{entry.name}\n    {entry.law.name}: {values}")
        print(f"    N counts {entry.params_convention}; {entry.source}")
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
                    for each in LAWS.values()
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


def _source(text: str) -> Fit | Published:
    """A saved fit, or published coefficients."""
    if text.startswith("published:"):
        from analysis.published import published

        return published(text.removeprefix("published:"))
    from analysis.fit import load_fit

    return load_fit(Path(text))


def _study_beside(source: str) -> Path | None:
    """The study file of the results folder that a fit lies in, if it lies in one."""
    fit = Path(source)
    path = fit.parent.parent / "study.toml"
    return path if fit.parent.name == "fits" and path.exists() else None


def _steps(results: Path) -> pd.DataFrame | None:
    """The step records of all runs with their run_id; null where there are none."""
    import pandas as pd

    from scaling.records import read_steps

    if not (results / "runs").is_dir():
        return None
    parts = [read_steps(folder).assign(run_id=folder.name) for folder in run_folders(results)]
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else None
