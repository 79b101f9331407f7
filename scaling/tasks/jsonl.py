"""A task from a file: one JSON object a line, with prompt, answer and, if there are, choices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import ClassVar

from pydantic.dataclasses import dataclass

from scaling.given import read_file
from scaling.remedies import remedy
from scaling.store.records import Refusal
from scaling.tasks.draw import Draw
from scaling.tasks.task import STRICT, Item, Task

MAX_BYTES = 256 << 20  # of a file, whose items are held in memory
FIELDS = ("prompt", "answer", "choices")


@dataclass(frozen=True, config=STRICT)
class Jsonl(Task):
    """The items of a file, each as likely as any other."""

    name: ClassVar[str] = "jsonl"
    file: str
    sha256: str | None = None  # of the file: a study's runs are of one content

    def item(self, draw: Draw) -> Item:
        return draw.choice(self.items())

    def held_out(self, draw: Draw) -> Iterator[Item]:
        """Every different item for evaluation, in random order."""
        kept = list(dict.fromkeys(item for item in self.items() if item.held_out))
        yield from draw.sample(kept, len(kept))

    def items(self) -> tuple[Item, ...]:
        """All items. Raises Refusal, naming file and line, for what is none, and for a file that
        is not the one the task was made of."""
        items, sha256 = read_items(Path(self.file))
        if self.sha256 not in (None, sha256):
            raise Refusal(
                f"{self.file} has changed since the study was planned. Restore it, or plan again."
            )
        return items

    @property
    def label(self) -> str:
        sha256 = self.sha256 or read_items(Path(self.file))[1]
        # With a part of its content's hash, so that no two files are shown as one.
        return f"{self.name} {Path(self.file).stem}-{sha256[:6]}"


@cache
def read_items(path: Path) -> tuple[tuple[Item, ...], str]:
    """The items of a file, and its SHA-256.

    Raises Refusal naming file, line and remedy: for what is no JSON object, unknown or missing
    fields, an answer that is empty, has several lines or is not among its choices, and a file that
    is too large or says nothing.
    """
    try:
        content = read_file(path, MAX_BYTES)
        text = content.decode("utf-8")
    except (OSError, ValueError) as error:  # ValueError: NUL in the path, or no UTF-8
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, UnicodeDecodeError):
            reason = "not UTF-8 text"
        what = remedy(error, "Give a JSONL file.")
        raise Refusal(f"cannot read tasks {path}: {reason}. {what}") from error
    items = tuple(
        _item(line, f"{path}, line {number}")
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    )
    if not items:
        raise Refusal(f"{path} has no items. Give a JSON object a line: prompt, answer, choices.")
    return items, hashlib.sha256(content).hexdigest()


def _item(line: str, place: str) -> Item:
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{place} is not valid JSON ({error}). Correct or remove it.") from error
    if not isinstance(raw, dict):
        raise Refusal(f'{place} is no object. Give {{"prompt": "2+2=", "answer": "4"}}.')
    if unknown := set(raw) - set(FIELDS):
        raise Refusal(f"{place}: {min(unknown)[:40]!r} is not a known field. Remove it.")
    if missing := {"prompt", "answer"} - set(raw):
        raise Refusal(f"{place}: {min(missing)} is missing. Give it.")
    prompt, answer = (_text(raw[name], f"{place}: {name}") for name in ("prompt", "answer"))
    choices = raw.get("choices", [])
    if not isinstance(choices, list):
        raise Refusal(f"{place}: choices is no list of texts. Give one, or leave it out.")
    choices = [_text(each, f"{place}: choices") for each in choices]
    if not answer or "\n" in answer:
        raise Refusal(f"{place}: answer = {answer[:40]!r} must be one line that is not empty.")
    if choices and (answer not in choices or len(set(choices)) < max(2, len(choices))):
        raise Refusal(
            f"{place}: choices must be two or more different texts, {answer[:40]!r} among them."
        )
    if any(not each or "\n" in each for each in choices):
        raise Refusal(f"{place}: each of choices must be one line that is not empty.")
    # One prompt is on one side, whatever its answers; NUL is in no prompt, so this is never empty.
    return Item(prompt, answer, tuple(choices), about=f"{prompt}\0")


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise Refusal(f"{place} = {str(value)[:40]!r} is no text. Put it in quotes.")
    if "\0" in value:
        raise Refusal(f"{place} contains NUL, which ends a document. Remove it.")
    if any("\ud800" <= letter <= "\udfff" for letter in value):  # json.loads lets them through
        raise Refusal(f"{place} = {ascii(value)[:40]} has half of a surrogate pair. Remove it.")
    return value
