"""Checkpoints of a run, written while it trains on.

The loop waits until the state is copied to the host, and no longer: a thread waits for the write,
hashes the files, names the checkpoint and deletes old ones. One at a time: who begins the next
waits for the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from scaling.store.failpoint import failpoint
from scaling.training import checkpoint
from scaling.training.processes import here


class Saver:
    """The checkpoints of one run, in `folder`.

    Those of the steps `kept` stay, beside the last ones. `before_commit` is called by a thread
    before a checkpoint gets its name, and may raise. When the context is left nothing is being
    written: a checkpoint that was begun and not committed is deleted.
    """

    def __init__(
        self,
        folder: Path,
        run_id: str,
        kept: Collection[int],
        before_commit: Callable[[], None],
    ) -> None:
        self.folder = folder
        self.run_id = run_id
        self.kept = kept
        self.before_commit = before_commit
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self.begun: tuple[int, checkpoint.Writing] | None = None
        self.committing: Future[None] | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self.thread:  # which it waits for
            if self.begun is not None:
                self.begun[1].abandon()
        if error is None:
            self.wait()

    def begin(self, step: int, state: Any) -> None:
        """Copy the state of `step`, which may change when this returns, and begin to write it.

        Raises Refusal as `wait` does, of this one or of the one before.
        """
        self.wait()
        self.begun = step, checkpoint.begin(self.folder, step, state, self.run_id)

    def commit(self) -> None:
        """Let the one that was begun get its name as soon as it is written.

        To be called when all that led to it is written, and not before.
        """
        assert self.begun is not None, "begin comes first"
        step, writing = self.begun
        self.begun = None
        self.committing = self.thread.submit(self._commit, step, writing)

    def look(self) -> None:
        """Raise what went wrong with the last commit, if that is known by now.

        Several processes would know it at different steps: they wait for it, in `wait`.
        """
        if self.committing is not None and self.committing.done() and here().count == 1:
            self.wait()

    def wait(self) -> None:
        """Wait for the last commit. Raises Refusal if it could not be written."""
        if self.committing is not None:
            committing, self.committing = self.committing, None
            committing.result()

    def _commit(self, step: int, writing: checkpoint.Writing) -> None:
        writing.finish(self.before_commit)
        failpoint("checkpoint-saved")
        if here().leads:
            last = checkpoint.last_steps(self.folder, step)
            checkpoint.keep(self.folder, {*last, *self.kept})
        failpoint("checkpoints-kept")
