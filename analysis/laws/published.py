"""Every published number: coefficients, the law they belong to, what their N counts, the source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from analysis.arguments import wrong_kind
from analysis.array import Array
from analysis.interval import Interval
from analysis.laws.catalogue import LAWS
from analysis.laws.law import Law
from scaling.store.records import Refusal, did_you_mean

PF_DAY = 8.64e19  # FLOPs in a petaflop/s-day: 1e15 × 86,400


@dataclass(frozen=True)
class Published:
    """Coefficients of a law as a paper or its code gives them."""

    name: str
    law: Law
    coefficients: Mapping[str, float]
    params_convention: str  # what their N counts, in words
    source: str
    params_column: str = "params_total"  # the same as a column of a run table, or the nearest
    measured: Mapping[str, Interval] = field(default_factory=dict)  # the features of their runs

    def predict(self, features: Mapping[str, Any]) -> Array:
        """The law's target (of a loss in nats/token) at the features, by column name."""
        return self.law.predict(self.coefficients, features)


# What their N counts, with the column of a run table that counts the same, or the nearest.
_ALL = {"params_convention": "all parameters", "params_column": "params_total"}
_HOFFMANNS = {**_ALL, "params_convention": "as reported by Hoffmann et al."}
_DENSE = {**_ALL, "params_convention": "dense model, all parameters"}
_BODY = {"params_convention": "non-embedding", "params_column": "params_non_embedding"}
_MATMUL = {"params_convention": "all parameters of the head, no embedding",
           "params_column": "params_matmul"}  # fmt: skip


def _entry(
    name: str, law: str, count: Mapping[str, str], source: str,
    measured: Mapping[str, Interval] = MappingProxyType({}), **coefficients: float,
) -> Published:  # fmt: skip
    return Published(name, LAWS[law], coefficients, source=source, measured=measured, **count)


_HOFFMANN = "Hoffmann et al. 2022, arXiv:2203.15556"
_BESIROGLU = "Besiroglu et al. 2024, arXiv:2404.10102"
_KAPLAN = "Kaplan et al. 2020, arXiv:2001.08361"

_MUENNIGHOFF = "Muennighoff et al. 2023, arXiv:2305.16264"
_CLARK = "Clark et al. 2022, arXiv:2202.01169, table 3"
_PORIAN = "Porian et al. 2024, arXiv:2406.19146, figure 1 (RefinedWeb)"
_STEPLAW = "Li et al. 2025, arXiv:2503.04715"
_BI = "Bi et al. 2024 (DeepSeek LLM), arXiv:2401.02954, eq. 1"

# Its released grid, to one digit; the largest test is 1B on 100B tokens (abstract).
_STEPLAW_GRID = {"params": Interval(6e7, 1e9), "tokens": Interval(2e9, 1e11)}
_BI_RUNS = {"flops": Interval(1e17, 2e19)}  # section 3.1; extrapolated there to 7B and 67B on 2T
_HOFFMANN_BUDGETS = {"flops": Interval(6e18, 3e21)}  # of their isoFLOP profiles, section 3.2
_KAPLAN_SIZES = {"params": Interval(1e3, 1e10)}  # "up to 10 billion parameters" (D.6); 0 at 1.2e10

