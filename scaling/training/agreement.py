"""What several processes do at the same step though only some were asked to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models.sharding import put, replicated
from scaling.training.processes import here


def agreed(asked: Callable[[], bool], mesh: Mesh) -> Callable[[], bool]:
    """Whether any process was `asked`, found out by all alike: at the same one of their calls.

    Where there are several, the devices tell each other between the steps, and the answer is that
    of the call before, which is there when its steps are done: nobody waits for it. A process that
    is by itself just asks.
    """
    if here().count == 1:
        return asked
    one_each = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    most = jax.jit(jnp.max, out_shardings=replicated(mesh))
    answers: deque[jax.Array] = deque()

    def any_asked() -> bool:
        answers.append(most(put(np.full(mesh.size, asked(), np.int32), one_each)))
        return len(answers) > 1 and bool(np.asarray(answers.popleft()))

    return any_asked
