"""The words of a column's name, and the unit they give: tokens_B, size_millions, val_bpb."""

from __future__ import annotations

import re
from typing import Literal

import pandas as pd

LossUnit = Literal["nats", "bits", "perplexity", "bits_per_byte", "bits_per_character"]

TOKEN = "nats/token"
SUFFIXES = {
    **{"k": 1e3, "thousand": 1e3, "thousands": 1e3},
    **{"m": 1e6, "mn": 1e6, "million": 1e6, "millions": 1e6},
    **{"b": 1e9, "bn": 1e9, "billion": 1e9, "billions": 1e9},
    **{"t": 1e12, "trillion": 1e12, "trillions": 1e12},
}
_LOSS_WORDS: dict[str, LossUnit] = {
    "ppl": "perplexity", "perplexity": "perplexity", "bpb": "bits_per_byte",
    "bits_per_byte": "bits_per_byte", "bpc": "bits_per_character",
    "bits_per_char": "bits_per_character", "bits_per_character": "bits_per_character",
    "bits_per_token": "bits", "bits": "bits",
}  # fmt: skip
# The most anyone says to have trained: Switch-C (Fedus et al. 2021), Qwen3 (Yang et al. 2025), and
# 6 N D of the two.
TRAINED = {"params": 2e12, "tokens": 4e13, "flops": 5e26, "budget_flops": 5e26}
_PLACES = re.compile(r"^(config|summary|metrics|params|args|hparams|throughput)[./]", re.IGNORECASE)


def loss_unit_of(table: pd.DataFrame) -> str:
    """The unit of the table's losses: nats/token, unless it was read as something else."""
    return str(table.attrs.get("loss_unit", TOKEN))


def in_nats(unit: LossUnit) -> str:
    """The unit of such losses after their conversion to nats."""
    return {"bits_per_byte": "nats/byte", "bits_per_character": "nats/character"}.get(unit, TOKEN)


def named_loss_unit(name: str) -> LossUnit | None:
    """The unit that a name such as val_bpb or eval_perplexity gives its losses, if any."""
    words = snake_case(name)
    for word, unit in _LOSS_WORDS.items():
        whole = words == word or words.endswith(f"_{word}")
        if whole or (word != "bits" and words.startswith(f"{word}_")):
            return unit
    return None


def words(column: str) -> frozenset[str]:
    """The words of a column's name, in lower case: `trainBatch_size` has train, batch, size."""
    return frozenset(snake_case(str(column)).split("_")) - {""}


def word_set(words: str) -> frozenset[str]:
    """Words with spaces between, as a set."""
    return frozenset(words.split())


def unit_of(name: str) -> float:
    """The unit that a name such as tokens_B or size_millions gives its numbers; 1 without one.

    A single letter is a unit only as a capital.
    """
    return without_unit(name)[1]


def without_unit(name: str) -> tuple[str, float]:
    """The words of a name in snake case without the unit at its end, and that unit."""
    base, _, last = _words(name).rpartition("_")
    # A small letter may be anything: x_b, size_m, step_t.
    is_unit = last.lower() in SUFFIXES and (len(last) > 1 or last.isupper())
    if base and is_unit:
        return base.lower().removesuffix("_in"), SUFFIXES[last.lower()]
    return snake_case(name), 1.0


def snake_case(name: str) -> str:
    """`val/loss`, `evalLoss` and `Eval Loss` as words with underscores between, in lower case."""
    return _words(name).lower()


def _words(name: str) -> str:
    """Words with underscores between, in the case that they have."""
    name = _PLACES.sub("", name.strip())
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
