"""What to do about an error of the system, which is no damage to the file that it names."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_SPACE = "Free space there"
_FILES = "Close files, or raise the limit of open ones (`ulimit -n`)"
_DISK = "The disk, or the way to it, fails: look at both, then give the command again"
_REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.EIO: _DISK,
    errno.ESTALE: _DISK,
    errno.ETIMEDOUT: _DISK,
    errno.EFBIG: "Allow larger files there (`ulimit -f`, or another file system)",
    errno.EROFS: "Make its file system writable",
}
_SHUT = (errno.EACCES, errno.EPERM)


def cannot_read(path: Path | str, error: OSError, otherwise: str = "") -> str:
    """That a file cannot be read, why, and what helps; `otherwise` as `remedy` has it."""
    return f"cannot read {path}: {error.strerror or error}. {remedy(error, otherwise)}".rstrip()


def cannot_write(
    path: Path | str, error: Exception, elsewhere: str = "choose another folder"
) -> str:
    """That a file cannot be written, why, and what helps: against the error, or `elsewhere`."""
    helps = remedy(error).rstrip(".")
    what = f"{helps}, or {elsewhere}" if helps else f"{elsewhere[0].upper()}{elsewhere[1:]}"
    return f"cannot write {path}: {getattr(error, 'strerror', None) or error}. {what}."


def remedy(error: BaseException, otherwise: str = "") -> str:
    """What helps against an error, as sentences: `otherwise` where the file itself is at fault."""
    number = _number(error)
    if number in _SHUT:
        return f"The user {_user()} lacks the permission: give it, on the folders above it too."
    return f"{_REMEDIES[number]}." if number in _REMEDIES else otherwise


def is_damage(error: BaseException) -> bool:
    """Whether the file may be at fault, and not the system: only then is it to be made anew."""
    return _number(error) not in (*_SHUT, *_REMEDIES)


def _number(error: BaseException) -> int:
    """The number of the system's error that led to this one; 0 where none did."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    return getattr(cause, "errno", None) or 0


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user of no name
        return str(os.geteuid())
