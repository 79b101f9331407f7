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


# Names as `snake_case` writes them. The first of a quantity are its own, taken before any other.
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
_MULTIPLIED = ("params", "tokens", "flops", "budget_flops")  # names may end in _B or _millions
# Words of a loss that was not trained on; without one, `loss` in the logs of Hugging Face's Trainer
# and of Keras is that of the training batches.
_HELD_OUT = each("val eval valid validation test heldout held")
_TRAINED_ON = each("train training")
# The most anyone says to have trained: Switch-C (Fedus et al. 2021), Qwen3 (Yang et al. 2025), and
# 6 N D of the two.
TRAINED = {"params": 2e12, "tokens": 4e13, "flops": 5e26, "budget_flops": 5e26}
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
    scale_named: bool = False  # by the column's name, and not by the user
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
        if self.quantity == "loss" and _of_training(self.name):
            unit += ": a training loss"
        return f"{self.quantity} is read from {shown(self.name)}{unit}"


def find(
    quantity: str,
    names: Sequence[str],
    given: str | None = None,
    unit: float | None = None,
    loss_unit: LossUnit | None = None,
) -> Column:
    """The column that holds a quantity: the one `given`, its own, or the only one that fits.

    Where a loss of an evaluation stands beside `loss`, that is taken. `unit` and `loss_unit` are
    the user's; without them a column's name may tell. Raises Unclear.
    """
    column = _named(quantity, names, given)
    if quantity == "loss":
        told = loss_unit_of(column.name)
        return replace(column, loss_unit=loss_unit or told or "nats")
    if unit is not None:
        return replace(column, scale=unit)
    if quantity in _MULTIPLIED:
        scale = unit_of(column.name)
        return replace(column, scale=scale, scale_named=scale != 1.0)
    return column


def _named(quantity: str, names: Sequence[str], given: str | None) -> Column:
    if given is not None:
        if given not in names:
            raise Unclear(quantity, given)
        return Column(quantity, given)
    found = candidates(quantity, names)
    for own in _OWN.get(quantity, (quantity,)):
        if own in (found or names):
            return Column(quantity, own)
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
    if quantity != "loss":
        return own or usual
    held_out = [name for name in usual if _has(name, _HELD_OUT)]
    # Bits may be those of a weight.
    others = [name for name in names if loss_unit_of(name) not in (None, "bits")]
    others += [name for name in names if snake_case(name).endswith("bits_per_token")]
    trained = [name for name in names if _of_training(name)]
    others = [name for name in others if name not in trained]
    return held_out or own or usual or others or trained


def _has(name: str, words: Collection[str]) -> bool:
    return not set(snake_case(name).split("_")).isdisjoint(words)


def _of_training(name: str) -> bool:
    """Whether a name is that of a loss of what was trained on."""
    if not _has(name, _TRAINED_ON):
        return False
    base = "_".join(word for word in snake_case(name).split("_") if word not in _TRAINED_ON)
    known = base in _OWN["loss"] or base in _USUAL["loss"]
    return known or loss_unit_of(name) not in (None, "bits")


def _is_letter(quantity: str, name: str) -> bool:
    letter = _LETTERS.get(quantity)
    return letter is not None and _base(quantity, name) == letter.lower() and letter in name


def loss_unit_of(name: str) -> LossUnit | None:
    """The unit that a name such as val_bpb or eval_perplexity says its losses are in."""
    words = snake_case(name)
    for word, unit in _LOSS_WORDS.items():
        whole = words == word or words.endswith(f"_{word}")
        if whole or (word != "bits" and words.startswith(f"{word}_")):
            return unit
    return None


def unit_of(name: str) -> float:
    """What a name such as tokens_B or size_millions says its numbers are in; 1 for others.

    A letter is a unit as a capital only.
    """
    return _parted(name)[1]


def beyond(quantity: str, name: str, most: float, scale: float) -> str:
    """That the unit of a name leads to `most`, if that is more than anyone has trained."""
    if not most > TRAINED.get(quantity, math.inf):
        return ""
    return (
        f"{shown(name)!r} reaches {plain(most / scale)}, which its name multiplies by "
        f"{plain(scale)}: {most:.3g} {quantity}, which nobody has trained"
    )


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
        counts = [name for name in names if "param" in snake_case(name)]
        active = [name for name in counts if "active" in snake_case(name)]
        if chosen in active:
            return [name for name in counts if name not in active]
        return active
    if quantity == "loss" and chosen != "loss" and "loss" in names:
        return ["loss"]
    if quantity == "loss" and snake_case(chosen) == "loss":
        return [name for name in names if name != chosen and _base("loss", name) in _USUAL["loss"]]
    return []


def snake_case(name: str) -> str:
    """`val/loss`, `evalLoss` and `Eval Loss` as words with underscores between, in lower case."""
    return _as_written(name).lower()


def _as_written(name: str) -> str:
    """Words with underscores between, in the case that they have."""
    name = _PLACES.sub("", name.strip())
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")


def _base(quantity: str, name: str) -> str:
    """The words of a name, without the unit at its end where the quantity may have one."""
    return _parted(name)[0] if quantity in _MULTIPLIED else snake_case(name)


def _parted(name: str) -> tuple[str, float]:
    base, _, last = _as_written(name).rpartition("_")
    # A small letter may be anything: x_b, size_m, step_t.
    is_unit = last.lower() in SUFFIXES and (len(last) > 1 or last.isupper())
    if base and is_unit:
        return base.lower().removesuffix("_in"), SUFFIXES[last.lower()]
    return snake_case(name), 1.0
