"""How much time do a study's evaluations add to its training?

    python benchmarks/evaluation.py RESULTS [--json FILE]

For the runs in a results folder, trained or only planned: every shape among them is built anew,
and a call of its training step, its held-out loss and its tasks are timed in turn, all compiled
before. A run's seconds are the medians times how many of each its record says it takes. The model
is a new one, whose answers are all wrong and so all decoded: a trained one takes this long or
less. The exit status is 1 if the tasks add more than 10%.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.store.paths import cache_folder
from scaling.store.records import write_json
from scaling.store.run_record import run_folders
from scaling.training.flags import worker_environment

if TYPE_CHECKING:
    from scaling.spec import RunSpec

MOST = 0.1
ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ.update(worker_environment())  # before jax is imported
    rows = list(measured(options.results))
    total = {what: sum(row[what] for row in rows) for what in ("training", "holdout", "tasks")}
    ratios = {what: total[what] / total["training"] for what in ("holdout", "tasks")}
    print(f"all {len(rows)} runs: {text(total)}")
    if options.json:
        write_json(options.json, {"rows": rows, "ratios": ratios})
    if ratios["tasks"] > MOST:
        raise SystemExit(1)


def measured(results: Path) -> Iterator[dict[str, float]]:
    """A row a run: its parameters, and its seconds of training, held-out losses and tasks."""
    from scaling.spec import read_spec

    timed: dict[str, tuple[float, float, float]] = {}
    for folder in run_folders(results):
        spec = read_spec(folder)
        shape = f"{spec.model} {spec.batch_sequences} {spec.tasks}"
        if shape not in timed:
            timed[shape] = seconds(spec)
        step, holdout, tasks = timed[shape]
        own = range(spec.first_step + 1, spec.schedule.steps + 1)
        evaluated = {step for step in own if step % spec.evaluate_every == 0} | {own[-1]}
        row = {
            "params": spec.params.total,
            "training": len(own) * step,
            "holdout": len(evaluated) * holdout,
            "tasks": len(evaluated) * tasks,
        }
        print(f"{folder.name}: {text(row)}", flush=True)
        yield row


def text(row: Mapping[str, float]) -> str:
    shares = (f"{what} {row[what] / row['training']:.1%} of it" for what in ("holdout", "tasks"))
    return ", ".join([f"training {row['training']:.0f} s", *shares])


def seconds(spec: RunSpec) -> tuple[float, float, float]:
    """Of a training step with its batches, of the held-out loss, and of the tasks."""
    import jax

    from scaling.data.corpus import load
    from scaling.data.holdout import holdout_windows
    from scaling.schedule import learning_rates
    from scaling.training.inputs import batches_of, evaluator_of
    from scaling.training.jax_setup import configure_jax
    from scaling.training.judge import holdout_losses
    from scaling.training.step import program_of

    configure_jax()
    corpus = load(spec.corpus, cache_folder() / "corpora")
    program = program_of(spec)
    batches = batches_of(spec, corpus)
    windows = holdout_windows(corpus, spec.sequence_length, spec.holdout_tokens)
    evaluator = None if spec.tasks is None else evaluator_of(spec, corpus, program)
    state, count = program.initial(), program.layout.steps_per_call
    found = []
    for first in range(0, (ROUNDS + 1) * count, count):
        start = time.perf_counter()
        tokens = program.put_batches(batches.span(first, count))
        rates = program.put_rates(learning_rates(spec.schedule, first, count))
        state, _ = program.train(state, tokens, rates)
        jax.block_until_ready(state)
        trained = time.perf_counter()
        holdout_losses(program, state.params, windows)
        judged = time.perf_counter()
        if evaluator is not None:
            evaluator.scores(state.params)
        found.append((trained - start, judged - trained, time.perf_counter() - judged))
    # Without the first round, which compiles.
    call, holdout, tasks = map(statistics.median, zip(*found[1:], strict=True))
    return call / count, holdout, tasks


if __name__ == "__main__":
    main()
