"""A worker of this installation, started by the path of this file: `python -P start.py RESULTS …`.

`--record` compiles the runs that stdin names instead (scaling/training/autotuning.py), `--prepare`
reads and tokenises what stdin names (scaling/data/serving.py).

A working directory or a PYTHONPATH that holds `models.py` or another of our packages' names would
come before us, so ours are imported first. Everything else is found as always.
"""

import sys
from importlib import import_module
from pathlib import Path

PACKAGES = ("analysis", "experiments", "models", "scaling")
ROOT = Path(__file__).parents[2]  # not resolved: an installation may be links into a cache


def import_ours() -> None:
    """Import our packages from beside this file; the search path stays as it was."""
    sys.path.insert(0, str(ROOT))
    try:
        for name in PACKAGES:
            import_module(name)
    finally:
        sys.path.remove(str(ROOT))


if __name__ == "__main__":
    import_ours()
    if sys.argv[1] == "--record":
        from scaling.training.autotuning import compile_specifications

        sys.exit(compile_specifications(sys.stdin.read()))
    if sys.argv[1] == "--prepare":
        from scaling.data.serving import main as prepare

        sys.exit(prepare())
    from scaling.launch.worker import main

    sys.exit(main(sys.argv[1:]))
