"""Which (N, D) points a study asks for: its shapes, and the tokens of each.

Sizes come from the [model] ladder or from published presets; tokens are given (`product`),
multiples of N (`ladder`), or what a compute budget leaves (`isoflop`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from models.architecture import Architecture, Config, Settings, architecture
from models.sizes import Ladder, ParamsConvention, Rung, size_of
from scaling.optimizers import step_flops
from scaling.planning.hyperparameters import batch_of
from scaling.planning.refusals import Refusals, listed
from scaling.store.records import Refusal
from scaling.study import IsoflopGrid, LadderGrid, ProductGrid, Study


@dataclass(frozen=True)
class Cell:
    """One (N, D) point that was asked for, before D is rounded to whole calls of steps."""

    rung: Rung
    tokens: float
    budget_flops: float | None = None  # the isoFLOP budget it belongs to

    @property
    def flops_6nd(self) -> float:
        return 6.0 * self.rung.counts.total * self.tokens


@dataclass(frozen=True)
class _Sizes:
    """What is asked for at one budget, or at all numbers of tokens alike."""

    params: tuple[float, ...]  # empty where presets name the shapes
    budget_flops: float | None = None


def cells(study: Study, vocab_size: int) -> tuple[Cell, ...]:
    """The points of a study's grid, sizes in order, tokens ascending within a size.

    Raises one Refusal for all sizes that no shape meets, sizes that round to one shape, and
    unknown presets or fields.
    """
    refusals = Refusals()
    found = draft_cells(study, vocab_size, refusals)
    refusals.raise_any()
    return found


def draft_cells(study: Study, vocab_size: int, refusals: Refusals) -> tuple[Cell, ...]:
    """The points as far as there are shapes for them; what is wrong with others is added.

    Raises Refusal where no shape can be made at all.
    """
    asked = _asked(study.grid)
    try:
        rungs = [_rungs(study, vocab_size, each, refusals) for each in asked]
    except (ValueError, TypeError) as error:
        raise Refusal(f"[grid] {_field(study)} or [model]: {error}.") from error
    _refuse_alike(study, vocab_size, asked, rungs, refusals)
    found = []
    for each, of_budget in zip(asked, rungs, strict=True):
        for rung in {rung.config: rung for rung in of_budget}.values():
            found += [Cell(rung, d, each.budget_flops) for d in _tokens(study, each, rung)]
    order = {rung.config: place for place, rung in reversed([*enumerate(c.rung for c in found)])}
    return tuple(sorted(found, key=lambda cell: (order[cell.rung.config], cell.tokens)))


def _asked(grid: ProductGrid | LadderGrid | IsoflopGrid) -> list[_Sizes]:
    if not isinstance(grid, IsoflopGrid):
        return [_Sizes(grid.params)]
    if grid.sizes is None or grid.span is None:
        return [_Sizes(grid.params, budget) for budget in grid.budgets]
    found = []
    for number, budget in enumerate(grid.budgets):
        if grid.center_params:
            center = grid.center_params[number]
        else:  # C = 6·N·D at D = kN
            assert grid.center_tokens_per_param is not None
            center = math.sqrt(budget / (6 * grid.center_tokens_per_param))
        step = grid.span ** (1 / (grid.sizes - 1))
        sizes = (center * step ** (i - (grid.sizes - 1) / 2) for i in range(grid.sizes))
        found.append(_Sizes(tuple(sizes), budget))
    return found


def _tokens(study: Study, asked: _Sizes, rung: Rung) -> list[float]:
    """The tokens of one shape, ascending."""
    grid = study.grid
    if isinstance(grid, LadderGrid):
        return sorted(multiple * rung.params for multiple in grid.tokens_per_param)
    if isinstance(grid, ProductGrid):
        return sorted(grid.tokens)
    assert asked.budget_flops is not None
    if grid.flop_count == "6nd":
        return [asked.budget_flops / (6 * rung.counts.total)]
    return [asked.budget_flops / flops_per_token(study, rung.config)]


def flops_per_token(study: Study, config: Config) -> float:
    """Exact training FLOPs a token of a shape, with its part of what the optimiser multiplies."""
    family = architecture(study.model.architecture)
    length = study.data.sequence_length
    of_model = family.count_flops(config, length).total
    of_step = step_flops(study.training.optimizer, family.matrices(config))
    if not of_step:
        return float(of_model)
    batch = batch_of(study, family.count_params(config))
    return of_model + of_step / (batch * length)


def _field(study: Study) -> str:
    if isinstance(study.grid, IsoflopGrid) and study.grid.sizes:
        return "budgets, whose sizes lie around their centers,"
    return "presets" if study.grid.presets else "params"


def _rungs(study: Study, vocab_size: int, asked: _Sizes, refusals: Refusals) -> list[Rung]:
    """The shapes of the sizes, or of the presets where the study names those."""
    family = architecture(study.model.architecture)
    if study.grid.presets:
        found = []
        for name in study.grid.presets:
            try:
                found.append(_preset_rung(study, name, vocab_size))
            except ValueError as error:
                refusals.add(f"[grid] presets or [model]: {error}.")
        return found
    key = _Key(family, study.model, vocab_size, study.data.sequence_length)
    convention = study.grid.params_convention
    smallest = size_of(family.count_params(key.ladder.smallest()), convention)
    small = [size for size in asked.params if size < smallest / 2]
    if small and isinstance(study.grid, IsoflopGrid) and study.grid.span is not None:
        refusals.add(_off_center(study, asked, small, smallest))
    elif small:
        names = listed(f"{size:.4g}" for size in small)
        refusals.add(
            f"[grid] params = {names} {_less(small, study, smallest)}. Give at least "
            f"{smallest:,}{_or_smaller(family)}."
        )
    found = []
    for size in asked.params:
        if size in small:
            continue
        try:
            found.append(_nearest(key, size, convention))
        except ValueError as error:
            refusals.add(f"[grid] {_field(study)} or [model]: {error}.")
    return found


def _less(small: list[float], study: Study, smallest: int) -> str:
    return (
        f"{'is' if len(small) == 1 else 'are'} less than half of the smallest shape of this "
        f"ladder, {smallest:,} {study.grid.params_convention} parameters"
    )


def _or_smaller(family: Architecture) -> str:
    return f", or {family.smaller}" if family.smaller else ""


def _off_center(study: Study, asked: _Sizes, small: list[float], smallest: int) -> str:
    """What is said of a budget some of whose sizes around their center are too small."""
    grid = study.grid
    assert isinstance(grid, IsoflopGrid) and grid.span is not None
    # The least size of a budget is its center over the root of the span.
    center = smallest * math.sqrt(grid.span)
    remedy = f"centers of at least {center:,.0f}"
    if grid.center_tokens_per_param:
        budget = 1.01 * 6 * grid.center_tokens_per_param * center**2  # not rounded below it
        remedy = f"budgets from {budget:.3g} FLOPs on"
    sizes = f"{'size' if len(small) == 1 else 'sizes'} {listed(f'{n:,.0f}' for n in small)}"
    return (
        f"[grid] budgets: of {asked.budget_flops:.3g} FLOPs the {sizes} "
        f"{_less(small, study, smallest)}. Give {remedy}"
        f"{_or_smaller(architecture(study.model.architecture))}."
    )


def _refuse_alike(
    study: Study,
    vocab_size: int,
    asked: list[_Sizes],
    rungs: list[list[Rung]],
    refusals: Refusals,
) -> None:
    """Add what sizes round to the same shape, at all budgets together."""
    grid = study.grid
    said = []
    for each, found in zip(asked, rungs, strict=True):
        if isinstance(grid, IsoflopGrid) and len(found) < len(each.params):
            continue  # refused as it is; other centers have other shapes
        names: dict[Config, list[str]] = {}
        presets = grid.presets if len(grid.presets) == len(found) else ()
        for place, rung in enumerate(found):
            name = f"params = {rung.target:.6g}" if grid.params else f"{rung.target:,.0f}"
            names.setdefault(rung.config, []).append(presets[place] if presets else name)
        alike = [f"{', '.join(s[:-1])} and {s[-1]}" for s in names.values() if len(s) > 1]
        if alike and isinstance(grid, IsoflopGrid) and grid.sizes:
            said.append(
                f"of {each.budget_flops:.3g} FLOPs {'; '.join(alike)} parameters "
                f"({grid.sizes} sizes make {len(names)} shapes)"
            )
        else:
            said += alike
    if not said:
        return
    remedy = "Keep one of each, or space them wider than a rung of the ladder."
    if grid.presets:
        remedy = "They differ in vocabulary or context alone. Keep one of each."
    elif isinstance(grid, IsoflopGrid) and grid.sizes:
        remedy = _apart(study, grid, vocab_size)
        said[0] = f"budgets: {said[0]}"
    said = list(dict.fromkeys(said))  # equal sizes at every budget
    refusals.add(f"[grid] {listed(said, '; ')} round to the same shape. {remedy}")


def _apart(study: Study, grid: IsoflopGrid, vocab_size: int) -> str:
    """The most sizes, and the least span, of which every size of a budget has its own shape."""
    assert grid.sizes is not None and grid.span is not None

    def fits(**change: Any) -> bool:
        other = replace(study, grid=replace(grid, **change))
        unseen = Refusals()
        for each in _asked(other.grid):
            found = _rungs(other, vocab_size, each, unseen)
            if len({rung.config for rung in found}) < len(each.params):
                return False
        return True

    remedies = [f"sizes = {n}" for n in range(grid.sizes - 1, 2, -1) if fits(sizes=n)][:1]
    spans = (grid.span * 10 ** (i / 8) for i in range(1, 17))  # to a hundred times as wide
    remedies += [f"span = {span:.3g}" for span in spans if fits(span=float(f"{span:.3g}"))][:1]
    if not remedies:
        return "Give larger budgets: so few shapes are so small."
    return f"Give {' or '.join(remedies)}."


@dataclass(frozen=True)
class _Key:
    """What a ladder is made of, as the key of a cache: settings need not be hashable."""

    family: Architecture
    settings: Settings
    vocab_size: int
    context_length: int

    def __hash__(self) -> int:
        return hash((self.family, self.vocab_size, self.context_length))

    @property
    def ladder(self) -> Ladder:
        return self.family.ladder(self.settings, self.vocab_size, self.context_length)


# The variants of a sweep, of which there may be thousands, mostly ask for the same shapes.
@lru_cache(maxsize=4096)
def _nearest(key: _Key, size: float, convention: ParamsConvention) -> Rung:
    return key.ladder.nearest(size, convention)


def _preset_rung(study: Study, name: str, vocab_size: int) -> Rung:
    """A published shape on this study's vocabulary and sequence length."""
    family, convention = architecture(study.model.architecture), study.grid.params_convention
    config = family.preset(name, study.model, vocab_size, study.data.sequence_length)
    counts = family.count_params(config)
    return Rung(config, counts, float(size_of(counts, convention)), convention)


def ladder_of(study: Study, vocab_size: int) -> Ladder:
    """The family of shapes that a study's sizes come from."""
    family = architecture(study.model.architecture)
    return family.ladder(study.model, vocab_size, study.data.sequence_length)
