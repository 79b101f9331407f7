"""What could not be brought up of a run, kept on this machine for who goes on with it here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


class Kept:
    """Folders of runs, each as the attempt left it that could not bring it up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, run: Path, attempt: str) -> Path:
        """Keep a run's folder; returns where."""
        to = self.folder / run.name / attempt
        to.parent.mkdir(parents=True, exist_ok=True)
        run.replace(to)
        self.drop_before(run.name, attempt)  # which this one went on from
        return to

    def take(self, run: Path, newest: str) -> bool:
        """Whether a run's folder is now what was kept of it: by no attempt before the newest.

        It stays kept until a later attempt is up: whoever takes it may be killed before that. The
        files are links, which nobody changes in place. Call it as the owner of the run.
        """
        for found in sorted((self.folder / run.name).glob("*"), reverse=True):
            if found.name >= newest:
                shutil.rmtree(run, ignore_errors=True)
                shutil.copytree(found, run, symlinks=True, copy_function=os.link)
                return True
        return False

    def drop(self, newest: Callable[[str], str]) -> None:
        """Delete what a later attempt has come after; of a run, `newest` tells it."""
        for run in self.folder.glob("*"):
            self.drop_before(run.name, newest(run.name))

    def drop_before(self, run_id: str, attempt: str) -> None:
        """Delete what is kept of a run by the attempts before one."""
        for found in (self.folder / run_id).glob("*"):
            if found.name < attempt:
                shutil.rmtree(found, ignore_errors=True)
