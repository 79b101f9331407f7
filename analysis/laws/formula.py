"""Formulas as data: one definition gives value, exact derivatives, text and LaTeX.

A law is written once with ordinary operators, `E + A / N**alpha`. The nodes are shared: two equal
sub-formulas are one object, which is computed once. No code is generated and nothing is parsed.
`jets` computes formulas and their derivatives, `structure` reads what kind of formula one is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Number = float | int


@dataclass(frozen=True, eq=False, repr=False)
class Expr:
    """A node of a formula. Build with operators and `log`, `exp`, `softplus`; never directly."""

    op: str  # number, symbol, add, mul, pow, log, exp, softplus, minimum, bend
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
        return _text(self, _SUM)

    __repr__ = __str__

    @property
    def latex(self) -> str:
        """The formula as LaTeX, without dollar signs."""
        return _latex(self, _SUM)


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
    return real(name, start_lower, start_upper, lower=0.0, upper=upper)


def real(name: str, start_lower: float, start_upper: float, **settings: Any) -> Expr:
    """A coefficient of either sign, searched first between the two starts."""
    symbol = Symbol(name, start_lower=start_lower, start_upper=start_upper, **settings)
    return _node("symbol", symbol=symbol)


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


def rebuilt(e: Expr, args: Sequence[Expr]) -> Expr:
    """The same operation on other arguments, simplified where these allow it."""
    if e.op in ("add", "mul", "pow"):
        return {"add": _add, "mul": _mul, "pow": _pow}[e.op](*args)
    return _node(e.op, *args, value=e.value, symbol=e.symbol)


# --- in writing -------------------------------------------------------------------------------

_SUM, _FACTOR, _BASE = 0, 1, 2  # how strongly what is around a part binds it


def _text(e: Expr, outer: int) -> str:
    if e.op == "number":
        return f"{e.value:g}" if e.value >= 0 or outer == _SUM else f"({e.value:g})"
    if e.symbol is not None:
        return e.symbol.name
    if e.op == "add":
        left, sign, right = _difference(e)
        text = f"{_text(left, _SUM)} {sign} {_text(right, _FACTOR if sign == '-' else _SUM)}"
        return f"({text})" if outer > _SUM else text
    if e.op in ("mul", "pow"):
        over, under = _fraction(e)
        if not under:
            return _product(over, outer)
        lower = _product(under, _BASE) if len(under) > 1 else _text(under[0], _BASE)
        text = f"{_product(over, _FACTOR)}/{lower}"
        return f"({text})" if outer > _FACTOR else text
    return f"{e.op}({', '.join(_text(arg, _SUM) for arg in e.args)})"


def _difference(e: Expr) -> tuple[Expr, str, Expr]:
    """A sum as two parts and the sign between them, the negative one last."""
    left, right = e.args
    if right.op == "number" and right.value < 0:
        left, right = right, left
    if left.op == "number" and left.value < 0:
        left, right = right, left
    leading = right.args[0] if right.op == "mul" else right
    if leading.op == "number" and leading.value < 0:
        return left, "-", -right
    return left, "+", right


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
            texts.append(f"{_text(base, 3)}^{_text(power, _BASE)}")
        elif _is(factor, -1.0):
            texts.append("-1")
        else:
            texts.append(_text(factor, _FACTOR))
    text = "·".join(texts).replace("-1·", "-") or "1"
    return f"({text})" if outer > _FACTOR and len(texts) > 1 else text


_GREEK = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "kappa", "lambda"),
    *("mu", "nu", "rho", "sigma", "tau", "phi", "chi", "psi", "omega"),
)
_LATEX_FUNCTIONS = {"log": r"\log", "exp": r"\exp", "minimum": r"\min"}


def latex_name(name: str) -> str:
    """A letter as LaTeX: Greek ones as such, and what follows an underscore, or digits, below."""
    letter, _, index = name.partition("_")
    if not index and letter.rstrip("0123456789"):
        letter, index = (stem := letter.rstrip("0123456789")), letter[len(stem) :]
    if letter in _GREEK:
        letter = f"\\{letter}"
    elif len(letter) > 1:
        letter = upright(letter)
    below = latex_name(index) if len(index) == 1 or index in _GREEK else upright(index)
    return f"{letter}_{{{below}}}" if index else letter


def upright(word: str) -> str:
    """A word, such as the name of a column, as LaTeX."""
    escaped = word.replace("_", r"\_")
    return rf"\mathrm{{{escaped}}}"


def _latex(e: Expr, outer: int) -> str:
    if e.op == "number":
        return _latex_number(e.value, outer)
    if e.symbol is not None:
        return latex_name(e.symbol.name)
    if e.op == "add":
        left, sign, right = _difference(e)
        text = f"{_latex(left, _SUM)} {sign} {_latex(right, _FACTOR if sign == '-' else _SUM)}"
        return _bracketed(text) if outer > _SUM else text
    if e.op in ("mul", "pow"):
        over, under = map(_latex_product, _fraction(e))
        text = rf"\frac{{{over}}}{{{under}}}" if _fraction(e)[1] else over
        return _bracketed(text) if outer > _FACTOR else text
    arguments = ", ".join(_latex(arg, _SUM) for arg in e.args)
    return f"{_LATEX_FUNCTIONS.get(e.op) or upright(e.op)}{_bracketed(arguments)}"


def _latex_product(factors: Sequence[Expr]) -> str:
    if len(factors) == 1 and factors[0].op != "pow":
        return _latex(factors[0], _SUM)
    texts = []
    for factor in factors:
        if factor.op == "pow":
            base, power = factor.args
            texts.append(f"{_latex(base, _BASE)}^{{{_latex(power, _SUM)}}}")
        else:
            texts.append("-" if _is(factor, -1.0) else _latex(factor, _FACTOR))
    return r" \, ".join(texts).replace(r"- \,", "-") or "1"


def _latex_number(value: float, outer: int) -> str:
    digits, _, power = f"{value:g}".partition("e")
    text = rf"{digits} \times 10^{{{int(power)}}}" if power else digits
    return _bracketed(text) if outer > _SUM and (value < 0 or (power and outer > _FACTOR)) else text


def _bracketed(text: str) -> str:
    return rf"\left({text}\right)"
