"""Model families by name: what the harness needs of one, and which there are.

A study names a family, `[model] architecture = "decoder"`. Ours and those of other packages are
found alike, by entry points in the group `scaling_laws.architectures`, each of which names an
object with the members of `Architecture`. Only installed packages are asked, so that no study or
results folder can name code to be run.
"""

from __future__ import annotations

import difflib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from models.output import Losses, output_of
from models.own_source import digest_of
from models.parametrization import Ratios
from models.sizes import FlopCount, Ladder, Leaf, ParamCount

if TYPE_CHECKING:
    import jax
    from flax import nnx

Layers = Literal["unrolled", "scanned"]
Remat = Literal["none", "dots", "full"]
Attention = Literal["plain", "blocks", "cudnn", "splash"]
LossForm = Literal["whole", "chunked"]
Sharding = Literal["data", "fsdp"]  # each device holds all of the state, or a share of it
Platform = Literal["cpu", "gpu", "rocm", "tpu"]  # a gpu is one with CUDA

GROUP = "scaling_laws.architectures"
BUILT_IN = (EntryPoint("decoder", "models.decoder.architecture:DECODER", GROUP),)
DEFAULT = "decoder"  # of a study that names none


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The [model] section of a study; an architecture adds the fields that it reads.

    An unknown field, or a value of another type than the field's, is refused.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid", "strict": True}

    architecture: str


@dataclass(frozen=True)
class Execution:
    """How a model's arithmetic is carried out; results differ by roundings."""

    dtype: str = "float32"  # of activations; parameters are float32 always
    layers: Layers = "unrolled"  # scanned: compile time constant in depth
    remat: Remat = "none"  # what the backward pass computes again: nothing, all but products, all
    attention: Attention = "plain"
    loss: LossForm = "whole"  # chunked: the logits of a few rows at a time

    @property
    def bytes_each(self) -> int:
        """Of one number of an activation."""
        return {"float32": 4, "bfloat16": 2}[self.dtype]


class Config(Protocol):
    """The configuration of one model: a frozen dataclass with whatever else makes it."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def vocab_size(self) -> int: ...

    @property
    def context_length(self) -> int:
        """The most positions of a sequence."""


class Architecture(Protocol):
    """What the harness needs to know of a model family. A subclass inherits what has a body.

    The fields of its `config` become columns of the run table.
    """

    config: type[Config]
    settings: type[Settings]  # [model] where [grid] gives sizes
    preset_settings: type[Settings] | None = None  # [model] where it names presets, if any
    usual: Mapping[str, str] = {}  # a value that would do, of each setting that must be given
    smaller: str | None = None  # the change of a setting that makes the smallest shape smaller

    @abstractmethod
    def ladder(self, settings: Any, vocab_size: int, context_length: int) -> Ladder:
        """The shapes of any size."""

    @abstractmethod
    def build(self, config: Any, rngs: nnx.Rngs, execution: Execution) -> nnx.Module:
        """A module from token ids (B, T) to float32 logits (B, T, V), or to a models.output.Output.

        Where it drops numbers, training calls it with keys (B,) too, one a sequence.
        """

    @abstractmethod
    def count_params(self, config: Any) -> ParamCount:
        """Its parameters by kind; training refuses counts that the tree contradicts."""

    @abstractmethod
    def activation_bytes(self, config: Any, execution: Execution) -> float:
        """Bytes that a token keeps for the backward pass, its logits apart."""

    def losses(
        self,
        module: nnx.Module,
        tokens_BxT: jax.Array,
        targets_BxT: jax.Array,
        keys_B: jax.Array | None = None,
    ) -> Losses:
        """The losses of a module that `build` made; by default from its logits."""
        from models.losses import losses_of

        inputs = (tokens_BxT,) if keys_B is None else (tokens_BxT, keys_B)
        output = output_of(module(*inputs))
        return losses_of(output, targets_BxT)

    def matrices(self, config: Any) -> Mapping[tuple[int, int], int]:
        """Its hidden matrices by their shape (inputs, outputs): how many there are.

        Muon trains them and counts its FLOPs by them; it is refused where none are named.
        """
        return {}

    def ratios(self, config: Any) -> Ratios | None:
        """Its width and depth over those of the base that its rate is for; none without µP."""
        return None

    def count_flops(self, config: Any, sequence_length: int) -> FlopCount:
        """FLOPs of a token in training, three times the forward pass: by default six times the
        matrices that it is multiplied with."""
        params = self.count_params(config)
        return FlopCount(blocks=6 * (params.matrix - params.idle), head=6 * params.head_matmul)

    def count_causal_flops(self, config: Any, sequence_length: int) -> FlopCount:
        """The same, of attention's scores only those that a causal mask keeps."""
        return self.count_flops(config, sequence_length)

    def attention(
        self,
        config: Any,
        sequence_length: int,
        dtype: str,
        platform: Platform,
        capability: float | None = None,
    ) -> Attention:
        """Which implementation of attention suits a model on a platform.

        `capability` is the compute capability of a GPU, such as 9.0; null where it is not known.
        """
        return "plain"

    def check_attention(
        self,
        config: Any,
        sequence_length: int,
        dtype: str,
        platform: Platform,
        asked: Attention,
        capability: float | None = None,
    ) -> None:
        """Raises ValueError for an implementation that a model cannot use on a platform."""
        if asked != "plain":
            raise ValueError(f"attention = {asked!r}: this architecture has its own. Remove it")

    def preset(self, name: str, settings: Any, vocab_size: int, context_length: int) -> Config:
        """A published shape as a configuration, on a study's own vocabulary and length.

        Raises ValueError for an unknown one.
        """
        raise ValueError(f"preset = {name!r}: this architecture has none")

    def leaf(self, path: Sequence[str], dimensions: int) -> Leaf:
        """What the array with this path of names in the parameter tree is; by its names."""
        if dimensions < 2 or path[-1] in ("bias", "scale"):
            return Leaf("vector")
        if "embedding" in path:
            return Leaf("embedding", ("tensor", "fsdp"))
        return Leaf("head" if "head" in path else "matrix", ("fsdp", "tensor"))

    def check(self, execution: Execution) -> None:
        """Raises ValueError for layers, remat or a loss of which `build` knows nothing."""
        asked = (execution.layers, execution.remat, execution.loss)
        if asked != ("unrolled", "none", "whole"):
            raise ValueError(
                "layers = {!r}, remat = {!r}, loss = {!r}: this architecture runs its own layers. "
                "Remove them, or see to it in its build()".format(*asked)
            )

    def drops(self, config: Any) -> bool:
        """Whether training sets some of its numbers to 0, and so needs keys."""
        return False

    def depth(self, config: Any) -> int:
        """Layers that `build` can run as a loop, one after the other; 0 where it cannot."""
        return 0

    def working_bytes(self, config: Any, execution: Execution) -> float:
        """Bytes a token, beside `activation_bytes`, that the backward pass of one layer needs."""
        return 0.0

    def held_whole(self, config: Any) -> int:
        """Parameters that a device holds at once of a model whose matrices are divided."""
        return self.count_params(config).total

    def shape(self, config: Any) -> Mapping[str, int | str]:
        """What a table shows of a configuration, such as its layers and width, by name."""
        beside = ("vocab_size", "context_length")
        values = ((f.name, getattr(config, f.name)) for f in fields(config) if f.name not in beside)
        return {name: value for name, value in values if type(value) is int}


