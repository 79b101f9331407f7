"""How initial values, learning rates and sums follow a model's width and depth.

"standard" leaves that to its initial values and to whoever sets the rate. "mup" is µP for AdamW as
in table 8 of Yang et al. 2022 (arXiv:2203.03466), in depth CompleteP (Dey et al. 2025,
arXiv:2505.01618, table 1, α = 1). With m and l, a model's width and depth over those of a base:

    array                initial variance   rate   epsilon       enters the model times
    embedding            constant           1      1 / m         1
    matrix in a block    1 / inputs         1 / m  1 / (m l)     1
    vector in a block    constant           1      1 / (m l)     1
    last norm            constant           1      1 / m         1
    head                 constant           1      1 / m         1 / m

What a block adds to the residual stream is divided by l, and scores of attention are q·k / K. A
rate that is best at the base is then nearly best at every width and depth. Weight decay is not
divided with the rate: each step takes rate · decay of an array, as in CompleteP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.sizes import Leaf

Parametrization = Literal["standard", "mup"]


@dataclass(frozen=True)
class Ratios:
    """A model's size over that of the base that its rate is for; 1 where there is none."""

    width: float = 1.0
    depth: float = 1.0


@dataclass(frozen=True)
class Multipliers:
    """Of what an optimiser does to one array."""

    rate: float  # where each number moves by about the rate, as in AdamW
    orthogonal_rate: float  # where the update is a multiple of an orthogonal matrix, as in Muon
    epsilon: float


def multipliers(leaf: Leaf, ratios: Ratios) -> Multipliers:
    """What µP asks of an array of this kind; 1 throughout at ratios of 1.

    Numbers that all move by the rate, in step with what they read, add up along the inputs: 1 / m.
    An orthogonal update as large moves √m less far, for its spectral norm is smaller by that (Yang,
    Simon & Bernstein 2023, arXiv:2310.17813).
    """
    hidden = leaf.kind == "matrix"
    depth = ratios.depth if leaf.deep else 1.0
    return Multipliers(
        rate=1 / ratios.width if hidden else 1.0,
        orthogonal_rate=ratios.width**-0.5 if hidden else 1.0,
        epsilon=1 / (ratios.width * depth),
    )
