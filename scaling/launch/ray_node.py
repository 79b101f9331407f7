"""What Ray runs on a node: a look at whether it can train, and the actor that has one worker.

Ray finds both by their names, so this program must be installed on the node; only texts and numbers
go there and come back. The worker is a process of its own there as everywhere: it is told to stop
by a signal, and jax starts afresh in it.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from scaling.data.corpus import load
from scaling.launch.local import Local
from scaling.launch.queue import Order
from scaling.launch.recording import Environment, environment_for
from scaling.launch.slots import this_host, whole_host
from scaling.launch.source import source_digest
from scaling.launch.worker import worker_command
from scaling.spec import spec_of
from scaling.store.manifest import Manifest
from scaling.store.paths import cache_folder
from scaling.store.records import Refusal
from scaling.store.results import Results, results_at
from scaling.training.flags import Slot, worker_environment


def unfit(results: str, mark: str) -> str:
    """Why this node cannot train the runs of a plan, with the remedy; empty where it can.

    `mark` is the name of a file that the launch has just made in the results folder; empty where
    the results are at an address.
    """
    if mark and not (Path(results) / mark).exists():
        return (
            f"it does not see {results} as the launching host does. Give a folder that all nodes "
            "share by --results."
        )
    try:
        manifest = results_at(results).manifest()
        return _another_program(manifest) or _lacking(manifest)
    except Refusal as error:
        return str(error)


def _another_program(manifest: Manifest) -> str:
    planned = manifest.source_sha256[:12]
    try:
        found = source_digest(str(run.config["architecture"]) for run in manifest.runs)
    except (ValueError, OSError) as error:  # an architecture that is not installed here
        return f"the program that the plan was made with is not there: {error}."
    if found == manifest.source_sha256:
        return ""
    return (
        f"it has source {found[:12]} of this program, and the plan was made with source {planned}. "
        "Install the same version on every node."
    )


def _lacking(manifest: Manifest) -> str:
    folder = cache_folder() / "corpora"
    try:
        for corpus in sorted({str(run.config["corpus"]) for run in manifest.runs}):
            load(corpus, folder)
    except Refusal as error:
        return (
            f"its cache of corpora {folder} lacks what the runs read: {error} Start Ray there with "
            "SCALING_CACHE set to a folder that all nodes share."
        )
    return ""


class Place:
    """The actor: it has one worker, a process of its node."""

    def __init__(self, results: str, order: Order, log: str, gpus: int, sharing: int) -> None:
        """Start the worker, on the GPUs that Ray gave the actor. Raises Refusal where jax sees
        none of them."""
        place = results_at(results)
        slot = replace(_on_gpus(), sharing=sharing) if gpus else Slot()
        environment = _environment(place, slot) if gpus else _without_gpus
        command = worker_command(place, order, log, os.getpid())
        self.local = Local(environment)
        self.worker = self.local.start(command, place.logs / log, slot)

    def wait(self) -> int:
        """The exit code of the worker, or minus the signal that ended it, once it has ended."""
        code = self.worker.wait()
        self.local.alive(self.worker)  # which adds to its log of what it died
        return code

    def stop(self) -> None:
        """Ask the worker to end in order."""
        self.local.stop(self.worker)

    def kill(self) -> None:
        """End the worker at once."""
        self.local.kill(self.worker)


def _on_gpus() -> Slot:
    slot = whole_host()
    if slot.platform == "cpu":
        raise Refusal(
            f"Ray gives this worker GPUs ({os.environ.get('CUDA_VISIBLE_DEVICES')}), and jax finds "
            "none. Install jax for GPUs on every node, or give [launch.ray] gpus = 0."
        )
    return slot


def _environment(place: Results, slot: Slot) -> Environment:
    runs = (spec_of(run.config) for run in place.manifest().runs)
    return environment_for(place.logs.parent, runs, this_host(), slot, print)


def _without_gpus(slot: Slot) -> dict[str, str]:
    # Ray hides no GPU from an actor that asked for none.
    return {**worker_environment(slot), "JAX_PLATFORMS": "cpu"}
