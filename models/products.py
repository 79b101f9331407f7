"""The matrix products of a model, forward and backward, in a stated precision.

Operands have the dtype of the activations, in the backward pass too: the gradient of an output is
cast to it first, for a product of float32 with bfloat16 is one of float32 with float32 on CPUs and
GPUs. Sums are float32, and so are the gradients of parameters, which are float32 themselves.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def product(x_NxA: jax.Array, kernel: jax.Array, side: int, out: jnp.dtype) -> jax.Array:
    """x times a float32 kernel that is cast to the dtype of x, (N, the kernel's other side).

    `side` is the kernel's axis that is summed over: 0 for a kernel (in, out), 1 for an embedding
    that is a head too. `out` is the dtype of the result.
    """
    return _forward(x_NxA, kernel, side, out)[0]


def _forward(
    x_NxA: jax.Array, kernel: jax.Array, side: int, out: jnp.dtype
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = dot(x_NxA, kernel.astype(x_NxA.dtype), 1, side, out)
    # The kernel as it is kept anyway: a cast copy would be memory that each layer keeps.
    return y, (x_NxA, kernel)


def _backward(
    side: int, out: jnp.dtype, kept: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x_NxA, kernel = kept
    grad = grad.astype(x_NxA.dtype)
    grad_x_NxA = dot(grad, kernel.astype(x_NxA.dtype), 1, 1 - side, x_NxA.dtype)
    return grad_x_NxA, kernel_gradient(x_NxA, grad, side)


product.defvjp(_forward, _backward)


def dot(a: jax.Array, b: jax.Array, side_a: int, side_b: int, out: jnp.dtype) -> jax.Array:
    """The product of two matrices over these axes, in this dtype."""
    return jax.lax.dot_general(a, b, (((side_a,), (side_b,)), ((), ())), preferred_element_type=out)


def kernel_gradient(x_NxA: jax.Array, grad: jax.Array, side: int) -> jax.Array:
    """The float32 gradient of a kernel, from its input and the gradient of its output."""
    first, second = (x_NxA, grad) if side == 0 else (grad, x_NxA)
    if first.shape[1] <= second.shape[1]:
        return dot(first, second, 0, 0, jnp.float32)
    # A tall gradient, such as that of an MLP's way down or of an embedding that is a head: on a
    # CPU the wide one, turned round after, took .48 to .97 of its time. The barrier keeps the
    # compiler there from putting the two orders back; elsewhere it may choose.
    wide = dot(second, first, 0, 0, jnp.float32)
    as_it_is = jax.lax.optimization_barrier
    return jax.lax.platform_dependent(wide, cpu=as_it_is, default=lambda wide: wide).T


@jax.custom_vjp
def biased(y_NxF: jax.Array, bias_F: jax.Array) -> jax.Array:
    """y + bias in the dtype of y; the bias' gradient is summed in float32."""
    return y_NxF + bias_F.astype(y_NxF.dtype)[None, :]


biased.defvjp(
    lambda y_NxF, bias_F: (biased(y_NxF, bias_F), None),
    lambda _, grad_NxF: (grad_NxF, jnp.sum(grad_NxF, axis=0, dtype=jnp.float32)),
)
