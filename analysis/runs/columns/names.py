"""Which column of a table holds which quantity, by the names that people give to columns.

A column of another name than the quantity's own is taken only where exactly one fits, and a note
says what was taken for what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from analysis.runs.columns.units import (
    LossUnit,
    in_nats,
    named_loss_unit,
    snake_case,
    unit_of,
    without_unit,
    word_set,
    words,
)
from analysis.runs.messages import plain, shown

# Names as `snake_case` writes them, which are taken where no column has a quantity's own name.
_USUAL: dict[str, frozenset[str]] = {
    "params": word_set(
        """n_params num_params nparams numparams total_params param_count params_count n_parameters
        num_parameters parameters parameter_count total_parameters model_parameters model_params
        model_size size params_non_embedding non_embedding_params n_params_total num_params_total
        params_active active_params trainable_params"""
    ),
    "tokens": word_set(
        """train_tokens training_tokens n_tokens num_tokens ntokens tokens_seen seen_tokens
        tokens_trained trained_tokens tokens_total total_tokens token_count n_train_tokens
        num_train_tokens tokens_consumed consumed_tokens tokens_processed num_input_tokens_seen"""
    ),
    "loss": word_set(
        """val_loss eval_loss valid_loss validation_loss test_loss heldout_loss held_out_loss
        final_loss loss_final loss_val final_val_loss final_eval_loss val_loss_final nll val_nll
        eval_nll ce val_ce eval_ce cross_entropy val_cross_entropy eval_cross_entropy xent
        cross_entropy_loss ce_loss eval_ce_loss val_ce_loss"""
    ),
    "flops": word_set(
        """total_flops flops_total train_flops training_flops flops_6nd compute total_compute
        train_compute training_compute train_flop training_flop flop"""
    ),
    "status": word_set("state run_status run_state"),
    "budget_flops": word_set(
        """flops_budget flop_budget budget budget_flop compute_budget budget_compute
        isoflop_budget"""
    ),
}
_LETTERS = {"params": "N", "tokens": "D"}  # capitals alone: n counts questions, d is a width
_MULTIPLIED = ("params", "tokens", "flops", "budget_flops")  # names may end in _B or _millions
# Words of a held-out loss. Without one, `loss` in the logs of Hugging Face's Trainer and of Keras
# is the training loss.
_HELD_OUT = word_set("val eval valid validation test heldout held")
_TRAINED_ON = word_set("train training")


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
    scale: float = 1.0  # unit of cells without a unit of their own
    scale_named: bool = False  # the column's name gives the unit, not the user
    loss_unit: LossUnit = "nats"
    guessed: bool = False  # it was found by another name than the quantity's own

    @property
    def note(self) -> str:
        """What was taken for what; "" for a column that has the quantity's own name and unit."""
        unit = ""
        if self.scale != 1.0:
            unit = f", times {plain(self.scale)}"
        if self.loss_unit != "nats":
            conversion = f"{self.loss_unit.replace('_', ' ')} times ln 2"
            if self.loss_unit == "perplexity":
                conversion = "the logarithm of perplexity"
            unit = f": {conversion} = {in_nats(self.loss_unit)}"
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

    A held-out loss is preferred to a column `loss`. `unit` and `loss_unit` are the user's; without
    them the column's name may give the unit. Raises Unclear.
    """
    column = _named(quantity, names, given)
    if quantity == "loss":
        return replace(column, loss_unit=loss_unit or named_loss_unit(column.name) or "nats")
    if unit is None and quantity in _MULTIPLIED:
        scale = unit_of(column.name)
        return replace(column, scale=scale, scale_named=scale != 1.0)
    return column if unit is None else replace(column, scale=unit)


def _named(quantity: str, names: Sequence[str], given: str | None) -> Column:
    if given is not None:
        if given not in names:
            raise Unclear(quantity, given)
        return Column(quantity, given)
    found = candidates(quantity, names)
    for own in _own(quantity):
        if own in (found or names):
            return Column(quantity, own)
    if len(found) != 1:
        raise Unclear(quantity, quantity, found)
    return Column(quantity, found[0], guessed=True)


def candidates(quantity: str, names: Sequence[str]) -> list[str]:
    """The columns whose names fit the quantity best."""
    if quantity not in _USUAL:
        return []
    own = [name for name in names if _base(quantity, name) in _own(quantity)]
    letter = _LETTERS.get(quantity, "-")
    usual = [
        name for name in names
        if (base := _base(quantity, name)) in _USUAL[quantity]
        or (base == letter.lower() and letter in name)
    ]  # fmt: skip
    if quantity != "loss":
        return own or usual
    held_out = [name for name in usual if words(name) & _HELD_OUT]
    others = [name for name in names if _in_loss_unit(name)]
    others += [name for name in names if snake_case(name).endswith("bits_per_token")]
    trained = [name for name in names if _of_training(name)]
    others = [name for name in others if name not in trained]
    return held_out or own or usual or others or trained


def _own(quantity: str) -> tuple[str, ...]:
    """The names of a quantity that are taken before any other."""
    return ("params", "params_total") if quantity == "params" else (quantity,)


def _in_loss_unit(name: str) -> bool:
    """Whether the name gives a unit of losses; a column of bits may hold the bits of a weight."""
    return named_loss_unit(name) not in (None, "bits")


def _of_training(name: str) -> bool:
    """Whether a name is that of a training loss."""
    base = "_".join(word for word in snake_case(name).split("_") if word not in _TRAINED_ON)
    known = base == "loss" or base in _USUAL["loss"] or _in_loss_unit(name)
    return known and bool(words(name) & _TRAINED_ON)


def passed_over(quantity: str, chosen: str, names: Sequence[str]) -> list[str]:
    """Other columns of the quantity, where a reader should know that they were not taken.

    These are active or total parameters (of a mixture of experts) and another loss.
    """
    if quantity == "params":
        counts = [name for name in names if "param" in snake_case(name)]
        active = [name for name in counts if "active" in snake_case(name)]
        return [name for name in counts if name not in active] if chosen in active else active
    if quantity == "loss" and chosen != "loss" and "loss" in names:
        return ["loss"]
    if quantity == "loss" and snake_case(chosen) == "loss":
        return [name for name in names if name != chosen and _base("loss", name) in _USUAL["loss"]]
    return []


def _base(quantity: str, name: str) -> str:
    """The words of a name, without the unit at its end where the quantity can have one."""
    return without_unit(name)[0] if quantity in _MULTIPLIED else snake_case(name)
