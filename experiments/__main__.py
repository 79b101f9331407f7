"""`scaling`: the command line's entry, which turns refusals into one line and an exit code."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from importlib import import_module

from scaling.stops import stops_interrupt

# Before numpy is imported: these fits are thousands of tiny products, which threads slow 20-fold.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

COMMANDS = {
    "training": ("plan", "run", "status"),
    "fitting": ("fit", "compare", "laws"),
    "plotting": ("plot",),
    "deciding": ("predict", "recommend"),
    "simulating": ("simulate",),
    "evaluating": ("eval",),
    "emerging": ("emergence",),
    "catalogue": ("models",),
}
DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 75


def main() -> int:
    """Run the command line; returns its exit code (0 done, 1 failed, 2 refused, 75 interrupted)."""
    from experiments.text import say

    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    try:
        # From here on: to import, to plan and to collect the table take seconds too.
        with stops_interrupt() if command == "run" else nullcontext():
            return _run(command)
    except KeyboardInterrupt:
        say(f"scaling {command}: interrupted; the same command goes on from here", sys.stderr)
        return INTERRUPTED


def _run(command: str) -> int:
    """Run a command; returns its exit code."""
    from experiments.cli import Failed, app
    from experiments.text import say
    from scaling.records import Refusal

    # Importing a module of commands registers them, in the order that --help lists. A known
    # command loads its own alone: an estimate should not wait for what plans a grid.
    own = [name for name, commands in COMMANDS.items() if command in commands]
    for name in own or COMMANDS:
        import_module(f"experiments.{name}")
    try:
        app.cli(prog="scaling", description=app.description)
    except Refusal as error:
        say(f"scaling {command}: error: {error}", sys.stderr)
        return REFUSED
    except Failed as error:
        say(f"scaling {command}: {error}", sys.stderr)
        return FAILED
    except BrokenPipeError:  # `scaling … | head`
        sys.stderr.close()
        return DONE
    except OSError as error:
        # What no module has words for: a folder one may not read, a disk that went away.
        named = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        say(f"scaling {command}: error: {named}", sys.stderr)
        return REFUSED
    return DONE


if __name__ == "__main__":
    sys.exit(main())
