"""The law that an answer is from: a saved fit, or published coefficients."""

from __future__ import annotations

from pathlib import Path

from analysis.fitting.files import load_fit
from analysis.fitting.fit import Fit
from analysis.laws.published import Published, published
from experiments.cli.join.beside import beside
from scaling.store.records import Refusal


def law_source(text: str) -> Fit | Published:
    """A saved fit, or published coefficients by their name. Raises Refusal for anything else."""
    if text.startswith("published:"):
        return published(text.removeprefix("published:"))
    return saved_fit(Path(text))


def saved_fit(path: Path) -> Fit:
    """The fit in a file, doubted where the run table beside it is another by now.

    Raises Refusal for a run table, and for a file that holds no fit.
    """
    if not path.exists():
        raise Refusal(f"{path} does not exist. Give a file that `scaling fit` wrote.")
    if path.suffix in (".csv", ".parquet") or path.is_dir():
        raise Refusal(
            f"{path} is not a fit. Give `scaling fit {path}` first, then the file it names."
        )
    fit = load_fit(path)
    return fit.doubted(beside(path, fit).cautions)
