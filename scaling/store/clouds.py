"""The buckets and folders that an address names, opened as their own tools open them.

Credentials, endpoints and regions come from the environment: AWS_*, AZURE_STORAGE_*, GOOGLE_*,
and the files and machine identities that each cloud's own tools read.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.store.records import Refusal, did_you_mean

if TYPE_CHECKING:
    from obstore.store import AzureConfig, GCSConfig, ObjectStore, S3Config

SCHEMES = ("s3", "gs", "az", "file", "memory")
# A scheme as in RFC 3986, section 3.1, of two letters or more: one is a drive.
_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://(?P<rest>.*)", re.DOTALL)
_PIP = "pip install 'scaling-laws[bucket]'"

# A small request that takes longer is one that was lost; obstore's own default.
_SMALL = timedelta(seconds=30)
# A part of a large file, 16 MiB, over a line of a megabit a second.
_LARGE = timedelta(minutes=2)


@dataclass(frozen=True)
class Handles:
    """One bucket or folder, opened twice."""

    once: ObjectStore  # asks once: for what must know whether its first request arrived
    large: ObjectStore  # asks again for the part of a file or listing that failed, not for all
    prefix: str  # of all keys: empty, or without a slash at either end
    deletes_many: bool  # whether one request deletes up to 1,000 objects, missing ones included
    folder: Path | None = None  # of this machine: objects there carry no writer's token


def is_address(text: str) -> bool:
    """Whether a text is an address such as s3://bucket/runs, and no path of this machine."""
    return _ADDRESS.fullmatch(text) is not None


def handles(address: str) -> Handles:
    """The bucket or folder that an address names; no request is made yet.

    Raises Refusal for an address of no known kind, and where obstore is not installed.
    """
    found = _ADDRESS.fullmatch(address)
    scheme, rest = (found["scheme"].lower(), found["rest"]) if found else ("", address)
    if scheme not in SCHEMES:
        raise Refusal(
            f"{address!r} is no address that can be opened.{did_you_mean(scheme, SCHEMES)} Give "
            f"s3://, gs:// or az:// with a bucket and a prefix, or a folder."
        )
    _check_installed(address)
    if scheme == "file":
        return _folder(address, rest)
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.strip("/")
    if not bucket or any(part in ("", ".", "..") for part in prefix.split("/") if prefix):
        raise Refusal(
            f"{address!r} names no bucket and prefix. Give {scheme}://BUCKET or "
            f"{scheme}://BUCKET/PREFIX, without empty parts, '.' or '..'."
        )
    if scheme == "memory":
        memory = _memory(bucket)
        return Handles(memory, memory, prefix, deletes_many=False)
    kind = {"s3": _s3, "gs": _gcs, "az": _azure}[scheme]
    return Handles(
        once=kind(bucket, _SMALL, 0),
        large=kind(bucket, _LARGE, 5),
        prefix=prefix,
        deletes_many=scheme == "s3",
    )


def remedy(address: str) -> str:
    """What to look at when a bucket's server refuses a request: its variables, by their names."""
    return {
        "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE, with boto3 "
        "installed), AWS_REGION, AWS_ENDPOINT_URL",
        "gs": "GOOGLE_APPLICATION_CREDENTIALS, or run gcloud auth application-default login",
        "az": "AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY, or AZURE_STORAGE_CONNECTION_STRING",
    }.get(address.partition("://")[0].lower(), "that this user may write there")


def _check_installed(address: str) -> None:
    try:
        import obstore  # noqa: F401
    except ImportError as error:
        raise Refusal(f"{address}: obstore is not installed. Run {_PIP}.") from error


def _folder(address: str, path: str) -> Handles:
    from obstore.store import LocalStore

    if not path.startswith("/"):
        raise Refusal(f"{address!r} is no absolute path. Give file:///, or the folder without it.")
    folder = Path(path).resolve()
    # What is written makes the folders that it lies in; who only reads makes none.
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not there.is_dir():
        raise Refusal(f"{address!r} is no folder: {there} is a file. Give a folder.")
    store, prefix = LocalStore(there), "/".join(folder.relative_to(there).parts)
    return Handles(store, store, prefix, deletes_many=False, folder=folder)


@cache
def _memory(name: str) -> ObjectStore:
    """The one store of that name in this process."""
    from obstore.store import MemoryStore

    return MemoryStore()


def _s3(bucket: str, timeout: timedelta, retries: int) -> ObjectStore:
    from obstore.store import S3Store

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    settings: S3Config = {"endpoint": endpoint} if endpoint else {}
    return S3Store(bucket, config=settings, **_client(endpoint, timeout, retries), **_profile())


def _profile() -> dict[str, Any]:
    """Keys that lie in ~/.aws, by way of boto3: obstore reads the environment alone."""
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return {}
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        return {}
    try:
        return {"credential_provider": Boto3CredentialProvider()}
    except ValueError:  # it found none either: the machine's own identity is left
        return {}


def _gcs(bucket: str, timeout: timedelta, retries: int) -> ObjectStore:
    from obstore.store import GCSStore

    endpoint = os.environ.get("STORAGE_EMULATOR_HOST", "")
    settings: GCSConfig = {}
    if endpoint:
        endpoint = endpoint if "://" in endpoint else f"http://{endpoint}"
        settings = {"base_url": endpoint, "bearer_token": "none"}
    return GCSStore(bucket, config=settings, **_client(endpoint, timeout, retries))


def _azure(container: str, timeout: timedelta, retries: int) -> ObjectStore:
    from obstore.store import AzureStore

    # obstore reads names of its own; these are those of Azure's command line.
    parts = dict(
        part.split("=", 1)
        for part in os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "").split(";")
        if "=" in part
    )
    settings: AzureConfig = {}
    if account := parts.get("AccountName") or os.environ.get("AZURE_STORAGE_ACCOUNT"):
        settings["account_name"] = account
    if secret := parts.get("AccountKey") or os.environ.get("AZURE_STORAGE_KEY"):
        settings["account_key"] = secret
    endpoint = parts.get("BlobEndpoint") or os.environ.get("AZURE_STORAGE_ENDPOINT", "")
    if endpoint:
        settings["endpoint"] = endpoint
    return AzureStore(container, config=settings, **_client(endpoint, timeout, retries))


def _client(endpoint: str, timeout: timedelta, retries: int) -> dict[str, Any]:
    """Of plain http only where the user's own endpoint is."""
    return {
        "client_options": {"timeout": timeout, "allow_http": endpoint.startswith("http://")},
        "retry_config": {"max_retries": retries},
    }
