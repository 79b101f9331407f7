"""What the terminal shows of a corpus that was prepared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from analysis.text import counted, duration, human, paragraph, printable
from scaling.data.corpus import Corpus, CorpusInfo
from scaling.study import DataSection

SAID = 0.01  # of the text: of less no loss changes in its second digit


@dataclass(frozen=True)
class Prepared:
    """A corpus, and what it took to make it."""

    corpus: Corpus
    section: DataSection
    processes: int
    seconds: float | None  # null where the cache had it, and nothing was read
    went_on: bool  # with what an earlier command had done

    @property
    def tokens(self) -> int:
        """Those to train on and those held out."""
        return self.corpus.info.train_tokens + self.corpus.info.holdout_tokens

    @property
    def tokens_per_s(self) -> float | None:
        """Null where they were not all made now."""
        return None if self.seconds is None or self.went_on else self.tokens / self.seconds

    @property
    def documents(self) -> int:
        return self.corpus.info.train_documents + self.corpus.info.holdout_documents


def prepared_json(made: Prepared) -> dict[str, Any]:
    """The corpus as plain values; rates are null where nothing was made."""
    info = made.corpus.info
    return {
        **asdict(info),
        "bytes_per_token": info.bytes_per_token,
        "folder": str(made.corpus.folder),
        "processes": made.processes,
        "seconds": made.seconds,
        "tokens_per_s": made.tokens_per_s,
    }


def prepared_text(made: Prepared) -> str:
    """What the corpus is, in a few lines."""
    info = made.corpus.info
    lines = [
        f"Corpus {info.fingerprint} of {printable(info.source)}: {human(info.train_tokens)} tokens "
        f"to train on, {human(info.holdout_tokens)} held out in {info.holdout_documents:,} of "
        f"{counted(made.documents, 'document')}; {info.vocab_size:,} different "
        f"tokens{_bytes(made)}.",
        _copies(made),
        _doubts(info),
        once_text(info),
        f"In {made.corpus.folder}{_effort(made)}.",
    ]
    return "\n".join(paragraph(line) for line in lines if line)


def _bytes(made: Prepared) -> str:
    each = made.corpus.info.bytes_per_token
    return "" if each is None else f", {each:.3g} bytes each"


def _copies(made: Prepared) -> str:
    info = made.corpus.info
    if info.repeated_documents is None:
        return ""
    if not info.repeated_documents:
        return "No document is an exact copy of another."
    unit = "tokens" if info.holdout_bytes is None else "bytes"
    said = (
        f"{counted(info.repeated_documents, 'document')}, of {human(info.repeated_size or 0)} "
        f"{unit} in all, are exact copies of others"
    )
    if made.section.drop_duplicates:
        return f"{said}, and were left out."
    return f"{said}; each lies on the side of the other. drop_duplicates = true leaves them out."


def _doubts(info: CorpusInfo) -> str:
    said = []
    if (info.holdout_seen or 0) >= SAID:
        said.append(
            f"{info.holdout_seen:.1%} of the held-out text is in the training text too, word for "
            "word: the loss on it says how much is learnt by heart."
        )
    if (info.text_lost or 0) >= SAID:
        said.append(
            f"The tokenizer has no token for {info.text_lost:.1%} of the text, white space aside."
        )
    return " ".join(said)


def once_text(corpus: CorpusInfo) -> str:
    """That no text was read again under another name of its file."""
    if not corpus.other_names:
        return ""
    return (
        f"Each file is read once: {counted(corpus.other_names, 'further name')} that the source "
        "matches, such as links, led to the same files."
    )


def _effort(made: Prepared) -> str:
    if made.seconds is None:
        return ", which had it already: nothing was read"
    rate = made.tokens_per_s
    by = "1 process" if made.processes == 1 else f"up to {made.processes} processes"
    return f", made in {duration(made.seconds)} by {by}" + (
        ", which went on with what was done before" if rate is None else f", {human(rate)} tokens/s"
    )
