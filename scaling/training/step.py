"""The compiled part of training: one pure step, several to a call.

`(state, batches, rates) → (state, metrics)`, with the steps of a call in a loop that the compiler
keeps: on a CPU, calls of any lengths give the same bits (tests/scaling/training/test_step.py), so
how many steps make a call is no part of what a run is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from models.architecture import Config, architecture
from models.output import Losses, output_of
from models.sharding import (
    BATCH,
    batch_sharding,
    leaves_of,
    make_mesh,
    matrices_of,
    own_rows,
    put,
    put_rows,
    replicated,
    shardings_of,
    sizes_by_kind,
)
from models.sizes import Kind, ParamCount
from scaling.planning.deriving import layout_of
from scaling.planning.layout import Layout
from scaling.spec import Optimizer, RunSpec
from scaling.store.records import Refusal
from scaling.training.optimizer import update_rule
from scaling.training.target import target_here, target_of

# The place of dropout's key among those of a seed, after any that initial values are drawn from.
DROPOUT = 1 << 31


class TrainState(NamedTuple):
    """Everything a checkpoint holds."""

    params: Any  # nnx.State of float32 parameters
    moments: Any  # optax state
    step: jax.Array  # int32 scalar: steps done


class Metrics(NamedTuple):
    """One value a step of the call, shape (steps,)."""

    loss: jax.Array  # mean cross-entropy of the batch, nats/token
    grad_norm: jax.Array  # global, before clipping


@dataclass(frozen=True)
class Program:
    """The compiled functions of one model on one mesh."""

    initial: Callable[[], TrainState]
    train: Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, Metrics]]
    evaluate: Callable[[Any, jax.Array], jax.Array]
    logits: Callable[[Any, jax.Array], jax.Array]  # (B, T, V) of tokens (B, T); not compiled
    model: Callable[[Any], nnx.Module]  # that has these parameters
    put_batches: Callable[[np.ndarray], jax.Array]  # of each its `own_rows`
    own_rows: slice  # of a batch: those that the devices of this process hold
    put_rates: Callable[[np.ndarray], jax.Array]
    put_windows: Callable[[np.ndarray], jax.Array]
    layout: Layout
    abstract: TrainState  # shapes, dtypes and shardings, for restoring


def make_program(
    name: str,
    model: Config,
    optimizer: Optimizer,
    seed: int,
    layout: Layout,
    mesh: Mesh,
) -> Program:
    """The program of a run: a `model` of the architecture of this name.

    `train` takes tokens (steps, B, T + 1) int32 and rates (steps,) float32 and donates its state.
    `evaluate` takes parameters and windows (B, T + 1) and returns losses (B, T) float32.
    Raises Refusal if the parameter tree is not what was counted, kind by kind: every N, and so
    every fit, would be wrong.
    """
    family = architecture(name)

    def create() -> nnx.Module:
        return family.build(model, nnx.Rngs(seed), layout.execution)

    graph, arrays = nnx.split(nnx.eval_shape(create))
    leaves = leaves_of(family.leaf, arrays)
    _refuse_miscounted(name, family.count_params(model), sizes_by_kind(arrays, leaves))
    if optimizer.name == "muon":
        _refuse_misshapen(name, family.matrices(model), matrices_of(arrays, leaves))
    rule = update_rule(optimizer, leaves, family.ratios(model))

    def initial() -> TrainState:
        params = nnx.split(create())[1]
        return TrainState(params, rule.init(params), jnp.int32(0))

    shapes = jax.eval_shape(initial)
    everywhere = replicated(mesh)
    of_params = shardings_of(mesh, shapes.params, leaves)
    # Moments lie where their parameters do. What one rule of several leaves to another has none.
    of_moments = optax.tree.map_params(
        rule,
        lambda kept, sharding: kept if _absent(kept) else sharding,
        shapes.moments,
        of_params,
        transform_non_params=lambda _: everywhere,
        is_leaf=_absent,
    )
    shardings = TrainState(of_params, of_moments, everywhere)  # type: ignore[arg-type]

    on_cpu = _platform(mesh) == "cpu"
    # The decoder lays its arrays out on the mesh that it is traced for.
    traced_on = partial(jax.sharding.use_abstract_mesh, mesh.abstract_mesh)

    def logits(params: Any, tokens_BxT: jax.Array) -> jax.Array:
        with traced_on():
            return output_of(nnx.merge(graph, params)(tokens_BxT)).logits

    def losses_of(params: Any, tokens_BxT1: jax.Array, keys_B: jax.Array | None = None) -> Losses:
        tokens_BxT, targets_BxT = tokens_BxT1[:, :-1], tokens_BxT1[:, 1:]
        with traced_on():
            return family.losses(nnx.merge(graph, params), tokens_BxT, targets_BxT, keys_B)

    def losses(params: Any, tokens_BxT1: jax.Array) -> jax.Array:
        return losses_of(params, tokens_BxT1).cross_entropy

    def dropout_keys(step: jax.Array, sequences: int) -> jax.Array | None:
        """A key for each sequence of a step's batch, whatever the microbatch; none if no dropout.

        A function of the seed, the step and the sequence's place alone, so that a run that goes on
        later, or in other microbatches, drops the same numbers.
        """
        if not family.drops(model):
            return None
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), DROPOUT), step)
        return jax.vmap(lambda place: jax.random.fold_in(key, place))(jnp.arange(sequences))

    def objective(
        params: Any, tokens_BxT1: jax.Array, keys_B: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """What is minimised, and the mean cross-entropy that is reported."""
        found = losses_of(params, tokens_BxT1, keys_B)
        loss = jnp.mean(found.cross_entropy)
        if not optimizer.z_loss:
            return loss + found.penalty, loss
        z_loss = optimizer.z_loss * jnp.mean(found.log_normaliser**2)
        return loss + found.penalty + z_loss, loss

    def divided(grads: Any) -> Any:
        """Gradients as their parameters lie: each device sums its own share, and no other."""
        return jax.lax.with_sharding_constraint(grads, of_params)

    def gradients_at_once(
        params: Any, tokens_BxT1: jax.Array, keys_B: jax.Array | None
    ) -> tuple[jax.Array, Any]:
        with traced_on():  # the backward pass too
            value_and_grad = jax.value_and_grad(objective, has_aux=True)
            (_, loss), grads = value_and_grad(params, tokens_BxT1, keys_B)
            return loss, divided(grads)

    def gradients(
        params: Any, tokens_BxT1: jax.Array, keys_B: jax.Array | None
    ) -> tuple[jax.Array, Any]:
        """The mean loss of a batch and the gradient of its objective."""
        if layout.accumulate == 1:
            return gradients_at_once(params, tokens_BxT1, keys_B)

        # Every k-th sequence makes a microbatch, so that each still lies on all devices.
        k = layout.accumulate

        def split(of_batch: jax.Array) -> jax.Array:
            return of_batch.reshape(-1, k, *of_batch.shape[1:]).swapaxes(0, 1)

        micro_KxMxT1 = jax.lax.with_sharding_constraint(
            split(tokens_BxT1), batch_sharding(mesh, leading=1)
        )
        keys_KxM = None if keys_B is None else split(keys_B)

        def add(total: tuple[jax.Array, Any], micro: tuple[Any, Any]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, gradients_at_once(params, *micro)), None

        zeros = (jnp.float32(0), divided(jax.tree.map(jnp.zeros_like, params)))
        (loss, grads), _ = jax.lax.scan(add, zeros, (micro_KxMxT1, keys_KxM))
        return loss / k, jax.tree.map(lambda grad: grad / k, grads)

    def step(state: TrainState, inputs: tuple[jax.Array, jax.Array]) -> tuple[TrainState, Metrics]:
        tokens_BxT1, rate = inputs
        keys_B = dropout_keys(state.step, tokens_BxT1.shape[0])
        loss, grads = gradients(state.params, tokens_BxT1, keys_B)
        updates, moments = rule.update(grads, state.moments, state.params)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        metrics = Metrics(loss, optax.tree.norm(grads))
        return TrainState(params, moments, state.step + 1), metrics

    def train(
        state: TrainState, tokens_SxBxT1: jax.Array, rates_S: jax.Array
    ) -> tuple[TrainState, Metrics]:
        if len(rates_S) > 1:
            return jax.lax.scan(step, state, (tokens_SxBxT1, rates_S))
        inputs = tokens_SxBxT1[0], rates_S[0]
        if on_cpu:
            # A loop whose length the compiler does not know: of a scan of one step it takes the
            # loop away, and fuses the step, and so rounds, otherwise. Not elsewhere: a GPU's host
            # would wait in every call, to read whether there is another turn.
            once = jax.lax.optimization_barrier(jnp.int32(1))
            nothing = Metrics(jnp.float32(0), jnp.float32(0))
            state, metrics = jax.lax.fori_loop(
                0, once, lambda _, carry: step(carry[0], inputs), (state, nothing)
            )
        else:
            state, metrics = step(state, inputs)
        return state, jax.tree.map(lambda value: value[None], metrics)

    batches, windows = batch_sharding(mesh, leading=1), batch_sharding(mesh)
    sequences = layout.microbatch_sequences * layout.accumulate
    put_batches, own, seen = partial(put, sharding=batches), slice(0, sequences), windows
    if jax.process_count() > 1:  # each makes its own part of a batch, and gets all losses
        own, seen = own_rows(batches, sequences), everywhere
        put_batches = partial(put_rows, sharding=batches, rows=sequences)
    return Program(
        # Born sharded: no device ever holds the whole state of a model that needs several.
        initial=jax.jit(initial, out_shardings=shardings),
        train=jax.jit(
            train,
            in_shardings=(shardings, batches, everywhere),
            out_shardings=(shardings, everywhere),
            donate_argnums=0,
        ),
        logits=logits,
        model=lambda params: nnx.merge(graph, params),
        evaluate=jax.jit(losses, in_shardings=(shardings.params, windows), out_shardings=seen),
        put_batches=put_batches,
        own_rows=own,
        put_rates=partial(put, sharding=everywhere),
        put_windows=partial(put, sharding=windows),
        layout=layout,
        abstract=jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            shardings,
        ),
    )


def mesh_of(layout: Layout, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of a layout: on the first of these devices, or of those that this process sees."""
    return make_mesh(**{layout.sharding: layout.devices}, devices=devices)


