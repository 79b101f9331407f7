"""What a formula is at given letters, with its exact first and second derivatives.

A letter may stand for a number, an array or a jet: a value with its derivatives by some
variables. All derivatives of a formula then come with its value in one pass (second-order
automatic differentiation in forward mode), and those that are always zero are never computed:
of the fifteen second derivatives of E + A/N^alpha + B/D^beta there are only four.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from analysis.array import Array
from analysis.laws.formula import Expr, exp, log, rebuilt

Value = Array | float  # arrays broadcast against one another
K = TypeVar("K")
Pair = tuple[int, int]  # of variables, the larger number first


class Jet(NamedTuple):
    """A value, with its derivatives by variable and by pair of variables where not always zero."""

    value: Value
    gradient: Mapping[int, Value]
    hessian: Mapping[Pair, Value]


def variable(value: Value, number: int) -> Jet:
    """A letter by which to derive, as it is."""
    return Jet(value, {number: 1.0}, {})


def exponential(value: Value, number: int) -> Jet:
    """A positive letter, derived by its logarithm."""
    return Jet(value, {number: value}, {(number, number): value})


def evaluate(
    formula: Expr, letters: Mapping[str, Any], logs: Mapping[str, Any] = MappingProxyType({})
) -> Any:
    """The formula at the letters: a Jet if one of them is a jet, else a number or an array.

    `logs` holds logarithms of letters where these are known. Overflow gives inf or nan, never a
    warning: the caller decides what those mean.
    """
    node, uses = _plan(formula)
    shared: dict[Expr, Any] = {}  # only parts that are used again are kept, and so their arrays

    def visit(e: Expr) -> Any:
        if e.op == "number":
            return e.value
        if e.symbol is not None:
            return letters[e.symbol.name]
        if e in shared:
            return shared[e]
        letter = e.args[0].symbol if e.op == "log" else None
        if letter is not None and letter.name in logs:
            return logs[letter.name]
        args = [visit(arg) for arg in e.args]
        operations = _JETS if any(isinstance(arg, Jet) for arg in args) else _VALUES
        found = operations[e.op](*args)
        if uses[e] > 1:
            shared[e] = found
        return found

    with np.errstate(all="ignore"):
        result = visit(node)
    # `visit` refers to itself: without this, every array would wait for the garbage collector.
    shared.clear()
    return result


@lru_cache(maxsize=1000)
def _plan(formula: Expr) -> tuple[Expr, Counter[Expr]]:
    """The formula as it is computed, and how often each part of it is used."""
    node, uses = _computed(formula), Counter[Expr]()

    def count(e: Expr) -> None:
        uses[e] += 1
        if uses[e] == 1:
            for arg in e.args:
                count(arg)

    count(node)
    return node, uses


def _computed(formula: Expr) -> Expr:
    """The formula with general powers through their logarithms, which are shared and several
    times faster, and with logarithms of products and powers taken apart where that is exact."""

    @cache
    def visit(e: Expr) -> Expr:
        if e.op == "pow" and e.args[1].value not in (-1.0, 2.0):
            return exp(visit(e.args[1]) * logarithm(e.args[0]))
        if e.op == "log":
            return logarithm(e.args[0])
        return rebuilt(e, [visit(arg) for arg in e.args])

    def logarithm(e: Expr) -> Expr:
        if e.op == "mul" and any(map(_is_positive, e.args)):
            return logarithm(e.args[0]) + logarithm(e.args[1])
        if e.op == "pow" and e.args[1].value != 2.0:  # a square has one where its base has none
            return visit(e.args[1]) * logarithm(e.args[0])
        return log(visit(e))

    return visit(formula)


def _is_positive(e: Expr) -> bool:
    """Whether the formula is positive whatever its features and its other coefficients are."""
    if e.op in ("mul", "pow"):
        return all(_is_positive(arg) for arg in e.args[: 1 if e.op == "pow" else 2])
    if e.symbol is not None:
        return e.symbol.positive
    return e.op == "exp" or (e.op == "number" and e.value > 0)


# --- numbers and arrays -----------------------------------------------------------------------


def _power(x: Value, power: float) -> Value:
    """x² or 1/x: the other powers are computed through logarithms."""
    return x * x if power == 2.0 else np.divide(1.0, x)


def _softplus(x: Value) -> Value:
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def _sigmoid(x: Value) -> Value:
    return 0.5 * np.tanh(0.5 * x) + 0.5  # without overflow


def _bend(t: Value, skew: Value) -> Value:
    # With v = logit s: h(v) = skew·softplus(v) − softplus(−v) = t. h rises and bends one way
    # only, so a method that starts at its asymptotes converges from everywhere. Halley's: the
    # error of a step is of the third order.
    v = np.where(t < 0, t, t / skew)
    for _ in range(60):
        small = np.exp(-np.abs(v))
        above = np.maximum(v, 0.0) + np.log1p(small)  # softplus(v); softplus(−v) is this minus v
        share = np.where(v > 0, 1.0, small) / (1.0 + small)  # of v, logistic
        rise = 1.0 + (skew - 1.0) * share
        step = ((skew - 1.0) * above + v - t) / rise
        turn = 0.5 * step * (skew - 1.0) * share * (1.0 - share) / rise
        step /= 1.0 - np.minimum(turn, 0.5)
        v = v - step
        if not np.any(np.abs(step) > 1e-7 * (1 + np.abs(v))):  # the next would be 1e-21
            break
    return _sigmoid(v)


_VALUES: Mapping[str, Callable[..., Any]] = {
    "add": np.add,
    "mul": np.multiply,
    "pow": _power,
    "log": np.log,
    "exp": np.exp,
    "minimum": np.minimum,
    "softplus": _softplus,
    "bend": _bend,
}


# --- jets -------------------------------------------------------------------------------------


def _times(a: Value, b: Value) -> Value:
    """a·b, without the work where one of them is the derivative of a letter by itself."""
    if isinstance(a, float) and a == 1.0:
        return b
    return a if isinstance(b, float) and b == 1.0 else a * b


def _scaled(parts: Mapping[K, Value], by: Value) -> dict[K, Value]:
    return {key: _times(part, by) for key, part in parts.items()}


def _merged(a: Mapping[K, Value], b: Mapping[K, Value]) -> dict[K, Value]:
    return {**a, **{key: a[key] + part if key in a else part for key, part in b.items()}}


def _increase(parts: dict[K, Value], key: K, by: Value) -> None:
    parts[key] = parts[key] + by if key in parts else by


def _constant(x: Jet | Value) -> Jet:
    return x if isinstance(x, Jet) else Jet(x, {}, {})


def _add(a: Jet | Value, b: Jet | Value) -> Jet:
    a, b = _constant(a), _constant(b)
    return Jet(a.value + b.value, _merged(a.gradient, b.gradient), _merged(a.hessian, b.hessian))


def _mul(a: Jet | Value, b: Jet | Value) -> Jet:
    a, b = _constant(a), _constant(b)
    hessian = _merged(_scaled(a.hessian, b.value), _scaled(b.hessian, a.value))
    for i, x in a.gradient.items():
        for j, y in b.gradient.items():
            both = _times(x, y)
            _increase(hessian, (max(i, j), min(i, j)), both + both if i == j else both)
    gradient = _merged(_scaled(a.gradient, b.value), _scaled(b.gradient, a.value))
    return Jet(_times(a.value, b.value), gradient, hessian)


def _chain(x: Jet, value: Value, first: Value, second: Value) -> Jet:
    """f(x), of the value f and the derivatives f′ and f″ at x."""
    gradient = _scaled(x.gradient, first)
    bent = gradient if second is first else _scaled(x.gradient, second)
    hessian = _scaled(x.hessian, first)
    for i, y in bent.items():
        for j, z in x.gradient.items():
            if j <= i:
                _increase(hessian, (i, j), _times(y, z))
    return Jet(value, gradient, hessian)


def _jet_power(x: Jet, power: float) -> Jet:
    value = _power(x.value, power)
    if power == 2.0:
        return _chain(x, value, 2 * x.value, 2.0)
    square = value * value
    return _chain(x, value, -square, 2 * square * value)


def _jet_log(x: Jet) -> Jet:
    first = np.divide(1.0, x.value)
    return _chain(x, np.log(x.value), first, -first * first)


def _jet_exp(x: Jet) -> Jet:
    value = np.exp(x.value)
    return _chain(x, value, value, value)


def _jet_softplus(x: Jet) -> Jet:
    slope = _sigmoid(x.value)
    return _chain(x, _softplus(x.value), slope, slope * (1 - slope))


def _jet_minimum(a: Jet | Value, b: Jet | Value) -> Jet:
    a, b = _constant(a), _constant(b)
    first = np.less(a.value, b.value)

    def smaller(x: Mapping[K, Value], y: Mapping[K, Value]) -> dict[K, Value]:
        return {k: np.where(first, x.get(k, 0.0), y.get(k, 0.0)) for k in {**x, **y}}

    value = np.minimum(a.value, b.value)
    return Jet(value, smaller(a.gradient, b.gradient), smaller(a.hessian, b.hessian))


def _jet_bend(t: Jet | Value, skew: Jet | Value) -> Jet:
    # With l = log(1 − s) and r = 1/(1/s + skew/(1 − s)): ds = r·(dt + l·dskew), derived again.
    t, skew = _constant(t), _constant(skew)
    s = _bend(t.value, skew.value)
    rest = 1 - s
    level = np.log(rest)
    rise = rest + skew.value * s
    r = s * rest / rise
    by_s = (1 - 2 * s - r * (skew.value - 1)) / rise  # ∂r/∂s; ∂r/∂skew is −s·r/rise
    inner = _merged(t.gradient, _scaled(skew.gradient, level))
    gradient = _scaled(inner, r)
    hessian = _scaled(_merged(t.hessian, _scaled(skew.hessian, level)), r)
    for i, along in inner.items():
        for j, change in gradient.items():
            if j > i:
                continue
            part = by_s * change
            if j in skew.gradient:
                part = part - s * r / rise * skew.gradient[j]
            part = part * along
            if i in skew.gradient:
                part = part - r / rest * change * skew.gradient[i]
            _increase(hessian, (i, j), part)
    return Jet(s, gradient, hessian)


_JETS: Mapping[str, Callable[..., Jet]] = {
    "add": _add,
    "mul": _mul,
    "pow": _jet_power,
    "log": _jet_log,
    "exp": _jet_exp,
    "minimum": _jet_minimum,
    "softplus": _jet_softplus,
    "bend": _jet_bend,
}
