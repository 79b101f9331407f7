"""The source files of Python packages at fixed versions: a corpus that any machine can have.

A list, a TOML file, names each package with its version and the SHA-256 of its files:

    [[package]]
    name = "sympy"
    version = "1.14.0"
    sha256 = "…"

The files are read, never run: from a wheel in a folder, else from where the package is installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePosixPath
from typing import Annotated, TypeAlias

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated

from scaling.data.documents import SourceMissing
from scaling.given import read_file
from scaling.remedies import remedy
from scaling.store.records import Refusal

PACKAGES = "packages:"  # what a source begins with that is a list of packages
FOLDER = "SCALING_PACKAGES"  # the environment variable that names the folder of wheels
SUFFIX = ".py"
# RuntimeError: a file that is encrypted, or compressed in a way that Python does not know.
MAX_BYTES = 1 << 20  # of a list; a thousand packages take 150 kB
UNREADABLE = (OSError, RuntimeError, zipfile.BadZipFile, zlib.error)

_STRICT = ConfigDict(extra="forbid", strict=True)


@validated(frozen=True, config=_STRICT)
class Package:
    """One package of a list."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?$")]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+!]{0,98}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # of `digest_of`


@validated(frozen=True, config=_STRICT)
class PackageList:
    package: Annotated[tuple[Package, ...], Field(min_length=1, max_length=1000)]


@dataclass(frozen=True)
class Wheel:
    """A package as a wheel has it."""

    file: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read."""
        return (self.file,)

    def sizes(self) -> list[int]:
        """Bytes of each of its source files."""
        with zipfile.ZipFile(self.file) as wheel:
            return [wheel.getinfo(name).file_size for name in _sources(wheel.namelist())]

    def texts(self) -> Iterator[tuple[str, bytes]]:
        """Its source files by path, in the order of their paths."""
        with zipfile.ZipFile(self.file) as wheel:
            for name in _sources(wheel.namelist()):
                yield name, wheel.read(name)


@dataclass(frozen=True)
class Installed:
    """A package as it is installed."""

    paths: Mapping[str, Path]  # of its source files, by their paths in the package, in order

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read."""
        return tuple(self.paths.values())

    def sizes(self) -> list[int]:
        """Bytes of each of its source files."""
        return [file.stat().st_size for file in self.files]

    def texts(self) -> Iterator[tuple[str, bytes]]:
        """Its source files by path, in the order of their paths."""
        for name, file in self.paths.items():
            yield name, file.read_bytes()


Place: TypeAlias = Wheel | Installed


@dataclass(frozen=True)
class Found:
    """A package of a list, and where it is."""

    package: Package
    place: Place

    def texts(self, source: str) -> Iterator[bytes]:
        """Its source files, by path; `source` is what messages name.

        Raises Refusal for a file that is not UTF-8 and, after the last, where the files are not
        those that the list means.
        """
        package, listed = self.package, hashlib.sha256()
        where = f"[data] source = {source!r}: {package.name} {package.version}"
        try:
            for path, text in self.place.texts():
                listed.update(_line(path, text))
                text.decode()
                yield text
        except UnicodeDecodeError as error:
            raise Refusal(
                f"{where} has a file that is not UTF-8, {path} (byte {error.start}). Take the "
                "package out of the list."
            ) from error
        except UNREADABLE as error:
            raise Refusal(
                f"{where}: cannot read it ({error}). {remedy(error, _remedy([package]))}"
            ) from error
        if listed.hexdigest() != package.sha256:
            at = self.place.file if isinstance(self.place, Wheel) else "the environment"
            raise Refusal(
                f"{where}: its files in {at} are not those of the list (sha256 "
                f"{listed.hexdigest()}, listed {package.sha256}). {_remedy([package])}"
            )


