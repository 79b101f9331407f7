"""The gradient of a lookup is the sum of the rows of each number, however it is computed."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.lookup import looked_up, scattered_sums, sorted_sums

V, D = 50, 6
RANDOM = np.random.default_rng(0)
NUMBERS = {
    "two thirds are one": np.where(RANDOM.random(700) < 2 / 3, 3, RANDOM.integers(0, V, 700)),
    "all are one": np.full(333, 7),
    "each once": RANDOM.permutation(V),
    "one row": np.array([5]),
}


@pytest.mark.parametrize("sums", [sorted_sums, scattered_sums])
@pytest.mark.parametrize("numbers", NUMBERS.values(), ids=NUMBERS.keys())
def test_rows_are_summed_by_their_number(
    sums: Callable[..., jax.Array], numbers: np.ndarray
) -> None:
    rows = RANDOM.normal(size=(len(numbers), D)).astype("f4")
    expected = np.zeros((V, D))
    np.add.at(expected, numbers, rows.astype(float))
    found = np.asarray(jax.jit(sums, static_argnums=2)(jnp.asarray(numbers), jnp.asarray(rows), V))
    # Up to 470 numbers of size 1, one after the other, each sum rounded to 6e-8 of some 20.
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-6)
    absent = np.setdiff1d(np.arange(V), numbers)
    assert (found[absent] == 0).all()


def gradient(table: jax.Array, numbers: jax.Array) -> jax.Array:
    return jax.grad(lambda table: (looked_up(table, numbers) ** 2).sum())(table)


def test_the_gradient_of_a_lookup_is_that_of_its_rows() -> None:
    table = jnp.asarray(RANDOM.normal(size=(V, D)), jnp.float32)
    numbers = jnp.asarray(NUMBERS["two thirds are one"])
    counts = np.bincount(numbers, minlength=V)
    found = gradient(table, numbers)
    np.testing.assert_allclose(found, 2 * counts[:, None] * np.asarray(table), rtol=1e-4, atol=1e-4)


def test_a_gpu_is_given_no_scatter() -> None:
    table = jax.ShapeDtypeStruct((V, D), np.float32)
    numbers = jax.ShapeDtypeStruct((700,), np.int32)
    traced = jax.jit(gradient).trace(table, numbers)
    scatters = {
        platform: "stablehlo.scatter" in traced.lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cuda", "cpu")
    }
    assert scatters == {"cuda": False, "cpu": True}
