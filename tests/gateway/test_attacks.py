import json
import re
import socket
from collections.abc import Iterator

import pytest

from gateway.chat import MAX_BODY_BYTES, Routed, decision_headers
from gateway.policy import Selection, Target
from scripts.local.dynamo import DemoDynamo
from scripts.local.triton import Triton
from tests.conftest import DEFAULT_CONFIG, running_gateway
from tests.gateway.client import Gateway, chat
from tests.gateway.tee import Tee, running_tee

_BODY = b'{"model":"no-such-model","prompt":"x"}'
_SIZE = len(_BODY)
_LENGTH = b"content-length: %d\r\n" % _SIZE
_CHUNKED = b"transfer-encoding: chunked\r\n"
_CHUNK = b"%x\r\n%b\r\n0\r\n\r\n" % (_SIZE, _BODY)
_SECOND = b"GET /config HTTP/1.1\r\nhost: x\r\n\r\n"
_LINE = b"POST /v1/completions HTTP/1.1\r\ncontent-type: application/json\r\n"
_CLOSE = b"host: x\r\nconnection: close\r\n"


@pytest.fixture(scope="module")
def tee(dynamo: DemoDynamo) -> Iterator[Tee]:
    with running_tee("127.0.0.1", dynamo.port) as tee:
        yield tee


