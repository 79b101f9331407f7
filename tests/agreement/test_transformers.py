"""The decoder agrees with an independent implementation: Hugging Face's transformers, on torch.

With the same weights, logits and the gradient of every parameter. Torch is no part of the
environment; `make test-extras` installs it and sets SCALING_REQUIRE_AGREEMENT=1, under which
its absence is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.architecture import Layers
from models.decoder.config import DIALECTS, ModelConfig
from models.decoder.model import Decoder
from models.decoder.presets import preset
from models.losses import cross_entropy

try:
    import torch
    import transformers
except ImportError:
    if os.environ.get("SCALING_REQUIRE_AGREEMENT"):
        raise
    pytest.skip(
        "torch and transformers are not installed; make test-extras installs them",
        allow_module_level=True,
    )

# Float32 keeps 7 digits and both sides add in their own order, through two blocks and back.
TOLERANCE = 1e-5
V, T, D, H, K, F = 40, 16, 24, 4, 6, 28
WINDOW = 5
TOKENS = np.random.default_rng(0).integers(0, V, (3, T + 1))
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Family:
    """The same model twice, and where its tensors lie in our tree."""

    ours: ModelConfig
    theirs: Callable[[], Any]
    tree: Callable[[Arrays], dict[str, Any]]


def linear(tensors: Arrays, name: str) -> dict[str, np.ndarray]:
    """A torch Linear, whose matrix is (out, in)."""
    bias = {"bias": tensors[f"{name}.bias"]} if f"{name}.bias" in tensors else {}
    return {"kernel": tensors[f"{name}.weight"].T, **bias}


def norm(tensors: Arrays, name: str) -> dict[str, np.ndarray]:
    bias = {"bias": tensors[f"{name}.bias"]} if f"{name}.bias" in tensors else {}
    return {"scale": tensors[f"{name}.weight"], **bias}


def third(fused: dict[str, np.ndarray], split: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Its third of a fused query-key-value map."""
    return {name: split(array) for name, array in fused.items()}


def llama_tree(tensors: Arrays) -> dict[str, Any]:
    """Llama, Mistral and Qwen3 name their tensors alike."""

    def block(name: str) -> dict[str, Any]:
        attention = {
            ours: linear(tensors, f"{name}.self_attn.{ours[0]}_proj")
            for ours in ("q", "k", "v", "out")
        }
        head_norms = {
            ours: norm(tensors, f"{name}.self_attn.{ours}")
            for ours in ("q_norm", "k_norm")
            if f"{name}.self_attn.{ours}.weight" in tensors
        }
        return {
            "attention_norm": norm(tensors, f"{name}.input_layernorm"),
            "attention": {**attention, **head_norms},
            "mlp_norm": norm(tensors, f"{name}.post_attention_layernorm"),
            "mlp": {
                ours: linear(tensors, f"{name}.mlp.{ours}_proj") for ours in ("gate", "up", "down")
            },
        }

    tied = "lm_head.weight" not in tensors
    return {
        "embedding": tensors["model.embed_tokens.weight"],
        "blocks": {index: block(f"model.layers.{index}") for index in range(2)},
        "final_norm": norm(tensors, "model.norm"),
        **({} if tied else {"head": linear(tensors, "lm_head")}),
    }


def openai_tree(tensors: Arrays, embedding: str, positions: str) -> dict[str, Any]:
    """GPT-1 and 2 have maps (in, out) like ours; queries, keys and values lie side by side."""

    def conv(name: str) -> dict[str, np.ndarray]:
        return {"kernel": tensors[f"{name}.weight"], "bias": tensors[f"{name}.bias"]}

    def block(name: str) -> dict[str, Any]:
        fused = conv(f"{name}.attn.c_attn")
        thirds = {
            ours: third(fused, lambda array, i=index: np.split(array, 3, axis=-1)[i])
            for index, ours in enumerate("qkv")
        }
        return {
            "attention_norm": norm(tensors, f"{name}.ln_1"),
            "attention": {**thirds, "out": conv(f"{name}.attn.c_proj")},
            "mlp_norm": norm(tensors, f"{name}.ln_2"),
            "mlp": {"up": conv(f"{name}.mlp.c_fc"), "down": conv(f"{name}.mlp.c_proj")},
        }

    return {
        "embedding": tensors[f"transformer.{embedding}.weight"],
        "positions": tensors[f"transformer.{positions}.weight"],
        "blocks": {index: block(f"transformer.h.{index}") for index in range(2)},
    }


