"""`scaling`: the command line's entry, which turns refusals into one line and an exit code."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path

# Ours from beside this package, whatever else of their names the search path has before it.
sys.path.insert(0, str(Path(__file__).parents[1]))
from scaling.launch.start import import_ours

import_ours()
del sys.path[0]

from scaling.launch.stops import stops_interrupt  # noqa: E402

# Before numpy is imported: these fits are thousands of tiny products, which threads slow 20-fold.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Every command by what it is for, with the module that has it; `scaling --help` lists them so.
COMMANDS = {
    "Plan a grid and train it": {
        "plan": "training",
        "simulate": "simulating",
        "run": "training",
        "worker": "training",
        "status": "training",
    },
    "Fit a law": {"fit": "fitting", "compare": "fitting", "plot": "plotting"},
    "Decide": {"recommend": "deciding", "predict": "deciding"},
    "Emergence": {"eval": "evaluating", "emergence": "emerging"},
    "Look up": {"laws": "fitting", "models": "catalogue"},
}
MODULES = {name: module for group in COMMANDS.values() for name, module in group.items()}
DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 75


def main() -> int:
    """Run the command line; returns its exit code (0 done, 1 failed, 2 refused, 75 interrupted)."""
    from experiments.text import say
    from scaling.launch.output import Unbroken

    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    output = Unbroken(sys.stdout)
    with redirect_stdout(output), redirect_stderr(Unbroken(sys.stderr)):
        try:
            # From here on: to import, to plan and to collect the table take seconds too.
            with stops_interrupt() if command == "run" else nullcontext():
                code = _run(command)
        except KeyboardInterrupt:
            say(f"scaling {command}: interrupted; the same command goes on from here", sys.stderr)
            return INTERRUPTED
        finally:
            output.flush()
        # Of a reader that wanted no more, such as `head`, there is nothing to say.
        if output.lost is not None and not isinstance(output.lost, BrokenPipeError):
            reason = f"{output.lost.strerror}; files that it writes are written"
            say(f"scaling {command}: error: cannot print all: {reason}", sys.stderr)
            # What a launch prints is not its life: its exit code is that of its runs.
            return code if command == "run" else code or REFUSED
        return code


def _run(command: str) -> int:
    """Run a command; returns its exit code."""
    from experiments.cli import Failed, app, overview, refuse_addresses, refuse_overwriting
    from experiments.text import say
    from scaling.store.records import Refusal, did_you_mean

    # Importing a module of commands registers them. A known command loads its own alone: an
    # estimate should not wait for what plans a grid.
    for name in dict.fromkeys([MODULES[command]] if command in MODULES else MODULES.values()):
        import_module(f"experiments.{name}")
    first = next(iter(sys.argv[1:]), "")
    if first in ("", "-h", "--help"):
        say(overview(COMMANDS))
        return DONE if first else REFUSED
    if command == first and command not in MODULES:
        near = did_you_mean(command, MODULES) or f" Give one of {', '.join(MODULES)}."
        say(f"scaling: error: there is no command {command!r}.{near}", sys.stderr)
        return REFUSED
    try:
        refuse_addresses(sys.argv[1:])
        refuse_overwriting(sys.argv[1:])
        app.cli(prog="scaling", description=app.description)
    except Refusal as error:
        say(f"scaling {command}: error: {error}", sys.stderr)
        return REFUSED
    except Failed as error:
        say(f"scaling {command}: {error}", sys.stderr)
        return FAILED
    except OSError as error:
        # What no module has words for: a folder one may not read, a disk that went away.
        named = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        say(f"scaling {command}: error: {named}", sys.stderr)
        return REFUSED
    return DONE


if __name__ == "__main__":
    sys.exit(main())
