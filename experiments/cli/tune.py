"""`scaling tune`: measure the best learning rate at a study's sizes, and write it as a rule."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from experiments.cli.app import Failed, File, StudyPath, app
from experiments.cli.output import TO_TERMINAL, Output, Outputs
from experiments.cli.text import say

if TYPE_CHECKING:
    from experiments.cli.join.tuning import Swept
    from scaling.planning.plan import Plan
    from scaling.study import Study


@app.command
def tune(
    study: StudyPath,
    /,
    *,
    workers: int | None = None,
    results: Annotated[Path, arg(metavar="FOLDER")] = Path("results"),
    level: float = 0.9,
    bootstrap: int = 4000,
    out: File = None,
    output: Outputs = TO_TERMINAL,
) -> None:
    """Sweep the learning rate at every size and budget of a study, and write the rule found.

    The grid of the study needs three sizes and two budgets of each at least; its learning_rate is
    where the sweep begins, from half to twice that rate. Where the best rate of a size and budget
    is an end of the sweep, the sweep doubles outward, until every best lies inside. A curve in the
    logarithm of the rate places each optimum, with an interval, and a power law in N and D is
    fitted through them. The rule is written to rule.toml in the results folder: give its path as
    the learning_rate of another study. The command may be stopped and given again.

        scaling tune my_tuning.toml --workers 2
        scaling tune my_tuning.toml --out rules/rate.toml

    Args:
        workers: Number of runs to train at once. The default is one per core, or one per GPU.
        results: Folder for the results; each study has a folder of its name in it.
        level: Level of the intervals.
        bootstrap: Number of bootstrap resamples of the fit; with 0, its exponents have no interval.
        out: Write the rule to this file instead, which ends in .toml.
    """
    from analysis.arguments import refuse_times
    from analysis.fitting.result import refuse_level
    from analysis.runs.sweep import to_json
    from experiments.cli.join import tuning
    from experiments.cli.render.fit import sweep_text
    from scaling.store.records import Refusal, write_bytes
    from scaling.study import study_bytes, study_of

    refuse_level(level)  # before hours of training
    refuse_times("--bootstrap", bootstrap, 4000)
    toml = study_bytes(study)
    asked = study_of(toml, str(study))
    tuning.refuse_untunable(asked)
    folder = results / asked.name
    rule = out or folder / "rule.toml"
    if rule.suffix != ".toml":
        raise Refusal(
            f"--out {rule} does not end in .toml, as the path of a rule does. Name it so."
        )
    Output(overwrite=output.overwrite).refuse("--out", rule, _is_rule)
    found = _swept(asked, toml, study, results, workers, level)
    made = tuning.fitted_rule(found, level, bootstrap)
    write_bytes(rule, tuning.rule_text(asked, made, found.best.cells).encode())
    output.write(
        {
            "rule": str(rule),
            "best_of": to_json(found.best),
            "coefficients": dict(made.coefficients),
            "interval": {
                "level": made.interval.level,
                "coefficients": {n: list(s) for n, s in made.interval.coefficients.items()},
            },
            "warnings": list(made.warnings),
        }
    )
    say(sweep_text(found.best, "params_non_embedding"))
    say(f"\n{made.summary()}")
    say(f'Rule → {rule}\nNext: give learning_rate = "{rule}" in the [training] of a study')


def _swept(
    asked: Study, toml: bytes, study: Path, results: Path, workers: int | None, level: float
) -> Swept:
    """Train a study's rates, further out until every best lies inside what was tried."""
    from experiments.cli.join import tuning
    from experiments.cli.join.plan import plan_bytes

    reach = tuning.Reach()
    while True:
        swept = tuning.with_sweep(toml, reach)
        plan = plan_bytes(swept, str(study)).plan
        tuning.refuse_following(plan)
        tuning.refuse_narrow(plan)
        say(
            f"{asked.name}: rates from {reach.multiples[0]:g} to {reach.multiples[-1]:g} of its own"
        )
        _train(plan, swept, str(results), workers)
        found = tuning.swept(results / asked.name, level)
        further = found.next(reach)
        if further == reach:
            return found
        tuning.refuse_open(asked, found, further)
        reach = further


def _train(plan: Plan, toml: bytes, results: str, workers: int | None) -> None:
    """Have the runs of a plan trained that are not finished, and collect the run table."""
    from experiments.cli.launchers import LAUNCHINGS, Asked
    from scaling.launch.prepare import manifest_of, prepared
    from scaling.store import table
    from scaling.store.results import study_at, unfinished

    launching = LAUNCHINGS["local"](Asked(workers, None, None, math.inf, "cheapest-first"))
    folder = study_at(results, plan.study.name)
    folder.look()
    left = {run.run_id for run in unfinished(folder, manifest_of(folder, plan, toml))}
    if waiting := [spec for spec in plan.runs if spec.run_id in left]:
        say(launching.placed(folder, plan, waiting))
    with prepared(folder, plan, toml) as ready:
        if ready.todo:
            launching.train(folder, plan)
        table.publish_table(folder)
    if lost := unfinished(folder, folder.manifest()):
        raise Failed(f"{len(lost)} runs could not be trained; give the command again")


def _is_rule(path: Path) -> bool:
    """Whether a file is a rule that this command wrote."""
    from experiments.cli.join.tuning import MADE

    return path.read_bytes()[:100].startswith(f"# {MADE}".encode())
