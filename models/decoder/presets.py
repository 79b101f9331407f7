"""Published shapes by name, each beside the size that its makers printed.

`preset("pythia-70m").config` is a model like any other. The shapes and sizes are data
(presets.toml); what contradicts itself among them is computed from the data, never typed in.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.decoder.config import DIALECTS, ModelConfig
from models.decoder.sizes import count_params

SHAPES = Path(__file__).with_name("presets.toml")
# What two or three printed digits leave open. GPT-3's 2.7B (2.65B by its shape) and 350M (356M) are
# the widest of the rows that add up, at 1.8% and 1.7%; the narrowest of the others misses by 3.9%.
ROUNDING = 0.02


@dataclass(frozen=True)
class Family:
    """Models from one source."""

    name: str
    source: str
    note: str  # how the originals differ from this decoder, and what the source says otherwise


@dataclass(frozen=True)
class Preset:
    """A published shape, as printed."""

    name: str
    family: Family
    config: ModelConfig
    published: int | float  # parameters; an int is an exact count, a float a rounded one
    uncounted: int  # parameters of the original for which this decoder has no place
    remark: str  # on this row alone

    @property
    def source(self) -> str:
        """Where the shape and the size were published."""
        return self.family.source

    @property
    def note(self) -> str:
        """What to know before trusting the row: the family's note, and this row's."""
        return " ".join(text for text in (self.family.note, self.remark) if text)

    @property
    def exact(self) -> bool:
        """Whether the published size is a count to the last parameter."""
        return isinstance(self.published, int)

    @property
    def params(self) -> int:
        """All parameters of the shape as this decoder builds it."""
        return count_params(self.config).total

    @property
    def difference(self) -> float:
        """Size of the original's shape / published size − 1."""
        return (self.params + self.uncounted) / self.published - 1

    @property
    def contradictions(self) -> tuple[str, ...]:
        """Where the published row disagrees with itself, in words; empty if nowhere.

        All families here project to n_heads · head_dim = d_model and say their size, so a row
        that does otherwise is listed, not mended.
        """
        return tuple(text for text in (self._heads(), self._size()) if text)

    def _heads(self) -> str:
        c = self.config
        width = c.n_heads * c.head_dim
        if width == c.d_model:
            return ""
        return f"{c.n_heads} heads × {c.head_dim} = {width}, not {c.d_model}"

    def _size(self) -> str:
        if abs(self.difference) <= (0 if self.exact else ROUNDING):
            return ""
        found = self.params + self.uncounted
        return f"shape has {found / 1e6:,.0f}M, not {self.published / 1e6:,.0f}M"


def preset(name: str) -> Preset:
    """The preset of this name. Raises ValueError with the nearest names for an unknown one."""
    try:
        return PRESETS[name]
    except KeyError:
        near = difflib.get_close_matches(name.lower(), PRESETS, n=3, cutoff=0.5)
        hint = f"Near: {', '.join(near)}. " if near else ""
        raise ValueError(
            f"preset = {name!r} is unknown. {hint}`scaling models` lists all {len(PRESETS)}."
        ) from None


def _load(path: Path) -> Iterator[Preset]:
    for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
        family = Family(name, table["source"], table.get("note", ""))
        for cells in table["rows"]:
            yield _preset(family, table, dict(zip(table["columns"], cells, strict=True)))


def _preset(family: Family, table: Mapping[str, Any], row: dict[str, Any]) -> Preset:
    name, published = row.pop("name"), row.pop("published")
    fields = {"n_kv_heads": row["n_heads"], **DIALECTS[table["dialect"]], **table["fields"], **row}
    config = ModelConfig(**fields)
    projection = config.n_layers * config.d_model * config.n_heads * config.head_dim
    return Preset(
        name=name,
        family=family,
        config=config,
        published=published,
        uncounted=table.get("uncounted_projections", 0) * projection,
        remark=table.get("remarks", {}).get(name, ""),
    )


PRESETS: Mapping[str, Preset] = {each.name: each for each in _load(SHAPES)}