@pytest.fixture(scope="module")
def target(tee: Tee, triton: Triton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose requests to Dynamo are counted."""
    folder = tmp_path_factory.mktemp("attacks")
    with running_gateway(DEFAULT_CONFIG, folder, DYNAMO_API_BASE=tee.url, TRITON_GRPC_URL=triton.grpc_url) as gateway:
        yield gateway


def _connect(gateway: Gateway) -> socket.socket:
    host, port = gateway.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def _talk(gateway: Gateway, raw: bytes, *, hang_up: bool = False) -> bytes:
    """Everything that the gateway answers to `raw` until it closes the connection; `hang_up` ends our side first."""
    answer = b""
    with _connect(gateway) as connection:
        try:
            connection.sendall(raw)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65536):
                answer += data
        except (ConnectionResetError, BrokenPipeError):
            pass  # it closed while we were still sending
    return answer


def _statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", answer)]


def _forwarded(tee: Tee) -> int:
    """How many requests have reached Dynamo."""
    return sum(bytes(each.received).count(b" HTTP/1.1\r\n") for each in tee.connections)


_REFUSED = {
    "both lengths": _LINE + _CLOSE + _LENGTH + _CHUNKED + b"\r\n" + _CHUNK,
    "both lengths, and a second request": _LINE + b"host: x\r\n" + _CHUNKED + _LENGTH + b"\r\n" + _CHUNK + _SECOND,
    "two lengths": _LINE + _CLOSE + _LENGTH + b"content-length: 3\r\n\r\n" + _BODY,
    "a list of lengths": _LINE + _CLOSE + b"content-length: %d, 3\r\n\r\n" % _SIZE + _BODY,
    "signed length": _LINE + _CLOSE + b"content-length: +%d\r\n\r\n" % _SIZE + _BODY,
    "negative length": _LINE + _CLOSE + b"content-length: -1\r\n\r\n" + _BODY,
    "underscored length": _LINE + _CLOSE + b"content-length: 3_8\r\n\r\n" + _BODY,
    "endless length": _LINE + _CLOSE + b"content-length: " + b"9" * 30 + b"\r\n\r\n" + _BODY,
    "space before the colon": _LINE + _CLOSE + b"content-length : %d\r\n\r\n" % _SIZE + _BODY,
    "chunked, identity": _LINE + _CLOSE + b"transfer-encoding: chunked, identity\r\n\r\n" + _CHUNK,
    "gzip, chunked": _LINE + _CLOSE + b"transfer-encoding: gzip, chunked\r\n\r\n" + _CHUNK,
    "xchunked": _LINE + _CLOSE + b"transfer-encoding: xchunked\r\n\r\n" + _CHUNK,
    "chunked twice": _LINE + _CLOSE + _CHUNKED + _CHUNKED + b"\r\n" + _CHUNK,
    "chunked behind a tab": _LINE + _CLOSE + b"transfer-encoding: \x0bchunked\r\n\r\n" + _CHUNK,
    "chunked behind a bare LF": _LINE + _CLOSE + b"x: a\n" + _CHUNKED + _LENGTH + b"\r\n" + _CHUNK,
    "bare CR": _LINE + _CLOSE + b"x: a\r" + _CHUNKED + _LENGTH + b"\r\n" + _BODY,
    "chunked in HTTP/1.0": _LINE.replace(b"1.1", b"1.0") + _CLOSE + _CHUNKED + b"\r\n" + _CHUNK,
    "LF in a chunk extension": _LINE + _CLOSE + _CHUNKED + b"\r\n" + b"26;a\nb\r\n" + _BODY + b"\r\n0\r\n\r\n",
    "chunk size of 31 digits": _LINE + _CLOSE + _CHUNKED + b"\r\n" + b"1" + b"0" * 30 + b"\r\n" + _BODY,
    "negative chunk size": _LINE + _CLOSE + _CHUNKED + b"\r\n-1\r\n" + _BODY,
    "prefixed chunk size": _LINE + _CLOSE + _CHUNKED + b"\r\n0x26\r\n" + _BODY + b"\r\n0\r\n\r\n",
    "chunk longer than its size": _LINE + _CLOSE + _CHUNKED + b"\r\n26\r\n" + _BODY + b"XX0\r\n\r\n",
    "body longer than its length": _LINE + b"host: x\r\ncontent-length: 5\r\n\r\n" + _BODY + b"\r\n\r\n",
    "NUL in a value": _LINE + _CLOSE + _LENGTH + b"x: a\0b\r\n\r\n" + _BODY,
    "NUL in a name": _LINE + _CLOSE + _LENGTH + b"x\0: a\r\n\r\n" + _BODY,
    "NUL in the path": b"POST /v1/comp\0letions HTTP/1.1\r\n" + _CLOSE + _LENGTH + b"\r\n" + _BODY,
    "control character": _LINE + _CLOSE + _LENGTH + b"x: a\x01b\r\n\r\n" + _BODY,
    "empty name": _LINE + _CLOSE + _LENGTH + b": a\r\n\r\n" + _BODY,
    "no host": _LINE + b"connection: close\r\n" + _LENGTH + b"\r\n" + _BODY,
    "two hosts": _LINE + _CLOSE + _LENGTH + b"host: y\r\n\r\n" + _BODY,
    "a header of a megabyte": _LINE + _CLOSE + _LENGTH + b"x: " + b"a" * 1_000_000 + b"\r\n\r\n" + _BODY,
    "50,000 headers": _LINE + _CLOSE + _LENGTH + b"".join(b"x%d: 1\r\n" % i for i in range(50_000)) + b"\r\n" + _BODY,
    "headers of 100,000 bytes": _LINE + _CLOSE + _LENGTH + (b"x: " + b"a" * 997 + b"\r\n") * 100 + b"\r\n" + _BODY,
    "a trailer of a megabyte": _LINE + _CLOSE + _CHUNKED + b"\r\n26\r\n" + _BODY + b"\r\n0\r\nx: " + b"a" * 1_000_000,
    "a chunk extension of a megabyte": _LINE + _CLOSE + _CHUNKED + b"\r\n26;" + b"a" * 1_000_000,
    "a path of a megabyte": b"POST /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n" + _CLOSE + _LENGTH + b"\r\n" + _BODY,
    "the same length twice": _LINE + _CLOSE + _LENGTH + _LENGTH + b"\r\n" + _BODY,
    "folded header": _LINE + _CLOSE + _LENGTH + b"x: a\r\n x-evil: 1\r\n\r\n" + _BODY,
    "folded encoding": _LINE + _CLOSE + b"transfer-encoding:\r\n chunked\r\n\r\n" + _CHUNK,
    "bare LFs": (_LINE + _CLOSE + _LENGTH + b"\r\n").replace(b"\r\n", b"\n") + _BODY,
    "HTTP/0.9": b"GET /config\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
    "CONNECT to a path": b"CONNECT /v1/completions HTTP/1.1\r\n" + _CLOSE + _LENGTH + b"\r\n" + _BODY,
    "CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\n" + _CLOSE + b"\r\n",
    "TRACE": b"TRACE /v1/completions HTTP/1.1\r\n" + _CLOSE + b"\r\n",
    "a WebSocket": b"GET /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n"
    b"sec-websocket-key: x\r\nsec-websocket-version: 13\r\n\r\n",
}
_PATHS = (
    b"//v1/completions",
    b"/v1/../v1/completions",
    b"/v1/./completions",
    b"/v1/%2e%2e/v1/completions",
    b"/v1/completions;x",
    b"/v1/completions/",
    b"/v1/completions%00",
    b"/v1/completions%0d%0ax-evil:1",
    b"/v1/completions#",
    b"/V1/completions",
    b"http://evil.example/v1/completions",
    b"/v1/completions x",
    b"/v1/completions\xff",
    b"*",
)


@pytest.mark.parametrize("raw", _REFUSED.values(), ids=_REFUSED)
def test_doubtful_requests_are_refused(target: Gateway, tee: Tee, raw: bytes) -> None:
    """A request that two servers could read differently, or that is no HTTP, is a 4xx and a closed connection.

    Dynamo hears nothing of it, and what follows it on the connection is not answered as a request.
    """
    before = _forwarded(tee)
    answer = _talk(target, raw)
    # A client that is still sending as the gateway closes may lose the answer to a reset.
    assert (answer or len(raw) > 100_000) and all(400 <= status < 500 for status in _statuses(answer)), answer
    assert b"default_policy" not in answer  # /config's
    assert _forwarded(tee) == before
    assert target.get("/health").status_code == 200


@pytest.mark.parametrize("path", _PATHS, ids=ascii)
def test_path_tricks_lead_nowhere(target: Gateway, tee: Tee, path: bytes) -> None:
    """Only the paths of the routes are routes: nothing is normalised into one."""
    before = _forwarded(tee)
    answer = _talk(target, b"POST " + path + b" HTTP/1.1\r\n" + _CLOSE + _LENGTH + b"\r\n" + _BODY)
    (status,) = _statuses(answer)
    assert 400 <= status < 500 and b"x-evil" not in answer.lower().partition(b"\r\n\r\n")[0]
    assert _forwarded(tee) == before


_READ_ONE_WAY = {
    "chunk extension": _LINE + _CLOSE + _CHUNKED + b"\r\n26;a=b\r\n" + _BODY + b"\r\n0\r\n\r\n",
    "trailers": _LINE + _CLOSE + _CHUNKED + b"\r\n26\r\n" + _BODY + b"\r\n0\r\nx-evil: 1\r\n\r\n",
    "an offer to upgrade": _LINE
    + b"host: x\r\nconnection: upgrade, http2-settings, close\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
    + _LENGTH
    + b"\r\n"
    + _BODY,
    "an offer to upgrade, and chunks": _LINE
    + _CLOSE.replace(b"close", b"upgrade, close")
    + b"upgrade: h2c\r\n"
    + _CHUNKED
    + b"\r\n"
    + _CHUNK,
    "spaces around a value": _LINE + _CLOSE + _LENGTH.replace(b"\r", b" \t\r") + b"\r\n" + _BODY,
    "the end in a trailer": _LINE
    + b"host: x\r\n"
    + _CHUNKED
    + b"\r\n26\r\n"
    + _BODY
    + b"\r\n0\r\nconnection: close\r\n\r\n",
    "HTTP/1.0": _LINE.replace(b"1.1", b"1.0") + _CLOSE + _LENGTH + b"\r\n" + _BODY,
    "encoded letter": _LINE.replace(b"/completions", b"/%63ompletions") + _CLOSE + _LENGTH + b"\r\n" + _BODY,
    "CRLF in the query": _LINE.replace(b" HTTP", b"?a=%0d%0ax-evil:%201 HTTP") + _CLOSE + _LENGTH + b"\r\n" + _BODY,
    "a length named as an option": _LINE
    + b"host: x\r\nconnection: content-length, close\r\n"
    + _LENGTH
    + b"\r\n"
    + _BODY,
}


@pytest.mark.parametrize("raw", _READ_ONE_WAY.values(), ids=_READ_ONE_WAY)
def test_odd_requests_are_one_plain_request(target: Gateway, tee: Tee, raw: bytes) -> None:
    """What HTTP allows, however odd, is one request, and reaches Dynamo as a plain one of a single length."""
    known = {id(each): len(each.received) for each in tee.connections}
    answer = _talk(target, raw)
    assert _statuses(answer) == [404] and b"Model not found" in answer  # Dynamo's answer
    received = b"".join(bytes(each.received[known.get(id(each), 0) :]) for each in tee.connections)
    head, _, body = received.partition(b"\r\n\r\n")
    assert body == _BODY
    lines = head.lower().split(b"\r\n")
    assert lines[0].split(b"?")[0].startswith(b"post /v1/completions")
    assert [line for line in lines if line.startswith((b"content-length:", b"transfer-encoding:"))] == [
        b"content-length: %d" % _SIZE
    ]
    assert not any(line.startswith(b"x-evil") for line in lines)


_BEHIND = {
    "another request": _LINE + b"host: x\r\n" + _LENGTH + b"\r\n" + _BODY,
    "no HTTP": b"\x16\x03\x01 no HTTP\r\n\r\n",
    "a broken body": _LINE + b"host: x\r\n" + _CHUNKED + b"\r\nxx\r\n" + _BODY,
    "a flood": _SECOND * 10_000,
    "offers to upgrade": b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n" * 1_000,
}


@pytest.mark.parametrize("behind", _BEHIND.values(), ids=_BEHIND)
def test_one_request_at_a_time(target: Gateway, tee: Tee, behind: bytes) -> None:
    """What comes behind a request before its answer does not break into that, nor is it taken up: the answer says that
    the connection ends, and a client that pipelines asks again."""
    before = _forwarded(tee)
    answer = _talk(target, _LINE + b"host: x\r\n" + _LENGTH + b"\r\n" + _BODY + behind)
    # A client that is still sending as the gateway closes may lose the answer to a reset.
    assert _statuses(answer) == [404] or (not answer and len(behind) > 100_000)
    assert not answer or b"connection: close" in answer
    assert _forwarded(tee) == before + 1
    assert target.get("/health").status_code == 200


def test_an_offer_to_upgrade_may_come_in_pieces(target: Gateway, tee: Tee) -> None:
    """However the bytes arrive, it is one request, and the next on its connection another."""
    before = _forwarded(tee)
    raw = _READ_ONE_WAY["an offer to upgrade"].replace(b", close", b"")
    with _connect(target) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(len(raw)):
            connection.sendall(raw[place : place + 1])
        answer = b""
        while b"Model not found" not in answer:
            answer += connection.recv(65536)
        connection.sendall(_LINE + _CLOSE + _LENGTH + b"\r\n" + _BODY)
        answer += b"".join(iter(lambda: connection.recv(65536), b""))
    assert _statuses(answer) == [404, 404]
    assert _forwarded(tee) == before + 2


def test_http_1_0_gets_no_chunks(target: Gateway) -> None:
    """A stream ends with its connection, as that version of HTTP has it."""
    chat = {"model": "", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "stream": True}
    body = json.dumps(chat).encode()
    head = b"POST /v1/chat/completions HTTP/1.0\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n"
    answer = _talk(target, head + b"content-length: %d\r\n\r\n" % len(body) + body)
    head, _, events = answer.partition(b"\r\n\r\n")
    assert _statuses(answer) == [200] and b"transfer-encoding" not in head.lower()
    assert events.startswith(b"data: {") and events.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    "head",
    [_LENGTH.replace(b"38", b"1000"), _CHUNKED + b"x: y\r\n", b"content-length: %d\r\n" % (MAX_BODY_BYTES + 1)],
    ids=["length", "chunks", "over the bound"],
)
def test_a_body_that_never_ends_goes_nowhere(target: Gateway, tee: Tee, head: bytes) -> None:
    """A body that breaks off before its end is never forwarded, however whole it looks."""
    before = _forwarded(tee)
    body = b"26\r\n" + _BODY + b"\r\n" if head.startswith(b"transfer") else _BODY
    answer = _talk(target, _LINE + b"host: x\r\n" + head + b"\r\n" + body, hang_up=True)
    assert all(400 <= status < 500 for status in _statuses(answer))
    assert _forwarded(tee) == before
    assert target.get("/health").status_code == 200


def test_chunks_without_end_are_cut_at_the_bound(target: Gateway, tee: Tee) -> None:
    """A chunked body is read to the bound on bodies and no further: a 413, or a closed connection."""
    before = _forwarded(tee)
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    answer = _talk(target, _LINE + _CLOSE + _CHUNKED + b"\r\n" + chunk * (3 * MAX_BODY_BYTES // 0x100000))
    assert _statuses(answer) in ([413], [])  # the answer may be lost to a reset, as we are still sending
    assert _forwarded(tee) == before
    assert target.get("/health").status_code == 200


@pytest.mark.parametrize("name", ["a\r\nx-evil: 1", "a\nx-evil: 1", "\x00", "\x1b[31m", "é\u2028\ud800", "a" * 600])
def test_names_cannot_break_out(target: Gateway, name: str) -> None:
    """Names out of a body, of models, policies, llms and strategies, stay one harmless value wherever they show."""
    wishes = (
        {"policy": name},
        {"routing_strategy": name},
        {"routing_strategy": "manual", "model": name},
        {"threshold": name},
    )
    bodies = [chat("hi", model=name), chat("hi", model=f"router-{name}-0.5")]
    bodies += [chat("hi", **{"nim-llm-router": wish}) for wish in wishes]
    for body in bodies:
        raw = json.dumps(body).encode()
        answer = _talk(
            target, b"POST /v1/chat/completions HTTP/1.1\r\n" + _CLOSE + b"content-length: %d\r\n\r\n" % len(raw) + raw
        )
        head = answer.partition(b"\r\n\r\n")[0]
        assert len(_statuses(head)) == 1 and _statuses(head)[0] < 500, answer
        assert not re.search(rb"^x-evil", head, re.MULTILINE | re.IGNORECASE)
        assert re.fullmatch(rb"[\x20-\x7e\r\n]*", head)


def test_labels_and_names_of_operators_cannot_either() -> None:
    """Whatever Triton's labels and the configuration's names hold, each header is one line of ASCII."""
    evil = "a\r\nx-evil: 1\x00é"
    headers = decision_headers(Routed(Selection((Target("http://x", evil),), "decided", evil)))
    assert headers["X-Chosen-Classifier"] == "a??x-evil: 1??"
    assert all(value.isascii() and value.isprintable() for value in headers.values())


@pytest.mark.parametrize("value", [b"a\tb", b"a b", b"a" * 129, b"\xc3\xa9", b""])
def test_request_ids_are_checked(target: Gateway, value: bytes) -> None:
    """A request id that could not stand in a log line is replaced by a new one."""
    answer = _talk(target, b"GET /health HTTP/1.1\r\n" + _CLOSE + b"x-request-id: " + value + b"\r\n\r\n")
    assert re.search(rb"x-request-id: [0-9a-f]{32}\r\n", answer)
