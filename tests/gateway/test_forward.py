import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import httpx2
import pytest
from starlette.datastructures import Headers

from gateway.body import parse_body
from gateway.config import Settings
from gateway.errors import GatewayError, UpstreamTimeout, UpstreamUnavailable
from gateway.forward import Outgoing, forward, open_session, request_headers
from gateway.policy import Target
from scripts.local.dynamo import DemoDynamo
from scripts.local.process import free_port
from tests.conftest import DEFAULT_CONFIG, StartGateway
from tests.gateway.client import chat

_OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@contextmanager
def _upstream(*answers: bytes | None) -> Iterator[tuple[str, list[bytes]]]:
    """A server with one answer for each connection, None being silence; what it was sent goes into the list.

    A stub, since neither Dynamo nor any other server can be made to break off on demand.
    """
    received: list[bytes] = []

    def serve(server: socket.socket) -> None:
        for answer in answers:
            connection, _ = server.accept()
            with connection:
                received.append(connection.recv(65536))
                if answer is None:
                    connection.recv(1)  # until the client goes
                else:
                    connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve, server)
        yield f"http://127.0.0.1:{server.getsockname()[1]}", received
        served.result(30)


def _forward(base: str, headers: Headers | None = None, silence: float = 30) -> int:
    async def ask() -> int:
        async with open_session() as session:
            outgoing = Outgoing("/v1/chat/completions", parse_body(b"{}"), headers or Headers(), "id")
            response = await forward(session, Target(base, "m"), outgoing, Settings(silence_seconds=silence))
            response.upstream.close()
            return response.status_code

    return anyio.run(ask)


def test_an_answer() -> None:
    """A plain answer comes through."""
    with _upstream(_OK) as (base, _):
        assert _forward(base) == 200


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ((None,), UpstreamTimeout),
        ((b"",), UpstreamUnavailable),
        ((b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n",), UpstreamUnavailable),
        ((b"HTTP/1.1 200 OK\r\nx: a\x0bb\r\ncontent-length: 0\r\n\r\n",), UpstreamUnavailable),
        ((b"nonsense\r\n\r\n",), UpstreamUnavailable),
        ((b"HTTP/1.1 200 OK\r\nbroken header\r\n\r\n",), UpstreamUnavailable),
        ((b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",), UpstreamUnavailable),
    ],
    ids=["silent", "closes", "odd status", "odd header", "no HTTP", "bad header", "long header"],
)
def test_failures_before_an_answer(answers: tuple[bytes | None, ...], error: type[GatewayError]) -> None:
    """Every way in which an upstream can fail before it answers is one of our errors."""
    with _upstream(*answers) as (base, _), pytest.raises(error):
        _forward(base, silence=0.5)


@pytest.mark.parametrize("base", ["http://127.0.0.1:1", "http://no-such-host.invalid", "http://127.0.0.1:99999"])
def test_addresses_that_lead_nowhere(base: str) -> None:
    """A refused connection, a name that is none and a port that is none are a 502, too."""
    with pytest.raises(UpstreamUnavailable):
        _forward(base)


def test_a_kept_connection_that_closes_as_it_is_used_is_tried_again() -> None:
    """A request that finds a kept connection closed is sent once more, on a new one."""
    received: list[bytes] = []

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            received.append(connection.recv(65536))
            connection.sendall(_OK)
            received.append(connection.recv(65536))  # and hangs up
        connection, _ = server.accept()
        with connection:
            received.append(connection.recv(65536))
            connection.sendall(_OK)

    async def ask_twice(base: str) -> list[int]:
        async with open_session() as session:
            outgoing = Outgoing("/v1/chat/completions", parse_body(b"{}"), Headers(), "id")
            statuses = []
            for _ in range(2):
                response = await forward(session, Target(base, "m"), outgoing, Settings())
                await response.upstream.read()
                statuses.append(response.status_code)
            return statuses

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve, server)
        assert anyio.run(ask_twice, f"http://127.0.0.1:{server.getsockname()[1]}") == [200, 200]
        served.result(30)
    assert len(received) == 3 and len(set(received)) == 1


def test_a_request_is_not_done_twice() -> None:
    """An upstream that breaks off on a connection of the request's own may have begun its work: it is asked once."""
    with _upstream(b"") as (base, received), pytest.raises(UpstreamUnavailable):
        _forward(base)
    assert len(received) == 1


@pytest.mark.parametrize("value", [b"caf\xc3\xa9", b"plain", b"\xe2\x82\xac"])
def test_header_bytes_stay(value: bytes) -> None:
    """A header value in UTF-8 reaches the upstream as the same bytes."""
    headers = Headers(raw=[(b"x-name", value), (b"connection", b"x-hop"), (b"x-hop", b"1")])
    with _upstream(_OK) as (base, received):
        _forward(base, headers)
    assert b"x-name: " + value + b"\r\n" in received[0]
    assert b"x-hop" not in received[0]


def test_keys_go_to_their_own_target_alone() -> None:
    """A target's key replaces the client's authorization; without one the client's stays."""
    headers = Headers({"authorization": "Bearer client", "host": "h", "transfer-encoding": "chunked"})
    assert request_headers(headers, Target("http://x", "m", "own"), "id") == [
        ("x-request-id", "id"),
        ("authorization", "Bearer own"),
    ]
    assert ("authorization", "Bearer client") in request_headers(headers, Target("http://x", "m"), "id")
    anthropic = Headers({"x-api-key": "client"})
    assert request_headers(anthropic, Target("http://x", "m", "own"), "id") == [
        ("x-request-id", "id"),
        ("authorization", "Bearer own"),
    ]
    assert ("x-api-key", "client") in request_headers(anthropic, Target("http://x", "m"), "id")


def test_a_key_for_the_gateway_stays_there() -> None:
    """What let a client in is not sent on, in neither header."""
    headers = Headers({"authorization": "Bearer client", "x-api-key": "client", "x-kept": "1"})
    sent = request_headers(headers, Target("http://x", "m"), "id", client="alice")
    assert sent == [("x-kept", "1"), ("x-request-id", "id")]


@pytest.fixture
def quick_dynamo(tmp_path: Path) -> Iterator[DemoDynamo]:
    """One that has a token each half millisecond: sooner than an acknowledgement that is put off."""
    dynamo = DemoDynamo(free_port(), ["quick"], tmp_path / "dynamo", speedup=20)
    try:
        dynamo.start()
        dynamo.wait()
        yield dynamo
    finally:
        dynamo.stop()


def test_small_chunks_do_not_wait_for_each_other(start_gateway: StartGateway, quick_dynamo: DemoDynamo) -> None:
    """Streams from Dynamo come through token by token on kept connections, too: some sixty reads each, not two.

    Dynamo's frontend sends with Nagle's algorithm on. For a client that puts off its acknowledgements, as Linux does by
    default for up to 40 ms on a connection that is kept, it holds everything back after the first small packet. Counted
    are reads, and no time.
    """
    tokens = 64
    gateway = start_gateway(DEFAULT_CONFIG.read_text(), DYNAMO_API_BASE=quick_dynamo.url)
    body = chat("hi", model="quick", stream=True) | {"max_tokens": tokens, "ignore_eos": True}
    counts = []
    for _ in range(16):  # not each of them would have to wait
        with httpx2.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, timeout=60) as answer:
            reads = list(answer.iter_raw())
        assert b"".join(reads).count(b"data: {") >= tokens
        counts.append(len(reads))
    assert min(counts) > tokens / 8


