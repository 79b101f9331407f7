"""The source of a user's own module and of what it imports of the user's, as one digest."""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from importlib.metadata import packages_distributions
from importlib.util import find_spec, resolve_name
from pathlib import Path

OURS = frozenset({"models", "scaling", "analysis", "experiments"})
LIBRARIES = tuple(
    Path(sysconfig.get_path(name)).resolve()
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


def digest_of(module: str) -> str:
    """A digest of a module's source and of the modules of its own that it imports, 12 hex digits.

    Its own are those of its package, of its distribution, and those whose files lie in the folder
    of its package, unless that is one of installed libraries. Raises ValueError for a module
    without source.
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
            todo += _imported(name, files[name], file.name == "__init__.py")
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
    file, start = _file(top), _file(mine)
    if file is None or start is None:  # built in, or without a file that says where it lies
        return False
    folder = start.parent.parent if start.name == "__init__.py" else start.parent
    installed = any(file.is_relative_to(library) for library in LIBRARIES)
    return file.is_relative_to(folder) and not installed


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
