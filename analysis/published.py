"""Published coefficients, as data: the numbers, the law they belong to, and where they stand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.expression import Array
from analysis.laws import LAWS, Law
from scaling.store.records import Refusal, did_you_mean

PF_DAY = 8.64e19  # FLOPs in a petaflop/s-day: 1e15 × 86,400


@dataclass(frozen=True)
class Published:
    """Coefficients someone printed. `params_convention` says what their N counts."""

    name: str
    law: Law
    coefficients: Mapping[str, float]
    params_convention: str
    source: str

    def predict(self, features: Mapping[str, Any]) -> Array:
        """Loss in nats/token at the features, by column name."""
        return self.law.predict(self.coefficients, features)


def _entry(
    name: str, law: str, params_convention: str, source: str, **coefficients: float
) -> Published:
    return Published(name, LAWS[law], coefficients, params_convention, source)


_HOFFMANN = "Hoffmann et al. 2022, arXiv:2203.15556"
_BESIROGLU = "Besiroglu et al. 2024, arXiv:2404.10102"
_KAPLAN = "Kaplan et al. 2020, arXiv:2001.08361"

_MUENNIGHOFF = "Muennighoff et al. 2023, arXiv:2305.16264"
_CLARK = "Clark et al. 2022, arXiv:2202.01169, table 3"
_PORIAN = "Porian et al. 2024, arXiv:2406.19146, figure 1 (RefinedWeb)"
_STEPLAW = "Li et al. 2025, arXiv:2503.04715"

_ENTRIES = [
    _entry("chinchilla-2022", "chinchilla", "all parameters", f"{_HOFFMANN}, eq. 10",
           E=1.69, A=406.4, alpha=0.34, B=410.7, beta=0.28),
    _entry("chinchilla-2022-unrounded", "chinchilla", "all parameters",
           f"{_HOFFMANN}, TeX source; as logarithms in the code of {_BESIROGLU}, whose abstract "
           "says that eq. 10 as printed is rounded to a substantial bias",
           E=math.exp(0.5267228), A=math.exp(6.0073404), alpha=0.33917084,
           B=math.exp(6.0179186), beta=0.2849083),
    _entry("besiroglu-2024", "chinchilla", "as reported by Hoffmann et al.",
           f"{_BESIROGLU}, section 3",
           E=1.8172, A=482.01, alpha=0.3478, B=2085.43, beta=0.3658),
    _entry("muennighoff-2023", "data_constrained", "all parameters",
           f"{_MUENNIGHOFF}, section 6 (C4), in full in appendix A",
           E=math.exp(0.6254804), A=math.exp(6.255414), alpha=0.3526596,
           B=math.exp(7.3049974), beta=0.3526596, R_D=15.387756, R_N=5.309743),
    _entry("kaplan-2020", "kaplan_nd", "non-embedding", f"{_KAPLAN}, eq. 1.5 and table 2",
           N_c=6.4e13, alpha_N=0.076, alpha_D=0.103, D_c=1.8e13),
    _entry("kaplan-2020-n", "kaplan_n", "non-embedding", f"{_KAPLAN}, eq. 1.1",
           N_c=8.8e13, alpha_N=0.076),
    _entry("kaplan-2020-d", "kaplan_d", "non-embedding", f"{_KAPLAN}, eq. 1.2",
           D_c=5.4e13, alpha_D=0.095),
    _entry("kaplan-2020-c", "kaplan_c", "non-embedding",
           f"{_KAPLAN}, eq. 1.3 (C_min, 3.1e8 PF-days)", C_c=3.1e8 * PF_DAY, alpha_C=0.050),
    _entry("kaplan-2020-ns", "kaplan_ns", "non-embedding", f"{_KAPLAN}, eq. 1.6 and table 3",
           N_c=6.5e13, alpha_N=0.077, S_c=2.1e3, alpha_S=0.76),
    _entry("clark-2022-s-base", "routed", "dense model, all parameters", f"{_CLARK}, S-BASE",
           a=-0.082, b=-0.108, c=0.009, d=1.104, X_start=1.847, X_max=314.478),
    _entry("clark-2022-rl-r", "routed", "dense model, all parameters", f"{_CLARK}, RL-R",
           a=-0.083, b=-0.126, c=0.012, d=1.111, X_start=1.880, X_max=469.982),
    _entry("clark-2022-hash", "routed", "dense model, all parameters", f"{_CLARK}, HASH",
           a=-0.087, b=-0.136, c=0.012, d=1.157, X_start=4.175, X_max=477.741),
    _entry("porian-2024", "allocation_n", "all parameters of the head, no embedding",
           f"{_PORIAN}, tuned hyper-parameters, constant rate", k=0.11819903781389161,
           a=0.49702879549161855),
    _entry("porian-2024-kaplan", "allocation_n", "non-embedding",
           f"{_PORIAN}, reproduction of Kaplan et al. 2020", k=4.509820786815405e-08,
           a=0.8337679322841748),
    _entry("steplaw-2025-lr", "steplaw_lr", "non-embedding", f"{_STEPLAW}, eq. 1",
           k=1.79, a=-0.713, b=0.307),
    _entry("steplaw-2025-batch", "steplaw_batch", "non-embedding", f"{_STEPLAW}, eq. 1",
           k=0.58, b=0.571),
]  # fmt: skip

PUBLISHED: Mapping[str, Published] = {entry.name: entry for entry in _ENTRIES}


def published(name: str) -> Published:
    """The published law of that name. Raises Refusal listing the names."""
    if name not in PUBLISHED:
        near = did_you_mean(name, PUBLISHED)
        raise Refusal(f"no published law {name!r}.{near} Known: {', '.join(PUBLISHED)}.")
    return PUBLISHED[name]
