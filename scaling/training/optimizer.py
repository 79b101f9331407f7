"""What an optimiser does with gradients: AdamW, or Muon for matrices in blocks."""

from __future__ import annotations

import math
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from models.parametrization import Ratios, multipliers
from models.sizes import Kind
from scaling.optimizers import COEFFICIENTS, ITERATIONS, MOMENTUM, UPDATE_RMS
from scaling.spec import Optimizer

ADAM_EPSILON = 1e-8  # Kingma & Ba 2015, arXiv:1412.6980, algorithm 1
# Tables of tokens and positions are not decayed: most of their rows get no gradient in most steps,
# and would shrink with every one (OLMo team 2025, arXiv:2501.00656, section 3).
DECAYED: tuple[Kind, ...] = ("matrix", "head")
MUON_EPSILON = 1e-8  # added to the norm that a momentum is divided by


def update_rule(
    optimizer: Optimizer, leaves: Any, ratios: Ratios | None = None
) -> optax.GradientTransformation:
    """The update without its learning rate, which the step multiplies in.

    `leaves` says what each array is, and `ratios` how large the model is for µP. Decay is decoupled
    (Loshchilov & Hutter 2019, arXiv:1711.05101) and of matrices and heads alone.
    """
    muon = optimizer.name == "muon"
    adam = optax.scale_by_adam(optimizer.beta1, optimizer.beta2, eps=ADAM_EPSILON)
    # By kind, and not by the number of dimensions: layers may be stacked, and tables have two.
    names = jax.tree.map(lambda leaf: "muon" if muon and leaf.kind == "matrix" else "adamw", leaves)
    rules = [optax.partition({"muon": orthogonal(), "adamw": adam}, names) if muon else adam]
    if ratios is not None:
        rules = parametrized(rules, leaves, names, ratios)
    return optax.chain(
        optax.clip_by_global_norm(optimizer.clip_norm),
        *rules,
        optax.add_decayed_weights(
            optimizer.weight_decay,
            mask=jax.tree.map(lambda leaf: leaf.kind in DECAYED, leaves),
        ),
    )


def parametrized(
    rules: list[optax.GradientTransformation], leaves: Any, names: Any, ratios: Ratios
) -> list[optax.GradientTransformation]:
    """The same rules with µP's epsilons and rates."""
    each = jax.tree.map(lambda leaf: multipliers(leaf, ratios), leaves)
    # Adam does not know how large a gradient is but by its epsilon.
    larger = jax.tree.map(lambda multiplier: 1 / multiplier.epsilon, each)
    rates = jax.tree.map(
        lambda multiplier, name: multiplier.orthogonal_rate if name == "muon" else multiplier.rate,
        each,
        names,
    )
    return [times(larger), *rules, times(rates)]


def times(factors: Any) -> optax.GradientTransformation:
    """Each array times a number of its own."""
    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda update, factor: update * factor, updates, factors)
    )


def orthogonal() -> optax.GradientTransformation:
    """Muon's update of matrices (..., inputs, outputs), each of a stack by itself."""

    def last_two(updates: Any) -> Any:
        return jax.tree.map(lambda _: MuonDimensionNumbers(-2, -1), updates)

    def sized(update: jax.Array) -> jax.Array:
        # An orthogonal matrix has as many ones among its singular values as its shorter side is
        # long, so numbers of mean square one over its longer side.
        return update * (UPDATE_RMS * math.sqrt(max(update.shape[-2:])))

    return optax.chain(
        scale_by_muon(
            (COEFFICIENTS,) * ITERATIONS,
            ITERATIONS,
            MOMENTUM,
            MUON_EPSILON,
            nesterov=True,
            weight_dimension_numbers=last_two,
        ),
        optax.stateless(lambda updates, _: jax.tree.map(sized, updates)),
    )