def gpt1_tree(tensors: Arrays) -> dict[str, Any]:
    return openai_tree(tensors, "tokens_embed", "positions_embed")


def gpt2_tree(tensors: Arrays) -> dict[str, Any]:
    tree = openai_tree(tensors, "wte", "wpe")
    return {**tree, "final_norm": norm(tensors, "transformer.ln_f")}


def neox_tree(tensors: Arrays) -> dict[str, Any]:
    """GPT-NeoX fuses queries, keys and values head by head."""

    def block(name: str) -> dict[str, Any]:
        fused = linear(tensors, f"{name}.attention.query_key_value")
        thirds = {
            ours: third(
                fused,
                lambda array, i=index: array.reshape(*array.shape[:-1], H, 3, K)[..., i, :].reshape(
                    *array.shape[:-1], H * K
                ),
            )
            for index, ours in enumerate("qkv")
        }
        return {
            "attention_norm": norm(tensors, f"{name}.input_layernorm"),
            "attention": {**thirds, "out": linear(tensors, f"{name}.attention.dense")},
            "mlp_norm": norm(tensors, f"{name}.post_attention_layernorm"),
            "mlp": {
                "up": linear(tensors, f"{name}.mlp.dense_h_to_4h"),
                "down": linear(tensors, f"{name}.mlp.dense_4h_to_h"),
            },
        }

    return {
        "embedding": tensors["gpt_neox.embed_in.weight"],
        "blocks": {index: block(f"gpt_neox.layers.{index}") for index in range(2)},
        "final_norm": norm(tensors, "gpt_neox.final_layer_norm"),
        "head": linear(tensors, "lm_head"),
    }


def ours(dialect: str = "llama", **fields: Any) -> ModelConfig:
    shape = {
        "vocab_size": V,
        "context_length": T,
        "n_layers": 2,
        "d_model": D,
        "n_heads": H,
        "n_kv_heads": H,
        "head_dim": K,
        "d_ff": F,
    }
    return ModelConfig(**{**shape, **DIALECTS[dialect], **fields})


SHAPE = {
    "vocab_size": V,
    "max_position_embeddings": T,
    "hidden_size": D,
    "num_hidden_layers": 2,
    "num_attention_heads": H,
    "intermediate_size": F,
    "bos_token_id": None,
    "eos_token_id": None,
    "attn_implementation": "eager",
}
GROUPED = {**SHAPE, "num_key_value_heads": 2, "rms_norm_eps": 1e-5}

FAMILIES = {
    "llama": Family(
        ours(n_kv_heads=2, rope_theta=500.0),
        lambda: transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**GROUPED, rope_parameters=rope(500.0))
        ),
        llama_tree,
    ),
    "mistral": Family(
        ours(n_kv_heads=2, attention_window=WINDOW),
        lambda: transformers.MistralForCausalLM(
            transformers.MistralConfig(**GROUPED, sliding_window=WINDOW)
        ),
        llama_tree,
    ),
    "qwen3": Family(
        ours(n_kv_heads=2, head_dim=8, qk_norm=True, head="tied"),
        lambda: transformers.Qwen3ForCausalLM(
            transformers.Qwen3Config(**GROUPED, head_dim=8, tie_word_embeddings=True)
        ),
        llama_tree,
    ),
    "gpt1": Family(
        ours("gpt2", d_ff=4 * D, norm_placement="post", dropout=0.1),
        lambda: transformers.OpenAIGPTLMHeadModel(
            transformers.OpenAIGPTConfig(vocab_size=V, n_positions=T, n_embd=D, n_layer=2, n_head=H)
        ),
        gpt1_tree,
    ),
    "gpt2": Family(
        ours("gpt2", d_ff=4 * D),
        lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=V,
                n_positions=T,
                n_embd=D,
                n_layer=2,
                n_head=H,
                bos_token_id=None,
                eos_token_id=None,
                attn_implementation="eager",
            )
        ),
        gpt2_tree,
    ),
    "gpt-neox": Family(
        ours(
            "gpt2",
            positions="rotary",
            head="untied",
            mlp="gelu_exact",
            parallel=True,
            rotary_fraction=1 / 3,
        ),
        lambda: transformers.GPTNeoXForCausalLM(
            transformers.GPTNeoXConfig(**SHAPE, rope_parameters=rope(10_000.0, 1 / 3))
        ),
        neox_tree,
    ),
}


