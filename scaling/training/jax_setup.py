"""JAX's persistent compilation cache and the settings every worker runs with."""

from __future__ import annotations

import jax

from scaling.store.paths import cache_folder


def configure_jax() -> None:
    """Keep compiled programs, however short their compilation was; refuse implicit broadcasting.

    JAX's defaults keep only what took over a second to compile, so a grid of small models would
    compile everything anew in every worker.
    """
    folder = cache_folder() / "xla"
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_numpy_rank_promotion", "raise")
