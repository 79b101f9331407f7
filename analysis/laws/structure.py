"""What kind of formula one is: its letters, its terms, where it is linear, where a power law.

It is read off the nodes, so that a law from outside is treated as those that ship.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache, reduce
from typing import NamedTuple

from analysis.laws.formula import Expr, log, number, rebuilt

Pair = frozenset[Expr]  # two letters, or one with itself


def symbols(node: Expr) -> list[Expr]:
    """Every letter of the formula, in the order in which a reader meets it."""

    @cache
    def visit(part: Expr) -> dict[Expr, None]:
        if part.op == "symbol":
            return {part: None}
        return {letter: None for arg in part.args for letter in visit(arg)}

    return list(visit(node))


def features(node: Expr) -> list[Expr]:
    """The letters of the formula that are columns of a run table."""
    return [s for s in symbols(node) if s.symbol is not None and s.symbol.feature]


def addends(node: Expr) -> list[Expr]:
    """The terms of a sum, as they stand; a formula that is no sum is its own."""
    return _parts(node, "add")


def _parts(node: Expr, op: str) -> list[Expr]:
    return [t for arg in node.args for t in _parts(arg, op)] if node.op == op else [node]


def ordered(node: Expr) -> Expr:
    """The formula in whatever order it was written: two are one object if they are equal up to
    the order of terms and factors. Of no use to print: which order it has varies."""

    @cache
    def visit(e: Expr) -> Expr:
        if e.op not in ("add", "mul"):
            return rebuilt(e, [visit(arg) for arg in e.args])
        parts = [visit(part) for part in _parts(e, e.op)]
        parts.sort(key=lambda part: (part.op != "number", id(part)))
        return reduce(lambda a, b: rebuilt(e, (a, b)), parts)

    return visit(node)


def substituted(node: Expr, known: Mapping[str, Expr]) -> Expr:
    """The formula with what is known in place of some letters."""

    @cache
    def visit(e: Expr) -> Expr:
        if e.symbol is not None:
            return known.get(e.symbol.name, e)
        return rebuilt(e, [visit(arg) for arg in e.args])

    return visit(node)


def curvature(node: Expr) -> frozenset[Pair]:
    """Pairs of letters by which the second derivative is not zero everywhere.

    A formula is linear in a letter that makes no pair with itself, and jointly in several that
    make none with one another.
    """

    @cache
    def visit(e: Expr) -> frozenset[Pair]:
        inside = frozenset[Pair]().union(*map(visit, e.args))
        if e.op == "mul":
            left, right = map(symbols, e.args)
        else:
            left = right = [] if e.op in ("add", "number", "symbol") else symbols(e)
        return inside | {frozenset((a, b)) for a in left for b in right}

    return visit(node)


class Monomial(NamedTuple):
    """A product of powers of features, times a positive factor; all of coefficients alone."""

    log_factor: Expr
    powers: Mapping[str, Expr]  # by letter of the feature


def monomial(e: Expr) -> Monomial | None:
    """The formula as a product of powers; None where it is none, or not surely positive."""
    if e.op == "number":
        return Monomial(number(math.log(e.value)), {}) if e.value > 0 else None
    if e.symbol is not None:
        if e.symbol.feature:
            return Monomial(number(0), {e.symbol.name: number(1)})
        return Monomial(log(e), {}) if e.symbol.positive else None
    if e.op == "mul":
        left, right = map(monomial, e.args)
        if left is None or right is None:
            return None
        powers = dict(left.powers)
        for letter, power in right.powers.items():
            powers[letter] = powers.get(letter, number(0)) + power
        return Monomial(left.log_factor + right.log_factor, powers)
    if e.op == "pow":
        base, power = monomial(e.args[0]), e.args[1]
        if base is None or features(power):
            return None
        powers = {letter: power * each for letter, each in base.powers.items()}
        return Monomial(power * base.log_factor, powers)
    return None


def affine(e: Expr) -> Mapping[str, float] | None:
    """The formula as Σ factor·coefficient on the scale on which each is fitted, with a number by
    the name ""; None where it is not."""
    if e.op == "number":
        return {"": e.value}
    if e.symbol is not None:
        return None if e.symbol.feature or e.symbol.positive else {e.symbol.name: 1.0}
    if e.op == "log":
        inner = e.args[0].symbol
        return {inner.name: 1.0} if inner is not None and inner.positive else None
    if e.op not in ("add", "mul"):
        return None
    left, right = map(affine, e.args)
    if left is None or right is None:
        return None
    if e.op == "add":
        return {k: left.get(k, 0.0) + right.get(k, 0.0) for k in [*left, *right]}
    if set(right) == {""}:
        left, right = right, left
    return {k: left[""] * v for k, v in right.items()} if set(left) == {""} else None