def rope(theta: float, share: float = 1.0) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": share}


def theirs(family: Family) -> tuple[np.ndarray, dict[str, Any], dict[str, Any]]:
    """Logits, parameters and gradients, from weights that are all random and none small."""
    torch.set_num_threads(1)
    model = family.theirs().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            size = 0.3 if tensor.ndim == 1 else tensor.shape[-1] ** -0.5
            scale = tensor.ndim == 1 and name.endswith("weight")
            tensor.copy_(float(scale) + size * torch.randn(tensor.shape, generator=generator))
    logits = model(torch.from_numpy(TOKENS[:, :-1])).logits
    targets = torch.from_numpy(TOKENS[:, 1:])
    torch.nn.functional.cross_entropy(logits.reshape(-1, V), targets.reshape(-1)).backward()
    named = dict(model.named_parameters())
    weights = {name: tensor.detach().numpy() for name, tensor in named.items()}
    gradients = {name: tensor.grad.numpy() for name, tensor in named.items()}
    return logits.detach().numpy(), family.tree(weights), family.tree(gradients)


def computed(
    config: ModelConfig, weights: dict[str, Any], layers: Layers
) -> tuple[np.ndarray, dict[str, Any]]:
    graph, state = nnx.split(
        nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), layers=layers))
    )
    if layers == "scanned":
        blocks = weights["blocks"].values()
        weights = {**weights, "blocks": jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)}
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, weights))

    @jax.jit
    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        logits = nnx.merge(graph, params)(jnp.asarray(TOKENS[:, :-1]))
        return jnp.mean(cross_entropy(logits, jnp.asarray(TOKENS[:, 1:]))), logits

    (_, logits), gradients = jax.value_and_grad(loss, has_aux=True)(state)
    gradients = nnx.to_pure_dict(gradients)
    if layers == "scanned":
        stack = gradients["blocks"]
        gradients["blocks"] = {i: jax.tree.map(lambda leaf, i=i: leaf[i], stack) for i in range(2)}
    return np.asarray(logits), gradients


def flat(tree: dict[str, Any]) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.parametrize("layers", ["unrolled", "scanned"])
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_and_every_gradient_equal_those_of_transformers(name: str, layers: Layers) -> None:
    family = FAMILIES[name]
    their_logits, weights, their_gradients = theirs(family)
    our_logits, our_gradients = computed(family.ours, weights, layers)
    assert np.abs(their_logits).max() > 1
    assert np.abs(our_logits - their_logits).max() <= TOLERANCE * np.abs(their_logits).max()

    mine, other = flat(our_gradients), flat(their_gradients)
    assert mine.keys() == other.keys()
    for path, expected in other.items():
        # A bias is held against its matrix: without rotary positions that of the keys has no
        # effect, since it moves all scores of a query alike, and its gradient is rounding alone.
        beside = other.get(path.replace("bias", "kernel"), expected)
        largest = max(np.abs(expected).max(), np.abs(beside).max())
        assert np.abs(mine[path] - expected).max() <= TOLERANCE * largest, path


def test_a_wrong_window_is_told_apart() -> None:
    """The tolerance separates: one key more or fewer is a difference a thousand times as large."""
    family = FAMILIES["mistral"]
    their_logits, weights, _ = theirs(family)
    for window in (WINDOW - 1, WINDOW + 1):
        config = ours(n_kv_heads=2, attention_window=window)
        logits, _ = computed(config, weights, "unrolled")
        assert np.abs(logits - their_logits).max() > 1e3 * TOLERANCE * np.abs(their_logits).max()


def test_gpt1_has_the_shape_and_the_size_of_the_released_configuration() -> None:
    released = transformers.OpenAIGPTConfig()  # its defaults are those of the released weights
    with torch.device("meta"):
        model = transformers.OpenAIGPTLMHeadModel(released)
    gpt1 = preset("gpt1")
    assert sum(tensor.numel() for tensor in model.parameters()) == gpt1.published == gpt1.params
    c = gpt1.config
    assert (c.vocab_size, c.context_length) == (released.vocab_size, released.n_positions)
    assert (c.n_layers, c.d_model, c.n_heads) == (
        released.n_layer,
        released.n_embd,
        released.n_head,
    )
    rates = (released.resid_pdrop, released.embd_pdrop, released.attn_pdrop)
    assert rates == (c.dropout,) * 3 and c.norm_epsilon == released.layer_norm_epsilon
