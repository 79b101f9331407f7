"""The public face: fit laws to a run table, forecast, and recommend, from a script or a notebook.

    import scaling_laws as sl

    runs = sl.read_runs("my_runs.csv")
    print(sl.recommend(sl.fit("chinchilla", runs), flops=[1e21]))

A name is imported when it is first asked for, and none loads jax.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.design.simulate import simulate
    from analysis.fitting.files import load_fit
    from analysis.fitting.fit import fit
    from analysis.forecast.compare import compare
    from analysis.forecast.predict import predict
    from analysis.laws.catalogue import law
    from analysis.laws.formula import amplitude, exponent, feature, floor
    from analysis.laws.law import Law
    from analysis.laws.published import published
    from analysis.recommend.recommend import recommend
    from analysis.runs.table import read_runs

__all__ = [
    "Law",
    "amplitude",
    "compare",
    "exponent",
    "feature",
    "fit",
    "floor",
    "law",
    "load_fit",
    "predict",
    "published",
    "read_runs",
    "recommend",
    "simulate",
]

_MODULES = {
    "Law": "analysis.laws.law",
    "amplitude": "analysis.laws.formula",
    "compare": "analysis.forecast.compare",
    "exponent": "analysis.laws.formula",
    "feature": "analysis.laws.formula",
    "fit": "analysis.fitting.fit",
    "floor": "analysis.laws.formula",
    "law": "analysis.laws.catalogue",
    "load_fit": "analysis.fitting.files",
    "predict": "analysis.forecast.predict",
    "published": "analysis.laws.published",
    "read_runs": "analysis.runs.table",
    "recommend": "analysis.recommend.recommend",
    "simulate": "analysis.design.simulate",
}
_ROOT = Path(__file__).parent  # not resolved: an installation may be links into a cache
_PACKAGES = ("scaling", "analysis")  # what the names above are made of


def __getattr__(name: str) -> Any:
    """The public name, imported now. Raises ImportError where a file of yours has our name."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _import_ours()
    found = getattr(import_module(_MODULES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)


def _import_ours() -> None:
    """Import our packages from beside this file, whatever else of their names the path has first.

    Raises ImportError where another module of such a name is imported already.
    """
    for name in _PACKAGES:
        if name in sys.modules:
            _refuse_foreign(name, sys.modules[name])
            continue
        first = PathFinder.find_spec(name)
        sys.path.insert(0, str(_ROOT))
        try:
            import_module(name)
        finally:
            sys.path.remove(str(_ROOT))
        if first is not None and first.origin is not None and not _is_ours(name, first.origin):
            warnings.warn(
                f"{first.origin} has the name of a package of scaling_laws, and `import {name}` "
                "now means that package, not your file. Rename your file.",
                stacklevel=3,
            )


def _refuse_foreign(name: str, module: ModuleType) -> None:
    place = module.__file__ or str(next(iter(module.__path__)))  # a folder without __init__.py
    if not _is_ours(name, place):
        raise ImportError(
            f"{place} was imported as {name!r}, which is the name of a package of scaling_laws "
            f"({_ROOT / name}). Rename your file or folder, and start Python again.",
            name=name,
            path=place,
        )


def _is_ours(name: str, place: str) -> bool:
    return Path(place).resolve() == (_ROOT / name / "__init__.py").resolve()
