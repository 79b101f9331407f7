"""Whether a plan's points identify the coefficients of a law, and what should be added if not.

Each remedy is tried before it is advised: sizes, tokens or budgets are added to the study, the
study is planned again, and an addition that lowers the condition number enough is named.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.effective_clusters import FEWEST, MANY, clusters_of, support
from analysis.fitting.identifiability import condition_number, refuse_line
from analysis.laws.catalogue import LAWS, law
from analysis.laws.law import Law
from analysis.runs.messages import listed
from analysis.solver.problem import Data, to_theta
from analysis.text import human, scientific, value_of
from models.decoder.presets import PRESETS
from scaling.planning.plan import Draft, Plan, draft
from scaling.planning.rounding import in_whole_steps
from scaling.store.records import Refusal, nearest_names
from scaling.study import IsoflopGrid, LadderGrid, Study

MAX_CONDITION = 1e6  # a grid has about 1e3, a single ray 5.6e8
BOTH = frozenset({"params", "tokens"})
NOUNS = {
    **{"params": "size", "tokens": "number of tokens"},
    **{"tokens_per_param": "multiple", "budgets": "budget"},
}
ORDINAL = {2: "second", 3: "third", 4: "fourth", 5: "fifth"}


def identifies(made: Draft) -> float | None:
    """The design's condition number for a law of params and tokens; None for other laws.

    Raises Refusal, with what to add, for a design that cannot identify the law: fewer than three
    sizes or numbers of tokens, one ray D = kN, or a condition number above 1e6. For a law of other
    features, only the numbers of sizes and tokens are checked. A size that has no shape, or the
    shape of another size, does not count.
    """
    study = made.plan.study
    if study.law is None:
        return None
    try:
        features = frozenset(law(study.law).features)
    except Refusal as error:
        raise _misspelt(made, study.law, error) from error
    if not made.plan.points:
        return None
    if not _whole(made.plan):
        made = _of_the_rest(made)
    wrong = _wrong(made.plan, features)
    if wrong is not None:
        found = f" (condition number {_condition(made.plan):.1e}; a grid has 1e3)"
        found *= features == BOTH
        raise Refusal(
            f"[grid] {wrong}, so that it cannot identify law = {study.law!r}{found}. "
            f"{_remedy(made, features)}"
        )
    return _condition(made.plan) if features == BOTH else None


def _misspelt(made: Draft, name: str, error: Refusal) -> Refusal:
    """The refusal of a law's name, with the errors of the law that was probably meant."""
    said = [*error.lines]
    for meant in nearest_names(name, LAWS)[:1]:
        study = replace(made.plan.study, law=meant)
        try:
            identifies(replace(made, plan=replace(made.plan, study=study)))
        except Refusal as more:
            said += more.lines
    return Refusal(said)


def _of_the_rest(made: Draft) -> Draft:
    """The draft without the sizes that have no shape of their own."""
    grid = made.plan.study.grid
    sizes = {rung.target for rung in made.plan.rungs}
    kept = tuple(size for size in grid.params if size in sizes)
    if not kept:  # presets, or sizes around centers
        return made
    study = replace(made.plan.study, grid=replace(grid, params=kept))
    return Draft(replace(made.plan, study=study), made.refusals)


def _whole(plan: Plan) -> bool:
    """Whether every size has a shape of its own."""
    return len(plan.rungs) >= plan.study.grid.shapes


def _columns(plan: Plan) -> dict[str, np.ndarray]:
    return {
        "params": np.array([run.params.total for run in plan.points], float),
        "tokens": np.array([run.tokens for run in plan.points], float),
    }


def _condition(plan: Plan) -> float:
    columns = _columns(plan)
    return condition_number(columns["params"], columns["tokens"])


def _wrong(plan: Plan, features: frozenset[str]) -> str | None:
    """What keeps the design from identifying a law of these features; None if nothing does."""
    grid, columns = plan.study.grid, _columns(plan)
    if isinstance(grid, LadderGrid) and features >= BOTH and len(set(grid.tokens_per_param)) == 1:
        k = f"{grid.tokens_per_param[0]:g}"
        return f"tokens_per_param = [{k}] puts every run on one ray D = {k} N"
    # A/N^alpha + E has three coefficients, so two values fit any exponent and any floor; another
    # feature, such as unique tokens, can replace a third number of tokens.
    least = {"params": 3, "tokens": 3 if features <= BOTH else 2}
    few = []
    for name in sorted(features & BOTH):
        distinct = len(np.unique(columns[name]))
        if distinct < least[name]:
            values = f"{distinct} distinct value{'s' * (distinct > 1)}"
            few.append(f"{name} has {values} and needs at least {least[name]}")
    if few:
        return " and ".join(few)
    if features != BOTH:
        return None
    try:
        refuse_line(columns)
    except Refusal as error:
        return str(error).split(", which")[0]
    if _condition(plan) > MAX_CONDITION:
        return "params and tokens vary too little, or too much together"
    return None


# --- remedies ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Change:
    """Fields of [grid] with values added, and the words for it."""

    words: str
    fields: Mapping[str, Any]
    added: int = 1  # values


@dataclass(frozen=True)
class _Remedy:
    """A change with which the study is accepted, and what it leaves and costs."""

    change: _Change
    refused: int  # errors that it leaves
    flops: float
    condition: float