def program_of(spec: RunSpec, mesh: Mesh | None = None) -> Program:
    """The program of a run, on all devices that this process sees, or on those of a `mesh`.

    Raises Refusal as `layout_of` and `make_program` do.
    """
    if mesh is None:
        layout = layout_of(spec, target_here())
        mesh = mesh_of(layout)
    else:
        # Devices along the tensor axis have the same sequences.
        sharing = math.prod(mesh.shape[axis] for axis in BATCH)
        layout = layout_of(spec, target_of(mesh.devices.flat[0], sharing))
    return make_program(spec.architecture, spec.model, spec.optimizer, spec.seed, layout, mesh)


def _absent(kept: Any) -> bool:
    return isinstance(kept, optax.MaskedNode)


def _platform(mesh: Mesh) -> str:
    return str(mesh.devices.flat[0].platform)


def _refuse_miscounted(name: str, counted: ParamCount, held: Mapping[Kind, int]) -> None:
    for kind, size in held.items():
        if getattr(counted, kind) != size:
            raise Refusal(
                f"architecture = {name!r}: its parameter tree holds {size:,} numbers of the kind "
                f"{kind!r} and count_params says {getattr(counted, kind):,}. Correct the count, "
                "or what leaf() says of their names."
            )


def _refuse_misshapen(
    name: str, named: Mapping[tuple[int, int], int], held: Mapping[tuple[int, int], int]
) -> None:
    if named != held:
        raise Refusal(
            f"architecture = {name!r}: its parameter tree holds the matrices {_listed(held)} and "
            f"matrices() says {_listed(named)}. Correct matrices(), or give [training] optimizer = "
            '"adamw".'
        )


def _listed(matrices: Mapping[tuple[int, int], int]) -> str:
    found = (f"{count} of {a}×{b}" for (a, b), count in sorted(matrices.items()))
    return ", ".join(found) or "none"
