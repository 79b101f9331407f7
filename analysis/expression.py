"""Formulas as data: one definition gives value, exact derivatives and text.

A law is written once with ordinary operators, `E + A / N**alpha`. The nodes are shared
(two equal sub-formulas are one object), so evaluating a value, its gradient and its Hessian
together computes each common part once. No code is generated and nothing is parsed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.operations import apply

Array = NDArray[np.float64]
Number = float | int


@dataclass(frozen=True, eq=False)
class Expr:
    """A node of a formula. Build with operators and `log`, `exp`, `softplus`; never directly."""

    op: str  # number, symbol, add, mul, pow, log, exp, softplus, sigmoid, minimum, less, bend
    args: tuple[Expr, ...] = ()
    value: float = 0.0
    symbol: Symbol | None = None

    def __add__(self, other: Expr | Number) -> Expr:
        return _add(self, _lift(other))

    __radd__ = __add__

    def __mul__(self, other: Expr | Number) -> Expr:
        return _mul(self, _lift(other))

    __rmul__ = __mul__

    def __neg__(self) -> Expr:
        return _mul(number(-1.0), self)

    def __sub__(self, other: Expr | Number) -> Expr:
        return _add(self, -_lift(other))

    def __rsub__(self, other: Expr | Number) -> Expr:
        return _add(_lift(other), -self)

    def __truediv__(self, other: Expr | Number) -> Expr:
        return _mul(self, _pow(_lift(other), number(-1.0)))

    def __rtruediv__(self, other: Expr | Number) -> Expr:
        return _mul(_lift(other), _pow(self, number(-1.0)))

    def __pow__(self, other: Expr | Number) -> Expr:
        return _pow(self, _lift(other))

    def __str__(self) -> str:
        return _text(self, 0)


@dataclass(frozen=True)
class Symbol:
    """What a letter in a formula stands for.

    A feature is a column of the run table. A coefficient is fitted: on the scale of its
    logarithm if `positive`, else as it is, between `lower` and `upper`; a global search
    starts between `start_lower` and `start_upper`, which are decades beyond the lower and the
    upper end of the column `near` (or `1/column`) where that is given.
    """

    name: str
    feature: bool = False
    column: str = ""
    positive: bool = False
    intercept: bool = False  # means something only together with an exponent
    lower: float = -math.inf
    upper: float = math.inf
    start_lower: float = 0.01
    start_upper: float = 1.0
    near: str = ""


_NODES: dict[tuple[Any, ...], Expr] = {}


def _node(op: str, *args: Expr, value: float = 0.0, symbol: Symbol | None = None) -> Expr:
    key = (op, tuple(id(arg) for arg in args), value, symbol)
    if key not in _NODES:
        _NODES[key] = Expr(op, args, value, symbol)
    return _NODES[key]


def number(value: Number) -> Expr:
    return _node("number", value=float(value))


def _lift(value: Expr | Number) -> Expr:
    return value if isinstance(value, Expr) else number(value)


def feature(letter: str, column: str) -> Expr:
    """A column of the run table, written as `letter` in formulas."""
    return _node("symbol", symbol=Symbol(letter, feature=True, column=column))


def positive(name: str, **settings: Any) -> Expr:
    """A positive coefficient, fitted on the scale of its logarithm."""
    return _node("symbol", symbol=Symbol(name, positive=True, **{"lower": 0.0, **settings}))


def floor(name: str, **settings: Any) -> Expr:
    """The loss that remains at infinite scale, added to the other terms: not negative, and 0 where
    the runs do without it. (Any positive coefficient that stands alone in the sum is one.)"""
    return positive(name, **settings)


def amplitude(name: str, **settings: Any) -> Expr:
    """A positive coefficient that is the value of a term where a feature is 1, far outside any
    data: its interval is that of the exponent, multiplied, and it is not judged by it."""
    return positive(name, intercept=True, **settings)


def exponent(
    name: str, upper: float = 3.0, start_lower: float = 0.03, start_upper: float = 1.5
) -> Expr:
    """A coefficient between 0 and `upper`, fitted as it is."""
    return _node(
        "symbol",
        symbol=Symbol(
            name, lower=0.0, upper=upper, start_lower=start_lower, start_upper=start_upper
        ),
    )


def real(name: str, start_lower: float, start_upper: float, **settings: Any) -> Expr:
    """A coefficient of either sign, searched first between the two starts."""
    return _node(
        "symbol",
        symbol=Symbol(name, start_lower=start_lower, start_upper=start_upper, **settings),
    )


def log(x: Expr) -> Expr:
    return _node("log", x)


def exp(x: Expr) -> Expr:
    return _node("exp", x)


def softplus(x: Expr) -> Expr:
    """log(1 + exp(x)), without overflow."""
    return _node("softplus", x)


def minimum(x: Expr, y: Expr) -> Expr:
    """The smaller of the two; its derivative is that of the smaller."""
    return _node("minimum", x, y)


def bend(t: Expr, skew: Expr) -> Expr:
    """The s in (0, 1) with s / (1 − s)^skew = exp(t): a logistic curve with unequal ends."""
    return _node("bend", t, skew)


def _is(node: Expr, value: float) -> bool:
    return node.op == "number" and node.value == value


def _add(a: Expr, b: Expr) -> Expr:
    if a.op == b.op == "number":
        return number(a.value + b.value)
    if _is(a, 0.0):
        return b
    if _is(b, 0.0):
        return a
    return _node("add", a, b)


def _mul(a: Expr, b: Expr) -> Expr:
    if a.op == b.op == "number":
        return number(a.value * b.value)
    if _is(a, 0.0) or _is(b, 0.0):
        return number(0.0)
    if _is(a, 1.0):
        return b
    if _is(b, 1.0):
        return a
    if b.op == "number":  # numbers first, so that signs meet and cancel
        a, b = b, a
    if a.op == "number" and b.op == "mul" and b.args[0].op == "number":
        return _mul(number(a.value * b.args[0].value), b.args[1])
    return _node("mul", a, b)


def _pow(a: Expr, b: Expr) -> Expr:
    if a.op == b.op == "number":
        return number(a.value**b.value)
    if _is(b, 0.0):
        return number(1.0)
    if _is(b, 1.0):
        return a
    if a.op == "pow":
        return _pow(a.args[0], a.args[1] * b)
    return _node("pow", a, b)


def symbols(node: Expr) -> list[Expr]:
    """Every letter of the formula, in the order in which a reader meets it."""
    found: dict[Expr, None] = {}
    seen: set[Expr] = set()

    def visit(part: Expr) -> None:
        if part in seen:
            return
        seen.add(part)
        if part.op == "symbol":
            found[part] = None
        for arg in part.args:
            visit(arg)

    visit(node)
    return list(found)


def addends(node: Expr) -> list[Expr]:
    """The terms of a sum, as they stand; a formula that is no sum is its own."""
    return _parts(node, "add")


def _parts(node: Expr, op: str) -> list[Expr]:
    return [t for arg in node.args for t in _parts(arg, op)] if node.op == op else [node]


def ordered(node: Expr) -> Expr:
    """The formula in whatever order it was written: two are one object if they are equal up to
    the order of terms and factors. Of no use to print: which order it has varies."""
    memo: dict[Expr, Expr] = {}

    def visit(e: Expr) -> Expr:
        if e not in memo:
            if e.op in ("add", "mul"):
                parts = [visit(part) for part in _parts(e, e.op)]
                parts.sort(key=lambda part: (part.op != "number", id(part)))
                memo[e] = reduce(_add if e.op == "add" else _mul, parts)
            else:
                memo[e] = _node(e.op, *map(visit, e.args), value=e.value, symbol=e.symbol)
        return memo[e]

    return visit(node)


def derivative(node: Expr, by: Expr) -> Expr:
    """The exact partial derivative by one letter."""
    memo: dict[Expr, Expr] = {}

    def visit(e: Expr) -> Expr:
        if e not in memo:
            memo[e] = _rule(e, by, visit)
        return memo[e]

    return visit(node)


def _rule(e: Expr, by: Expr, d: Callable[[Expr], Expr]) -> Expr:
    if e.op == "symbol":
        return number(1.0 if e is by else 0.0)
    if e.op == "number":
        return number(0.0)
    if e.op == "add":
        return d(e.args[0]) + d(e.args[1])
    if e.op == "mul":
        a, b = e.args
        return d(a) * b + a * d(b)
    if e.op == "pow":
        a, b = e.args
        # e·(b·log a)' keeps the power itself as the shared part.
        inner = d(a) * b / a
        return e * (inner if _is(d(b), 0.0) else d(b) * log(a) + inner)
    if e.op == "minimum":
        a, b = e.args
        first = _node("less", a, b)
        return first * d(a) + (1 - first) * d(b)
    if e.op == "bend":
        t, skew = e.args
        return (d(t) + log(1 - e) * d(skew)) / (1 / e + skew / (1 - e))
    if e.op == "less":
        return number(0.0)
    (x,) = e.args
    inner = d(x)
    if _is(inner, 0.0):
        return inner
    if e.op == "log":
        return inner / x
    if e.op == "exp":
        return inner * e
    if e.op == "softplus":
        return inner * _node("sigmoid", x)
    sigmoid = _node("sigmoid", x)
    return inner * sigmoid * (1 - sigmoid)


def evaluate(nodes: Sequence[Expr], values: Mapping[str, Any]) -> list[Any]:
    """Values of several formulas at once, sharing common parts.

    `values` maps letters to numbers or arrays, which broadcast against one another.
    Overflow gives inf or nan, never a warning: the caller decides what those mean.
    """
    memo: dict[Expr, Any] = {}

    def visit(e: Expr) -> Any:
        e = lowered(e)
        if e.op == "number":
            return e.value
        if e.symbol is not None:
            return values[e.symbol.name]
        if e not in memo:
            memo[e] = apply(e.op, [visit(arg) for arg in e.args])
        return memo[e]

    with np.errstate(all="ignore"):
        results = [visit(node) for node in nodes]
    # `visit` refers to itself: without this, every array would wait for the garbage collector.
    memo.clear()
    return results


def lowered(e: Expr) -> Expr:
    """The node as it is computed: a general power through its logarithm, which is shared and
    several times faster."""
    if e.op != "pow":
        return e
    base, power = e.args
    if _is(power, -1.0):
        return _node("reciprocal", base)
    if _is(power, 2.0):
        return _node("square", base)
    return _node("exp", _mul(power, log(base)))


def _text(e: Expr, outer: int) -> str:
    """Readable text; `outer` is the binding strength around: 0 sum, 1 product, 2 power."""
    if e.op == "number":
        return f"{e.value:g}" if e.value >= 0 or outer == 0 else f"({e.value:g})"
    if e.op == "symbol":
        assert e.symbol is not None
        return e.symbol.name
    if e.op == "add":
        left, right = e.args
        if right.op == "number" and right.value < 0:
            left, right = right, left
        if left.op == "number" and left.value < 0:
            left, right = right, left
        sign = right.args[0] if right.op == "mul" else right
        if sign.op == "number" and sign.value < 0:
            text = f"{_text(left, 0)} - {_text(-right, 1)}"
        else:
            text = f"{_text(left, 0)} + {_text(right, 0)}"
        return f"({text})" if outer > 0 else text
    if e.op in ("mul", "pow"):
        over, under = _fraction(e)
        if not under:
            return _product(over, outer)
        lower = _product(under, 2) if len(under) > 1 else _text(under[0], 2)
        text = f"{_product(over, 1)}/{lower}"
        return f"({text})" if outer > 1 else text
    return f"{e.op}({', '.join(_text(arg, 0) for arg in e.args)})"


def _fraction(e: Expr) -> tuple[list[Expr], list[Expr]]:
    """Factors above and below the line; a negative exponent puts a factor below."""
    if e.op == "mul":
        parts = [_fraction(arg) for arg in e.args]
        return parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]
    if e.op == "pow":
        base, power = e.args
        if power.op == "number" and power.value < 0:
            return [], [_pow(base, number(-power.value))]
        if power.op == "mul" and power.args[0].op == "number" and power.args[0].value < 0:
            return [], [_node("pow", base, -power)]
    return [e], []


def _product(factors: Iterable[Expr], outer: int) -> str:
    texts = []
    for factor in factors:
        if factor.op == "pow":
            base, power = factor.args
            texts.append(f"{_text(base, 3)}^{_text(power, 2)}")
        elif _is(factor, -1.0):
            texts.append("-1")
        else:
            texts.append(_text(factor, 1))
    text = "·".join(texts).replace("-1·", "-") or "1"
    return f"({text})" if outer > 1 and len(texts) > 1 else text
