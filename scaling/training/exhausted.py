"""A device that is out of memory: what a run had on it, and what would do with less."""

from __future__ import annotations

import jax

from scaling.planning.deriving import layout_of, smaller_microbatch
from scaling.planning.layout import Layout
from scaling.spec import RunSpec
from scaling.training.target import target_here

EXHAUSTED = "RESOURCE_EXHAUSTED"  # how XLA begins to say so, whatever the device


def out_of_memory(error: Exception, run: RunSpec) -> str | None:
    """Why a run failed that asked its devices for more memory than there is, with a remedy.

    Null for errors that say nothing of memory.
    """
    if not isinstance(error, jax.errors.JaxRuntimeError) or EXHAUSTED not in str(error):
        return None
    layout = layout_of(run, target_here())
    return (
        f"out of memory on the device with microbatch_tokens = "
        f"{layout.sequences * run.sequence_length}: {_remedy(run, layout)}"
    )


def _remedy(run: RunSpec, layout: Layout) -> str:
    if (tokens := smaller_microbatch(run, layout)) is not None:
        return f"give [hardware] microbatch_tokens = {tokens} and --retry failed."
    if layout.execution.remat != "full":
        return 'give [hardware] remat = "full" and --retry failed.'
    return "give each run more devices (--devices-per-run), or larger ones, and --retry failed."
