"""Every architecture that is registered keeps what its counts and names promise."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from models.architecture import (
    BUILT_IN,
    Architecture,
    Execution,
    architecture,
    code_of,
    output_of,
)
from models.decoder.generate import generate
from models.sharding import leaves_of, make_mesh, shardings_of, sizes_by_kind
from models.sizes import FlopCount, Growing, ParamCount

TOY = Path(__file__).with_name("toy.py")
REGISTERED = [entry.name for entry in BUILT_IN]
VOCABULARY, LENGTH = 40, 12


@pytest.fixture(params=[*REGISTERED, "bag"])
def family(request: pytest.FixtureRequest, toy: str) -> Architecture:
    return architecture(request.param)


def some(family: Architecture) -> Any:
    """A small model of its, from the settings that it calls usual."""
    given = tomllib.loads("\n".join(f"{k} = {v}" for k, v in family.usual.items()))
    settings = family.settings(architecture="", **given)
    return family.ladder(settings, VOCABULARY, LENGTH).nearest(400_000, "total").config


def built(family: Architecture, config: Any) -> Any:
    return nnx.split(nnx.eval_shape(lambda: family.build(config, nnx.Rngs(0), Execution())))


def test_its_parameters_of_every_kind_are_those_in_its_tree(family: Architecture) -> None:
    config = some(family)
    params, counted = built(family, config)[1], family.count_params(config)
    held = sizes_by_kind(params, leaves_of(family.leaf, params))
    assert held == {kind: getattr(counted, kind) for kind in held}
    assert sum(held.values()) == counted.total


def test_its_flops_are_the_dot_products_of_its_program(
    family: Architecture, dot_flops: Callable[[Any], int]
) -> None:
    config, batch = some(family), 3
    graph, params = built(family, config)
    tokens = jnp.zeros((batch, LENGTH), jnp.int32)

    def loss(params: Any) -> jax.Array:
        return output_of(nnx.merge(graph, params)(tokens)).logits.mean()

    counted = family.count_flops(config, LENGTH).total * batch * LENGTH
    assert dot_flops(jax.make_jaxpr(jax.value_and_grad(loss))(params).jaxpr) == counted


def test_its_matrices_are_divided_and_its_vectors_are_not(family: Architecture) -> None:
    params = built(family, some(family))[1]
    leaves = leaves_of(family.leaf, params)
    shardings = shardings_of(make_mesh(), params, leaves)
    for leaf, sharding in zip(jax.tree.leaves(leaves), jax.tree.leaves(shardings), strict=True):
        assert ("fsdp" in sharding.spec) == (leaf.kind != "vector")


def test_logits_are_float32_whatever_the_activations_are(family: Architecture) -> None:
    config, tokens = some(family), jnp.zeros((2, LENGTH), jnp.int32)

    def said() -> jax.Array:
        return output_of(family.build(config, nnx.Rngs(0), Execution("bfloat16"))(tokens)).logits

    logits = jax.eval_shape(said)
    assert (logits.shape, logits.dtype) == ((2, LENGTH, VOCABULARY), jnp.float32)


def test_a_family_of_another_package_goes_on_after_a_prompt(toy: str) -> None:
    family = architecture(toy)
    model = family.build(some(family), nnx.Rngs(0), Execution())
    text = [3, 1, 4]
    for _ in range(3):
        logits = output_of(model(jnp.array([text]))).logits
        text.append(int(logits[0, -1].argmax()))
    prompt, key = jnp.array([[3, 1, 4, 0]]), jax.random.key(0)
    said = generate(model, prompt, [3], new_tokens=3, temperature=0, key=key, context_length=LENGTH)
    assert said.tolist() == [text[3:]]


def test_the_nearest_rung_of_a_growing_ladder_is_the_nearest_of_all() -> None:
    def count(width: int) -> ParamCount:
        return ParamCount(embedding=10 * width, matrix=width**2, vector=0, head=0, head_matmul=0)

    ladder = Growing(lambda width: width, count)
    sizes = [count(width).total for width in range(1, 200)]
    for target in (6, 11, 17, 18, 19, 1000, 30_000.5):
        best = min(sizes, key=lambda size: max(size / target, target / size))
        assert ladder.nearest(target, "total").params == best
    for target, words in ((5, "less than half of the smallest"), (1e15, "more than any model has")):
        with pytest.raises(ValueError, match=words):
            ladder.nearest(target, "total")


def test_conventions_are_sums_of_parts() -> None:
    """Eight experts of 100, of which a token uses two, under a tied table of 50."""
    counted = ParamCount(embedding=50, matrix=800, vector=7, head=0, head_matmul=50, idle=600)
    assert (counted.total, counted.non_embedding) == (857, 807)
    assert (counted.active, counted.matmul) == (257, 250)
    assert FlopCount(blocks=1, head=2, attention=3, lookup=4).total == 10


# --- which there are ----------------------------------------------------------------------------


def test_a_family_is_added_in_one_short_file() -> None:
    assert len(TOY.read_text().splitlines()) <= 80


def test_an_unknown_name_is_answered_with_those_there_are(toy: str) -> None:
    with pytest.raises(ValueError, match=r"'decodr' is not .*Did you mean 'decoder'\?.*'bag'"):
        architecture("decodr")


@pytest.mark.parametrize(
    "source, words",
    [
        ("import nowhere", r"cannot load toy:BAG: .*nowhere"),
        ("", "cannot load toy:BAG: AttributeError"),
        ("BAG = None", "toy:BAG has no config"),
        (TOY.read_text().replace("def activation_bytes", "def bytes"), "activation_bytes"),
        (TOY.read_text().replace("    vocab_size: int\n", "    vocab: int\n"), "vocab_size"),
        (TOY.read_text().replace("BagSettings(Settings)", "BagSettings"), "settings that are no"),
    ],
    ids=["no import", "no object", "nothing", "no member", "no vocabulary", "no settings"],
)
def test_what_is_no_architecture_is_refused_in_words(
    declare: Callable[..., Path], source: str, words: str
) -> None:
    declare({"toy.py": source}, bag="toy:BAG")
    with pytest.raises(ValueError, match=f"architecture = 'bag': .*{re.escape(words)}|{words}"):
        architecture("bag")


def test_a_name_that_two_packages_bring_is_refused(declare: Callable[..., Path]) -> None:
    declare({"toy.py": TOY.read_text()}, decoder="toy:BAG")
    with pytest.raises(ValueError, match=r"by models\.decoder.* and toy:BAG\. Uninstall one"):
        architecture("decoder")


# --- its source ---------------------------------------------------------------------------------

PACKAGE = {
    "mine/__init__.py": "",
    "mine/bag.py": "from mine.deep import layers\nimport beside\nimport json, jax\nBAG = None\n",
    "mine/deep/__init__.py": "",
    "mine/deep/layers.py": "def late():\n    from . import later\n",
    "mine/deep/later.py": "",
    "mine/other.py": "",
    "beside.py": "",
    "apart.py": "",
}


@pytest.mark.parametrize(
    "file, counts",
    [
        *((name, True) for name in PACKAGE if name not in ("mine/other.py", "apart.py")),
        *(("mine/other.py", False), ("apart.py", False)),
    ],
)
def test_the_digest_takes_in_what_an_architecture_imports_of_its_own(
    declare: Callable[..., Path], file: str, counts: bool
) -> None:
    folder = declare(PACKAGE, bag="mine.bag:BAG")
    before = code_of("bag")
    with (folder / file).open("a") as end:
        end.write("# another\n")
    assert (code_of("bag") != before) == counts


def test_the_digest_takes_in_helpers_beside_a_namespace_and_elsewhere_on_the_path(
    declare: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.syspath_prepend(elsewhere)
    source = TOY.read_text().replace(
        "import jax\n", "import helped\nimport helper\nimport jax\n", 1
    )
    folder = declare({"space/bag.py": source, "helper.py": ""}, bag="space.bag:BAG")
    (elsewhere / "helped.py").write_text("")
    seen = [code_of("bag")]
    for file in (folder / "helper.py", elsewhere / "helped.py"):
        file.write_text("# another\n")
        seen.append(code_of("bag"))
    assert len(set(seen)) == 3


def test_a_ladder_that_does_not_grow_is_refused() -> None:
    same = ParamCount(embedding=64, matrix=0, vector=0, head=0, head_matmul=64)
    with pytest.raises(ValueError, match="do not grow in their non_embedding parameters"):
        Growing(lambda n: n, lambda config: same).nearest(1e4, "non_embedding")


def test_ours_have_no_digest_of_their_own() -> None:
    assert code_of("decoder") == ""


def test_experts_that_are_not_chosen_cost_no_flops(toy: str) -> None:
    bag = architecture(toy)
    config = some(bag)
    counted = bag.count_params(config)

    class Chosen(type(bag)):  # type: ignore[misc]
        def count_params(self, config: Any) -> ParamCount:
            return replace(counted, idle=counted.matrix // 2)

    whole, half = (each.count_flops(config, LENGTH).blocks for each in (bag, Chosen()))
    assert whole == 2 * half
