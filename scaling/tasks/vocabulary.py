"""How the texts of items become tokens, the same in training and evaluation.

Prompt, answer and what ends it are encoded apart and joined, so that no token spans two of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from scaling.data.corpus import Corpus
from scaling.data.tokenizer import plain_tokenizer
from scaling.store.records import Refusal
from scaling.tasks.task import Item

END_OF_ITEM = "\n"  # what ends an answer


@dataclass(frozen=True)
class Vocabulary:
    """The tokeniser of a corpus, for short texts."""

    encode: Callable[[str], list[int]]  # without any end token
    decode: Callable[[list[int]], str]
    end: int  # the token that ends a document
    identity: str  # the same for two that give the same tokens

    def prompt(self, shots: Sequence[Item], item: Item) -> list[int]:
        """The tokens of a prompt after examples, from the end of the document before on."""
        return [self.end, *chain.from_iterable(map(self.example, shots)), *self.encode(item.prompt)]

    def example(self, item: Item) -> list[int]:
        """The tokens of an item, its answer and what ends it."""
        return self.encode(item.prompt) + self.answer(item.answer)

    def answer(self, text: str) -> list[int]:
        """The tokens of an answer and what ends it."""
        return self.encode(text) + self.encode(END_OF_ITEM)

    def answered(self, tokens: list[int]) -> str:
        """The text of generated tokens, up to the end of the answer."""
        return self.decode(tokens).partition(END_OF_ITEM)[0]

    def refuse_unreadable(self, text: str) -> None:
        """Raises Refusal for an answer that its own tokens do not give back, or whose end is
        several tokens: a model that says it would be called wrong."""
        ends, back = len(self.encode(END_OF_ITEM)), self.answered(self.answer(text))
        if ends == 1 and back == text:
            return
        why = f"reads {text!r} back as {back!r}" if back != text else "has no token for a newline"
        raise Refusal(
            f"[tasks] the tokenizer {why}, so answers cannot be told right from wrong. Give "
            "tokenizer = 'bytes' or 'bpe:4096' in [data], or remove [tasks]."
        )


BYTES = Vocabulary(
    encode=lambda text: list(text.encode()),
    decode=lambda tokens: bytes(tokens).decode(errors="replace"),
    end=0,
    identity="bytes",
)


def vocabulary_of(corpus: Corpus) -> Vocabulary:
    """The vocabulary of a corpus. Raises Refusal for one of tokens whose texts are not known."""
    part = corpus.parts[0]
    if part.info.tokenizer == "bytes" and part.info.holdout_bytes is not None:
        return BYTES
    file = part.folder / "tokenizer.json"
    if not file.exists():
        raise Refusal(
            f"[tasks] the corpus {corpus.info.source!r} is tokens without a tokenizer, and tasks "
            "are texts. Give text in [data], or remove [tasks]."
        )
    text, end = file.read_text(), part.info.end_token
    tokenizer = plain_tokenizer(text)
    return Vocabulary(
        encode=lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids),
        decode=lambda tokens: str(tokenizer.decode(tokens, skip_special_tokens=False)),
        end=end,
        identity=f"{end} {hashlib.sha256(text.encode()).hexdigest()}",
    )
