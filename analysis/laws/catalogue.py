"""The laws that ship, each a few lines, and `law(name)`, which finds one by name.

A new law is added here and nowhere else: write a function that returns it, and list that in
`_DEFINITIONS`. A law in another file needs no registration to be fitted (see `law.Law`),
and an installed package can bring one by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points

from analysis.arguments import wrong_kind
from analysis.laws.formula import (
    Expr,
    amplitude,
    bend,
    exp,
    exponent,
    feature,
    floor,
    log,
    minimum,
    positive,
    real,
    softplus,
)
from analysis.laws.law import Law
from scaling.store.records import Refusal, did_you_mean

N, D, C = feature("N", "params"), feature("D", "tokens"), feature("C", "flops")
E, A, B = floor("E"), amplitude("A"), amplitude("B")
alpha, beta = exponent("alpha"), exponent("beta")

_HOFFMANN = "Hoffmann et al. 2022, arXiv:2203.15556"
_KAPLAN = "Kaplan et al. 2020, arXiv:2001.08361"
_FLOOR = "with an irreducible loss added (Henighan et al. 2020, arXiv:2010.14701, eq. 1.1)"


def _constant(name: str, column: str) -> Expr:
    """A scale such as N_c that divides a feature; the loss is 1 there, far above the data."""
    return amplitude(name, near=column, start_lower=-1.0, start_upper=12.0)


# --- Hoffmann and relatives: a floor and one term for each resource -----------------------------


def _chinchilla() -> list[Law]:
    coupled = E + ((A / N**alpha) ** (1 / beta) + (B / D**beta) ** (1 / beta)) ** beta
    gamma = positive("gamma", start_lower=0.3, start_upper=3.0, lower=0.05, upper=20.0)
    return [
        Law("chinchilla", E + A / N**alpha + B / D**beta, f"{_HOFFMANN}, eq. 10 (approach 3)"),
        Law(
            "chinchilla_tied",
            E + A / N**alpha + B / D**alpha,
            f"{_HOFFMANN}, eq. 10 with α = β (Muennighoff et al. 2023, arXiv:2305.16264, app. A)",
        ),
        Law(
            "chinchilla_coupled",
            coupled,
            f"{_KAPLAN}, eq. 1.5 with a floor, written with the constants of eq. 10 of {_HOFFMANN}",
            within="chinchilla",
        ),
        Law(
            "chinchilla_power",
            E + (A / N**alpha + B / D**beta) ** gamma,
            "Busbridge et al. 2025, arXiv:2502.08606 (the law of supervised models)",
            "chinchilla where γ = 1, kaplan_nd with a floor where β = 1",
            within="chinchilla",
        ),
    ]


def _overtraining() -> list[Law]:
    a, b = amplitude("a"), amplitude("b")
    eta = exponent("eta", upper=1.5, start_lower=0.015, start_upper=0.75)
    ratio, compute = D / N, 6 * N * D
    return [
        Law(
            "overtraining",
            E + a * ratio**eta / compute**eta + b / ratio**eta / compute**eta,
            "Gadre et al. 2024, arXiv:2403.08540, eq. 4, with M = D/N and C = 6·N·D",
        )
    ]


def _data_constrained() -> list[Law]:
    U = feature("U", "unique_tokens")
    epochs = positive("R_D", start_lower=0.3, start_upper=300.0, upper=1e6)
    excess = positive("R_N", start_lower=0.3, start_upper=300.0, upper=1e6)
    # The size that U tokens would optimally train (Hoffmann eq. 4); more is excess.
    optimum = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    useful = minimum(N, (U * optimum) ** (beta / alpha) * optimum)
    tokens = U + U * epochs * (1 - exp(-(D / U - 1) / epochs))
    params = useful + useful * excess * (1 - exp(-(N / useful - 1) / excess))
    return [
        Law(
            "data_constrained",
            E + A / params**alpha + B / tokens**beta,
            "Muennighoff et al. 2023, arXiv:2305.16264, eqs. 5 and 6",
            "repeated data; R_D and R_N are e-folding numbers of repetitions",
            text="E + A/N'^alpha + B/D'^beta; D' = U + U·R_D·(1 - exp((1 - D/U)/R_D)); "
            "N' = U_N + U_N·R_N·(1 - exp((1 - N/U_N)/R_N)); "
            "U_N = minimum(N, G·(U·G)^(beta/alpha)); G = (alpha·A/(beta·B))^(1/(alpha + beta))",
            within="chinchilla",
        )
    ]


# --- Kaplan: pure powers -------------------------------------------------------------------------


def _kaplan_single(letter: str, x: Expr, equation: str, note: str) -> list[Law]:
    """One of Kaplan's single-variable laws, pure and with an irreducible floor."""
    assert x.symbol is not None
    power = exponent(f"alpha_{letter}", start_lower=0.02, start_upper=1.0)
    # As a fraction to a power the two constants keep their published meaning.
    pure = (_constant(f"{letter}_c", x.symbol.column) / x) ** power
    floored = E + A / x ** exponent(f"alpha_{letter}")
    name = f"kaplan_{letter.lower()}"
    return [
        Law(name, pure, f"{_KAPLAN}, {equation}", note),
        Law(f"{name}_floor", floored, f"{_KAPLAN}, {equation}, {_FLOOR}", note),
    ]


