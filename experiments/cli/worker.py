"""`scaling worker`: train the runs of a results folder in this process, or with others."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from tyro.conf import arg

from experiments.cli.app import Directory, app
from experiments.cli.text import say


@app.command
def worker(
    directory: Directory,
    /,
    *,
    order: Literal["cheapest-first", "longest-first"] = "cheapest-first",
    together: bool = False,
    coordinator: Annotated[str | None, arg(metavar="HOST:PORT")] = None,
    processes: int | None = None,
    process: int | None = None,
) -> None:
    """Train runs of a results folder, one by one, until every run of the plan is finished.

    `scaling run` starts one such process per worker. Start as many as you like, on any machine that
    sees the folder and the cache of corpora: each takes a run that no other has, and waits while
    others have the rest. A worker uses all accelerators that it sees; to start several on one host,
    give each its own CUDA_VISIBLE_DEVICES. Exit codes: 0 all completed, 1 a run failed or diverged,
    2 refused or not to be written here, 75 stopped.

        scaling worker results/quickstart
        scaling worker s3://bucket/runs/quickstart
        srun --ntasks-per-node=1 scaling worker /shared/results/large --together

    Args:
        order: Which run to take next: the cheapest, or the longest.
        together: All processes of this Slurm step, Open MPI job or indexed Kubernetes job are one
            worker, and train each run over all their devices. Without it each is a worker.
        coordinator: Where process 0 of several listens; implies --together.
        processes: How many processes make the worker, where no cluster says it.
        process: Which of them this is, from 0.
    """
    from scaling.data.corpus import load
    from scaling.data.verified import check_afresh
    from scaling.launch.hosts import place_of, slot_of, tasks_beside
    from scaling.launch.recording import environment_for
    from scaling.launch.slots import this_host, whole_host
    from scaling.launch.worker import worker_command
    from scaling.spec import spec_of
    from scaling.store.paths import cache_folder
    from scaling.store.results import results_at, unfinished

    place, asked = None, (coordinator, processes, process)
    if together or any(each is not None for each in asked):
        place = place_of(*asked)
    elif tasks_beside() > 1:
        say("this Slurm step has several tasks, each a worker by itself; --together makes them one")
    results, slot = results_at(directory), whole_host()
    if place is not None:
        slot = slot_of(slot, place)
    results.look()
    manifest = results.manifest()
    left = unfinished(results, manifest)
    for corpus in sorted({str(run.config["corpus"]) for run in left}):
        check_afresh(load(corpus, cache_folder() / "corpora"))
    command = worker_command(results, order, place=place)
    # It replaces this process, with the environment in which a launcher would start it.
    runs = (spec_of(run.config) for run in manifest.runs)
    environment = environment_for(results, runs, this_host(), slot, say)
    os.execve(command[0], command, environment(slot))
