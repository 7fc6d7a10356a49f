import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from gateway.body import ROUTER_FIELD
from gateway.openapi import DOCUMENT
from tests.conftest import DEFAULT_CONFIG, running_gateway
from tests.gateway.client import Gateway, chat

_SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
_CHECKS: list[CheckFunction] = [status_code_conformance, content_type_conformance]
_PATHS = [path for path, methods in DOCUMENT["paths"].items() if "post" in methods]
_UNKNOWN = "no-such-model"
"""Dynamo refuses it at once: what is fuzzed with it costs no tokens."""

# The normal run takes the same examples each time; the slow one new ones. A busy machine is no failure.
_normal = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
_few = settings(_normal, max_examples=5)
_many = settings(_normal, max_examples=1000, derandomize=False, print_blob=True)


@pytest.fixture(scope="module")
def http() -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=60) as client:
        yield client


def _is_ours(path: str, headers: Any) -> bool:
    """Whether the gateway itself made this answer: the upstream's come with why their model was chosen."""
    return path == "/v1/route" or "x-router-reason" not in headers


def _keep_short(case: schemathesis.Case[Any]) -> None:
    """Have the mockers answer with one token: without a bound they would go on for minutes."""
    if isinstance(case.body, dict):
        case.body["max_output_tokens" if case.path == "/v1/responses" else "max_tokens"] = 1


def _call(case: schemathesis.Case[Any], gateway: Gateway) -> None:
    _keep_short(case)
    response = case.call(base_url=gateway.url, timeout=60)
    if _is_ours(case.path, response.headers):
        assert response.status_code < 500
        case.validate_response(response, checks=_CHECKS)


@_SCHEMA.parametrize()
@_few
def test_the_document_holds(case: schemathesis.Case[Any], gateway: Gateway) -> None:
    """Whatever the document allows or forbids, no answer is a fault of the gateway's, or one it does not describe."""
    _call(case, gateway)


@pytest.mark.slow
@_SCHEMA.parametrize()
@settings(_many, max_examples=100)
def test_the_document_holds_for_long(case: schemathesis.Case[Any], gateway: Gateway) -> None:
    """The same, with many more requests."""
    _call(case, gateway)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_KEYS = st.sampled_from(["messages", "prompt", "input", "nim-llm-router", "stream", "role", "content", "type", "text"])
_BODIES = _JSON | st.dictionaries(_KEYS, _JSON | st.lists(st.dictionaries(_KEYS, _JSON), max_size=3), max_size=5)


def _post_any(gateway: Gateway, http: httpx2.Client, path: str, body: Any) -> None:
    if isinstance(body, dict) and path != "/v1/route":
        body = {key: value for key, value in body.items() if key != ROUTER_FIELD} | {"model": _UNKNOWN}
    response = http.post(gateway.url + path, content=json.dumps(body).encode())
    if _is_ours(path, response.headers):
        assert response.status_code < 500, response.text
        response.json()


@_normal
@given(path=st.sampled_from(_PATHS), body=_BODIES)
def test_any_json(gateway: Gateway, http: httpx2.Client, path: str, body: Any) -> None:
    """Any JSON at any path gets an answer in JSON that is no fault of the gateway's."""
    _post_any(gateway, http, path, body)


@pytest.mark.slow
@_many
@given(path=st.sampled_from(_PATHS), body=_BODIES)
def test_any_json_for_long(gateway: Gateway, http: httpx2.Client, path: str, body: Any) -> None:
    """The same, with many more bodies."""
    _post_any(gateway, http, path, body)


_WHOLE = json.dumps(chat("hé\ud800llo", model=_UNKNOWN, **{"nim-llm-router": {"policy": "task_router"}})).encode()
_MUTATIONS = st.lists(st.tuples(st.integers(0, len(_WHOLE)), st.integers(0, 4), st.binary(max_size=4)), max_size=6)


def _mutated(mutations: list[tuple[int, int, bytes]]) -> bytes:
    raw = _WHOLE
    for position, removed, inserted in mutations:
        raw = raw[:position] + inserted + raw[position + removed :]
    return raw


def _post_mutated(gateway: Gateway, http: httpx2.Client, mutations: list[tuple[int, int, bytes]]) -> None:
    response = http.post(f"{gateway.url}/v1/route", content=_mutated(mutations))
    assert response.status_code in (200, 400, 404), response.text
    response.json()


@_normal
@given(_MUTATIONS)
def test_mutated_bytes(gateway: Gateway, http: httpx2.Client, mutations: list[tuple[int, int, bytes]]) -> None:
    """A good body with bytes changed is a decision or a request that is wrong."""
    _post_mutated(gateway, http, mutations)


@pytest.mark.slow
@_many
@given(_MUTATIONS)
def test_mutated_bytes_for_long(gateway: Gateway, http: httpx2.Client, mutations: list[tuple[int, int, bytes]]) -> None:
    """The same, with many more bodies."""
    _post_mutated(gateway, http, mutations)


