"""Where each array lives on a mesh (data, fsdp, tensor); one device is the 1×1×1 mesh.

Batches are split over data and fsdp; matrices over fsdp along one side and tensor along the
other, so that attention and the MLP need one reduction each (Shoeybi et al. 2019,
arXiv:1909.08053, section 3; Rajbhandari et al. 2020, arXiv:1910.02054, stage 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")

# By the name of the module that owns the matrix: rows, columns.
_MATRICES: Mapping[str, tuple[str | None, str | None]] = {
    **dict.fromkeys(("q", "k", "v", "gate", "up", "head"), ("fsdp", "tensor")),
    **dict.fromkeys(("out", "down"), ("tensor", "fsdp")),
    "embedding": ("tensor", "fsdp"),
    "positions": (None, "fsdp"),
}
_VECTORS = ("bias", "scale")


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh of data·fsdp·tensor devices. Raises ValueError if there are fewer."""
    needed = data * fsdp * tensor
    devices = jax.devices()
    if len(devices) < needed:
        raise ValueError(
            f"mesh {data}×{fsdp}×{tensor} needs {needed} devices; there are {len(devices)}"
        )
    return jax.make_mesh(
        (data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:needed]
    )


def is_matrix(path: tuple[Any, ...], leaf: Any) -> bool:
    """Whether a parameter at this path of a tree is a matrix (or a stack of them), by its name.

    A scale or a bias is none, although those of scanned layers have two dimensions.
    """
    return len(leaf.shape) >= 2 and not any(name in _VECTORS for name in _names(path))


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """A NamedSharding for every array of a train state (or its shapes): same tree.

    Layers stacked along a leading axis are not split along it. An axis that does not divide a
    dimension is dropped for that array; vectors, scalars and what no rule names are replicated.
    """

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        owner = next((name for name in reversed(_names(path)) if name in _MATRICES), None)
        if owner is None or not is_matrix(path, leaf):
            return NamedSharding(mesh, PartitionSpec())
        wanted = (*(None,) * (len(leaf.shape) - 2), *_MATRICES[owner])
        axes = (
            axis if axis and size % mesh.shape[axis] == 0 else None
            for axis, size in zip(wanted, leaf.shape, strict=True)
        )
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree_util.tree_map_with_path(place, state)


def _names(path: tuple[Any, ...]) -> list[str]:
    return [str(getattr(key, "key", getattr(key, "name", key))) for key in path]


def whole_rows(table: jax.Array) -> jax.Array:
    """`table` with its columns on every device, for a lookup of rows by sequences.

    Sequences and columns are both split over fsdp, which left to itself the partitioner resolves
    by copying activations everywhere.
    """
    return _laid_out(table, PartitionSpec(PartitionSpec.UNCONSTRAINED, None))


def by_sequence(x_NxD: jax.Array) -> jax.Array:
    """Activations with the devices of the batch, so that weights are gathered and not they."""
    return _laid_out(x_NxD, PartitionSpec(("data", "fsdp"), PartitionSpec.UNCONSTRAINED))


def _laid_out(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    """`x` with a layout on the mesh that is in use while the program is traced
    (`jax.sharding.use_abstract_mesh`); without one, or on one device, `x` itself."""
    if jax.sharding.get_abstract_mesh().size <= 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec)


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Sequences split over data and fsdp, after `leading` unsplit dimensions."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * leading, ("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())
