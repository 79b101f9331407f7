"""One state for programs that lay it out otherwise: layers one by one, or stacked.

A run may go on with another layout of its layers than the one its checkpoint was written with. The
numbers are the same; only the trees that hold them differ, and an array of layer i of the one is
slice i of an array of the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from models.sharding import put
from scaling.store.records import Refusal

Name = tuple[str, ...]  # of an array: the keys on the way to it


def names(tree: Any) -> dict[Name, Any]:
    """The leaves of a tree, whether of a program or as a checkpoint lists them, by their names."""
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def laid_out(stored: Mapping[Name, np.ndarray], wanted: Any) -> Any:
    """The arrays of a checkpoint as a tree like `wanted`, on the devices that it names.

    Raises Refusal, naming the array, for one that is not there or has another shape.
    """

    def place(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        name = _name(path)
        found = _found(stored, name)
        if found is None or found.shape != leaf.shape or found.dtype != leaf.dtype:
            has = "none" if found is None else f"{found.dtype} {list(found.shape)}"
            raise Refusal(
                f"array {'/'.join(name)} is to be {leaf.dtype} {list(leaf.shape)}, and there is "
                f"{has}: it is the state of another model"
            )
        # Of its own: memory that is shared with the stack could not be given up to the next step.
        return put(np.array(found), leaf.sharding)

    return jax.tree_util.tree_map_with_path(place, wanted)


def _found(stored: Mapping[Name, np.ndarray], name: Name) -> np.ndarray | None:
    if name in stored:
        return stored[name]
    for at, key in enumerate(name):  # one layer, of a stack
        stack = stored.get((*name[:at], *name[at + 1 :]))
        if key.isdigit() and stack is not None and int(key) < len(stack):
            return np.asarray(stack[int(key)])
    for at in range(len(name)):  # a stack, of single layers
        each = ((*name[:at], str(layer), *name[at:]) for layer in itertools.count())
        layers = [stored[layer] for layer in itertools.takewhile(stored.__contains__, each)]
        if layers:
            return np.stack(layers)
    return None


def _name(path: tuple[Any, ...]) -> Name:
    return tuple(
        str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path
    )