_TOKEN = st.text("abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~", min_size=1, max_size=20).map(str.encode)
_NAMES = _TOKEN | st.sampled_from(
    [b"x-request-id", b"authorization", b"content-type", b"content-encoding", b"accept-encoding", b"connection"]
    + [b"te", b"expect", b"upgrade", b"range", b"if-match", b"traceparent", b"origin", b"cookie", b"forwarded"]
)
_VALUES = st.binary(max_size=60).map(lambda value: re.sub(rb"[\r\n]", b"", value)) | st.text().map(
    lambda value: re.sub(r"[\r\n]", "", value).encode()
)


@_normal
@given(st.lists(st.tuples(_NAMES, _VALUES), max_size=6))
@example([(b"expect", b"100-continue")])
@example([(b"x", b"\x01")])
@example([(b"content-encoding", b"gzip")])
def test_any_headers(gateway: Gateway, headers: list[tuple[bytes, bytes]]) -> None:
    """Any headers on a forwarded request get one answer that is no fault of the gateway's."""
    body = json.dumps({"model": _UNKNOWN, "prompt": "x"}).encode()
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    host, port = gateway.url.removeprefix("http://").split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n" % len(body)
            + lines
            + b"connection: close\r\n\r\n"
            + body
        )
        while data := connection.recv(65536):
            answer += data
    if answer.startswith(b"HTTP/1.1 100"):
        _, _, answer = answer.partition(b"\r\n\r\n")
    head = answer.partition(b"\r\n\r\n")[0].decode("latin-1").lower()
    assert not _is_ours("/v1/completions", head) or int(head.split()[1]) < 500, answer


class _Streamer:
    """An upstream whose every answer is one event stream, in the chunks and segments that the test chose.

    A stub, since Dynamo cannot be told where to cut its stream.
    """

    def __init__(self) -> None:
        self.segments: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.recv(65536)
                for segment in self.segments:
                    connection.sendall(segment)


_STREAM = (
    ": a comment\r\n\r\nevent: message\ndata: {\"text\": \"h\u00e9llo \u20ac \U0001f600\"}\n\nid: 7\r\ndata: two\r\n"
    "data: lines\r\n\r\nretry: 10\rdata: old line ends\r\r\ufeffdata: \n\n\n\ndata: [DONE]\n\n"
).encode()  # fmt: skip


def _cut(whole: bytes, places: set[int]) -> list[bytes]:
    edges = [0, *sorted(place for place in places if 0 < place < len(whole)), len(whole)]
    return [whole[start:end] for start, end in zip(edges, edges[1:], strict=False)]


def _wire(chunks: list[bytes]) -> bytes:
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    )
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


@pytest.fixture(scope="module")
def streamer() -> Iterator[_Streamer]:
    streamer = _Streamer()
    try:
        yield streamer
    finally:
        streamer.close()


@pytest.fixture(scope="module")
def streaming(streamer: _Streamer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway in front of it; a request that names its model needs no Triton."""
    folder = tmp_path_factory.mktemp("streaming")
    unused = "127.0.0.1:1"
    with running_gateway(
        DEFAULT_CONFIG, folder, False, DYNAMO_API_BASE=streamer.url, TRITON_GRPC_URL=unused
    ) as gateway:
        yield gateway


@settings(_normal, max_examples=100)
@given(
    chunks=st.sets(st.integers(1, len(_STREAM) - 1), max_size=40),
    segments=st.sets(st.integers(1, 3 * len(_STREAM)), max_size=60),
)
@example(chunks=set(range(len(_STREAM))), segments=set(range(20 * len(_STREAM))))
def test_streams_stay_what_they_are(
    streamer: _Streamer, streaming: Gateway, http: httpx2.Client, chunks: set[int], segments: set[int]
) -> None:
    """However the upstream cuts a stream, within a character or a line end, the client gets exactly its bytes."""
    streamer.segments = _cut(_wire(_cut(_STREAM, chunks)), segments)
    body = {"model": "any", "messages": [], "stream": True}
    with http.stream("POST", f"{streaming.url}/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        assert b"".join(response.iter_raw()) == _STREAM


def _resident_mb(gateway: Gateway) -> float:
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def test_memory_levels_off(gateway: Gateway, http: httpx2.Client) -> None:
    """A thousand different wrong requests leave nothing behind, and the next good one works."""

    def insult(start: int, count: int) -> None:
        for number in range(start, start + count):
            name = f"{number}-" + "x" * 400
            big = {name: [[name] * 50] * 50}  # a megabyte
            bodies = [
                {"model": name, "input": "x"},
                {"nim-llm-router": {"policy": name}},
                big if number % 5 == 0 else {},
            ]
            for body in bodies:
                headers = {"x-request-id": f"id-{number}", f"x-{number}": name}
                response = http.post(f"{gateway.url}/v1/embeddings?{name}", json=body, headers=headers)
                assert response.status_code in (400, 404)
            assert http.get(f"{gateway.url}/{name}").status_code == 404

    insult(0, 50)
    before = _resident_mb(gateway)
    insult(50, 300)  # 60 MB of bodies
    assert _resident_mb(gateway) - before < 40
    assert gateway.post("/v1/route", chat("hello")).json()["reason"] == "decided"
