"""The source of a user's own module and of what it imports of the user's, as one digest."""

from __future__ import annotations

import ast
import hashlib
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from importlib.metadata import packages_distributions
from importlib.util import find_spec, resolve_name
from pathlib import Path

OURS = frozenset({"models", "scaling", "analysis", "experiments", "scaling_laws"})
LIBRARIES = (
    *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")),
    *(Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")),
    Path(site.getusersitepackages()).resolve(),
)


def digest_of(module: str) -> str:
    """A digest of a module's source and of the modules of its own that it imports, 12 hex digits.

    Its own are those of its package, of its distribution, and all that lie elsewhere than installed
    libraries and this program. What it reads that is no module is not in it. Raises ValueError for
    a module without source, or with one that is no Python.
    """
    files: dict[str, bytes] = {}
    todo = [*_with_parents(module)]
    while todo:
        name = todo.pop()
        # What is in it is looked for only then: to find a part of a package imports the package.
        if name in files or not _is_own(name.partition(".")[0], module.partition(".")[0]):
            continue
        file = _file(name)
        if file is not None:
            files[name] = file.read_bytes()
            try:
                todo += _imported(name, files[name], file.name == "__init__.py")
            except SyntaxError as error:
                raise ValueError(f"{file} is no Python: {error}") from error
    if module not in files:
        raise ValueError(f"the source of {module} cannot be found")
    digest = hashlib.sha256()
    for name, source in sorted(files.items()):
        digest.update(f"{name} {hashlib.sha256(source).hexdigest()}\n".encode())
    return digest.hexdigest()[:12]


def _file(name: str) -> Path | None:
    """The source of a module; None for what is none, or has none."""
    try:
        spec = sys.modules[name].__spec__ if name in sys.modules else find_spec(name)
    except (ImportError, AttributeError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    file = Path(spec.origin)
    return file.resolve() if file.is_file() else None


def _is_own(top: str, mine: str) -> bool:
    """Whether a package or module at the top is one's own, by the name of the one that is."""
    if top == mine or top in OURS:
        return top == mine
    distributions = _distributions()
    if set(distributions.get(top, ())) & set(distributions.get(mine, ())):
        return True
    places = _places(top)
    return bool(places) and not any(
        place.is_relative_to(library) for place in places for library in LIBRARIES
    )


def _places(top: str) -> list[Path]:
    """The file of a module, or the folders of a package without one; none of what is built in."""
    if (file := _file(top)) is not None:
        return [file]
    try:
        spec = sys.modules[top].__spec__ if top in sys.modules else find_spec(top)
    except (ImportError, AttributeError, ValueError):
        return []
    return [Path(each).resolve() for each in (spec and spec.submodule_search_locations) or ()]


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


@lru_cache(maxsize=1024)
def _imported(name: str, source: bytes, is_package: bool) -> tuple[str, ...]:
    """The modules that a source imports, wherever in it, with the packages they are in."""
    return tuple(dict.fromkeys(_names(name if is_package else name.rpartition(".")[0], source)))


def _names(package: str, source: bytes) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            base = resolve_name(start, package) if node.level else start
            yield from _with_parents(base)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))