@dataclass(frozen=True)
class PackageTexts:
    """The packages of a list, found but not read."""

    source: str  # as the study names it
    listed: Path
    found: tuple[Found, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """All that is read, the list too."""
        return (self.listed, *(file for each in self.found for file in each.place.files))

    def sizes(self) -> list[int]:
        """Bytes of each source file. Raises Refusal for a wheel that cannot be read."""
        try:
            return [size for each in self.found for size in each.place.sizes()]
        except UNREADABLE as error:
            said = f"{error}. {remedy(error)}".rstrip()
            raise Refusal(f"[data] source = {self.source!r}: {said}") from error

    def documents(self) -> Iterator[bytes]:
        """The source files, in the order of the list and, of a package, of their paths.

        Raises Refusal as `Found.texts` does.
        """
        for each in self.found:
            yield from each.texts(self.source)


def find(source: str) -> PackageTexts:
    """The packages of a source `packages:LIST`.

    Raises Refusal for a list that is none, SourceMissing naming every package that is not here.
    """
    path = Path(source.removeprefix(PACKAGES))
    listed = _read(source, path)
    wheels, installed = _wheels(), {_plain(each.name): each for each in distributions()}
    found: list[Found] = []
    missing: list[Package] = []
    for package in listed:
        name = _plain(package.name)
        there = installed.get(name)
        if file := wheels.get((name, package.version)):
            found.append(Found(package, Wheel(file)))
        elif there is not None and there.version == package.version:
            found.append(Found(package, Installed(_paths(there))))
        else:
            missing.append(package)
    if missing:
        raise SourceMissing(
            f"[data] source = {source!r}: of {len(listed)} packages, "
            f"{', '.join(f'{each.name} {each.version}' for each in missing)} are neither "
            f"installed nor wheels in {folder()}. {_remedy(missing)}"
        )
    return PackageTexts(source, path, tuple(found))


def folder() -> Path:
    """Where wheels are looked for."""
    return Path(os.environ.get(FOLDER) or "packages")


def digest_of(place: Place) -> str:
    """What a list says of a package: the SHA-256 of a line a source file, by path."""
    listed = hashlib.sha256()
    for path, text in place.texts():
        listed.update(_line(path, text))
    return listed.hexdigest()


def _line(path: str, text: bytes) -> bytes:
    return f"{path} {hashlib.sha256(text).hexdigest()}\n".encode()


def _read(source: str, path: Path) -> tuple[Package, ...]:
    where = f"[data] source = {source!r}"
    try:
        content = read_file(path, MAX_BYTES)
    except OSError as error:
        what = remedy(error, "Give the path of a TOML file of [[package]] tables.")
        raise SourceMissing(
            f"{where}: cannot read the list {path} ({error.strerror}). {what}"
        ) from error
    except ValueError as error:  # a pipe, or NUL in its name
        raise Refusal(f"{where}: cannot read the list {path} ({error}).") from error
    try:
        raw = tomllib.loads(content.decode())
        given = TypeAdapter(PackageList).validate_json(json.dumps(raw, default=str))
    except ValidationError as error:
        first = error.errors()[0]
        raise Refusal(
            f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}. Give [[package]] "
            "tables of name, version and sha256, and no other fields."
        ) from error
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{where}: {path} is not valid TOML: {error}.") from error
    names = [_plain(each.name) for each in given.package]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise Refusal(f"{where} names {twice} twice. Remove one.")
    return given.package


def _wheels() -> dict[tuple[str, str], Path]:
    """The wheels of the folder, by plain name and version."""
    found = {}
    for file in sorted(folder().glob("*.whl")):
        parts = file.name.split("-")
        if len(parts) >= 5 and file.is_file():
            found[_plain(parts[0]), parts[1]] = file
    return found


def _paths(package: Distribution) -> dict[str, Path]:
    paths = {each.as_posix(): Path(str(each.locate())) for each in package.files or ()}
    return {name: paths[name] for name in _sources(paths)}


def _sources(names: Iterable[str]) -> list[str]:
    """Those of the paths in a package that are source files, in order.

    What a wheel brings for other places, and what pip puts there, is left out: a package then has
    the same files wherever it is found.
    """
    paths = map(PurePosixPath, names)
    return sorted(
        path.as_posix()
        for path in paths
        if path.suffix == SUFFIX
        and ".." not in path.parts
        and not path.parts[0].endswith((".data", ".dist-info"))
    )


def _plain(name: str) -> str:
    """A package's name as all its spellings have it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _remedy(packages: list[Package]) -> str:
    wanted = " ".join(f"{each.name}=={each.version}" for each in packages)
    return f"Get them: pip download --no-deps -d packages {wanted}"
