"""Validation sets: texts beside a study's own that its models are judged on, whatever they read.

A set is a corpus of which every document is held out, in the tokens of the study's corpus.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from scaling.data import tokens
from scaling.data.corpus import Corpus, CorpusInfo
from scaling.data.in_place import read_tokens
from scaling.data.making import making
from scaling.data.prepare import ALONE, FORMAT, memory_of, written
from scaling.data.progress import Watch, unwatched
from scaling.data.reading import read_first
from scaling.data.sharing import shared_documents
from scaling.data.sources import open_sources
from scaling.data.tokenizer import TOKENIZER, Bytes, Json, Ready, Tokenizer, plain_tokenizer
from scaling.store.records import Refusal, fingerprint
from scaling.study import DataSection


def prepare_sets(
    sets: Mapping[str, str],
    section: DataSection,
    corpus: Corpus,
    cache: Path,
    watch: Watch = unwatched,
) -> dict[str, Corpus]:
    """The sets of a study by name, each made in `cache` on first use, from its source.

    `section` is the study's, whose text_field, split and subset hold for them too. Raises Refusal
    for all sets that cannot be read, are empty, or share documents with the text of `corpus` that
    is trained on.
    """
    found, lines = {}, []
    for name, source in sorted(sets.items()):
        try:
            found[name] = _prepare(name, source, section, corpus, cache, watch)
        except Refusal as error:
            lines += [_of_set(line, name, source) for line in error.lines]
    if lines:
        raise Refusal(lines)
    return found


def _of_set(line: str, name: str, source: str) -> str:
    """What is wrong with a source, said of the field that names it."""
    field = f"[evaluation] sets: {name} = {source!r}"
    if line.startswith(field):
        return line
    said = line.removeprefix(f"[data] source = {source!r}")
    return field + said if said != line else f"{field}: {line}"


def _prepare(
    name: str, source: str, section: DataSection, corpus: Corpus, cache: Path, watch: Watch
) -> Corpus:
    field = f"[evaluation] sets: {name} = {source!r}"
    tokenizer = _tokenizer_of(corpus)
    wanted = replace(section, source=source, sources=(), train_tokens=None, drop_duplicates=False)
    is_tokens = tokens.are_named(replace(wanted, token_dtype=None))
    if is_tokens != isinstance(tokenizer, Ready):
        kinds = ("tokens (.bin)", "text") if is_tokens else ("text", "tokens (.bin)")
        raise Refusal(
            f"{field} is {kinds[0]}, and what the study trains on is {kinds[1]}. Give the set as "
            f"{kinds[1]} too."
        )
    sources = open_sources(wanted)
    known = memory_of(wanted, sources, cache, [{"set_of": corpus.info.fingerprint}])
    if known and (recalled := known.recall()):
        return recalled
    sources = [each.here(cache, watch) if each.here else each for each in sources]
    with making(cache, None, watch) as made:
        if isinstance(tokenizer, Ready):
            (divided,) = read_tokens(sources, wanted, 1.0, made, ALONE, watch)
        else:
            (divided,) = read_first(sources, 1.0, False, made, ALONE, watch)
        reading, sizes = divided.reading, divided.index.sizes
        if not len(sizes):
            raise Refusal(f"{field} holds no text. Give files that are not empty.")
        identity = {
            "format": FORMAT,
            "content": divided.index.digest,
            "tokenizer": tokenizer.identity,
            "held_out": "all",
        }
        info = CorpusInfo(
            fingerprint=fingerprint(identity),
            source=reading.source.name,
            vocab_size=tokenizer.vocab_size,
            train_documents=0,
            train_tokens=0,
            holdout_documents=len(sizes),
            holdout_tokens=0,
            holdout_bytes=None if isinstance(tokenizer, Ready) else int(sizes.sum()),
            tokenizer=corpus.info.tokenizer,
            end_token=tokenizer.end,
            repeated_documents=reading.repeated,
            repeated_size=reading.repeated_size,
            other_names=reading.source.again,
        )
        made_set = written(info, divided, np.ones(len(sizes), bool), tokenizer, made, ALONE, watch)
    if len(shared := shared_documents(corpus, made_set.holdout.stream)):
        raise Refusal(
            f"{field} shares {len(shared):,} of its {info.holdout_documents:,} documents with the "
            f"text that is trained on; the first is its document {shared[0] + 1:,}. Remove them "
            "from the set, or name other text."
        )
    if known:
        known.keep(made_set)
    return made_set


def _tokenizer_of(corpus: Corpus) -> Tokenizer:
    """What made the tokens of a corpus."""
    part = corpus.parts[0]
    info, file = part.info, part.folder / TOKENIZER
    if info.holdout_bytes is None:
        return Ready(info.vocab_size, info.end_token)
    if not file.exists():
        return Bytes()
    content = file.read_bytes()
    end = plain_tokenizer(content.decode()).id_to_token(info.end_token)
    return Json(content, end, info.tokenizer)
