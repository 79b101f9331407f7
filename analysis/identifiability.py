"""Whether a design, the features of the runs alone, can tell the coefficients of a law apart."""

from __future__ import annotations

import numpy as np

from analysis.expression import Array
from scaling.records import Refusal

RAY_WIDTH = 0.05  # e-folds; whole batches move a point off its ray by a percent or two


def condition_number(params: Array, tokens: Array) -> float:
    """How well runs at these (N, D) could tell the Chinchilla law's coefficients apart.

    The condition number of JᵀJ for (log E, log A, log B, α, β) in centred log-features, for a
    reference law whose three terms are equal at the centre and whose exponents are Besiroglu's
    (arXiv:2404.10102): a property of the design alone, whatever its scale. About 1e3 for a
    grid; 1e8 and more, as for one ray D = kN, cannot be fitted, nor can one distinct N or D.
    Raises Refusal for numbers that are not positive and finite.
    """
    n, d = np.asarray(params, dtype=float), np.asarray(tokens, dtype=float)
    for name, values in (("params", n), ("tokens", d)):
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise Refusal(f"{name} must be positive and finite; got {values.min():g}.")
    x, y = np.log(n) - np.log(n).mean(), np.log(d) - np.log(d).mean()
    a, b = np.exp(-0.3478 * x), np.exp(-0.3658 * y)
    shares = np.stack([np.ones_like(a), a, b], axis=1) / (1 + a + b)[:, None]
    jacobian = np.column_stack([shares, -shares[:, 1] * x, -shares[:, 2] * y])
    return float(np.linalg.cond(jacobian.T @ jacobian))


def refuse_line(features: dict[str, Array]) -> None:
    """Raises Refusal if a feature has one value, or all points lie on one power-law line."""
    logs = []
    for name, values in features.items():
        log = np.log(values)
        if np.ptp(log) < 1e-6:
            raise Refusal(
                f"{name} has one distinct value ({values[0]:g}); its exponent cannot be told. "
                f"Give runs at two or more {name}."
            )
        logs.append(log - log.mean())
    if len(logs) < 2:
        return
    centred = np.stack(logs, axis=1)
    decomposition = np.linalg.svd(centred / np.sqrt(len(centred)), full_matrices=False)
    if decomposition.S[-1] < RAY_WIDTH:
        names = list(features)
        normal = decomposition.Vh[-1]
        if len(names) == 2:
            slope = -normal[0] / normal[1] if normal[1] else np.inf
            k = np.exp(np.mean(np.log(features[names[1]]) - slope * np.log(features[names[0]])))
            line = f"{names[1]} = {k:.3g}·{names[0]}" + (
                "" if abs(slope - 1) < 0.02 else f"^{slope:.2f}"
            )
        else:
            line = "one power-law surface of " + ", ".join(names)
        raise Refusal(
            f"all runs lie on one ray, {line}, which cannot separate the exponents. "
            "Add runs with another ratio, e.g. 10, 20 and 40 tokens per parameter."
        )
