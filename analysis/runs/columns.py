"""Which column of a table holds what, and in which unit, by the names that people give them.

A column of another name is taken only where exactly one fits, and what is taken is said.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from analysis.runs.limits import shown
from analysis.runs.numbers import SUFFIXES, number, plain

LossUnit = Literal["nats", "bits", "perplexity", "bits_per_byte", "bits_per_character"]

TOKEN, BYTE, CHARACTER = "nats/token", "nats/byte", "nats/character"
# What a loss in each unit is after conversion to nats.
IN_NATS: dict[LossUnit, str] = {
    "nats": TOKEN,
    "bits": TOKEN,
    "perplexity": TOKEN,
    "bits_per_byte": BYTE,
    "bits_per_character": CHARACTER,
}
_SAID: dict[LossUnit, str] = {
    "bits": "bits times ln 2",
    "perplexity": "the logarithm of perplexity",
    "bits_per_byte": "bits per byte times ln 2",
    "bits_per_character": "bits per character times ln 2",
}


def each(names: str) -> frozenset[str]:
    """Words with spaces between, as a set."""
    return frozenset(names.split())


# Names as `_words` writes them. The first of a quantity are its own, taken before any other.
_OWN = {
    "params": ("params", "params_total"),
    "tokens": ("tokens",),
    "loss": ("loss",),
    "flops": ("flops",),
    "status": ("status",),
    "budget_flops": ("budget_flops",),
}
_USUAL: dict[str, frozenset[str]] = {
    "params": each(
        """n_params num_params nparams numparams total_params param_count params_count n_parameters
        num_parameters parameters parameter_count total_parameters model_parameters model_params
        model_size size params_non_embedding non_embedding_params n_params_total num_params_total
        params_active active_params trainable_params"""
    ),
    "tokens": each(
        """train_tokens training_tokens n_tokens num_tokens ntokens tokens_seen seen_tokens
        tokens_trained trained_tokens tokens_total total_tokens token_count n_train_tokens
        num_train_tokens tokens_consumed consumed_tokens tokens_processed num_input_tokens_seen"""
    ),
    "loss": each(
        """val_loss eval_loss valid_loss validation_loss test_loss heldout_loss held_out_loss
        final_loss loss_final loss_val final_val_loss final_eval_loss val_loss_final nll val_nll
        eval_nll ce val_ce eval_ce cross_entropy val_cross_entropy eval_cross_entropy xent
        cross_entropy_loss ce_loss eval_ce_loss val_ce_loss"""
    ),
    "flops": each(
        """total_flops flops_total train_flops training_flops flops_6nd compute total_compute
        train_compute training_compute train_flop training_flop flop"""
    ),
    "status": each("state run_status run_state"),
    "budget_flops": each(
        """flops_budget flop_budget budget budget_flop compute_budget budget_compute
        isoflop_budget"""
    ),
}
_LETTERS = {"params": "N", "tokens": "D"}  # capitals alone: n counts questions, d is a width
_MULTIPLIED = ("params", "tokens", "flops")  # whose names may end in _B or _millions
_PLACES = re.compile(r"^(config|summary|metrics|params|args|hparams|throughput)[./]", re.IGNORECASE)
_LOSS_WORDS: dict[str, LossUnit] = {
    "ppl": "perplexity", "perplexity": "perplexity", "bpb": "bits_per_byte",
    "bits_per_byte": "bits_per_byte", "bpc": "bits_per_character",
    "bits_per_char": "bits_per_character", "bits_per_character": "bits_per_character",
    "bits_per_token": "bits", "bits": "bits",
}  # fmt: skip


class Unclear(ValueError):
    """No column, or several, may hold a quantity."""

    def __init__(self, quantity: str, name: str, found: Sequence[str] = ()) -> None:
        self.quantity, self.name, self.found = quantity, name, tuple(found)
        super().__init__(f"no column {name!r} (may be: {', '.join(found)})")


@dataclass(frozen=True)
class Column:
    """Where a quantity is read from."""

    quantity: str  # params, tokens, loss, ...
    name: str  # as the file has it
    scale: float = 1.0  # of cells that do not say their own unit
    loss_unit: LossUnit = "nats"
    guessed: bool = False  # by its name, which is another than the quantity's own

    @property
    def said(self) -> str:
        """What was taken for what; nothing of a column that is named as what it holds."""
        unit = ""
        if self.scale != 1.0:
            unit = f", times {plain(self.scale)}"
        if self.loss_unit != "nats":
            unit = f": {_SAID[self.loss_unit]} = {IN_NATS[self.loss_unit]}"
        if not (self.guessed or unit):
            return ""
        return f"{self.quantity} is read from {shown(self.name)}{unit}"


def find(
    quantity: str,
    names: Sequence[str],
    given: str | None = None,
    unit: float | None = None,
    loss_unit: LossUnit | None = None,
) -> Column:
    """The column that holds a quantity: the one `given`, its own, or the only one that fits.

    `unit` and `loss_unit` are the user's; without them a column's name may tell. Raises Unclear.
    """
    column = _named(quantity, names, given)
    if quantity == "loss":
        told = loss_unit_of(column.name)
        return replace(column, loss_unit=loss_unit or told or "nats")
    if unit is not None:
        return replace(column, scale=unit)
    if quantity in _MULTIPLIED:
        return replace(column, scale=unit_of(column.name))
    return column


def _named(quantity: str, names: Sequence[str], given: str | None) -> Column:
    if given is not None:
        if given not in names:
            raise Unclear(quantity, given)
        return Column(quantity, given)
    own = next((name for name in _OWN.get(quantity, (quantity,)) if name in names), None)
    if own is not None:
        return Column(quantity, own)
    found = candidates(quantity, names)
    if len(found) != 1:
        raise Unclear(quantity, quantity, found)
    return Column(quantity, found[0], guessed=True)


def candidates(quantity: str, names: Sequence[str]) -> list[str]:
    """Columns whose names say that they hold the quantity; those that say so best."""
    if quantity not in _OWN:
        return []
    own = [name for name in names if _base(quantity, name) in _OWN[quantity]]
    usual = [
        name for name in names
        if _base(quantity, name) in _USUAL[quantity] or _is_letter(quantity, name)
    ]  # fmt: skip
    if own or usual or quantity != "loss":
        return own or usual
    # Bits alone may be those of a weight.
    return [name for name in names if loss_unit_of(name) is not None and _words(name) != "bits"]


def _is_letter(quantity: str, name: str) -> bool:
    letter = _LETTERS.get(quantity)
    return letter is not None and _base(quantity, name) == letter.lower() and letter in name


def loss_unit_of(name: str) -> LossUnit | None:
    """The unit that a name such as val_bpb or eval_perplexity says its losses are in."""
    words = _words(name)
    for word, unit in _LOSS_WORDS.items():
        whole = words == word or words.endswith(f"_{word}")
        if whole or (word != "bits" and words.startswith(f"{word}_")):
            return unit
    return None


def unit_of(name: str) -> float:
    """What a name such as tokens_B or size_millions says its numbers are in; 1 for others."""
    return _parted(name)[1]


def unit_words(words: Collection[str]) -> dict[str, float]:
    """`tokens=1e9` and `params=millions` as numbers. Raises ValueError saying what is wrong."""
    units = {}
    for word in words:
        quantity, found, text = word.partition("=")
        value = SUFFIXES.get(text.strip().lower()) or number(text)
        quantity = quantity.strip()
        if not found or quantity not in ("params", "tokens", "flops"):
            raise ValueError(f"{word!r} is not params, tokens or flops = a unit, e.g. tokens=1e9")
        if value is None or not 0 < value < math.inf:
            raise ValueError(
                f"{word!r}: {text!r} is no unit. Give a number such as 1e9, or thousands, "
                "millions, billions or trillions"
            )
        units[quantity] = value
    return units


def beside(quantity: str, chosen: str, names: Sequence[str]) -> list[str]:
    """Other columns of a quantity that a reader should know were not taken.

    Active beside total parameters (a mixture of experts), held-out beside training loss.
    """
    if quantity == "params":
        counts = [name for name in names if "param" in _words(name)]
        active = [name for name in counts if "active" in _words(name)]
        if chosen in active:
            return [name for name in counts if name not in active]
        return active
    if quantity == "loss" and _words(chosen) == "loss":
        return [name for name in names if name != chosen and _base("loss", name) in _USUAL["loss"]]
    return []


def _words(name: str) -> str:
    """`val/loss`, `evalLoss` and `Eval Loss` as words with underscores between, in lower case."""
    name = _PLACES.sub("", name.strip())
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _base(quantity: str, name: str) -> str:
    """The words of a name, without the unit at its end where the quantity may have one."""
    return _parted(name)[0] if quantity in _MULTIPLIED else _words(name)


def _parted(name: str) -> tuple[str, float]:
    words = _words(name)
    base, _, last = words.rpartition("_")
    if base and last in SUFFIXES:
        return base.removesuffix("_in"), SUFFIXES[last]
    return words, 1.0
