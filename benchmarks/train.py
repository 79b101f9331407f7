"""Training speed on one CPU core: ours against PyTorch and against a model written as nanodo's is.

    make benchmark-train                                  # or, where torch is installed,
    python benchmarks/train.py [--json FILE] [--rounds 5] [--only torch]

Three programs train one GPT-2-like model (learned positions, LayerNorm without bias, GELU, tied
head: the same parameters, which is checked) on the same random tokens, in float32, with AdamW and a
clipped gradient:

  ours     the harness's step, with a worker's flags and 8 steps a call
  torch    nanoGPT's shape in torch's own modules (benchmarks/torch_gpt.py), fused AdamW
  nanodo   nanodo's shape in Flax Linen and Optax, with jax's default flags, a step a call

Each is a process of one thread pinned to the same core. They are measured in turn, round by round,
in tokens per second of CPU; printed are medians and the medians of the rounds' ratios. About two
minutes. `--torch-compile` compiles torch's (some 30 s a size, and a C++ compiler). Falls of a ratio
within 5% are noise.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from models.decoder.config import DIALECTS, ModelConfig
from models.decoder.sizes import count_params
from scaling.store.records import write_json

BATCH, LENGTH = 4, 256
STEPS_PER_CALL = 8
CPU_SECONDS = 0.7  # of one measurement
CONTENDERS = ("ours", "torch", "nanodo")


@dataclass(frozen=True)
class Size:
    layers: int
    width: int
    vocabulary: int

    def __str__(self) -> str:
        return f"{self.layers}×{self.width}, V {self.vocabulary:,}"

    @property
    def config(self) -> ModelConfig:
        return ModelConfig(
            vocab_size=self.vocabulary,
            context_length=LENGTH,
            n_layers=self.layers,
            d_model=self.width,
            n_heads=self.width // 32,
            n_kv_heads=self.width // 32,
            head_dim=32,
            d_ff=4 * self.width,
            **{**DIALECTS["gpt2"], "biases": False},
        )


SIZES = (Size(2, 64, 256), Size(4, 128, 256), Size(6, 256, 256), Size(4, 128, 4096))


@dataclass(frozen=True)
class Contender:
    """A program that trains, ready to go on."""

    params: int
    train: Callable[[int], None]  # so many steps, a multiple of STEPS_PER_CALL, to their end


def batches(size: Size) -> np.ndarray:
    """Tokens of a call, (steps, B, T + 1)."""
    random = np.random.default_rng(0)
    shape = (STEPS_PER_CALL, BATCH, LENGTH + 1)
    return random.integers(0, size.vocabulary, shape).astype(np.int32)


# --- the contenders, each in a process of its own -----------------------------------------------


def ours(size: Size) -> Contender:
    import jax

    from models.architecture import DEFAULT, Execution, architecture
    from models.sharding import make_mesh
    from scaling.planning.layout import Layout
    from scaling.spec import Optimizer
    from scaling.training.jax_setup import configure_jax
    from scaling.training.step import make_program

    configure_jax()
    config, family = size.config, architecture(DEFAULT)
    attention = family.attention(config, LENGTH, "float32", "cpu")
    layout = Layout(BATCH, execution=Execution(attention=attention), steps_per_call=STEPS_PER_CALL)
    program = make_program(DEFAULT, config, Optimizer(0.9, 0.99, 0.1, 1.0), 0, layout, make_mesh())
    state = program.initial()
    tokens = program.put_batches(batches(size))
    rates = program.put_rates(np.full(STEPS_PER_CALL, 1e-3, np.float32))

    def train(steps: int) -> None:
        nonlocal state
        for _ in range(steps // STEPS_PER_CALL):
            state, metrics = program.train(state, tokens, rates)
        jax.block_until_ready(metrics)

    return Contender(sum(leaf.size for leaf in jax.tree.leaves(state.params)), train)


def torch(size: Size, compiled: bool) -> Contender:
    import torch
    import torch_gpt

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch_gpt.Gpt(size.config)
    optimizer = torch_gpt.adamw(model)
    tokens = torch.from_numpy(batches(size)).long()
    loss_of = torch.compile(model) if compiled else model

    def train(steps: int) -> None:
        for step in range(steps):
            batch = tokens[step % STEPS_PER_CALL]
            loss = loss_of(batch[:, :-1], batch[:, 1:])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return Contender(sum(weight.numel() for weight in model.parameters()), train)


def nanodo(size: Size) -> Contender:
    import jax
    import jax.numpy as jnp
    import optax
    from flax import linen as nn

    c = size.config

    class Attention(nn.Module):
        @nn.compact
        def __call__(self, x_BxTxD: Any) -> Any:
            def heads(name: str) -> Any:
                features = (c.n_heads, c.head_dim)
                return nn.DenseGeneral(features, use_bias=False, name=name)(x_BxTxD)

            q_BxTxHxK = heads("query") / c.head_dim**0.5
            scores_BxHxTxT = jnp.einsum("bthk,bshk->bhts", q_BxTxHxK, heads("key"))
            seen_1x1xTxT = jnp.tril(jnp.ones((1, 1, *x_BxTxD.shape[1:2] * 2), bool))
            scores_BxHxTxT = jnp.where(
                seen_1x1xTxT, scores_BxHxTxT, jnp.finfo(scores_BxHxTxT.dtype).min
            )
            probabilities_BxHxTxT = jax.nn.softmax(scores_BxHxTxT, axis=-1)
            mixed = jnp.einsum("bhts,bshk->bthk", probabilities_BxHxTxT, heads("value"))
            return nn.DenseGeneral(c.d_model, axis=(-2, -1), use_bias=False, name="out")(mixed)

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x_BxTxD: Any) -> Any:
            x_BxTxD += Attention()(nn.LayerNorm(use_bias=False)(x_BxTxD))
            hidden = nn.gelu(
                nn.Dense(c.d_ff, use_bias=False)(nn.LayerNorm(use_bias=False)(x_BxTxD))
            )
            return x_BxTxD + nn.Dense(c.d_model, use_bias=False)(hidden)

    class Decoder(nn.Module):
        @nn.compact
        def __call__(self, tokens_BxT: Any) -> Any:
            table = nn.Embed(c.vocab_size, c.d_model, embedding_init=nn.initializers.normal(0.02))
            places = nn.Embed(c.context_length, c.d_model, name="positions")
            x_BxTxD = table(tokens_BxT) + places(jnp.arange(tokens_BxT.shape[1])[None])
            for _ in range(c.n_layers):
                x_BxTxD = Block()(x_BxTxD)
            return table.attend(nn.LayerNorm(use_bias=False)(x_BxTxD))

    model = Decoder()
    rule = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(1e-3, 0.9, 0.99, weight_decay=0.1)
    )

    def loss_of(params: Any, tokens_BxT1: Any) -> Any:
        logits = model.apply({"params": params}, tokens_BxT1[:, :-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens_BxT1[:, 1:])
        return losses.mean()

    def step(params: Any, moments: Any, tokens_BxT1: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params, tokens_BxT1)
        updates, moments = rule.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments, loss

    jitted = jax.jit(step, donate_argnums=(0, 1))
    tokens = [jnp.asarray(each) for each in batches(size)]
    params = model.init(jax.random.key(0), tokens[0][:, :-1])["params"]
    moments = rule.init(params)

    def train(steps: int) -> None:
        nonlocal params, moments
        for each in range(steps):
            params, moments, loss = jitted(params, moments, tokens[each % STEPS_PER_CALL])
        jax.block_until_ready(loss)

    return Contender(sum(leaf.size for leaf in jax.tree.leaves(params)), train)


def serve(name: str, size: Size, core: int, compiled: bool) -> None:
    """Train as many steps as each line of the input says; answer with what they took."""
    os.sched_setaffinity(0, {core})
    if name == "torch":
        contender = torch(size, compiled)
    else:
        contender = {"ours": ours, "nanodo": nanodo}[name](size)
    contender.train(STEPS_PER_CALL)  # compiles, and fills caches
    print(json.dumps({"params": contender.params}), flush=True)
    for line in sys.stdin:
        steps = int(line)
        start = time.process_time()
        contender.train(steps)
        taken = time.process_time() - start
        print(json.dumps({"cpu_s": taken, "tokens": steps * BATCH * LENGTH}), flush=True)


# --- measuring ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Running:
    """A contender in its process."""

    name: str
    process: subprocess.Popen[str]

    def answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise SystemExit(f"{self.name} ended with exit code {self.process.wait()}")
        return json.loads(line)

    def train(self, steps: int) -> dict[str, Any]:
        self.process.stdin.write(f"{steps}\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return self.answer()


@contextmanager
def running(name: str, size: Size, core: int, compiled: bool) -> Iterator[Running]:
    from scaling.training.flags import worker_environment

    environment = {
        **(worker_environment() if name == "ours" else os.environ),
        "JAX_PLATFORMS": "cpu",
        "NPROC": "1",
        "OMP_NUM_THREADS": "1",
    }
    place = [str(size.layers), str(size.width), str(size.vocabulary), str(core)]
    command = [sys.executable, __file__, "--serve", name, *place]
    with subprocess.Popen(
        [*command, "--torch-compile"] if compiled else command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Running(name, process)
        finally:
            process.kill()


def measure(
    size: Size, names: tuple[str, ...], rounds: int, core: int, compiled: bool
) -> list[dict[str, Any]]:
    """A row a contender: tokens per second of CPU, round by round, all in turn."""
    with ExitStack() as stack:
        contenders = [
            stack.enter_context(running(name, size, core, compiled)) for name in names
        ]  # they compile while others do, on the one core
        counted = count_params(size.config).total
        for each in contenders:
            if (params := each.answer()["params"]) != counted:
                raise SystemExit(
                    f"{each.name} of {size} has {params:,} parameters, not {counted:,}"
                )
        steps = {}
        for each in contenders:
            taken = each.train(STEPS_PER_CALL)["cpu_s"]
            steps[each.name] = STEPS_PER_CALL * max(1, round(CPU_SECONDS / taken))
        rates: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(rounds):
            for each in contenders if turn % 2 else reversed(contenders):
                found = each.train(steps[each.name])
                rates[each.name].append(found["tokens"] / found["cpu_s"])
    return [
        {
            "size": str(size),
            "params": counted,
            "contender": name,
            "tokens_per_cpu_s": statistics.median(rates[name]),
            "rounds": rates[name],
        }
        for name in names
    ]


def ratios_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of each size, the median over the rounds of ours against each other contender."""
    (own,) = (row["rounds"] for row in rows if row["contender"] == "ours")
    return {
        f"{row['size']}: ours / {row['contender']}": statistics.median(
            mine / theirs for mine, theirs in zip(own, row["rounds"], strict=True)
        )
        for row in rows
        if row["contender"] != "ours"
    }


