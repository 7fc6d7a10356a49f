import asyncio
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from openai import OpenAI

from gateway.tls import server_context, upstream_context
from scripts.local.dynamo import DemoDynamo
from scripts.local.process import fetch, free_ports, wait_until
from scripts.local.triton import Triton
from tests.conftest import DEFAULT_CONFIG, StartGateway
from tests.gateway.client import Gateway, chat

_PATIENT = DEFAULT_CONFIG.read_text().replace("    llms:", "    timeout_ms: 30000\n    llms:")


_CONSTANT = """
policies:
  - name: constant
    url: http://x:8000/v2/models/constant/infer
    timeout_ms: 30000
    llms:
      - {name: "yes", api_base: "${DYNAMO_API_BASE}", model: llama-3.1-8b-instruct}
      - {name: "no", api_base: "${DYNAMO_API_BASE}", model: llama-3.1-8b-instruct}
"""


def _repository_of_a_constant(folder: Path) -> Path:
    """A model that says `no` to everything: the project's own take much longer to load."""
    version = folder / "constant" / "1"
    version.mkdir(parents=True)
    (folder / "constant" / "labels.txt").write_text("yes\nno\n")
    (folder / "constant" / "config.pbtxt").write_text(
        """name: "constant" backend: "python" max_batch_size: 1
        input [{ name: "INPUT" data_type: TYPE_STRING dims: [1] }]
        output [{ name: "OUTPUT" data_type: TYPE_FP32 dims: [2] label_filename: "labels.txt" }]
        instance_group [{ kind: KIND_CPU }]"""
    )
    (version / "model.py").write_text(
        """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        no = pb_utils.Tensor("OUTPUT", np.array([[0, 1]], dtype=np.float32))
        return [pb_utils.InferenceResponse([no]) for _ in requests]
"""
    )
    return folder


class Authority:
    """A certificate authority, its own certificate and one that it gave to 127.0.0.1, as files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._ca = trustme.CA()
        issued = self._ca.issue_cert("127.0.0.1")
        self.ca, self.cert, self.key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
        self._ca.cert_pem.write_to_path(self.ca)
        issued.cert_chain_pems[0].write_to_path(self.cert)
        issued.private_key_pem.write_to_path(self.key)

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "own")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody was told of."""
    return Authority(tmp_path_factory.mktemp("tls") / "stranger")


@contextmanager
def _relay(context: ssl.SSLContext, port: int) -> Iterator[str]:
    """A TLS port in front of `port`, since Dynamo's own is plain; gives its URL."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, server_writer), pump(server_reader, writer))

    async def serve() -> None:
        server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
        address.append(server.sockets[0].getsockname()[1])
        loop.append(asyncio.get_running_loop())
        loop.append(stop := asyncio.Event())
        ready.set()
        await stop.wait()
        server.close()

    ready, address, loop = threading.Event(), [], []  # type: ignore[var-annotated]
    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(asyncio.run, serve())
        assert ready.wait(30)
        try:
            yield f"https://127.0.0.1:{address[0]}"
        finally:
            loop[0].call_soon_threadsafe(loop[1].set)
            serving.result(30)


@pytest.fixture(scope="module")
def dynamo_over_tls(dynamo: DemoDynamo, authority: Authority) -> Iterator[str]:
    with _relay(server_context(authority.cert, authority.key), dynamo.port) as url:
        yield url


def test_the_gateway_serves_https(start_gateway: StartGateway, authority: Authority, stranger: Authority) -> None:
    """With a certificate the gateway's port speaks TLS, also to the real client, and nothing else."""
    arguments = ["--tls-cert", str(authority.cert), "--tls-key", str(authority.key)]
    gateway = start_gateway(_PATIENT, arguments=arguments, trusted=authority.client_context())
    verified = httpx2.Client(verify=authority.client_context())
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="any", http_client=verified) as client:
        chunks = list(
            client.chat.completions.create(model="", messages=chat("hi")["messages"], max_tokens=4, stream=True)
        )
    assert chunks[-1].choices[0].finish_reason
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{gateway.url}/health", verify=stranger.client_context())
    with pytest.raises(httpx2.RemoteProtocolError):
        httpx2.get(f"{gateway.url.replace('https', 'http')}/health")