def _kaplan_joint() -> list[Law]:
    S = feature("S", "steps")
    n_c, d_c, s_c = (
        _constant("N_c", "params"), _constant("D_c", "tokens"),
        amplitude("S_c", near="steps", start_lower=-3.0, start_upper=2.0),
    )  # fmt: skip
    a_n, a_d, a_s = (
        exponent(f"alpha_{x}", start_lower=0.02, start_upper=1.0) for x in ("N", "D", "S")
    )
    return [
        Law(
            "kaplan_nd",
            ((n_c / N) ** (a_n / a_d) + d_c / D) ** a_d,
            f"{_KAPLAN}, eq. 1.5",
            "models stopped early",
        ),
        Law(
            "kaplan_ns",
            (n_c / N) ** a_n + (s_c / S) ** a_s,
            f"{_KAPLAN}, eq. 1.6",
            "S is the minimum number of steps, at a batch far above the critical one",
        ),
    ]


# --- one variable, with bends ---------------------------------------------------------------------


def bnsl(breaks: int, column: str = "tokens") -> Law:
    """The broken neural scaling law with that number of breaks, over any column."""
    x = feature("x", column)
    a, b, c0 = floor("a"), amplitude("b"), real("c0", 0.01, 1.0, lower=-5.0, upper=5.0)
    loss = b / x**c0
    for i in range(1, breaks + 1):
        place = positive(f"d{i}", near=column, start_lower=0.0, start_upper=0.0)
        change = real(f"c{i}", -0.5, 3.0, lower=-30.0, upper=30.0)
        width = positive(f"f{i}", lower=0.01, upper=10.0, start_lower=0.03, start_upper=1.5)
        loss = loss * exp(-change * width * softplus(log(x / place) / width))
    return Law(
        f"bnsl_{breaks}" if column == "tokens" else f"bnsl_{breaks}:{column}",
        a + loss,
        "Caballero et al. 2023, arXiv:2210.14891, eq. 1",
        "one variable; the sharpest form a few points can support",
        within=f"bnsl_{breaks - 1}" if breaks > 1 and column == "tokens" else "",
    )


def _alabdulmohsin() -> list[Law]:
    source = "Alabdulmohsin et al. 2022, arXiv:2209.06640, "
    x, b = feature("x", "tokens"), amplitude("b")
    c = exponent("c", start_lower=0.02, start_upper=1.0)
    gamma = positive("gamma", near="1/tokens", start_lower=-3.0, start_upper=0.5)
    e = floor("E", near="<loss", start_lower=-0.7, start_upper=-0.005)
    # Chance level, in nats: ln V is below 13 for any vocabulary. Unbounded it runs away on data
    # of M2, which is also the limit of a large e_0.
    zero = positive("e_0", near=">loss", start_lower=0.005, start_upper=0.6, upper=100.0)
    skew = positive("alpha", start_lower=0.3, start_upper=3.0, lower=0.02, upper=50.0)
    span = zero - e
    # s = (L−E)/(e_0−E). Scaled so that M2 is the limit of large x: the paper's β is b/span^α.
    position = bend(log(b / span) - c * log(x), skew)
    return [
        Law("m1", b / x**c, source + "section 2 (M1)"),
        Law("m2", E + b / x**c, source + "section 2 (M2)"),
        Law("m3", b * (1 / x + gamma) ** c, source + "section 2 (M3)"),
        Law(
            "m4",
            e + span * position,
            source + "section 3, eq. (M4): (L−E)/(e_0−L)^α = b·(e_0−E)^−α/x^c",
            "m2 is its limit for alpha = 0; the authors hold e_0 at chance level (fixed)",
            within="m2",
        ),
    ]


