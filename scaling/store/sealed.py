"""What the files of a results folder share: a typed record, of one format, with a seal.

The seal is the SHA-256 of all that the record holds, so that a bit that flipped is found whatever
it now says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_jsonable_python

from scaling.store.records import (
    FORMAT,
    MAX_JSON,
    OLDEST_FORMAT,
    Refusal,
    check_seal,
    json_bytes,
    read_bytes,
    sealed,
)

STRICT = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class OtherFormat(Refusal):
    """What another version of this program wrote: it is neither used nor touched."""


class Sealed(BaseModel):
    """A record as a file holds it. Make one with `made` or `changed`, which seal it."""

    model_config = STRICT

    format: int
    sha256: str

    @classmethod
    def made(cls, **fields: Any) -> Self:
        """The record of these fields, sealed; numbers that are not finite become null."""
        values = to_jsonable_python({**fields, "format": FORMAT, "sha256": ""})
        plain = cls.model_validate_json(json_bytes(values))
        return plain.model_copy(update={"sha256": sealed(plain.plain())["sha256"]})

    def changed(self, **fields: Any) -> Self:
        """The record with other values in these fields, sealed again."""
        return self.made(**{**self.plain(), **fields})

    def plain(self) -> dict[str, Any]:
        """The record as plain values, as its file holds them."""
        return self.model_dump(mode="json")

    @classmethod
    def read(cls, path: Path, largest: int = MAX_JSON) -> Self:
        """The record in a file of at most so many bytes.

        Raises OtherFormat for one of a newer or older version, and Refusal where the file is
        missing or not as it was written.
        """
        return cls.parsed(path, read_bytes(path, largest))

    @classmethod
    def parsed(cls, path: Path | str, data: bytes) -> Self:
        """The record in this JSON text, found at a path or address.

        Raises OtherFormat and Refusal as `read` does.
        """
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise damaged(path, f"it is not valid JSON ({error})") from error
        refuse_other_format(path, value)
        try:
            check_seal(value)
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ": ".join([*map(str, first["loc"][:3]), first["msg"]])
            raise damaged(path, where) from error
        except (AttributeError, TypeError, ValueError, RecursionError) as error:
            raise damaged(path, str(error)) from error


def damaged(path: Path | str, wrong: str) -> Refusal:
    """What to say of a record that is not as it was written."""
    return Refusal(
        f"{path} cannot be used: {wrong}. Restore it, or give `scaling run` the study again, "
        "which makes it anew."
    )


def refuse_other_format(path: Path | str, value: Any) -> None:
    """Raise OtherFormat if a record says that it is of a format that is not read here."""
    if not isinstance(value, dict):
        return
    found = value.get("format", 1 if "counts" in value else FORMAT)
    if isinstance(found, bool) or not isinstance(found, int):
        return
    if OLDEST_FORMAT <= found <= FORMAT:
        return
    whose, remedy = (
        ("a newer", "Update the program")
        if found > FORMAT
        else ("an earlier", "Its run table can still be fitted")
    )
    raise OtherFormat(
        f"{path} is of format {str(found)[:20]}, which {whose} version of this program wrote; this "
        f"one works with format {FORMAT}. {remedy}, or choose another results folder. Nothing was "
        "changed."
    )