@cache
def architecture(name: str) -> Architecture:
    """The architecture of this name.

    Raises ValueError, naming those that are installed, if there is none, if two packages bring it,
    or if what it names is none.
    """
    entry = declared(name)
    try:
        loaded = entry.load()
    except (Exception, SystemExit) as error:  # whatever another package's import raises
        raise ValueError(
            f"architecture = {name!r}: cannot load {entry.value}: {type(error).__name__}: {error}"
        ) from error
    if wrong := _wrong(loaded):
        raise ValueError(f"architecture = {name!r}: {entry.value} {wrong}")
    return loaded


def code_of(name: str) -> str:
    """A digest of the source of an architecture and of the modules of its own that it imports.

    Part of a run's identity: another program is another run. Empty for those that ship with the
    harness, of which the run's recipe tells. Raises ValueError as `architecture` does.
    """
    entry = declared(name)
    return "" if entry in BUILT_IN else digest_of(entry.module)


@cache
def declared(name: str) -> EntryPoint:
    """Where the architecture of this name is found. Raises ValueError if nowhere, or twice."""
    found = dict.fromkeys([*BUILT_IN, *entry_points(group=GROUP)])
    mine = [each for each in found if each.name == name]
    if not mine:
        names = sorted({each.name for each in found})
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"architecture = {name!r} is not installed.{hint} There are "
            f"{', '.join(map(repr, names))}; entry points of packages in {GROUP} add others"
        )
    if len(mine) > 1:
        values = " and ".join(each.value for each in mine)
        raise ValueError(f"architecture = {name!r} is declared by {values}. Uninstall one")
    return mine[0]


def _wrong(loaded: Any) -> str | None:
    """What an object lacks of an Architecture; None where nothing."""
    for member in (*Architecture.__annotations__, *vars(Architecture)):
        if not member.startswith("_") and not hasattr(loaded, member):
            return f"has no {member}"
    config, settings = loaded.config, loaded.settings
    if not (isinstance(settings, type) and issubclass(settings, Settings) and _frozen(settings)):
        return "has settings that are no frozen dataclass of models.architecture.Settings"
    named = {f.name for f in fields(config)} if _frozen(config) else set()
    if not {"vocab_size", "context_length"} <= named:
        return "has a config that is no frozen dataclass with vocab_size and context_length"
    return None


def _frozen(made: Any) -> bool:
    """Whether a class is itself declared as a frozen dataclass."""
    return bool("__dataclass_params__" in vars(made) and made.__dataclass_params__.frozen)
