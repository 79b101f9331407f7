"""Training speed of the quickstart's sizes on one CPU core, as workers run and with jax's defaults.

    python benchmarks/step.py [--json FILE]

Per size: tokens/s as a worker trains (its XLA flags, 8 steps a call) and of the same model with
default flags and one step a call; their ratio; and the share of a core's float32 matrix rate
(`scaling.planning.estimate.core_flops`) that the step reaches; whole studies reach less
(`scaling.planning.estimate.CPU_EFFICIENCY`). Each is the best of five timings in a fresh process of
one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from scaling.planning.estimate import core_flops
from scaling.store.records import write_json
from scaling.training.flags import worker_environment

SIZES = (25e3, 98e3, 151e3, 222e3, 332e3, 594e3)  # experiments/quickstart.toml
STEPS = 32
ROUNDS = 5
BATCH, LENGTH = 8, 128


def measure(params: float, steps_per_call: int) -> dict[str, float]:
    """Tokens/s and exact FLOP/s of the train step in this process."""
    import jax
    import numpy as np

    from models.architecture import DEFAULT
    from models.decoder.sizes import Ladder, count_flops, nearest
    from models.sharding import make_mesh
    from scaling.planning.layout import Layout
    from scaling.spec import Optimizer
    from scaling.training.step import make_program

    config = nearest(Ladder(256, LENGTH, "llama", 32, 32), params, "non_embedding").config
    program = make_program(
        DEFAULT, config, Optimizer(0.9, 0.99, 0.1, 1.0), 0, Layout(BATCH), make_mesh()
    )
    tokens = np.random.default_rng(0).integers(0, 256, (steps_per_call, BATCH, LENGTH + 1))
    batches = program.put_batches(tokens.astype(np.int32))
    rates = program.put_rates(np.full(steps_per_call, 1e-3, np.float32))
    state = program.initial()
    state, metrics = program.train(state, batches, rates)
    jax.block_until_ready(metrics)
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(STEPS // steps_per_call):
            state, metrics = program.train(state, batches, rates)
        jax.block_until_ready(metrics)
        best = min(best, time.perf_counter() - start)
    rate = STEPS * BATCH * LENGTH / best
    flops = rate * count_flops(config, LENGTH, "full").total
    return {"tokens_per_s": rate, "efficiency": flops / core_flops()}


def in_process(params: float, shipped: bool) -> dict[str, float]:
    """`measure` in a fresh process on one core, with the worker's environment or jax's defaults."""
    environment = worker_environment() if shipped else {**os.environ, "NPROC": "1"}
    calls = "8" if shipped else "1"
    done = subprocess.run(
        [sys.executable, __file__, "--measure", str(params), calls],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(float(arguments.measure[0]), int(arguments.measure[1]))))
        return
    rows = []
    for params in SIZES:
        shipped, default = in_process(params, True), in_process(params, False)
        rows.append(
            {
                "params_non_embedding": params,
                "tokens_per_s": shipped["tokens_per_s"],
                "default_tokens_per_s": default["tokens_per_s"],
                "ratio": shipped["tokens_per_s"] / default["tokens_per_s"],
                "efficiency": shipped["efficiency"],
            }
        )
        print(
            f"{params:>9,.0f} parameters: {shipped['tokens_per_s']:>8,.0f} tokens/s, "
            f"{default['tokens_per_s']:>8,.0f} with defaults, ratio {rows[-1]['ratio']:.2f}, "
            f"efficiency {shipped['efficiency']:.2f}"
        )
    ratios = {
        name: statistics.median(row[name] for row in rows) for name in ("ratio", "efficiency")
    }
    print(f"median ratio {ratios['ratio']:.2f}, median efficiency {ratios['efficiency']:.2f}")
    if arguments.json:
        write_json(arguments.json, {"rows": rows, "ratios": ratios})


if __name__ == "__main__":
    main()
