"""How the words of a command line become values: nothing that is given goes unread.

An option that is given twice, a name that has two values and a value that is listed twice are
refused: a parser takes the last, or all of them, without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar, get_args

from tyro.conf import DisallowNone
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    UnsupportedTypeAnnotationError,
)

from scaling.quantity import parse_count
from scaling.store.records import Refusal

KINDS = ConstructorRegistry()  # how tyro reads words of a kind of its own
Value = TypeVar("Value")
_OPTION = re.compile(r"(--[A-Za-z][\w-]*)(?:=.*)?", re.DOTALL)
_Found = PrimitiveConstructorSpec[Any] | UnsupportedTypeAnnotationError | None


@KINDS.primitive_rule
def _whole_number(kind: PrimitiveTypeInfo) -> _Found:
    """1e3 and 4k are whole numbers too, as in every other number of a command."""
    if kind.type is not int:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: _count(*words),
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    )


def _count(word: str) -> int:
    with suppress(ValueError):  # zero, and numbers below it, are for the command to judge
        return int(word)
    return int(parse_count(word))  # type: ignore[call-overload]


@KINDS.primitive_rule
def _not_given(kind: PrimitiveTypeInfo) -> _Found:
    """None is the default of what is not given, and no word of the user's."""
    others = [each for each in get_args(kind.type) if each is not type(None)]
    if len(others) == len(get_args(kind.type)) or len(others) != 1:
        return None
    if DisallowNone not in kind.markers:
        return None
    found = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(others[0], kind.markers))
    if isinstance(found, UnsupportedTypeAnnotationError):
        return found
    is_one, spelt = found.is_instance, found.str_from_instance
    return replace(
        found,
        is_instance=lambda value: value is None or is_one(value),
        str_from_instance=lambda value: ["None"] if value is None else spelt(value),
    )


def refuse_repeated(words: Iterable[str]) -> None:
    """Raise Refusal for an option that is given twice."""
    given = set()
    for word in words:
        if option := _OPTION.fullmatch(word):
            name = option[1].replace("_", "-")
            if name in given:
                raise Refusal(f"{name} is given twice. Give it once, with all that is meant.")
            given.add(name)


def pairs(option: str, words: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Each word, and the parts of NAME=VALUE; the name is empty where there is none.

    Raises Refusal for a name that comes twice.
    """
    first: dict[str, str] = {}
    for word in words:
        name, _, text = word.rpartition("=")
        if name in first:
            what = name or "what has no name"
            raise Refusal(f"{option} {first[name]} {word} gives {what} twice. Give one of them.")
        first[name] = word
        yield word, name, text


def each_once(option: str, values: Sequence[Value]) -> Sequence[Value]:
    """The values of an option that answers for each. Raises Refusal for one that comes twice."""
    for at, value in enumerate(values):
        if value in values[:at]:
            said = f"{value:g}" if isinstance(value, float) else str(value)
            raise Refusal(f"{option} has {said} twice. Give each of its values once.")
    return values