# --- mixtures of experts and hyper-parameters ---------------------------------------------------


def _routed() -> list[Law]:
    dense, experts = feature("N", "params"), feature("X", "experts")
    a, b = real("a", -0.2, 0.0), real("b", -0.3, 0.0)
    c, d = real("c", 0.0, 0.03), real("d", 0.0, 2.0)
    start = positive("X_start", start_lower=1.0, start_upper=5.0, lower=1.0, upper=50.0)
    most = positive("X_max", start_lower=100.0, start_upper=1000.0, lower=50.0, upper=1e7)
    effective = 1 / (1 / (experts - 1 + 1 / (1 / start - 1 / most)) + 1 / most)
    log_n, log_x = log(dense) / math.log(10), log(effective) / math.log(10)
    return [
        Law(
            "routed",
            exp(math.log(10) * (a * log_n + b * log_x + c * log_n * log_x + d)),
            "Clark et al. 2022, arXiv:2202.01169, eq. 1",
            "`params` is the size of the dense model, `experts` the number of experts",
            text="10^(a·log10(N) + b·log10(X') + c·log10(N)·log10(X') + d); "
            "1/X' = 1/(X - 1 + 1/(1/X_start - 1/X_max)) + 1/X_max",
        )
    ]


def _steplaw() -> list[Law]:
    source = "Li et al. 2025, arXiv:2503.04715 (Step Law), eq. 1"
    k = amplitude("k")
    return [
        Law(
            "steplaw_lr",
            k * N ** real("a", -2.0, 0.5) * D ** real("b", -0.5, 1.0),
            source,
            "peak AdamW rate at the optimum of a sweep; N without vocabulary",
            target="learning_rate",
        ),
        Law(
            "steplaw_batch",
            k * D ** real("b", -0.5, 1.5),
            source,
            "batch in tokens at the optimum of a sweep",
            target="batch_tokens",
        ),
    ]


def _rates() -> list[Law]:
    """Laws of the peak rate and of the batch in compute, in size and in the loss."""
    bi, rule = "Bi et al. 2024 (DeepSeek LLM), arXiv:2401.02954, eq. 1", "optimum of a sweep"
    L, k = feature("L", "loss"), amplitude("k")
    power = k * C ** real("a", -0.5, 0.5)
    falling = real("a", 1e-3, 1e-2) - positive("b", start_lower=1e-5, start_upper=1e-3) * log(N)
    critical = amplitude("B_c") / L ** (1 / exponent("alpha_B", start_lower=0.05, start_upper=1.0))
    return [
        Law("deepseek_lr", power, bi, f"peak rate at the {rule}", target="learning_rate"),
        Law("deepseek_batch", power, bi, f"batch in tokens at the {rule}", target="batch_tokens"),
        Law("kaplan_lr", falling, f"{_KAPLAN}, eq. D.1", "Adam", target="learning_rate"),
        Law("kaplan_batch", critical, f"{_KAPLAN}, eq. 1.4", "the critical batch in tokens at a "
            "loss", target="batch_tokens"),
    ]  # fmt: skip


def _allocation() -> list[Law]:
    k, a = amplitude("k"), exponent("a", upper=2.0, start_lower=0.05, start_upper=1.2)
    source = f"{_HOFFMANN}, eq. 4; fitted to optima in Porian et al. 2024, arXiv:2406.19146"
    return [
        Law("allocation_n", k * C**a, source, "compute-optimal sizes", target="params"),
        Law("allocation_d", k * C**a, source, "compute-optimal tokens", target="tokens"),
    ]


