"""What comes after `scaling run`: a fit, where the runs can tell a law."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.laws import Law, law
from analysis.prepare import SPARE_ROWS

# What a fit takes from a study's run table for a law's features.
COLUMNS = {"params": "params_total", "flops": "flops_6nd"}


RATE = "learning_rate"


@dataclass(frozen=True)
class _Design:
    """Completed runs of one variant, as far as a law is concerned."""

    variant: str | None
    runs: int
    points: int  # distinct values of the law's features

    def tells(self, wanted: Law) -> bool:
        """Whether a fit would not refuse so few."""
        coefficients = len(wanted.coefficients)
        return self.runs >= coefficients + SPARE_ROWS and self.points >= coefficients


def next_text(folder: Path, table: pd.DataFrame, name: str) -> str:
    """The command that fits the law of this name to a study's run table, or why none would.

    Runs of several variants are told apart: each variant has a law of its own.
    """
    wanted = law(name)
    completed = table[table["status"] == "completed"]
    columns = [COLUMNS.get(feature, feature) for feature in wanted.features]
    groups = completed.groupby("variant", dropna=False) if len(completed) else ()
    designs = [
        _Design(None if pd.isna(variant) else str(variant), len(runs), _points(runs, columns))
        for variant, runs in groups
    ]
    best = max(designs, key=lambda each: (each.points, each.runs), default=_Design(None, 0, 0))
    of_one = f" of one of the {len(designs)} variants" if len(designs) > 1 else ""
    if not best.tells(wanted):
        coefficients = len(wanted.coefficients)
        return (
            f"Next: no fit of {name} yet. It has {coefficients} coefficients and needs "
            f"{coefficients + SPARE_ROWS} runs at {coefficients} or more different "
            f"({', '.join(wanted.features)}); the {best.runs} completed runs{of_one} lie at "
            f"{best.points}."
            + f" The best rates: scaling fit {folder} --best-of {RATE}"
            * _is_sweep(completed)
        )
    fit = f"Next: scaling fit {folder} --law {name}"
    if not of_one:
        return fit
    if _is_sweep(completed):
        return f"{fit} --best-of {RATE} (the best rate at each N and D, and the law through those)"
    return f"{fit} --where {shlex.quote(f'variant=={best.variant}')} (each variant has its own law)"


def _is_sweep(completed: pd.DataFrame) -> bool:
    """Whether the variants are learning rates and nothing else, three or more at a point."""
    if RATE not in completed or completed.empty:
        return False
    tried = int(completed.groupby(["params_total", "tokens"])[RATE].nunique().max())
    rates = [re.fullmatch(rf"training\.{RATE}\S*", str(each)) for each in completed["variant"]]
    return tried >= 3 and all(rates)


def _points(runs: pd.DataFrame, columns: list[str]) -> int:
    return len(runs[columns].drop_duplicates())