def _remedy(made: Draft, features: frozenset[str]) -> str:
    """The smallest addition that makes the design identify the law: to one field, or to two."""
    grid = made.plan.study.grid
    ones = list(_changes(made.plan.study))
    twos = (
        _Change(f"{one.words} and {other.words}", {**one.fields, **other.fields})
        for one, other in itertools.combinations(ones, 2)
        if not set(one.fields) & set(other.fields)
    )
    for changes in (ones, twos):
        remedies = [each for change in changes if (each := _tried(change, made, features))]
        remedies.sort(
            key=lambda each: (each.refused, each.change.added, each.flops, each.change.words)
        )
        for best in remedies:
            if _accepted(best.change, made):
                reached = f" (condition number {best.condition:.1e})" * (features == BOTH)
                return f"Give {best.change.words}{reached}, or remove law."
    widely = {
        "product": "three sizes and three numbers of tokens, each over a factor of 8 and more",
        "ladder": "three sizes and two multiples, each over a factor of 4 and more",
        "isoflop": "three sizes at each of two budgets, a factor of 4 apart",
    }
    return f"Give at least {widely[grid.kind]}, or remove law."


def _tried(change: _Change, made: Draft, features: frozenset[str]) -> _Remedy | None:
    """The study with this change, if it is accepted."""
    study = made.plan.study
    # Seeds repeat points and variants repeat grids: neither helps to identify coefficients.
    alone: dict[str, Any] = {"seeds": study.grid.seeds[:1], "replicate_seeds": ()}
    grid = replace(study.grid, **alone, **change.fields)
    other = draft(replace(study, grid=grid, sweep={}), made.plan.corpus)
    if not set(other.refusals) <= set(made.refusals) or not other.plan.points:
        return None
    if not _whole(other.plan) or _wrong(other.plan, features) is not None:
        return None
    return _Remedy(change, len(other.refusals), other.plan.flops_spent, _condition(other.plan))


def _accepted(change: _Change, made: Draft) -> bool:
    """Whether the change causes no new error in any variant of the study."""
    study = made.plan.study
    if not study.sweep:
        return True
    changed = replace(study, grid=replace(study.grid, **change.fields))
    return set(draft(changed, made.plan.corpus).refusals) <= set(made.refusals)


def _changes(study: Study) -> Iterator[_Change]:
    """One more size, number of tokens, multiple or budget, inside or outside the present range.

    Numbers of tokens are rounded to whole calls of steps.
    """
    grid = study.grid
    for name, noun in NOUNS.items():
        values = getattr(grid, name, ())
        for more in _more(values):
            both = (*values, *more)
            if name == "tokens":
                both = tuple(in_whole_steps(study, each) for each in both)
            new = tuple(sorted(set(both)))
            added = f"a {ORDINAL.get(len(new), 'further')} {noun}"
            if len(more) > 1:
                added = f"{len(more)} more of {name}"
            yield _Change(f"{added}, {name} = [{_written(new)}]", {name: new}, len(more))
    for name in PRESETS:
        family = {each.split("-")[0] for each in grid.presets}
        if name.split("-")[0] in family and name not in grid.presets:
            new_names = (*grid.presets, name)
            yield _Change(f"also the preset {name!r}", {"presets": new_names})
    if isinstance(grid, IsoflopGrid) and grid.span is not None:
        for factor in (2, 4, 8):
            span = float(f"{grid.span * factor:.3g}")
            yield _Change(f"a wider span = {span:g}", {"span": span})


def _more(values: tuple[float, ...]) -> list[tuple[float, ...]]:
    """A value in the widest gap, above and below, to two digits; two values for only one."""
    if not values:
        return []
    logs = np.sort(np.log(values))
    gaps = np.diff(logs)
    step = max(math.log(4), float(gaps.max(initial=0.0)))
    found: list[tuple[float, ...]] = [(logs[-1] + step,), (logs[0] - step,)]
    if len(gaps):
        widest = int(gaps.argmax())
        found.append(((logs[widest] + logs[widest + 1]) / 2,))
    else:
        near = math.log(3)
        found += [tuple(logs[0] + k * near for k in two) for two in ((1, 2), (-1, 1), (-2, -1))]
    return [tuple(float(f"{math.exp(each):.2g}") for each in more) for more in found]


def _written(values: tuple[float, ...]) -> str:
    """Quantities as a study file has them, in full: the advice is exactly what was tried."""

    def written(value: float) -> str:
        text = human(value) if value < 1e15 else scientific(value)
        if value_of(text) != value:
            return f"{value:.17g}"
        return f"'{text}'" if value < 1e15 else text

    return ", ".join(map(written, values))


def few_trunks(of: Law, coefficients: Mapping[str, float], runs: pd.DataFrame) -> list[str]:
    """A warning for coefficients that would rest on few planned trunks (`effective_clusters`).

    `runs` has the law's features and `trunk_id`.
    """
    ones, trunks = np.ones(len(runs)), clusters_of(runs)
    letters = {n: runs[s.column].to_numpy(float) for n, s in of.symbols.items() if s.feature}
    free = np.zeros(len(of.coefficients), dtype=bool)
    theta = to_theta(of, coefficients)
    carried = support(of, Data(letters, ones), theta, trunks, ones, free).coefficients(of)
    few = {name: basis.clusters for name, basis in carried.items() if basis.clusters < MANY}
    if not few:
        return []
    none = [name for name, count in few.items() if count < FEWEST]
    without = f", and {listed(none)} would have no interval (fewer than {FEWEST})" * bool(none)
    return [
        f"{listed([*few])} would rest on {listed([f'{count:.2g}' for count in few.values()])} of "
        f"{trunks.max() + 1} trunks in effect, where intervals of fewer than {MANY} are wide"
        f"{without}. Let more trunks reach the largest tokens and sizes, or train each cell with "
        "more seeds."
    ]
