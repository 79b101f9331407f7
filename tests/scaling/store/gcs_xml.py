"""Writes of Google's XML API for fake-gcs-server, which knows them in the JSON API alone.

obstore speaks the XML API. Its reads, listings and deletions go to the emulator as they are; a put,
with its precondition and metadata, a copy and an upload by parts become the JSON request that does
the same (cloud.google.com/storage/docs: xml-api, json_api/v1), so that the emulator decides who
made an object.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

_EDGE = "an-edge-between-two-parts"
_META = "x-goog-meta-"


class XmlWrites:
    """Answers as Google's server does, by way of `ask`, which leads to fake-gcs-server.

    The emulator tells buckets by `host`, its own name. Requests and answers are of the classes of
    `fault_proxy`.
    """

    def __init__(
        self, ask: Callable[[Any], Any], host: str, request: type[Any], answer: type[Any]
    ) -> None:
        self._ask, self._host, self._request, self._answer = ask, host, request, answer
        self._uploads: dict[str, dict[int, bytes]] = {}
        self._names = map(str, itertools.count(1))

    def __call__(self, request: Any) -> Any:
        url = urlsplit(request.path)
        bucket, _, key = (unquote(part) for part in url.path.lstrip("/").partition("/"))
        query = {name: values[0] for name, values in parse_qs(url.query, True).items()}
        headers = {name.lower(): value for name, value in request.headers.items()}
        upload = query.get("uploadId", "")
        match request.method:
            case "PUT" if source := headers.get("x-goog-copy-source"):
                return self._copy(bucket, source, key)
            case "PUT" if upload:
                self._uploads[upload][int(query["partNumber"])] = request.body
                return self._answer(200, {"ETag": f'"{query["partNumber"]}"'})
            case "PUT":
                return self._insert(bucket, key, headers, request.body)
            case "POST" if "uploads" in query:
                name = next(self._names)
                self._uploads[name] = {}
                return self._xml("InitiateMultipartUploadResult", UploadId=name)
            case "POST" if upload:
                parts = self._uploads.pop(upload)
                whole = b"".join(parts[number] for number in sorted(parts))
                made = self._insert(bucket, key, {}, whole)
                return self._xml("CompleteMultipartUploadResult", ETag=made.headers["ETag"])
            case "DELETE" if upload:
                self._uploads.pop(upload, None)
                return self._answer(204)
        return self._as_host(request.method, request.path, request.headers, request.body)

    def _insert(self, bucket: str, key: str, headers: dict[str, str], data: bytes) -> Any:
        meta = {name.removeprefix(_META): headers[name] for name in headers if _META in name}
        head = json.dumps({"name": key, "metadata": meta}).encode()
        parts = (b"application/json", head), (b"application/octet-stream", data)
        body = b"".join(
            b"--%s\r\nContent-Type: %s\r\n\r\n%s\r\n" % (_EDGE.encode(), kind, text)
            for kind, text in parts
        )
        path = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart"
        if generation := headers.get("x-goog-if-generation-match"):
            path += f"&ifGenerationMatch={generation}"
        kind = {"Content-Type": f"multipart/related; boundary={_EDGE}"}
        return self._json(path, kind, body + b"--%s--" % _EDGE.encode())

    def _copy(self, bucket: str, source: str, key: str) -> Any:
        start, _, name = unquote(source).lstrip("/").partition("/")
        path = (
            f"/storage/v1/b/{start}/o/{quote(name, safe='')}/rewriteTo/b/{bucket}/o/"
            f"{quote(key, safe='')}"
        )
        return self._json(path, {}, b"")

    def _json(self, path: str, headers: dict[str, str], body: bytes) -> Any:
        answer = self._as_host("POST", path, headers, body)
        if answer.status != 200:
            return self._answer(answer.status, {}, answer.body)
        made = json.loads(answer.body)
        made = made.get("resource", made)
        found = {"ETag": f'"{made["etag"]}"', "x-goog-generation": str(made["generation"])}
        return self._answer(200, found)

    def _as_host(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Any:
        named = {name: value for name, value in headers.items() if name.lower() != "host"}
        return self._ask(self._request(method, path, {"Host": self._host, **named}, body))

    def _xml(self, root: str, **values: str) -> Any:
        inside = "".join(f"<{name}>{value}</{name}>" for name, value in values.items())
        return self._answer(200, {}, f"<{root}>{inside}</{root}>".encode())
