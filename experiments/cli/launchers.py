"""How `scaling run` has the runs of a plan trained: on this machine, or by an engine."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from analysis.text import scientific
from experiments.cli.join.placement import placed_here, places_for
from experiments.cli.progress import Watch
from experiments.cli.render.run import ray_text, slots_text
from experiments.cli.render.slurm import submitted_text, workers_text
from experiments.cli.text import say
from scaling.launch import launcher, ray, slots
from scaling.launch.launcher import TimeUp
from scaling.launch.local import Local
from scaling.launch.pool import Launcher, Pool
from scaling.launch.queue import Order
from scaling.launch.recording import environment_for
from scaling.launch.slurm import Grid, Slurm
from scaling.launch.slurm_queue import in_queue, submissions
from scaling.launch.watch import WatchedRuns
from scaling.planning.plan import Plan
from scaling.spec import RunSpec
from scaling.store import table
from scaling.store.records import Refusal
from scaling.store.results import Results, unfinished
from scaling.training.flags import Slot, refuse_faulty_jax


@dataclass(frozen=True)
class Asked:
    """What the command line asks of a launcher; null where it does not say."""

    workers: int | None
    devices_per_run: int | None
    runs_per_device: int | None
    max_hours: float  # infinite where it does not say
    order: Order


class Launching(Protocol):
    """Has runs trained; made before there is a plan, to refuse early what it cannot do."""

    def placed(self, folder: Results, plan: Plan, waiting: Sequence[RunSpec]) -> str:
        """Says where these runs of a plan for a folder would train, of which nothing is written.

        Raises Refusal if they cannot.
        """

    def train(self, folder: Results, plan: Plan) -> bool:
        """Have the runs of a folder trained that are not finished, after `placed`; it is prepared.

        Returns whether they have ended, as far as they could be trained; false where they train
        after this command.
        """


class Here:
    """On this machine, by processes that this command tends."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.places = slots.slots_of(
            slots.this_host(), asked.workers, asked.devices_per_run, asked.runs_per_device
        )
        refuse_faulty_jax(self.places.host.platform)

    def placed(self, folder: Results, plan: Plan, waiting: Sequence[RunSpec]) -> str:
        asked = self.asked
        self.places = places_for(
            waiting,
            self.places.host,
            asked.workers,
            asked.devices_per_run,
            asked.runs_per_device,
        )
        placed_here(waiting, self.places).refuse_too_large()
        return slots_text(self.places, len(waiting))

    def train(self, folder: Results, plan: Plan) -> bool:
        places = self.places
        tended(
            lambda: Local(environment_for(folder, plan.runs, places.host, places.slots[0], say)),
            folder,
            places.slots,
            self.asked,
        )
        return True


class OnRay:
    """On a Ray cluster, by actors that this command tends."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.nodes: tuple[ray.Node, ...] = ()
        self.needs = ray.Needs()
        self.places: tuple[Slot, ...] = ()

    def placed(self, folder: Results, plan: Plan, waiting: Sequence[RunSpec]) -> str:
        asked, section = self.asked, plan.study.launch.ray
        self.nodes = ray.connect(section.address)
        gpus = section.gpus if asked.devices_per_run is None else asked.devices_per_run
        self.needs = ray.needs_of(self.nodes, gpus, asked.runs_per_device)
        workers = section.workers if asked.workers is None else asked.workers
        self.places = ray.slots_of(self.nodes, self.needs, workers)
        return ray_text(self.nodes, self.needs, len(self.places), len(waiting))

    def train(self, folder: Results, plan: Plan) -> bool:
        ray.refuse_unfit(folder, self.nodes, self.needs)
        tended(lambda: ray.Ray(self.needs), folder, self.places, self.asked)
        return True


class OnSlurm:
    """By the tasks of a Slurm job array, which go on after this command."""

    def __init__(self, asked: Asked) -> None:
        for option, value, instead in (
            ("--devices-per-run", asked.devices_per_run, "give [launch.slurm] gpus"),
            ("--runs-per-device", asked.runs_per_device, "a task has its GPUs for itself"),
            (
                "--max-hours",
                None if math.isinf(asked.max_hours) else asked.max_hours,
                "give [launch.slurm] time",
            ),
        ):
            if value is not None:
                raise Refusal(f"{option} {value:g} is not for --launcher slurm: {instead}.")
        slots.refuse_count("--workers", asked.workers)
        self.asked = asked

    def placed(self, folder: Results, plan: Plan, waiting: Sequence[RunSpec]) -> str:
        engine = self._engine(folder, plan, len(waiting))
        engine.refuse_wrong()
        return workers_text(engine)

    def train(self, folder: Results, plan: Plan) -> bool:
        before = submissions(folder)
        left = unfinished(folder, folder.manifest())
        self._engine(folder, plan, len(left)).start()
        made = [each for each in submissions(folder) if each not in before]
        say(submitted_text(folder, made, in_queue(folder)))
        return False

    def _engine(self, folder: Results, plan: Plan, left: int) -> Slurm:
        grid = Grid(plan.study.name, folder, self.asked.order, left)
        return Slurm(plan.study.launch.slurm, grid, self.asked.workers)


LAUNCHINGS: Mapping[str, Callable[[Asked], Launching]] = {
    "local": Here,
    "slurm": OnSlurm,
    "ray": OnRay,
}


def tended(
    starts: Callable[[], Launcher], folder: Results, places: Sequence[Slot], asked: Asked
) -> None:
    """Keep workers in the slots until all runs have ended, and print why a worker stopped.

    However it ends, the run table has what was finished. Raises KeyboardInterrupt after
    `max_hours`.
    """
    try:
        watch = WatchedRuns(folder)
        pool = Pool(starts(), watch, asked.order, places)
        with Watch() as show:
            launcher.launch(pool, watch, show, 3600 * asked.max_hours)
    except BaseException as error:
        try:
            table.publish_table(folder)
        except (Refusal, OSError) as unwritten:  # must not hide the first error
            say(f"the run table is not written: {unwritten}", sys.stderr)
        if not isinstance(error, TimeUp):
            raise
        manifest = folder.manifest()
        left = unfinished(folder, manifest)
        say(
            f"--max-hours {asked.max_hours:g} is over: {len(left)} of {len(manifest.runs)} runs "
            f"are not finished, {scientific(sum(run.flops for run in left))} exact FLOPs from "
            "their start"
        )
        raise KeyboardInterrupt from None
    if watch.left:
        for reason in pool.last_words():
            say(f"a worker stopped: {reason}", sys.stderr)
