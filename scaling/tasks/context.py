"""Tasks whose answer stands in the prompt and nowhere in the weights: in-context learning.

Letters are drawn anew for every item, so what is learnt is how to look them up. A layer that
attends by content to what *followed* an earlier letter needs one before it that wrote down what
precedes each letter (Olsson et al. 2022, arXiv:2209.11895): one layer cannot, two can.
"""

from __future__ import annotations

import math
from collections import Counter
from string import ascii_lowercase, ascii_uppercase
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from scaling.store.records import Refusal
from scaling.tasks.draw import Draw
from scaling.tasks.task import STRICT, Item, Task

# Contexts of an n-gram for each letter of its text: where they are more, a text whose last context
# came before has to be looked for long (a millisecond here, 0.2 s with 700).
SPARSEST = 4
NOISE = 4  # one step in so many of an in-context n-gram is an even draw


@dataclass(frozen=True, config=STRICT)
class Copy(Task):
    """Different letters are said once, then begun again: "qhwk|q" asks for "hwk".

    Their number varies between half of `length` and all of it, so that looking back a fixed
    distance finds nothing.
    """

    name: ClassVar[str] = "copy"
    length: Annotated[int, Field(ge=4, le=26)] = 12

    def item(self, draw: Draw) -> Item:
        shortest = self.length // 2
        n = shortest + draw.below(self.length - shortest + 1)
        letters = "".join(draw.sample(ascii_lowercase, n))
        return Item(f"{letters}|{letters[0]}", letters[1:])

    def chance(self, item: Item) -> float:
        """Of an even guess among the orders of the other letters."""
        return 1 / math.factorial(len(item.answer))


@dataclass(frozen=True, config=STRICT)
class Recall(Task):
    """Keys with their values, then a key: "aQkVzB:k" asks for "V" (Ba et al. 2016,
    arXiv:1610.06258, section 4.1; multi-query in Arora et al. 2023, arXiv:2312.04927)."""

    name: ClassVar[str] = "recall"
    pairs: Annotated[int, Field(ge=2, le=26)] = 6

    def item(self, draw: Draw) -> Item:
        keys = draw.sample(ascii_lowercase, self.pairs)
        values = draw.sample(ascii_uppercase, self.pairs)
        asked = draw.below(self.pairs)
        said = "".join(key + value for key, value in zip(keys, values, strict=True))
        return Item(f"{said}:{keys[asked]}", values[asked], tuple(values))


@dataclass(frozen=True, config=STRICT)
class NGram(Task):
    """The letter that most often followed the last `order` - 1 letters, in a text that the item
    makes up (as the in-context n-grams of Akyürek et al. 2024, arXiv:2401.12973)."""

    name: ClassVar[str] = "ngram"
    order: Annotated[int, Field(ge=2, le=4)] = 2
    symbols: Annotated[int, Field(ge=2, le=26)] = 4
    length: Annotated[int, Field(ge=8, le=512)] = 24

    def __post_init__(self) -> None:
        contexts = self.symbols ** (self.order - 1)
        if contexts > SPARSEST * self.length:
            raise Refusal(
                f"task = 'ngram': {contexts:,} texts of order - 1 = {self.order - 1} of symbols = "
                f"{self.symbols} hardly come twice in length = {self.length}. Give at most "
                f"{SPARSEST} times the length: fewer symbols, a lower order or longer texts."
            )

    def item(self, draw: Draw) -> Item:
        n = self.order - 1
        while True:
            letters = draw.sample(ascii_lowercase, self.symbols)
            favourite: dict[str, str] = {}
            text = "".join(draw.choice(letters) for _ in range(n))
            while len(text) < self.length:
                usual = favourite.setdefault(text[-n:], draw.choice(letters))
                text += draw.choice(letters) if draw.below(NOISE) == 0 else usual
            followed = Counter(
                text[at + n] for at in range(len(text) - n) if text[at : at + n] == text[-n:]
            )
            match followed.most_common(2):
                case [(answer, _)]:
                    break
                case [(answer, often), (_, less)] if often > less:
                    break
        return Item(f"{text}>", answer, tuple(sorted(letters)))