_ENTRIES = [
    _entry("chinchilla-2022", "chinchilla", _ALL, f"{_HOFFMANN}, eq. 10", _HOFFMANN_BUDGETS,
           E=1.69, A=406.4, alpha=0.34, B=410.7, beta=0.28),
    _entry("chinchilla-2022-unrounded", "chinchilla", _ALL,
           f"{_HOFFMANN}, TeX source; as logarithms in the code of {_BESIROGLU}, whose abstract "
           "says that eq. 10 as printed is rounded to a substantial bias",
           E=math.exp(0.5267228), A=math.exp(6.0073404), alpha=0.33917084,
           B=math.exp(6.0179186), beta=0.2849083),
    _entry("besiroglu-2024", "chinchilla", _HOFFMANNS,
           f"{_BESIROGLU}, section 3",
           E=1.8172, A=482.01, alpha=0.3478, B=2085.43, beta=0.3658),
    _entry("muennighoff-2023", "data_constrained", _ALL,
           f"{_MUENNIGHOFF}, section 6 (C4), in full in appendix A",
           E=math.exp(0.6254804), A=math.exp(6.255414), alpha=0.3526596,
           B=math.exp(7.3049974), beta=0.3526596, R_D=15.387756, R_N=5.309743),
    _entry("kaplan-2020", "kaplan_nd", _BODY, f"{_KAPLAN}, eq. 1.5 and table 2",
           N_c=6.4e13, alpha_N=0.076, alpha_D=0.103, D_c=1.8e13),
    _entry("kaplan-2020-n", "kaplan_n", _BODY, f"{_KAPLAN}, eq. 1.1",
           N_c=8.8e13, alpha_N=0.076),
    _entry("kaplan-2020-d", "kaplan_d", _BODY, f"{_KAPLAN}, eq. 1.2",
           D_c=5.4e13, alpha_D=0.095),
    _entry("kaplan-2020-c", "kaplan_c", _BODY,
           f"{_KAPLAN}, eq. 1.3 (C_min, 3.1e8 PF-days)", C_c=3.1e8 * PF_DAY, alpha_C=0.050),
    _entry("kaplan-2020-ns", "kaplan_ns", _BODY, f"{_KAPLAN}, eq. 1.6 and table 3",
           N_c=6.5e13, alpha_N=0.077, S_c=2.1e3, alpha_S=0.76),
    _entry("clark-2022-s-base", "routed", _DENSE, f"{_CLARK}, S-BASE",
           a=-0.082, b=-0.108, c=0.009, d=1.104, X_start=1.847, X_max=314.478),
    _entry("clark-2022-rl-r", "routed", _DENSE, f"{_CLARK}, RL-R",
           a=-0.083, b=-0.126, c=0.012, d=1.111, X_start=1.880, X_max=469.982),
    _entry("clark-2022-hash", "routed", _DENSE, f"{_CLARK}, HASH",
           a=-0.087, b=-0.136, c=0.012, d=1.157, X_start=4.175, X_max=477.741),
    # C is the paper's C_min, compute at batches far below the critical one. 6·N*·D* exceeds it
    # (by 1.8 at one PF-day), because N* and D* were fitted separately.
    _entry("kaplan-2020-params", "allocation_n", _BODY, f"{_KAPLAN}, table 6",
           k=1.3e9 / PF_DAY**0.73, a=0.73),
    _entry("kaplan-2020-tokens", "allocation_d", _BODY, f"{_KAPLAN}, table 6",
           k=2e10 / PF_DAY**0.27, a=0.27),
    _entry("porian-2024", "allocation_n", _MATMUL,
           f"{_PORIAN}, tuned hyper-parameters, constant rate", k=0.11819903781389161,
           a=0.49702879549161855),
    _entry("porian-2024-kaplan", "allocation_n", _BODY,
           f"{_PORIAN}, reproduction of Kaplan et al. 2020", k=4.509820786815405e-08,
           a=0.8337679322841748),
    _entry("steplaw-2025-lr", "steplaw_lr", _BODY, f"{_STEPLAW}, eq. 1", _STEPLAW_GRID,
           k=1.79, a=-0.713, b=0.307),
    _entry("steplaw-2025-batch", "steplaw_batch", _BODY, f"{_STEPLAW}, eq. 1", _STEPLAW_GRID,
           k=0.58, b=0.571),
    _entry("deepseek-2024-lr", "deepseek_lr", _BODY, _BI, _BI_RUNS, k=0.3118, a=-0.1250),
    _entry("deepseek-2024-batch", "deepseek_batch", _BODY, _BI, _BI_RUNS, k=0.2920, a=0.3271),
    _entry("kaplan-2020-lr", "kaplan_lr", _BODY, f"{_KAPLAN}, eq. D.1", _KAPLAN_SIZES,
           a=0.003239, b=0.0001395),
    _entry("kaplan-2020-batch", "kaplan_batch", _BODY, f"{_KAPLAN}, eq. 1.4", _KAPLAN_SIZES,
           B_c=2e8, alpha_B=0.21),
]  # fmt: skip

# The multi-power law of whole schedules (`analysis.schedules`) by model size; peak rate 3e-4,
# warmup of 2160 steps. Luo et al. 2025, arXiv:2503.12811: best parameters in the authors'
# repository, github.com/thu-yao-01-luo/MultiPowerLaw (src/config.py; rounded in its README).
MULTI_POWER: Mapping[str, Mapping[str, float]] = {
    "25M": {"L0": 3.04045406, "A": 0.52468604, "alpha": 0.50786857, "B": 363.78751622,
            "C": 2.06560812, "beta": 0.58279013, "gamma": 0.64142257},
    "100M": {"L0": 2.6514477, "A": 0.60115152, "alpha": 0.45295811, "B": 437.9464276,
             "C": 2.13245612, "beta": 0.59785199, "gamma": 0.65523644},
    "400M": {"L0": 2.37474466, "A": 0.65421216, "alpha": 0.42878731, "B": 523.42464371,
             "C": 2.02462735, "beta": 0.59350493, "gamma": 0.63472457},
}  # fmt: skip

PUBLISHED: Mapping[str, Published] = {entry.name: entry for entry in _ENTRIES}


def published(name: str) -> Published:
    """The published law of that name. Raises Refusal listing the names."""
    if not isinstance(name, str):
        raise wrong_kind("name", name, "the name of a law", "Give e.g. 'chinchilla-2022'.")
    if name not in PUBLISHED:
        near = did_you_mean(name, PUBLISHED)
        raise Refusal(f"no published law {name!r}.{near} Known: {', '.join(PUBLISHED)}.")
    return PUBLISHED[name]