def versions() -> dict[str, str]:
    found = {}
    for name in ("jax", "flax", "optax", "torch", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"python": sys.version.split()[0], **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=CONTENDERS[1:], help="the one to measure against")
    parser.add_argument("--torch-compile", action="store_true", help="compile torch's model")
    parser.add_argument("--serve", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        name, *place, core = options.serve
        serve(name, Size(*map(int, place)), int(core), options.torch_compile)
        return
    names = ("ours", options.only) if options.only else CONTENDERS
    if "torch" in names and "torch" not in versions():
        names = tuple(name for name in names if name != "torch")
        print("torch is not installed: measured without it (make benchmark-train installs it)")
    core = max(os.sched_getaffinity(0))
    rows, ratios = [], {}
    for size in SIZES:
        found = measure(size, names, options.rounds, core, options.torch_compile)
        rows += found
        ratios |= ratios_of(found)
        for row in found:
            spread = max(row["rounds"]) / min(row["rounds"]) - 1
            print(
                f"{row['size']:>14}  {row['contender']:<7} {row['tokens_per_cpu_s']:>9,.0f} tokens "
                f"per CPU-second, rounds within {spread:.0%}",
                flush=True,
            )
    for name, value in ratios.items():
        print(f"{name:<30} {value:.2f}")
    if options.json:
        made = {
            "date": date.today().isoformat(),
            "versions": versions(),
            "torch_compiled": options.torch_compile,
            "rows": rows,
            "ratios": ratios,
        }
        write_json(options.json, made)


if __name__ == "__main__":
    main()