def test_an_answer_takes_its_time_in_all(start_gateway: StartGateway) -> None:
    """Past `answer_seconds` a stream is cut, without `[DONE]` and visibly, and what has not begun is a 504."""
    gateway = start_gateway("gateway: {answer_seconds: 1}\n" + DEFAULT_CONFIG.read_text())
    body = chat("Write a long story", model="llama-3.1-8b-instruct", max_tokens=20_000)
    pieces: list[bytes] = []
    with (
        pytest.raises(httpx2.RemoteProtocolError),
        httpx2.stream("POST", f"{gateway.url}/v1/chat/completions", json=body | {"stream": True}) as answer,
    ):
        pieces += answer.iter_raw()
    assert answer.status_code == 200 and b"data: [DONE]" not in b"".join(pieces)
    whole = gateway.post("/v1/chat/completions", body)
    assert whole.status_code == 504 and whole.json()["error"]["code"] == "upstream_timeout"


def test_a_server_that_takes_no_connection(start_gateway: StartGateway) -> None:
    """A connection that is not made within `connect_seconds` is a 502, and the gateway lives on."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as stack:
        address = full.getsockname()
        for _ in range(8):  # past its backlog, Linux leaves a client waiting
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        base = f"http://127.0.0.1:{address[1]}"
        text = DEFAULT_CONFIG.read_text()
        gateway = start_gateway("gateway: {connect_seconds: 0.5}\n" + text, DYNAMO_API_BASE=base)
        answer = gateway.post("/v1/chat/completions", chat("hello", model="m"))
        assert answer.status_code == 502 and answer.json()["error"]["code"] == "upstream_unavailable"
        assert "took too long" in answer.json()["error"]["message"]
        assert gateway.is_live()
