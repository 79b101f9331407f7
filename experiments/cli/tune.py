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
    batch: bool = False,
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
    the learning_rate of another study. What such a rule costs is shown for every size and budget,
    by the rule of all the other ones. With --batch all rates are swept at half, once and twice the
    study's batch, and further out in the same way; a second rule, B = k D^b, is written next to
    the first. The command may be stopped and given again.

        scaling tune my_tuning.toml --workers 2
        scaling tune my_tuning.toml --batch
        scaling tune my_tuning.toml --out rules/rate.toml

    Args:
        batch: Sweep the batch too, at least three times as many runs.
        workers: Number of runs to train at once. The default is one per core, or one per GPU.
        results: Folder for the results; each study has a folder of its name in it.
        level: Level of the intervals.
        bootstrap: Number of bootstrap resamples of the fit; with 0, its exponents have no interval.
        out: Write the rule to this file instead, which ends in .toml; that of the batch next to it.
    """
    from analysis.arguments import refuse_times
    from analysis.fitting.result import refuse_level
    from analysis.plain import plain
    from analysis.runs.sweep import to_json
    from experiments.cli.join import tuning
    from experiments.cli.join.tuned_regret import regrets_of_rules
    from experiments.cli.render.fit import sweep_text
    from experiments.cli.render.tune import regret_text
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
    files = {tuning.COLUMN: rule}
    if batch:
        files[tuning.BATCH] = rule.with_name(f"{rule.stem}-batch.toml")
    for file in files.values():
        Output(overwrite=output.overwrite).refuse("--out", file, _is_rule)
    own = tuning.own_batch(asked) if batch else None
    found = _swept(asked, toml, own, study, results, workers, level)
    made = tuning.fitted_rules(found, level, bootstrap)
    regrets = regrets_of_rules(found, level)
    for column, file in files.items():
        cells = found.sweeps[column].cells
        write_bytes(file, tuning.rule_text(asked, column, made[column], cells).encode())
    output.write(
        {
            "rules": {column: str(file) for column, file in files.items()},
            "best_of": {column: to_json(each) for column, each in found.sweeps.items()},
            "coefficients": {column: dict(each.coefficients) for column, each in made.items()},
            "interval": {
                "level": level,
                "coefficients": {
                    column: {n: list(s) for n, s in each.interval.coefficients.items()}
                    for column, each in made.items()
                },
            },
            "regret": plain(regrets),
            "warnings": [said for each in made.values() for said in each.warnings],
        }
    )
    for column, each in made.items():
        say(sweep_text(found.sweeps[column], "params_non_embedding"))
        say(f"\n{each.summary()}\n")
        say(f"{regret_text(column, regrets[column], level)}\n")
    given = {tuning.COLUMN: "learning_rate", tuning.BATCH: "batch_sequences"}
    fields = " and ".join(f'{given[column]} = "{file}"' for column, file in files.items())
    say(f"Next: give {fields} in the [training] of a study")


def _swept(
    asked: Study,
    toml: bytes,
    own: int | None,
    study: Path,
    results: Path,
    workers: int | None,
    level: float,
) -> Swept:
    """Train a study's rates, and batches where it has an `own` one to begin from, further out until
    every best lies inside what was tried."""
    from experiments.cli.join import tuning
    from experiments.cli.join.plan import plan_bytes

    reach = tuning.Reach() if own is None else tuning.Reach(smaller=1, larger=1)
    while True:
        swept = tuning.with_sweep(toml, reach, own)
        plan = plan_bytes(swept, str(study)).plan
        tuning.refuse_following(plan)
        tuning.refuse_narrow(plan)
        rates = f"rates from {reach.multiples[0]:g} to {reach.multiples[-1]:g} of its own"
        batches = (
            ""
            if own is None
            else f", batches of {', '.join(map(str, reach.batches(own)))} sequences"
        )
        say(f"{asked.name}: {rates}{batches}")
        _train(plan, swept, str(results), workers)
        found = tuning.swept(results / asked.name, level)
        further = found.next(reach, own or 1)
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
