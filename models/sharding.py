"""Where each array lives on a mesh (data, fsdp, tensor); one device is the 1×1×1 mesh.

Batches are split over data and fsdp; matrices as their architecture says, over fsdp along one
side and tensor along the other (Rajbhandari et al. 2020, arXiv:1910.02054, stage 3).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from models.sizes import KINDS, Kind, Leaf

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")  # the axes that sequences are split over


def make_mesh(
    data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh of data·fsdp·tensor devices, the first of these or of those that jax sees.

    Raises ValueError if there are fewer.
    """
    needed = data * fsdp * tensor
    devices = jax.devices() if devices is None else devices
    if len(devices) < needed:
        raise ValueError(
            f"mesh {data}×{fsdp}×{tensor} needs {needed} devices; there are {len(devices)}"
        )
    return jax.make_mesh(
        (data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:needed]
    )


def leaves_of(leaf_of: Callable[[Sequence[str], int], Leaf], params: Any) -> Any:
    """What each array of a parameter tree (or of its shapes) is: the same tree, of `Leaf`s."""

    def describe(path: tuple[Any, ...], leaf: Any) -> Leaf:
        names = [str(getattr(key, "key", getattr(key, "name", key))) for key in path]
        # The last step of a path leads from a variable to its value.
        return leaf_of([name for name in names if name != "value"], len(leaf.shape))

    return jax.tree_util.tree_map_with_path(describe, params)


def sizes_by_kind(params: Any, leaves: Any) -> dict[Kind, int]:
    """How many numbers of each kind a parameter tree holds."""
    sizes: dict[Kind, int] = dict.fromkeys(KINDS, 0)
    for array, leaf in zip(jax.tree.leaves(params), jax.tree.leaves(leaves), strict=True):
        sizes[leaf.kind] += array.size
    return sizes


def matrices_of(params: Any, leaves: Any) -> dict[tuple[int, int], int]:
    """How many hidden matrices of each shape a parameter tree holds, stacked or one by one."""
    found: Counter[tuple[int, int]] = Counter()
    for array, leaf in zip(jax.tree.leaves(params), jax.tree.leaves(leaves), strict=True):
        if leaf.kind == "matrix":
            *stack, rows, columns = array.shape
            found[rows, columns] += math.prod(stack)
    return dict(found)


def shardings_of(mesh: Mesh, params: Any, leaves: Any) -> Any:
    """A NamedSharding for every array of a parameter tree (or of its shapes): the same tree.

    An axis that does not divide a dimension is dropped for that array.
    """

    def place(array: Any, leaf: Leaf) -> NamedSharding:
        wanted = (*(None,) * (len(array.shape) - len(leaf.axes)), *leaf.axes)
        axes = (
            axis if axis and size % mesh.shape[axis] == 0 else None
            for axis, size in zip(wanted, array.shape, strict=True)
        )
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map(place, params, leaves)


def whole_rows(table: jax.Array) -> jax.Array:
    """`table` with its columns on every device, for a lookup of rows by sequences.

    Sequences and columns are both split over fsdp, which left to itself the partitioner resolves
    by copying activations everywhere.
    """
    return _laid_out(table, PartitionSpec(PartitionSpec.UNCONSTRAINED, None))


def whole_vocabulary(kernel: jax.Array, side: int) -> jax.Array:
    """A head whose sums, over its axis `side`, need no other device; its vocabulary as it lies."""
    free = PartitionSpec.UNCONSTRAINED
    return _laid_out(kernel, PartitionSpec(None, free) if side == 0 else PartitionSpec(free, None))


def by_device(x: jax.Array) -> jax.Array:
    """The rows of each device of the batch apart, (G, N / G, ...), for loops over rows.

    Sums over what a device holds then need nothing of the others until one last sum over G. All
    rows together, G = 1, on one device and where the devices do not divide them.
    """
    shape = jax.sharding.get_abstract_mesh().shape
    G = math.prod(shape[axis] for axis in BATCH if axis in shape)
    if len(x) % G:
        G = 1
    return _laid_out(x.reshape(G, -1, *x.shape[1:]), PartitionSpec(BATCH if G > 1 else None))


def by_sequence(x_NxD: jax.Array) -> jax.Array:
    """Activations with the devices of the batch, so that weights are gathered and not they."""
    return _laid_out(x_NxD, PartitionSpec(BATCH, PartitionSpec.UNCONSTRAINED))


def _laid_out(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    """`x` with a layout on the mesh that is in use while the program is traced
    (`jax.sharding.use_abstract_mesh`); without one, or on one device, `x` itself."""
    if jax.sharding.get_abstract_mesh().size <= 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec)


def on_own_sequences(f: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """f of arrays whose first axis is the sequence, computed by each device of its own sequences.

    For kernels that the partitioner cannot divide. On the mesh that is in use, as `_laid_out`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1:
        return f(*arrays)
    # Over every axis, so that no device repeats what another does. The check asks of every kernel
    # how its results vary by device, which no kernel here tells.
    own = PartitionSpec(mesh.axis_names)
    divided = jax.shard_map(
        f, mesh=mesh, in_specs=(own,) * len(arrays), out_specs=own, check_vma=False
    )
    return divided(*arrays)


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Sequences split over data and fsdp, after `leading` unsplit dimensions."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * leading, BATCH))


def put(value: np.ndarray, sharding: Sharding) -> jax.Array:
    """A numpy array laid out on devices; of several processes each has, and puts, the whole."""
    if sharding.is_fully_addressable:
        return jax.device_put(value, sharding)
    # Not device_put, which would have the processes compare what they have each time.
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def fetch(arrays: Any) -> Any:
    """A tree of arrays as numpy's, whole: of several processes each gets all, and all call it."""
    if all(array.is_fully_addressable for array in jax.tree.leaves(arrays)):
        return jax.device_get(arrays)
    return process_allgather(arrays, tiled=True)


def put_rows(value: np.ndarray, sharding: Sharding, rows: int) -> jax.Array:
    """An array of so many rows along its second axis, of which `value` has those of `own_rows`."""
    own, shape = own_rows(sharding, rows), (len(value), rows, *value.shape[2:])

    def part(index: Any) -> np.ndarray:
        start, stop, _ = index[1].indices(rows)
        return value[:, start - own.start : stop - own.start]

    return jax.make_array_from_callback(shape, sharding, part)


def own_rows(sharding: Sharding, rows: int) -> slice:
    """Those of so many rows, along an array's second axis, that this process's devices hold.

    From the first to the last of them, where they do not lie side by side.
    """
    parts = sharding.addressable_devices_indices_map((1, rows, 1)).values()
    spans = [index[1].indices(rows) for index in parts if index is not None]
    return slice(min(start for start, _, _ in spans), max(stop for _, stop, _ in spans))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())
