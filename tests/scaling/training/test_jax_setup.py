"""What the environment says changes no number of a training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from scaling.training.jax_setup import SETTINGS, configure_jax

HOSTILE = {
    "JAX_ENABLE_X64": "1",
    "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "warn",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_ENABLE_CUSTOM_PRNG": "1",
    "JAX_LEGACY_PRNG_KEY": "error",
    "JAX_RANDOM_SEED_OFFSET": "7",
    "JAX_HIGH_DYNAMIC_RANGE_GUMBEL": "1",
    "JAX_SOFTMAX_CUSTOM_JVP": "1",
    "JAX_USE_DIRECT_LINEARIZE": "0",
    "JAX_USE_SIMPLIFIED_JAXPR_CONSTANTS": "1",
    "JAX_SCAN3": "1",
    "JAX_REMAT3": "1",
    "JAX_CUSTOM_VJP3": "1",
    "EAGER_CONSTANT_FOLDING": "1",
    "JAX_DISABLE_JIT": "1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_OPTIMIZATION_LEVEL": "O0",
    "JAX_EXEC_TIME_OPTIMIZATION_EFFORT": "-1.0",
    "JAX_MEMORY_FITTING_EFFORT": "-1.0",
    "JAX_MEMORY_FITTING_LEVEL": "O0",
    "JAX_COMPILER_ENABLE_REMAT_PASS": "0",
    "JAX_ALLOW_F16_REDUCTIONS": "0",
    "JAX_NO_EXECUTION": "1",
    "JAX_NO_TRACING": "1",
    "JAX_DEBUG_NANS": "1",
    "JAX_DEBUG_INFS": "1",
    "JAX_DEBUG_KEY_REUSE": "1",
    "JAX_TRANSFER_GUARD": "disallow",
}

TRAINED = """
import hashlib, sys
from scaling.training.jax_setup import configure_jax
configure_jax()
import jax, numpy as np
from models.decoder.config import ModelConfig
from models.sharding import make_mesh
from scaling.planning.layout import Layout
from scaling.spec import Optimizer
from scaling.training.step import make_program

model = ModelConfig(64, 16, 2, 16, 2, 2, 8, 32)
tokens = np.random.default_rng(0).integers(0, 64, (3, 8, 17)).astype(np.int32)
program = make_program(
    "decoder", model, Optimizer(0.9, 0.95, 0.1, 1.0, 1e-4), 3, Layout(8), make_mesh()
)
state, metrics = program.train(
    program.initial(),
    program.put_batches(tokens),
    program.put_rates(np.full(3, 1e-2, np.float32)),
)
losses = program.evaluate(state.params, program.put_windows(tokens[0]))
for leaf in (*jax.tree.leaves(state), *metrics, losses):
    print(leaf.dtype, hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest())
"""


def trained(cache: Path, **environment: str) -> list[str]:
    """The type and the bits of everything that a few steps make."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", TRAINED],
        # A cache of its own: a program that another environment compiled would hide a difference.
        env={**clean, "SCALING_CACHE": str(cache), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_training_in_a_hostile_environment_has_the_same_bits(tmp_path: Path) -> None:
    assert {name.lower() for name in HOSTILE} == set(SETTINGS)
    expected = trained(tmp_path / "clean")
    assert len(expected) > 30
    assert trained(tmp_path / "hostile", **HOSTILE) == expected


def test_a_cache_that_cannot_be_written_only_keeps_no_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "file"))
    kept = jax.config.jax_compilation_cache_dir
    configure_jax()
    said = capsys.readouterr().err
    assert said.startswith(f"cannot write {tmp_path / 'file' / 'xla'}: Not a directory; ")
    assert jax.config.jax_compilation_cache_dir == kept