def _chat(gateway: Gateway) -> httpx2.Response:
    return gateway.post("/v1/chat/completions", chat("hello", model="llama-3.1-8b-instruct"))


def test_upstreams_over_https(
    start_gateway: StartGateway, dynamo_over_tls: str, authority: Authority, stranger: Authority
) -> None:
    """An upstream whose authority was named answers; one of an unknown authority is a 502 that says nothing else."""
    named = {"DYNAMO_API_BASE": dynamo_over_tls, "UPSTREAM_CA_FILE": str(authority.ca)}
    gateway = start_gateway(_PATIENT, ready=False, **named)
    answer = _chat(gateway)
    assert answer.status_code == 200 and answer.json()["choices"]
    assert len(gateway.get("/v1/models").json()["data"]) > 2
    for environ in ({}, {"UPSTREAM_CA_FILE": str(stranger.ca)}):
        gateway = start_gateway(_PATIENT, ready=False, DYNAMO_API_BASE=dynamo_over_tls, **environ)
        answer = _chat(gateway)
        assert answer.status_code == 502 and answer.json()["error"]["code"] == "upstream_unavailable"


def test_the_system_authorities_stay(authority: Authority) -> None:
    """A CA file adds to the system's authorities and takes none away."""
    with_ours = upstream_context(authority.ca).get_ca_certs()
    assert len(with_ours) == len(upstream_context(None).get_ca_certs()) + 1


def test_triton_over_tls(
    start_gateway: StartGateway, tmp_path: Path, authority: Authority, stranger: Authority
) -> None:
    """The real Triton with a certificate decides for who names its authority; else the fallback answers."""
    options = ["--grpc-use-ssl=1", f"--grpc-server-cert={authority.cert}", f"--grpc-server-key={authority.key}"]
    options.append(f"--grpc-root-cert={authority.ca}")
    repository = _repository_of_a_constant(tmp_path / "model_repository")
    triton = Triton(free_ports(3), tmp_path / "triton", repository, ["constant"], options=options)
    triton.start()
    try:
        assert triton.process is not None
        wait_until(lambda: fetch(f"{triton.http_url}/v2/models/constant/ready", 5) is not None, triton.process, 180)
        own = {"TRITON_GRPC_URL": triton.grpc_url}
        gateway = start_gateway(_CONSTANT, TRITON_CA_FILE=str(authority.ca), **own)
        decided = gateway.post("/v1/route", chat("hello")).json()
        assert (decided["reason"], decided["label"]) == ("decided", "no")
        assert gateway.get("/config").json()["triton_ca_file"] == str(authority.ca)
        for environ in ({}, {"TRITON_CA_FILE": str(stranger.ca)}):
            gateway = start_gateway(_CONSTANT, ready=False, **own, **environ)
            answer = gateway.post("/v1/chat/completions", chat("hello"))
            assert answer.status_code == 200 and answer.headers["x-router-reason"] == "triton_unavailable"
    finally:
        triton.stop()


def test_files_that_are_no_certificates(tmp_path: Path, authority: Authority, stranger: Authority) -> None:
    """A key of another certificate, an encrypted key, a file that is neither, or none at all: one line that says so."""
    key = load_pem_private_key(authority.key.read_bytes(), None)
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase")))
    (tmp_path / "text").write_text("no certificate")
    for cert, key_file in (
        (authority.cert, stranger.key),
        (authority.cert, encrypted),
        (tmp_path / "text", authority.key),
        (authority.key, authority.key),
        (authority.cert, tmp_path),
    ):
        with pytest.raises(ValueError) as raised:
            server_context(cert, key_file)
        assert str(key_file) in str(raised.value) and "\n" not in str(raised.value)
    for ca in (tmp_path / "text", tmp_path / "none"):
        with pytest.raises(ValueError, match=str(ca)):
            upstream_context(ca)
