"""From a study's sources to a corpus in the cache, tokenised once.

Sources are streamed: once to draw who is held out, once to train a tokeniser if one is asked for,
once to write the tokens. Nothing as large as a source is held in memory, but for a single document.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from scaling.data.batches import proportions
from scaling.data.columns import Column
from scaling.data.corpus import DECLARED, PLACE, UNREAD, Corpus, CorpusInfo, Share, load
from scaling.data.documents import Document
from scaling.data.encoding import CORPUS, encode
from scaling.data.in_place import TokenIndex, place, read_tokens
from scaling.data.lost import lost_of
from scaling.data.making import Making, making
from scaling.data.overlap import refuse_seen, sample_of, seen
from scaling.data.processes import Processes
from scaling.data.progress import Count, Watch, unwatched
from scaling.data.reading import Divided, Reading, ranges, read_first
from scaling.data.remembered import Memory, memory
from scaling.data.sources import HUB, Source, most_tokens, open_sources, sections_of
from scaling.data.split import held_out, refuse_excess
from scaling.data.tokenizer import Tokenizer, make_tokenizer, vocabulary
from scaling.data.verified import note_checksums, settled
from scaling.store.failpoint import failpoint
from scaling.store.paths import cache_refused
from scaling.store.records import Refusal, fingerprint, sealed, write_json
from scaling.study import DataSection

# Raised when the cached files change their meaning, or other documents are read from a source.
FORMAT = 2
UNREAD_TOKENS = float(1 << 60)  # more than a run could be asked to train on
# What a corpus of the same content may have of another reading.
OF_READING = (
    "source", "repeated_documents", "repeated_size", "other_names", "holdout_seen", "text_lost",
)  # fmt: skip
ALONE = Processes(1)  # all in this process
MAX_SHORTFALL = 0.01  # of declared tokens; as much as a count in two digits can be off


def prepare(
    section: DataSection,
    cache: Path,
    watch: Watch = unwatched,
    processes: Processes = ALONE,
) -> Corpus:
    """The tokenised corpus of a study, made in `cache` on first use; `watch` is told how far it is.

    Files that have not changed since are not read again. A cache folder's name is a hash of
    content and settings, so a changed file is a new corpus and two processes that prepare the
    same one agree. Raises SourceMissing for a source that is not on this machine, and Refusal for
    one that cannot be read, holds less than the study declares, or leaves nothing to train on or
    to hold out.
    """
    sources = open_sources(section)
    known = memory_of(section, sources, cache)
    corpus = known.recall() if known else None
    if corpus is None:
        sources = [each.here(cache, watch) if each.here else each for each in sources]
        made_of = (known.files, known.stamps) if known else ()
        with making(cache, _key(section, known), watch, *made_of) as made:
            try:
                corpus = _read(section, sources, made, watch, processes)
            except BaseException:
                processes.stop()  # before the folder that they write to is deleted, or another's
                raise
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
    known = memory_of(section, open_sources(section), cache)
    return known.recall() if known else None


def memory_of(
    section: DataSection, sources: list[Source], cache: Path, beside: Sequence[Any] = ()
) -> Memory | None:
    """What the cache may know of the files that a study reads; null where they are not ours.

    `beside` says as plain values what else decides what is made of them.
    """
    files: list[Path] = []
    objects: list[Any] = [*beside]
    for source in sources:
        if source.files is None:
            return None
        files += source.files
        objects += [] if source.objects is None else source.objects.identity()
    if (tokenizer := Path(section.tokenizer)).is_file():
        files.append(tokenizer)
    return memory(section, tuple(files), FORMAT, cache, objects)


def _key(section: DataSection, known: Memory | None) -> str | None:
    """What a corpus is made of, for whoever goes on with it; null if its files may have changed."""
    if known is None or not settled(known.stamps, known.seen_ns):
        return None
    return fingerprint({"format": FORMAT, "section": asdict(section), "folder": str(Path.cwd())})


def _read(
    section: DataSection,
    sources: list[Source],
    made: Making,
    watch: Watch,
    processes: Processes,
) -> Corpus:
    """The corpus of a study, whose sources are read."""
    fraction, cache = section.holdout_fraction, made.cache
    shares = proportions([each.weight for each in sections_of(section)])
    if sources[0].tokens:
        every = read_tokens(sources, section, fraction, made, processes, watch)
    else:
        every = read_first(sources, fraction, section.drop_duplicates, made, processes, watch)
    _refuse_same([each.reading for each in every])
    held = held_out([each.index for each in every], fraction)
    for source, out in zip(sources, held, strict=True):
        if out.all() or not out.any():
            raise Refusal(
                f"[data] holdout_fraction = {fraction} of {len(out)} documents of "
                f"{source.name!r} leaves nothing to train on or nothing to hold out. "
                "Give more text."
            )
    for each, out in zip(every, held, strict=True):
        own = out if len(every) == 1 else each.index.drawn(fraction)
        refuse_excess(each.reading.source.name, each.index, own, fraction)
    samples = [sample_of(*each) for each in zip(every, held, strict=True)]
    repeated = [seen(each) for each in samples]
    for source, share in zip(sources, repeated, strict=True):
        refuse_seen(source.name, share)

    def training() -> Iterator[Document]:
        for each, out in zip(every, held, strict=True):
            for known, (first, last) in zip(each.known(), ranges(each.ends), strict=True):
                kept = zip(known.pieces(iter), out[first:last].tolist(), strict=True)
                yield from (document for document, is_out in kept if not is_out)

    content = [fraction, *sorted(each.reading.digest for each in every)]
    of = sum(int(each.index.sizes[~out].sum()) for each, out in zip(every, held, strict=True))
    tokenizer = make_tokenizer(section, training, of, content, cache, watch)
    lost = [
        lost_of(tokenizer, source.name, sample.train)
        for source, sample in zip(sources, samples, strict=True)
    ]
    parts = [
        _part(section, made, tokenizer, processes, watch, *each)
        for each in zip(every, held, repeated, lost, strict=True)
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


def _refuse_same(readings: Sequence[Reading]) -> None:
    """Raises Refusal for a source that is empty, or the same as another."""
    first: dict[str, str] = {}  # the source of each content
    for reading in readings:
        name = reading.source.name
        if not reading.documents.rows:
            raise Refusal(f"[data] source = {name!r} holds no text. Give files that are not empty.")
        if reading.digest in first:
            raise Refusal(
                f"[data] sources: {first[reading.digest]!r} and {name!r} hold the same text, "
                "which would count as unique twice. Remove one, and give the other the weight of "
                "both."
            )
        first[reading.digest] = name


def _part(
    section: DataSection,
    made: Making,
    tokenizer: Tokenizer,
    processes: Processes,
    watch: Watch,
    divided: Divided,
    held: np.ndarray,
    seen: float | None,
    lost: float | None,
) -> Corpus:
    """The corpus of one source."""
    known, reading = divided.index, divided.reading
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
    info = CorpusInfo(
        fingerprint=fingerprint(identity),
        source=reading.source.name,
        vocab_size=tokenizer.vocab_size,
        train_documents=int((~held).sum()),
        train_tokens=0,
        holdout_documents=int(held.sum()),
        holdout_tokens=0,
        holdout_bytes=None if reading.source.tokens else int(known.sizes[held].sum()),
        tokenizer=section.tokenizer,
        end_token=tokenizer.end,
        repeated_documents=reading.repeated,
        repeated_size=reading.repeated_size,
        other_names=reading.source.again,
        holdout_seen=seen,
        text_lost=lost,
    )
    return written(info, divided, held, tokenizer, made, processes, watch)


def written(
    info: CorpusInfo,
    divided: Divided,
    held: np.ndarray,
    tokenizer: Tokenizer,
    made: Making,
    processes: Processes,
    watch: Watch,
) -> Corpus:
    """The corpus of one source that was read, made unless the cache has it.

    `info` lacks only the numbers of tokens.
    """
    known, key, cache = divided.index, info.fingerprint, made.cache
    # A corpus of tokens that an earlier version copied stays as it is.
    is_made = (cache / key / "info.json").exists() and not (cache / key / PLACE).exists()
    if isinstance(known, TokenIndex) and not is_made:
        place(cache / key, known, held, info, made)
    elif not is_made:
        count = Count(f"tokenising {info.source}", int(known.sizes.sum()), watch)
        try:
            _make(made, divided, held, tokenizer, processes, count, info)
        except OSError as error:
            raise cache_refused(cache / key, error) from error
    # The cache knows content alone; the same text may since have come from elsewhere.
    found = load(key, cache)
    read = {name: getattr(info, name) for name in OF_READING}
    return Corpus(found.folder, replace(found.info, **read))


def _make(
    made: Making,
    divided: Divided,
    held: np.ndarray,
    tokenizer: Tokenizer,
    processes: Processes,
    count: Count,
    info: CorpusInfo,
) -> None:
    """Write the corpus of one source into the cache."""
    published = made.cache / info.fingerprint
    # What is done of it is of use to whoever divides the source into the same parts.
    parts = hashlib.sha256(divided.ends.tobytes()).hexdigest()[:12]
    folder = made.folder / f"{info.fingerprint}-{parts}"
    if (published / "info.json").exists():  # by the process that had the folder
        return
    sides = Column(bool, made.file)
    sides.add(held)
    tokens = [0, 0]  # to train on, held out
    for encoded in encode(divided, sides, tokenizer, folder, processes, count):
        for side, these in enumerate(encoded.sides):
            tokens[side] += these.tokens
    done = replace(info, train_tokens=tokens[0], holdout_tokens=tokens[1])
    if not done.train_tokens:
        (folder / CORPUS / "train.bin").unlink()
    write_json(folder / CORPUS / "info.json", sealed(asdict(done)))
    note_checksums(folder / CORPUS)
    failpoint("corpus-made")
    _publish(folder / CORPUS, published)


def _publish(made: Path, folder: Path) -> None:
    """Rename a corpus that is made to where it is found, whole or absent."""
    try:
        made.rename(folder)
    except OSError:
        if (folder / "info.json").exists():  # another process was first: same bytes
            return
        # What is left of one that lost its note is of no use, and stood in the way for ever.
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)


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
        other_names=sum(info.other_names for info in infos),
        holdout_seen=_largest([info.holdout_seen for info in infos]),
        text_lost=_largest([info.text_lost for info in infos]),
    )
    write_json(cache / key / "info.json", sealed(asdict(info)))
    return Corpus(cache / key, info)


def _largest(shares: Sequence[float | None]) -> float | None:
    return max((share for share in shares if share is not None), default=None)


def _named(shares: list[Share] | tuple[Share, ...]) -> str:
    if len(shares) == 1:
        return shares[0].source
    total = sum(share.per_block for share in shares)
    return " + ".join(f"{share.per_block / total:.3g} {share.source}" for share in shares)
