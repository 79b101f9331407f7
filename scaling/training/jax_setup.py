"""JAX's persistent compilation cache and the settings every worker runs with."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax

from scaling.store.paths import cache_folder

# What changes the numbers of a training, or ends it, and can be set from outside by an environment
# variable of the same name. A run of one id has one set of these, wherever it is trained; they are
# JAX's defaults but for the ranks: what broadcasts without saying so is a mistake.
SETTINGS: Mapping[str, Any] = MappingProxyType(
    {
        "jax_enable_x64": False,
        "jax_default_matmul_precision": None,
        "jax_numpy_dtype_promotion": "standard",
        "jax_numpy_rank_promotion": "raise",
        "jax_default_prng_impl": "threefry2x32",
        "jax_threefry_partitionable": True,
        "jax_enable_custom_prng": False,
        "jax_legacy_prng_key": "allow",
        "jax_random_seed_offset": 0,
        "jax_high_dynamic_range_gumbel": False,
        "jax_softmax_custom_jvp": False,
        "jax_use_direct_linearize": True,
        "jax_use_simplified_jaxpr_constants": False,
        "jax_scan3": False,
        "jax_remat3": False,
        "jax_custom_vjp3": False,
        "eager_constant_folding": False,
        "jax_disable_jit": False,
        "jax_disable_most_optimizations": False,
        "jax_optimization_level": "UNKNOWN",
        "jax_exec_time_optimization_effort": 0.0,
        "jax_memory_fitting_effort": 0.0,
        "jax_memory_fitting_level": "O2",
        "jax_compiler_enable_remat_pass": True,
        "jax_allow_f16_reductions": True,
        "jax_no_execution": False,
        "jax_no_tracing": False,
        "jax_debug_nans": False,
        "jax_debug_infs": False,
        "jax_debug_key_reuse": False,
        "jax_transfer_guard": None,
    }
)


def configure_jax() -> None:
    """Set what changes numbers, whatever the environment says; keep all compiled programs.

    JAX's defaults keep only what took over a second to compile, so a grid of small models would
    compile everything anew in every worker.
    """
    for name, value in SETTINGS.items():
        if name in jax.config.values:  # other versions of JAX may lack one
            jax.config.update(name, value)
    folder = cache_folder() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # a cache that this user may only read
        print(
            f"cannot write {folder}: {error.strerror}; this process compiles its programs itself. "
            "Set SCALING_CACHE to a folder that can be written, to keep them.",
            file=sys.stderr,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
