"""[evaluation] of a study: how much held-out text its runs are judged on, and which other texts."""

from __future__ import annotations

import re
from dataclasses import field
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict
from pydantic.dataclasses import dataclass

from scaling.fields import Quantity

# As a name of a set, `loss_NAME` would be a column that readers of run tables know as another one.
_NO_SET = ("val", "final", "bits", "bpb", "bpc", "ppl", "perplexity")
_NAME = re.compile("[a-z][a-z0-9_]{0,31}")


def _sets(value: Any) -> Any:
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise ValueError("must be sources by name, such as {web = 'web/*.jsonl', code = 'code'}")
    for name in value:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"name {name!r}: give up to 32 small letters, digits and _, a letter first"
            )
        if name in _NO_SET or name.endswith("stderr"):
            raise ValueError(
                f"name {name!r} would make loss_{name} a column of another meaning. Give another"
            )
    return value


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class EvaluationSection:
    """The held-out loss, and losses on other texts."""

    tokens: Quantity  # held-out tokens each evaluation reads; all if there are fewer
    every_tokens: Quantity  # how often a run is evaluated on its way
    # Texts that runs are judged on at their end, each a source as [data] source; by name.
    sets: Annotated[dict[str, str], BeforeValidator(_sets)] = field(default_factory=dict)
