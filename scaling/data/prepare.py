"""From a study's sources to a corpus in the cache, tokenised once.

Sources are streamed: once to draw who is held out, once to train a tokeniser if one is asked for,
once to write the tokens. Nothing as large as a source is held in memory, but for a single document.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain, repeat
from pathlib import Path

import numpy as np

from scaling.data.batches import proportions
from scaling.data.corpus import DECLARED, UNREAD, Corpus, CorpusInfo, Share, load
from scaling.data.documents import Document
from scaling.data.progress import Watch, counted, unwatched
from scaling.data.remembered import Memory, memory
from scaling.data.sources import HUB, Source, most_tokens, open_sources, sections_of
from scaling.data.split import Index, held_out, index, verified
from scaling.data.tokenizer import Tokenizer, make_tokenizer, vocabulary
from scaling.data.verified import note_checksums
from scaling.store.records import Refusal, fingerprint, write_json
from scaling.study import DataSection

# Raised when the cached files change their meaning, or other documents are read from a source.
FORMAT = 2
UNREAD_TOKENS = float(1 << 60)  # more than a run could be asked to train on
MAX_SHORTFALL = 0.01  # of declared tokens; as much as a count in two digits can be off


def prepare(section: DataSection, cache: Path, watch: Watch = unwatched) -> Corpus:
    """The tokenised corpus of a study, made in `cache` on first use; `watch` is told how far it is.

    Files that have not changed since are not read again. A cache folder's name is a hash of
    content and settings, so a changed file is a new corpus and two processes that prepare the
    same one agree. Raises SourceMissing for a source that is not on this machine, and Refusal for
    one that cannot be read, holds less than the study declares, or leaves nothing to train on or
    to hold out.
    """
    sources = open_sources(section)
    known = _memory(section, sources, cache)
    corpus = known.recall() if known else None
    if corpus is None:
        corpus = _read(section, sources, cache, watch)
        if known:
            known.keep(corpus)
    return corpus


def remembered(section: DataSection, cache: Path) -> Corpus | None:
    """The corpus of a study, if `cache` has it and no file has changed; nothing is read.

    Raises SourceMissing and Refusal as `prepare` does for what is seen without reading. The
    sources of another library are not opened, since that may download them.
    """
    if any(each.source.startswith(HUB) for each in sections_of(section)):
        return None
    known = _memory(section, open_sources(section), cache)
    return known.recall() if known else None


def _memory(section: DataSection, sources: list[Source], cache: Path) -> Memory | None:
    """What the cache may know of the files that a study reads; null where they are not ours."""
    files: list[Path] = []
    for source in sources:
        if source.files is None:
            return None
        files += source.files
    if (tokenizer := Path(section.tokenizer)).is_file():
        files.append(tokenizer)
    return memory(section, tuple(files), FORMAT, cache)


def _read(section: DataSection, sources: list[Source], cache: Path, watch: Watch) -> Corpus:
    """The corpus of a study, whose sources are read."""
    shares = proportions([each.weight for each in sections_of(section)])
    indices = _indices(sources, section.holdout_fraction, watch)
    held = held_out(indices, section.holdout_fraction)
    for source, out in zip(sources, held, strict=True):
        if out.all() or not out.any():
            raise Refusal(
                f"[data] holdout_fraction = {section.holdout_fraction} of {len(out)} documents of "
                f"{source.name!r} leaves nothing to train on or nothing to hold out. "
                "Give more text."
            )

    def training() -> Iterator[Document]:
        for source, known, out in zip(sources, indices, held, strict=True):
            documents = known.pieces(verified(source.read(), known.digest))
            kept = zip(documents, _padded(out), strict=False)
            yield from (document for document, is_out in kept if not is_out)

    content = [section.holdout_fraction, *sorted(each.digest for each in indices)]
    of = sum(int(each.sizes[~out].sum()) for each, out in zip(indices, held, strict=True))
    tokenizer = make_tokenizer(section, training, of, content, cache, watch)
    parts = [
        _part(section, cache, tokenizer, watch, *each)
        for each in zip(sources, indices, held, strict=True)
    ]
    corpus = parts[0] if len(parts) == 1 else _mixture(parts, shares, cache)
    if section.train_tokens and corpus.info.train_tokens < section.train_tokens * (
        1 - MAX_SHORTFALL
    ):
        raise Refusal(
            f"[data] train_tokens = {section.train_tokens:,.0f} is declared, but "
            f"{corpus.info.source!r} has {corpus.info.train_tokens:,} to train on. Correct it, or "
            "give more text."
        )
    return corpus


def declared(section: DataSection) -> CorpusInfo:
    """A corpus of the size that the study declares, to plan with where its source is not.

    Of several sources, each is taken to be as large as its weight. Raises Refusal unless the
    study declares `train_tokens` and names its vocabulary.
    """
    if section.train_tokens is None:
        raise Refusal(
            "[data] train_tokens is missing: how many tokens there are to train on. Give it to "
            "plan without the source, such as train_tokens = '10B'."
        )
    return _of_size(section, section.train_tokens)


def unread(section: DataSection) -> CorpusInfo:
    """The largest corpus that the text may make, to check what can be checked before reading it.

    Where its size is not known, larger than any run needs. Raises Refusal unless the study names
    its vocabulary.
    """
    return _of_size(section, UNREAD_TOKENS, UNREAD, most_tokens(section))


def _of_size(
    section: DataSection,
    train_tokens: float,
    prefix: str = DECLARED,
    most: Sequence[int | None] = (),
) -> CorpusInfo:
    """A corpus of that size in all, but of `most` tokens where these are known of a source."""
    sections, size, fraction = sections_of(section), vocabulary(section), section.holdout_fraction
    per_block = proportions([each.weight for each in sections])
    known = most or [None] * len(sections)
    identity = {
        "sources": [[each.source, part] for each, part in zip(sections, per_block, strict=True)],
        "train_tokens": train_tokens,
        "tokenizer": section.tokenizer,
        "vocab_size": size,
        "holdout_fraction": fraction,
    }
    shares = []
    for each, part, bound in zip(sections, per_block, known, strict=True):
        tokens = train_tokens * part / sum(per_block) if bound is None else bound
        held = round(tokens * fraction / (1 - fraction))
        shares.append(Share("", each.source, part, round(tokens), held, None))
    return CorpusInfo(
        fingerprint=prefix + fingerprint(identity),
        source=_named(shares),
        vocab_size=size,
        train_documents=0,
        train_tokens=sum(share.train_tokens for share in shares),
        holdout_documents=0,
        holdout_tokens=sum(share.holdout_tokens for share in shares),
        holdout_bytes=None,
        tokenizer=section.tokenizer,
        mixture=tuple(shares) if len(shares) > 1 else (),
    )


def _indices(sources: list[Source], fraction: float, watch: Watch) -> list[Index]:
    """The index of each source. Raises Refusal for one that is empty, or the same as another."""

    def watched(source: Source) -> Callable[[], Iterator[Document]]:
        return lambda: counted(source.read(), f"reading {source.name}", None, watch)

    found = index([watched(source) for source in sources], fraction)
    first: dict[str, str] = {}  # the source of each content
    for source, known in zip(sources, found, strict=True):
        if not len(known.sizes):
            raise Refusal(
                f"[data] source = {source.name!r} holds no text. Give files that are not empty."
            )
        if known.digest in first:
            raise Refusal(
                f"[data] sources: {first[known.digest]!r} and {source.name!r} hold the same text, "
                "which would count as unique twice. Remove one, and give the other the weight of "
                "both."
            )
        first[known.digest] = source.name
    return found


def _part(
    section: DataSection,
    cache: Path,
    tokenizer: Tokenizer,
    watch: Watch,
    source: Source,
    known: Index,
    held: np.ndarray,
) -> Corpus:
    """The corpus of one source."""
    identity = {
        "format": FORMAT,
        "content": known.digest,
        "tokenizer": tokenizer.identity,
        "holdout_fraction": section.holdout_fraction,
    }
    if known.shared:  # texts that are cut because another source cuts them
        identity["also_cut"] = sorted(known.shared.items())
    others = known.lots[held & (known.lots > known.threshold(section.holdout_fraction))]
    if len(others):  # texts that are held out because another source holds them out
        identity["also_held_out"] = hashlib.sha256(np.sort(others).tobytes()).hexdigest()
    key = fingerprint(identity)
    if not (cache / key / "info.json").exists():
        info = CorpusInfo(
            fingerprint=key,
            source=source.name,
            vocab_size=tokenizer.vocab_size,
            train_documents=int((~held).sum()),
            train_tokens=0,
            holdout_documents=int(held.sum()),
            holdout_tokens=0,
            holdout_bytes=None if source.tokens else int(known.sizes[held].sum()),
            tokenizer=section.tokenizer,
            end_token=tokenizer.end,
        )
        documents = known.pieces(verified(source.read(), known.digest))
        doing, of = f"tokenising {source.name}", int(known.sizes.sum())
        _publish(cache / key, tokenizer, counted(documents, doing, of, watch), held, info)
    # The cache knows content alone; the same text may since have come from elsewhere.
    found = load(key, cache)
    return Corpus(found.folder, replace(found.info, source=source.name))


def _publish(
    folder: Path,
    tokenizer: Tokenizer,
    documents: Iterator[Document],
    held: np.ndarray,
    info: CorpusInfo,
) -> None:
    """Write a cache folder beside its place and rename it, so that it is whole or absent."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making."))
    except OSError as error:
        raise Refusal(f"cannot write the token cache {folder}: {error.strerror}.") from error
    try:
        tokens = [0, 0]  # to train on, held out
        with (
            (temporary / "train.bin").open("wb") as train,
            (temporary / "holdout.bin").open("wb") as holdout,
        ):
            for encoded, is_out in zip(tokenizer.encode(documents), _padded(held), strict=False):
                (holdout if is_out else train).write(encoded.data)
                tokens[is_out] += len(encoded)
            for file in (train, holdout):
                file.flush()
                os.fsync(file.fileno())
        if tokenizer.file is not None:
            (temporary / "tokenizer.json").write_bytes(tokenizer.file)
        done = replace(info, train_tokens=tokens[0], holdout_tokens=tokens[1])
        write_json(temporary / "info.json", asdict(done))
        note_checksums(temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not (folder / "info.json").exists():  # else another process was first: same bytes
                raise
    except OSError as error:
        raise Refusal(
            f"cannot write the token cache {folder}: {error.strerror}. Free space, or set "
            "SCALING_CACHE to another folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _padded(held: np.ndarray) -> Iterator[bool]:
    """Whether each piece is held out; beyond the last, whatever, since it is refused."""
    return chain(map(bool, held), repeat(False))


def _mixture(parts: list[Corpus], per_block: tuple[int, ...], cache: Path) -> Corpus:
    """The corpus of several sources: no more than a note of its parts."""
    infos = [part.info for part in parts]
    shares = tuple(
        Share(
            info.fingerprint,
            info.source,
            part,
            info.train_tokens,
            info.holdout_tokens,
            info.holdout_bytes,
        )
        for info, part in zip(infos, per_block, strict=True)
    )
    key = fingerprint(
        {"format": FORMAT, "mixture": [[share.fingerprint, share.per_block] for share in shares]}
    )
    sizes = [info.holdout_bytes for info in infos]
    info = replace(
        infos[0],
        fingerprint=key,
        source=_named(shares),
        train_documents=sum(info.train_documents for info in infos),
        train_tokens=sum(info.train_tokens for info in infos),
        holdout_documents=sum(info.holdout_documents for info in infos),
        holdout_tokens=sum(info.holdout_tokens for info in infos),
        holdout_bytes=None if None in sizes else sum(size or 0 for size in sizes),
        mixture=shares,
    )
    write_json(cache / key / "info.json", asdict(info))
    return Corpus(cache / key, info)


def _named(shares: list[Share] | tuple[Share, ...]) -> str:
    if len(shares) == 1:
        return shares[0].source
    total = sum(share.per_block for share in shares)
    return " + ".join(f"{share.per_block / total:.3g} {share.source}" for share in shares)
