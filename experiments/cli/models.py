"""`scaling models`: the published shapes that a study can name, with their counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Annotated, Any

import tyro

from analysis.text import human, paragraph
from experiments.cli.app import app
from experiments.cli.output import TO_TERMINAL, Outputs
from experiments.cli.text import rows_text, say
from models.decoder.presets import PRESETS, Preset
from models.decoder.sizes import count_params
from scaling.store.records import Refusal, did_you_mean

Prefix = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[PREFIX]")]


@app.command
def models(prefix: Prefix = "", /, *, output: Outputs = TO_TERMINAL) -> None:
    """List the published shapes that a study can train by name.

        scaling models
        scaling models pythia --json pythia.json

    Args:
        prefix: List only the models whose names begin with this.
    """
    chosen = [each for name, each in PRESETS.items() if name.startswith(prefix.lower())]
    if not chosen:
        families = ", ".join(dict.fromkeys(each.family.name for each in PRESETS.values()))
        near = did_you_mean(prefix, [*PRESETS, *families.split(", ")])
        raise Refusal(
            f"no model's name begins with PREFIX = {prefix!r}.{near} Families: {families}."
        )
    output.write({"models": [model_json(each) for each in chosen]})
    say(models_text(chosen))


def models_text(chosen: Sequence[Preset]) -> str:
    """One table for each family, and below it the source and how the originals differ."""
    parts = []
    for family, members in groupby(chosen, key=lambda each: each.family):
        footer = f"{family.source}. {family.note}".strip()
        parts += [rows_text(map(_cells, members)), paragraph(f"  {footer}"), ""]
    listed = sum(bool(each.contradictions) for each in chosen)
    parts.append(f"{len(chosen)} models; {listed} contradict themselves as published.")
    return "\n".join(parts)


def _cells(each: Preset) -> dict[str, str]:
    c, count = each.config, count_params(each.config)
    shared = "" if c.n_kv_heads == c.n_heads else f"/{c.n_kv_heads}"
    return {
        "model": each.name,
        "L×d": f"{c.n_layers}×{c.d_model}",
        "heads": f"{c.n_heads}{shared}",
        "head_dim": str(c.head_dim),
        "vocab": str(c.vocab_size),
        "N total": f"{count.total:,}",
        "N non-emb": f"{count.non_embedding:,}",
        "published": f"{each.published:,}" if each.exact else human(each.published),
        "difference": "0" if each.difference == 0 else f"{each.difference:+.1%}",
        "note": "; ".join(filter(None, (*each.contradictions, each.remark))),
    }


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