def separable(columns: Sequence[str]) -> Law:
    """A floor and one falling power of each column, whatever the columns are.

    Raises Refusal unless they are distinct.
    """
    name = f"separable:{','.join(columns)}"
    if not all(columns) or len(set(columns)) < len(columns):
        raise Refusal(f"law {name!r} needs distinct columns, e.g. separable:params,tokens.")
    loss = E
    for column in columns:
        x = feature(column, column)
        loss = loss + amplitude(f"A_{column}") / x ** exponent(f"alpha_{column}")
    return Law(name, loss, f"{_HOFFMANN}, eq. 10, over any columns")


_DEFINITIONS = [
    *_chinchilla(),
    *_kaplan_single("N", N, "eq. 1.1", "models trained to convergence on ample data"),
    *_kaplan_single("D", D, "eq. 1.2", "large models stopped early on limited data"),
    *_kaplan_single("C", C, "eq. 1.3", "the compute-efficient frontier, C = 6·N·D"),
    *_kaplan_joint(),
    *_overtraining(),
    *_data_constrained(),
    *(bnsl(breaks) for breaks in (1, 2, 3)),
    *_alabdulmohsin(),
    *_routed(),
    *_steplaw(),
    *_rates(),
    *_allocation(),
]

LAWS: Mapping[str, Law] = {law.name: law for law in _DEFINITIONS}

GROUP = "scaling_laws.laws"


def law(name: str) -> Law:
    """The law of that name: one that ships, one over columns, or one an installed package brings.

    `separable:x,y` and `bnsl_2:x` are made for those columns. Raises Refusal listing the names.
    """
    if not isinstance(name, str):
        raise wrong_kind("name", name, "the name of a law", "Give a text, such as 'chinchilla'.")
    if name in LAWS:
        return LAWS[name]
    kind, _, columns = name.partition(":")
    if kind == "separable":
        return separable([column.strip() for column in columns.split(",")])
    if kind in ("bnsl_1", "bnsl_2", "bnsl_3") and columns:
        return bnsl(int(kind[-1]), columns)
    if name in own_laws():
        return own_law(name)
    if name == "multi_power":
        raise Refusal(
            "law 'multi_power' needs whole schedules, not the rows of a run table. In Python: "
            "analysis.schedules.fit.fit_schedules(curves), with columns curve, step, lr, loss."
        )
    if near := did_you_mean(name, (*LAWS, *own_laws())):
        raise Refusal(f"no law {name!r}.{near} `scaling laws` lists all of them.")
    own = "".join(f", {each}" for each in own_laws())
    raise Refusal(
        f"no law {name!r}. Known: {', '.join(LAWS)}, separable:COLUMN,COLUMN, "
        f"bnsl_1:COLUMN{own}. An installed package adds its own as entry points in the group "
        f"{GROUP}."
    )


def as_law(value: Law | str, remedy: str) -> Law:
    """`value`, or the law of that name.

    Raises Refusal for an unknown name, and with the remedy for what is neither a law nor a name.
    """
    if isinstance(value, str):
        return law(value)
    if not isinstance(value, Law):
        raise wrong_kind("law", value, "a law", remedy)
    return value


def own_laws() -> tuple[str, ...]:
    """Names under which installed packages declare laws: entry points in the group GROUP.

    Only installed packages are asked, so that no table or saved fit can name code to be run.
    """
    return tuple(sorted(entry_points(group=GROUP).names))


def own_law(name: str) -> Law:
    """The law that an installed package declares under this name.

    Raises Refusal for one that cannot be loaded, is no Law, or would be mistaken for another.
    """
    entry = next(iter(entry_points(group=GROUP, name=name)))
    where = f"law {name!r}, the entry point {entry.value}"
    try:
        found = entry.load()
    except (Exception, SystemExit) as error:  # whatever another package's import raises
        raise Refusal(f"{where}, cannot be loaded: {type(error).__name__}: {error}.") from error
    if not isinstance(found, Law):
        kind = type(found).__name__
        raise Refusal(f"{where}, is no Law but a {kind}. Make it an analysis.laws.law.Law.")
    # A saved fit knows its law by name alone.
    if found.name != name:
        raise Refusal(f"{where}, is named {found.name!r}. Give entry and law the same name.")
    if name in LAWS:
        raise Refusal(f"{where}, has the name of a law that ships. Choose another.")
    return found
