"""A study that sweeps fields is several studies, one for every combination of their values."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from scaling.planning.refusals import MOST, Refusals
from scaling.store.records import Refusal
from scaling.study import Study, parse_study

_SWEPT = ("model", "training", "data")
# What one corpus can serve at several values; the rest of [data] makes another corpus.
_SWEPT_DATA = ("sequence_length", "unique_tokens")


@dataclass(frozen=True)
class Variant:
    """One combination of a sweep's values."""

    study: Study
    label: str | None  # PATH=VALUE of each swept field; null without a sweep


def variants(study: Study) -> tuple[Variant, ...]:
    """The studies of a sweep, one for every combination of its values; the study itself without.

    Raises Refusal for a path that names no field that can be swept, or a value it cannot have.
    """
    if not study.sweep:
        return (Variant(study, None),)
    refusals = Refusals()
    for path in study.sweep:
        with refusals.gathered():
            _check_path(path)
    refusals.raise_any()
    whole = TypeAdapter(Study).dump_python(study)
    found = []
    for values in itertools.product(*study.sweep.values()):
        with refusals.gathered():
            found.append(_variant(study.sweep, values, whole))
        if len(refusals) > MOST:  # more are not shown
            break
    refusals.raise_any()
    return tuple(found)


def _variant(sweep: Mapping[str, Any], values: tuple[Any, ...], whole: dict[str, Any]) -> Variant:
    raw = {**whole, "sweep": {}}
    for path, value in zip(sweep, values, strict=True):
        *parents, name = path.split(".")
        place = raw
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                raise Refusal(f'[sweep] "{path}" names no field: {parent} has none.')
            place[parent] = {**place[parent]}  # what other variants do not share
            place = place[parent]
        place[name] = value
    pairs = zip(sweep, values, strict=True)
    label = " ".join(f"{path}={json.dumps(value)}" for path, value in pairs)
    return Variant(parse_study(raw, "[sweep]"), label)


def _check_path(path: str) -> None:
    section, _, name = path.partition(".")
    if section not in _SWEPT or not name:
        raise Refusal(
            f'[sweep] "{path}" cannot be swept. Give the path of a field of '
            f'{", ".join(f"[{each}]" for each in _SWEPT)}, such as "training.batch_sequences" '
            'or "model.overrides.qk_norm"; sizes, budgets and seeds belong in [grid].'
        )
    if section == "data" and name not in _SWEPT_DATA:
        raise Refusal(
            f'[sweep] "{path}" would make another corpus, and losses on two corpora do '
            f"not compare. Of [data] sweep {' or '.join(_SWEPT_DATA)}; else write a study for each."
        )
