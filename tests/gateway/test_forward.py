import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import anyio
import pytest
from starlette.datastructures import Headers

from gateway.body import parse_body
from gateway.config import Settings
from gateway.errors import GatewayError, UpstreamTimeout, UpstreamUnavailable
from gateway.forward import Outgoing, forward, open_session, request_headers
from gateway.policy import Target

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
        ((b"", b""), UpstreamUnavailable),
        ((b"nonsense\r\n\r\n",), UpstreamUnavailable),
        ((b"HTTP/1.1 200 OK\r\nbroken header\r\n\r\n",), UpstreamUnavailable),
        ((b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",), UpstreamUnavailable),
    ],
    ids=["silent", "closes", "no HTTP", "bad header", "long header"],
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


def test_a_connection_that_closes_as_it_is_used_is_tried_again() -> None:
    """An upstream that closes a connection without an answer is asked once more, with the same request."""
    with _upstream(b"", _OK) as (base, received):
        assert _forward(base) == 200
    assert len(received) == 2 and received[0] == received[1]


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
