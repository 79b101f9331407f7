"""`scaling`: the entry of the command line, which turns refusals into a line and an exit code."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext, redirect_stderr, redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from tempfile import NamedTemporaryFile

# Our packages from this checkout, even if the search path has others of the same names first.
sys.path.insert(0, str(Path(__file__).parents[2]))
from scaling.launch.start import import_ours

import_ours()
del sys.path[0]

from scaling.launch.stops import stops_interrupt  # noqa: E402

# Set before numpy is imported: threads slow the thousands of tiny products of a fit 20-fold.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# The commands by what they are for, as `scaling --help` lists them. A command is in the module of
# its name.
COMMANDS = {
    "Plan a grid and train it": (
        *("plan", "simulate", "prepare", "run", "tune", "worker", "status", "sync"),
    ),
    "Fit a law": ("fit", "show", "compare", "plot"),
    "Decide": ("recommend", "predict", "curve"),
    "Emergence": ("eval", "emergence"),
    "Look up": ("laws", "models"),
}
# `eval` is a function of Python's.
MODULES = {name: name for names in COMMANDS.values() for name in names} | {"eval": "evaluate"}
HELP = {"-h", "--help"}
# The fourth is EX_SOFTWARE of sysexits.h, the fifth EX_TEMPFAIL.
DONE, FAILED, REFUSED, FAULT, INTERRUPTED = 0, 1, 2, 70, 75


def main() -> int:
    """Run the command line; returns its exit code, as `scaling --help` lists them."""
    from experiments.cli.text import say, show_as_it_is
    from scaling.launch.output import Printable, Unbroken, nowhere

    command, *words = sys.argv[1:] or [""]
    with ExitStack() as life:
        streams = [each or life.enter_context(nowhere()) for each in (sys.stdout, sys.stderr)]
        output, errors = map(Unbroken, streams)
        life.enter_context(redirect_stdout(Printable(output)))
        life.enter_context(redirect_stderr(Printable(errors)))
        life.callback(show_as_it_is)
        try:
            # Already here, because imports and planning take seconds too.
            with stops_interrupt() if command in ("run", "tune", "prepare") else nullcontext():
                code = _run(command, words)
        except KeyboardInterrupt:
            say(f"scaling {command}: interrupted; the same command continues from here", sys.stderr)
            return INTERRUPTED
        except Exception as error:  # that no module foresaw
            code = _fault(command, error)
        finally:
            output.flush()
        # A reader that closed the pipe early, such as `head`, is no error.
        if output.lost is not None and not isinstance(output.lost, BrokenPipeError):
            worked = command in MODULES and not HELP & {*words}
            kept = "; its files are written" if worked and code == DONE else ""
            reason = f"{output.lost.strerror}{kept}"
            say(f"scaling {command}: error: cannot print all: {reason}", sys.stderr)
            # The exit code of a launch is that of its runs, even if printing failed.
            return code if command == "run" else code or REFUSED
        return code


def _run(command: str, words: Sequence[str]) -> int:
    """Run a command with these arguments; returns its exit code."""
    from experiments.cli import app as frame
    from experiments.cli.addresses import addresses_read
    from experiments.cli.output import refuse_overwriting
    from experiments.cli.text import say, show_in_one_line
    from scaling.remedies import remedy
    from scaling.store.records import Refusal, did_you_mean, printable

    if command == "--version":
        say(frame.version_text())
        return DONE
    if command == "" or command in HELP:
        for module in MODULES.values():
            import_module(f"experiments.cli.{module}")
        say(frame.overview(COMMANDS))
        return DONE if command else REFUSED
    if command not in MODULES:
        near = did_you_mean(command, MODULES) or f" Give one of {', '.join(MODULES)}."
        say(f"scaling: error: there is no command {command!r}.{near}", sys.stderr)
        return REFUSED
    show_in_one_line(words)
    # Its module alone, so that a fit does not wait for the modules that plan a grid.
    import_module(f"experiments.cli.{MODULES[command]}")
    if HELP & {*words}:
        say(f"{frame.about(command)}\n")  # tyro prints the options below
    try:
        with addresses_read(command, words) as words:
            refuse_overwriting(words)
            frame.app.cli([command, *words])
    except Refusal as error:
        say(f"scaling {command}: error: {error}", sys.stderr)
        return REFUSED
    except SystemExit as ended:  # of tyro, after its help or a refusal of its own
        return DONE if ended.code in (None, DONE) else REFUSED
    except frame.Failed as error:
        say(f"scaling {command}: {printable(str(error))}", sys.stderr)
        return FAILED
    except OSError as error:
        # Errors that no module refuses: a folder without permission, a disk that went away.
        reason = error.strerror or str(error)
        named = f"{error.filename or 'a file that the system does not name'}: {reason}"
        said = printable(f"{named}. {remedy(error)}".removesuffix(". "))
        say(f"scaling {command}: error: {said}", sys.stderr)
        return REFUSED
    except MemoryError as error:
        said = f"not enough memory ({error})" if str(error) else "not enough memory"
        say(f"scaling {command}: error: {said}. Give less at once, or more memory.", sys.stderr)
        return REFUSED
    return DONE


def _fault(command: str, error: Exception) -> int:
    """Say that the program is at fault, and where a file has what its repair needs."""
    from experiments.cli.text import say
    from scaling.store.records import printable

    of = f"Python {platform.python_version()}, {platform.platform()}"
    with suppress(Exception):  # of an installation that is not whole
        from experiments.cli.app import version_text

        of = f"{version_text()}, {of}"
    details = f"{of}\n{shlex.join(sys.argv)}\n\n{''.join(traceback.format_exception(error))}"
    try:
        with NamedTemporaryFile(
            "w", prefix="scaling-fault-", suffix=".txt", delete=False, errors="backslashreplace"
        ) as file:
            file.write(details)
        where = f"The details are in {file.name}: please report it with that file"
    except OSError:
        say(details, sys.stderr)
        where = "Please report it with the details above"
    said = printable(f"{type(error).__name__}: {error}"[:200])
    say(f"scaling {command}: a fault of this program ({said}). {where}.", sys.stderr)
    return FAULT


if __name__ == "__main__":
    sys.exit(main())
