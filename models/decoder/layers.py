"""The parts of a decoder apart from attention: linear maps, norms, MLPs, dropout.

A field of the configuration is read in one place each. Names carry shapes; the legend is in
models/decoder/model.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from models.decoder.config import ModelConfig
from models.products import biased, product


class Linear(nnx.Linear):
    """y = x W (+ b) by the products of models/products.py."""

    def __call__(self, x_NxA: jax.Array) -> jax.Array:  # type: ignore[override]
        y_NxF = product(x_NxA.astype(self.dtype), self.kernel[...], 0, self.dtype)
        return y_NxF if self.bias is None else biased(y_NxF, self.bias[...])


def linear(
    n_in: int, n_out: int, *, std: float, bias: bool, dtype: jnp.dtype, rngs: nnx.Rngs
) -> Linear:
    """y = x W (+ b), W drawn from a normal distribution of this standard deviation, b from 0 on."""
    return Linear(
        n_in,
        n_out,
        use_bias=bias,
        kernel_init=nnx.initializers.normal(std),
        dtype=dtype,
        rngs=rngs,
    )


def light(compute: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The same function of arrays, of which the backward pass keeps the inputs and nothing else.

    For norms and activations: to compute them again costs less than to write what they make on the
    way, most of it float32, and to read it.
    """
    inner = jax.custom_vjp(compute)

    def backward(inputs: tuple[jax.Array, ...], grad: jax.Array) -> tuple[jax.Array, ...]:
        return jax.vjp(compute, *inputs)[1](grad)

    inner.defvjp(lambda *inputs: (compute(*inputs), inputs), backward)
    return inner


class RMSNorm(nnx.Module):
    """x / rms(x) · scale (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4)."""

    def __init__(self, config: ModelConfig, width: int) -> None:
        self.epsilon = config.norm_epsilon
        self.scale = nnx.Param(jnp.ones(width))

    def __call__(self, x_NxD: jax.Array) -> jax.Array:
        return light(partial(_rms_norm, self.epsilon))(x_NxD, self.scale[...])


def _rms_norm(epsilon: float, x_NxD: jax.Array, scale_D: jax.Array) -> jax.Array:
    x32_NxD = x_NxD.astype(jnp.float32)
    mean_square_Nx1 = jnp.mean(x32_NxD * x32_NxD, axis=-1, keepdims=True)
    y_NxD = x32_NxD * jax.lax.rsqrt(mean_square_Nx1 + epsilon)
    return (y_NxD * scale_D[None, :]).astype(x_NxD.dtype)


class LayerNorm(nnx.Module):
    """(x − mean) / sd · scale (+ bias) (Ba et al. 2016, arXiv:1607.06450, eq. 3)."""

    def __init__(self, config: ModelConfig, width: int) -> None:
        self.epsilon = config.norm_epsilon
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width)) if config.biases else None

    def __call__(self, x_NxD: jax.Array) -> jax.Array:
        vectors = [self.scale[...]] if self.bias is None else [self.scale[...], self.bias[...]]
        return light(partial(_layer_norm, self.epsilon))(x_NxD, *vectors)


def _layer_norm(
    epsilon: float, x_NxD: jax.Array, scale_D: jax.Array, bias_D: jax.Array | None = None
) -> jax.Array:
    x32_NxD = x_NxD.astype(jnp.float32)
    centred_NxD = x32_NxD - jnp.mean(x32_NxD, axis=-1, keepdims=True)
    variance_Nx1 = jnp.mean(centred_NxD * centred_NxD, axis=-1, keepdims=True)
    y_NxD = centred_NxD * jax.lax.rsqrt(variance_Nx1 + epsilon) * scale_D[None, :]
    return (y_NxD if bias_D is None else y_NxD + bias_D[None, :]).astype(x_NxD.dtype)


NORMS = {"rms": RMSNorm, "layer": LayerNorm}


def sinusoids(positions_M: jax.Array, width: int) -> jax.Array:
    """Sinusoidal positions (Vaswani et al. 2017, arXiv:1706.03762, section 3.5), (M, width).

    Columns 2i and 2i + 1 are sine and cosine of the position over 10000^(2i / width).
    """
    column_D = jnp.arange(width)
    frequency_D = 10_000.0 ** (-(column_D - column_D % 2) / width)
    angle_MxD = positions_M.astype(jnp.float32)[:, None] * frequency_D[None, :]
    return jnp.where((column_D % 2 == 0)[None, :], jnp.sin(angle_MxD), jnp.cos(angle_MxD))


def folded(keys_B: jax.Array | None, number: int | jax.Array) -> jax.Array | None:
    """Other keys for the part of the model that has this number; none where none are given."""
    if keys_B is None:
        return None
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys_B)


def dropped(x: jax.Array, keys_B: jax.Array | None, rate: float) -> jax.Array:
    """Dropout (Srivastava et al. 2014, JMLR 15) of activations whose leading axis is B or B·T.

    A share `rate` of the numbers is 0 and the others are larger by 1 / (1 − rate). What a sequence
    loses is a function of its own key alone. Without keys it is x itself.
    """
    if keys_B is None:
        return x
    B = len(keys_B)
    shape = (x.shape[0] // B, *x.shape[1:])
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape))(keys_B)
    return jnp.where(kept.reshape(x.shape), x / (1 - rate), 0)


class SwiGLU(nnx.Module):
    """(silu(x W_gate) ⊙ x W_up) W_down (Shazeer 2020, arXiv:2002.05202, eq. 6)."""

    def __init__(self, config: ModelConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        D, F, bias = config.d_model, config.d_ff, config.biases
        self.gate = linear(D, F, std=D**-0.5, bias=bias, dtype=dtype, rngs=rngs)
        self.up = linear(D, F, std=D**-0.5, bias=bias, dtype=dtype, rngs=rngs)
        self.down = linear(F, D, std=config.back_std(F), bias=bias, dtype=dtype, rngs=rngs)

    def __call__(self, x_NxD: jax.Array) -> jax.Array:
        return self.down(light(_gated)(self.gate(x_NxD), self.up(x_NxD)))


def _gated(gate_NxF: jax.Array, up_NxF: jax.Array) -> jax.Array:
    y_NxF = jax.nn.silu(gate_NxF.astype(jnp.float32)) * up_NxF.astype(jnp.float32)
    return y_NxF.astype(up_NxF.dtype)


ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=True),  # as GPT-2 does
    "gelu_exact": partial(jax.nn.gelu, approximate=False),  # as GPT-NeoX does
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),  # So et al. 2021, arXiv:2109.08668
}


class PlainMlp(nnx.Module):
    """activation(x W_up) W_down."""

    def __init__(self, config: ModelConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        D, F, bias = config.d_model, config.d_ff, config.biases
        self.activation = ACTIVATIONS[config.mlp]
        self.up = linear(D, F, std=D**-0.5, bias=bias, dtype=dtype, rngs=rngs)
        self.down = linear(F, D, std=config.back_std(F), bias=bias, dtype=dtype, rngs=rngs)

    def __call__(self, x_NxD: jax.Array) -> jax.Array:
        return self.down(light(self.activated)(self.up(x_NxD)))

    def activated(self, x_NxF: jax.Array) -> jax.Array:
        return self.activation(x_NxF.astype(jnp.float32)).astype(x_NxF.dtype)


MLPS = {"swiglu": SwiGLU, **dict.fromkeys(ACTIVATIONS, PlainMlp)}
