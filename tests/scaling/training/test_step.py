"""However a step is carried out, it is the same step."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from models.architecture import Execution
from models.decoder.config import ModelConfig
from models.decoder.model import Decoder
from models.sharding import make_mesh
from scaling.planning.layout import Layout
from scaling.spec import Optimizer
from scaling.training import step
from scaling.training.flags import worker_environment
from scaling.training.step import TrainState, make_program

MODEL = ModelConfig(64, 16, 2, 16, 2, 2, 8, 32, norm="layer", biases=True)
DROPPING = replace(MODEL, dropout=0.2)
OPTIMIZER = Optimizer(0.9, 0.95, 0.5, 1.0)
TOKENS = np.random.default_rng(0).integers(0, 64, (3, 8, 17)).astype(np.int32)
RATES = np.full(3, 1e-2, np.float32)


def trained(
    optimizer: Optimizer = OPTIMIZER,
    model: ModelConfig = MODEL,
    seed: int = 0,
    dtype: str = "float32",
    accumulate: int = 1,
    **execution: Any,
) -> tuple[TrainState, np.ndarray]:
    """State and losses after three steps."""
    layout = Layout(8 // accumulate, accumulate, execution=Execution(dtype, **execution))
    program = make_program("decoder", model, optimizer, seed, layout, make_mesh())
    state, metrics = program.train(
        program.initial(), program.put_batches(TOKENS), program.put_rates(RATES)
    )
    return state, np.asarray(metrics.loss)


def unstacked(params: Any) -> dict[str, np.ndarray]:
    """Parameters by path, layers of a scanned decoder one by one."""
    found = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        names = [str(getattr(key, "key", getattr(key, "name", key))) for key in path]
        if names[0] == "blocks" and not names[1].isdigit():
            for layer, part in enumerate(np.asarray(leaf)):
                found["/".join(["blocks", str(layer), *names[1:]])] = part
        else:
            found["/".join(names)] = np.asarray(leaf)
    return found


def assert_same(state: TrainState, other: TrainState) -> None:
    mine, theirs = unstacked(state.params), unstacked(other.params)
    assert mine.keys() == theirs.keys()
    for name in mine:
        # Float32 sums in another order differ by 1e-7, which Adam divides by a gradient's size: a
        # few entries part by more, the mean does not. Three steps move parameters by 3e-2.
        assert np.abs(mine[name] - theirs[name]).mean() < 2e-6, name


@pytest.fixture(scope="module")
def whole() -> tuple[TrainState, np.ndarray]:
    return trained()


@pytest.mark.parametrize("accumulate", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_microbatches_add_up_to_the_batch(whole: Any, accumulate: int) -> None:
    state, losses = trained(accumulate=accumulate)
    assert losses == pytest.approx(whole[1], rel=1e-5)
    assert_same(state, whole[0])


@pytest.mark.parametrize(
    "remat",
    [
        "full",
        pytest.param("none", marks=pytest.mark.slow),
        pytest.param("dots", marks=pytest.mark.slow),
    ],
)
def test_scanned_layers_train_to_the_same_parameters(whole: Any, remat: str) -> None:
    # Weight decay of .5 would show at once if it touched stacked scales or biases.
    state, losses = trained(layers="scanned", remat=remat)
    assert losses == pytest.approx(whole[1], rel=1e-5)
    assert_same(state, whole[0])


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_weight_decay_moves_matrices_and_heads_alone(positions: str) -> None:
    model = replace(MODEL, positions=positions)
    still, decayed = (
        unstacked(trained(Optimizer(0.9, 0.95, decay, 1.0), model, layers="scanned")[0].params)
        for decay in (0.0, 50.0)
    )
    # Three steps at rate .01 and decay 50 halve a matrix each; gradients alone do not.
    shrunk = {name for name in still if np.ptp(decayed[name]) < 0.3 * np.ptp(still[name])}
    tables = {name for name in still if name.startswith(("embed", "positions"))}
    assert len(tables) == 1 + (positions == "learned")
    assert shrunk == {name for name in still if still[name].ndim == 2} - tables


def test_bfloat16_keeps_float32_parameters_and_moments_and_nearly_the_losses(whole: Any) -> None:
    state, losses = trained(dtype="bfloat16")
    floats = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert {leaf.dtype for leaf in floats} == {jnp.dtype("float32")}
    assert losses == pytest.approx(whole[1], rel=0.02)  # bfloat16 has three digits
    assert (losses != whole[1]).all()


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize(
    "model, execution",
    [
        (MODEL, {}),
        (replace(MODEL, head="tied", mlp="gelu"), {"attention": "blocks", "loss": "chunked"}),
        (DROPPING, {"layers": "scanned", "remat": "dots"}),
        (replace(MODEL, logit_softcap=9.0), {"remat": "full", "loss": "chunked"}),
    ],
    ids=["plain", "tied in blocks", "dropping", "capped"],
)
def test_every_product_of_a_step_in_bfloat16_has_bfloat16_operands(
    model: ModelConfig, execution: dict[str, Any], platform: str
) -> None:
    """Forward and backward: a float32 cotangent would make a product one of float32 numbers."""
    layout = Layout(4, 2, execution=Execution("bfloat16", **execution))
    optimizer = replace(OPTIMIZER, z_loss=1e-4)
    program = make_program("decoder", model, optimizer, 0, layout, make_mesh())
    batches, rates = (jax.ShapeDtypeStruct(each.shape, each.dtype) for each in (TOKENS, RATES))
    traced = program.train.trace(program.abstract, batches, rates)  # type: ignore[attr-defined]
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    products = re.findall(r"stablehlo.dot_general .* : \(tensor<(.*?)>, tensor<(.*?)>\)", text)
    assert len(products) == text.count("stablehlo.dot_general") > 20
    dtypes = {operand.split("x")[-1] for operands in products for operand in operands}
    assert dtypes == {"bf16"}


@pytest.mark.parametrize("length", [127, 200, 7])
def test_a_program_with_splash_reads_rows_that_are_no_whole_blocks(length: int) -> None:
    """Evaluations put rows of other lengths to the program than training does."""
    layout = Layout(4, execution=Execution("bfloat16", attention="splash"))
    model = replace(MODEL, context_length=256)
    program = make_program("decoder", model, OPTIMIZER, 0, layout, make_mesh())
    rows = jax.ShapeDtypeStruct((4, length), np.int32)
    assert jax.eval_shape(program.logits, program.abstract.params, rows).shape == (4, length, 64)


def test_z_loss_is_in_the_gradient_and_not_in_the_reported_loss(whole: Any) -> None:
    optimizer = Optimizer(0.9, 0.95, 0.5, 1.0, z_loss=0.1)
    program = make_program("decoder", MODEL, optimizer, 0, Layout(8), make_mesh())
    graph, params = nnx.split(Decoder(MODEL, rngs=nnx.Rngs(0)))

    def objective(params: Any) -> jax.Array:
        logits = nnx.merge(graph, params)(TOKENS[0, :, :-1])
        log_z = jnp.log(jnp.exp(logits).sum(-1))
        chosen = jnp.take_along_axis(logits, TOKENS[0, :, 1:, None], -1)[..., 0]
        return (log_z - chosen).mean() + 0.1 * (log_z**2).mean()

    expected = optax.tree.norm(jax.jit(jax.grad(objective))(params))
    _, metrics = program.train(
        program.initial(), program.put_batches(TOKENS), program.put_rates(RATES)
    )
    assert float(metrics.grad_norm[0]) == pytest.approx(float(expected), rel=1e-5)
    assert float(metrics.loss[0]) == pytest.approx(whole[1][0], rel=1e-6)


LENGTHS = """
import itertools, json, sys
sys.path.insert(0, {folder!r})
import jax, numpy as np
import test_step as t
found = []
for dtype in ("float32", "bfloat16"):
    layout = t.Layout(8, execution=t.Execution(dtype))
    program = t.make_program("decoder", t.MODEL, t.OPTIMIZER, 0, layout, t.make_mesh())
    ends = []
    for lengths in ((6,), (2, 2, 2), (4, 2), (1,) * 6, (5, 1)):
        state, losses = program.initial(), []
        for end, length in zip(itertools.accumulate(lengths), lengths):
            part = [each % 3 for each in range(end - length, end)]
            tokens, rates = program.put_batches(t.TOKENS[part]), program.put_rates(t.RATES[part])
            state, metrics = program.train(state, tokens, rates)
            losses += np.asarray(metrics.loss).tolist()
        bits = [np.asarray(leaf).tobytes().hex() for leaf in jax.tree.leaves(state)]
        ends.append([losses, *bits])
    found.append(len({{json.dumps(end) for end in ends}}))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_calls_of_any_lengths_end_with_the_same_bits_with_the_flags_of_a_worker() -> None:
    # A scan of one step does not: the compiler takes the loop away, and rounds otherwise.
    code = LENGTHS.format(folder=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", code], env=worker_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [1, 1]


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_a_call_of_one_step_waits_for_nothing_on_an_accelerator(
    monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    """A GPU's host reads before each turn of a `while` whether there is another."""
    monkeypatch.setattr(step, "_platform", lambda mesh: platform)
    program = make_program("decoder", MODEL, OPTIMIZER, 0, Layout(8), make_mesh())

    traced = jax.make_jaxpr(program.train)(program.abstract, TOKENS[:1], RATES[:1])
    assert str(traced).count("while[") == (platform == "cpu")  # of a length that is not known


@pytest.fixture(scope="module")
def dropping() -> tuple[TrainState, np.ndarray]:
    return trained(model=DROPPING)


@pytest.mark.parametrize(
    "compute",
    [
        {"accumulate": 2, "layers": "scanned", "remat": "full"},
        pytest.param({"accumulate": 8}, marks=pytest.mark.slow),
        pytest.param({"remat": "full"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_same_numbers_are_dropped_however_a_step_is_carried_out(
    whole: Any, dropping: Any, compute: dict[str, Any]
) -> None:
    state, losses = trained(model=DROPPING, **compute)
    assert np.abs(losses - whole[1]).min() > 1e-3  # dropout is felt at every step
    assert losses == pytest.approx(dropping[1], rel=1e-5)
    assert_same(state, dropping[0])


@pytest.mark.slow
def test_what_is_dropped_depends_on_the_seed_and_the_step_alone() -> None:
    programs = [
        make_program("decoder", DROPPING, OPTIMIZER, seed, Layout(8), make_mesh())
        for seed in (0, 1)
    ]
    batches, rates = np.repeat(TOKENS[:1], 4, axis=0), np.zeros(4, np.float32)

    def losses(program: Any, state: TrainState, steps: int) -> tuple[TrainState, list[float]]:
        state, metrics = program.train(
            state, program.put_batches(batches[:steps]), program.put_rates(rates[:steps])
        )
        return state, np.asarray(metrics.loss).tolist()

    # The same batch and, at a rate of 0, the same parameters: dropout alone tells steps apart.
    _, together = losses(programs[0], programs[0].initial(), 4)
    assert len(set(together)) == 4
    state, first = losses(programs[0], programs[0].initial(), 2)
    assert first + losses(programs[0], state, 2)[1] == together
    start = jax.tree.map(jnp.copy, programs[0].initial())
    assert not set(losses(programs[1], start, 4)[1]) & set(together)


def test_losses_of_evaluation_know_no_dropout() -> None:
    plain, dropping = (
        make_program("decoder", model, OPTIMIZER, 0, Layout(8), make_mesh())
        for model in (MODEL, DROPPING)
    )
    losses = [
        np.asarray(each.evaluate(each.initial().params, each.put_windows(TOKENS[0])))
        for each in (plain, dropping, dropping)
    ]
    np.testing.assert_array_equal(losses[0], losses[1])
    np.testing.assert_array_equal(losses[0], losses[2])


EIGHT = """
import json, sys
sys.path.insert(0, {folder!r})
import test_step as t
from models.sharding import make_mesh
mesh = lambda: make_mesh(2, 2, 2)
t.make_mesh = mesh
how = dict(accumulate=2, layers="scanned", remat="full")
print(json.dumps([t.trained(model=m, **how)[1].tolist() for m in (t.MODEL, t.DROPPING)]))
"""


@pytest.mark.slow
def test_eight_devices_accumulate_to_the_same_losses(whole: Any, dropping: Any) -> None:
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    folder = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", EIGHT.format(folder=folder)],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    plain, dropped = json.loads(done.stdout.splitlines()[-1])
    assert plain == pytest.approx(list(whole[1]), rel=1e-5)
    assert dropped == pytest.approx(list(dropping[1]), rel=1e-5)
