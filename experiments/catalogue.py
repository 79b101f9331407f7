"""`scaling models`: the published shapes a study can name, and how far their sizes add up."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Annotated, Any

import tyro

from analysis.units import human
from experiments.cli import JsonFile, app
from experiments.text import columns, say
from models.decoder.presets import PRESETS, Preset
from models.decoder.sizes import count_params
from scaling.store.records import Refusal, did_you_mean, write_json

Prefix = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PREFIX")]


@app.command
def models(prefix: Prefix = "", /, *, to_json: JsonFile = None) -> None:
    """List the published shapes that a study can train by name.

        scaling models
        scaling models pythia --json pythia.json

    Args:
        prefix: Only the models whose names begin so.
        to_json: Write their configurations, counts and sources to this file too.
    """
    chosen = [each for name, each in PRESETS.items() if name.startswith(prefix.lower())]
    if not chosen:
        families = ", ".join(dict.fromkeys(each.family.name for each in PRESETS.values()))
        near = did_you_mean(prefix, [*PRESETS, *families.split(", ")])
        raise Refusal(f"PREFIX = {prefix!r} begins no model's name.{near} Families: {families}.")
    if to_json:
        write_json(to_json, {"models": [model_json(each) for each in chosen]})
    say(models_text(chosen))


def models_text(chosen: Sequence[Preset]) -> str:
    """A table for each family, then where it is from and how the originals differ."""
    parts = []
    for family, members in groupby(chosen, key=lambda each: each.family):
        footer = f"{family.source}. {family.note}".strip()
        parts += [columns(HEADER, [_cells(each) for each in members]), _wrapped(footer), ""]
    listed = sum(bool(each.contradictions) for each in chosen)
    parts.append(f"{len(chosen)} models; {listed} contradict themselves as published.")
    return "\n".join(parts)


HEADER = [
    *("model", "L×d", "heads", "head_dim", "vocab"),
    *("N total", "N non-emb", "published", "difference", "note"),
]


def _cells(each: Preset) -> list[str]:
    c, count = each.config, count_params(each.config)
    shared = "" if c.n_kv_heads == c.n_heads else f"/{c.n_kv_heads}"
    return [
        each.name,
        f"{c.n_layers}×{c.d_model}",
        f"{c.n_heads}{shared}",
        str(c.head_dim),
        str(c.vocab_size),
        f"{count.total:,}",
        f"{count.non_embedding:,}",
        f"{each.published:,}" if each.exact else human(each.published),
        "0" if each.difference == 0 else f"{each.difference:+.1%}",
        "; ".join(text for text in (*each.contradictions, each.remark) if text),
    ]


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="  ")


def model_json(each: Preset) -> dict[str, Any]:
    """Everything known of a preset."""
    count = count_params(each.config)
    return {
        "name": each.name,
        "family": each.family.name,
        "config": asdict(each.config),
        "params_total": count.total,
        "params_non_embedding": count.non_embedding,
        "params_matmul": count.matmul,
        "params_uncounted": each.uncounted,
        "published": each.published,
        "published_exactly": each.exact,
        "difference": each.difference,
        "contradictions": list(each.contradictions),
        "source": each.source,
        "note": each.note,
    }
