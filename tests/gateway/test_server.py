import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import pytest

from gateway import chat as chat_module
from gateway import cli, protocol, server
from gateway.app import create_app
from gateway.config import load_config
from gateway.health import Drain
from scripts.local.dynamo import DemoDynamo
from scripts.local.process import free_port
from tests.conftest import DEFAULT_CONFIG, StartGateway
from tests.gateway.client import Gateway, chat, eventually
from tests.gateway.tee import Tee, running_tee

_PATIENCE = 60.0  # an event that never comes is the failure; how soon it comes is not judged
_GET = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"


@contextmanager
def _serving(dynamo_url: str) -> Iterator[int]:
    """The gateway on a thread of this process, whose patience a test can change; gives its port."""
    config = load_config(DEFAULT_CONFIG, {"DYNAMO_API_BASE": dynamo_url, "TRITON_GRPC_URL": "127.0.0.1:1"})
    drain = Drain()
    serving = server.Server(create_app(config, DEFAULT_CONFIG, drain=drain), drain, drain_seconds=1)
    sockets = server.listen("127.0.0.1", 0)
    port = int(sockets[0].getsockname()[1])
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(serving.serve_on, sockets)
        try:
            yield port
        finally:
            serving.should_exit = True
            assert done.result(_PATIENCE)


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)


def _rest(connection: socket.socket) -> bytes:
    """All that comes until the gateway closes."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def test_connections_that_send_no_whole_request_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a byte, with half a head, dripping, after an answer, or with a body that nobody reads: closed in time."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    with _serving("http://127.0.0.1:1") as port:
        for sent in (b"", b"GET /health HTTP/1.1\r\nhost:"):
            with _connect(port) as connection:
                connection.sendall(sent)
                assert _rest(connection) == b""
        with _connect(port) as connection:
            connection.sendall(_GET + b"GET /hea")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
            connection.sendall(b"lth")
            assert _rest(connection) == b""
        with _connect(port) as connection:
            connection.sendall(b"POST /nothing HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 404 ")
            connection.sendall(b"x")
            assert _rest(connection) == b""
        with _connect(port) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\n")
            with pytest.raises(OSError):
                for index in range(1000):  # more often than the bound
                    connection.sendall(b"x-%d: 1\r\n" % index)
                    time.sleep(0.1)


def test_idle_connections_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that waits between two requests is kept past the bound on heads."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    with _serving("http://127.0.0.1:1") as port, _connect(port) as connection:
        for _ in range(2):
            connection.sendall(_GET)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
            time.sleep(1.5)


@pytest.mark.parametrize(
    ("constant", "drips"), [("BODY_SILENCE_SECONDS", False), ("BODY_SECONDS", True)], ids=["silent", "dripping"]
)
def test_slow_bodies_are_answered(monkeypatch: pytest.MonkeyPatch, constant: str, drips: bool) -> None:
    """A body that stops coming, or comes by the byte for too long, gets a 408 in OpenAI's shape and a closed door."""
    monkeypatch.setattr(chat_module, constant, 0.5)
    gone = threading.Event()

    def drip(connection: socket.socket) -> None:
        try:
            while not gone.wait(0.1):
                connection.sendall(b" ")
        except OSError:
            pass

    with _serving("http://127.0.0.1:1") as port, _connect(port) as connection, ThreadPoolExecutor(1) as pool:
        connection.sendall(b"POST /v1/route HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{")
        if drips:
            pool.submit(drip, connection)
        answer = _rest(connection)
        gone.set()
        assert answer.startswith(b"HTTP/1.1 408 ") and b'"code":"body_too_slow"' in answer
        with _connect(port) as another:
            another.sendall(_GET)
            assert another.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_never_reads_frees_the_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of which the client takes nothing is given up, and its upstream connection closed."""
    monkeypatch.setattr(server, "UNREAD_SECONDS", 1.0)
    freed = threading.Event()

    def flood(listener: socket.socket) -> None:  # no mocker is fast enough to fill the buffers
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % 10**9)
            connection.settimeout(_PATIENCE)
            try:
                while True:
                    connection.sendall(b"x" * 65536)
            except ConnectionError:
                freed.set()

    body = b'{"model": "any", "messages": []}'
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        flooding = pool.submit(flood, listener)
        with _serving(f"http://127.0.0.1:{listener.getsockname()[1]}") as port, _connect(port) as connection:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
            connection.sendall(head % len(body) + body)
            assert freed.wait(_PATIENCE)
        flooding.result(_PATIENCE)


def test_the_management_port(start_gateway: StartGateway) -> None:
    """With a port of its own, what is for operators is there alone, whatever a request says; health is on both."""
    port = free_port()
    gateway = start_gateway(DEFAULT_CONFIG.read_text(), ready=False, arguments=["--management-port", str(port)])
    management = f"http://127.0.0.1:{port}"
    pretending = {"host": f"127.0.0.1:{port}", "x-forwarded-port": str(port), "x-forwarded-host": f"x:{port}"}
    for path in ("/config", "/metrics", "/config%0A"):
        answer = gateway.get(path, pretending)
        assert answer.status_code == 404 and answer.json()["error"]["type"] == "invalid_request_error"
    assert [httpx2.get(management + path).status_code for path in ("/config", "/metrics")] == [200, 200]
    assert gateway.get("/v1/models").status_code == 200
    assert httpx2.get(f"{management}/v1/models").status_code == 404
    assert httpx2.post(f"{management}/v1/route", json=chat("hi")).status_code == 404
    assert gateway.post("/v1/route", chat("hi")).status_code == 200
    assert [gateway.get("/health").status_code, httpx2.get(f"{management}/health").status_code] == [200, 200]


@pytest.mark.parametrize(
    ("arguments", "environ", "fault"),
    [
        (["--tls-cert", "/no/cert", "--tls-key", "/no/key"], {}, "/no/cert: cannot be read"),
        (["--tls-cert", "/no/cert"], {}, "expected both"),
        (["--management-port", "1"], {}, "expected another port"),
        ([], {"UPSTREAM_CA_FILE": "/no/ca"}, "environment variable UPSTREAM_CA_FILE: /no/ca: cannot be read"),
        ([], {"TRITON_CA_FILE": str(DEFAULT_CONFIG)}, "environment variable TRITON_CA_FILE"),
        ([], {"GATEWAY_API_KEYS": "too-short"}, "GATEWAY_API_KEYS: entry 1: expected a key"),
    ],
)
def test_what_is_wrong_is_said_before_anything_listens(
    arguments: list[str],
    environ: dict[str, str],
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Files, keys and ports that cannot be used are one clear line and exit code 2."""
    for name, value in ({"DYNAMO_API_BASE": "http://x"} | environ).items():
        monkeypatch.setenv(name, value)
    assert cli.main(["serve", "--config", str(DEFAULT_CONFIG), "--port", "1", *arguments]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning"))
    assert fault in line


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A port that somebody else has is one clear line and exit code 1."""
    monkeypatch.setenv("DYNAMO_API_BASE", "http://x")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert cli.main(["serve", "--config", str(DEFAULT_CONFIG), "--port", port]) == 1
    assert f"cannot listen on 127.0.0.1 port {port}: " in capsys.readouterr().err


@pytest.fixture
def tee(dynamo: DemoDynamo) -> Iterator[Tee]:
    with running_tee("127.0.0.1", dynamo.port) as tee:
        yield tee


@contextmanager
def _streaming(gateway: Gateway, tokens: int) -> Iterator[httpx2.Response]:
    body = chat("hi", model="llama-3.1-8b-instruct", stream=True) | {"max_tokens": tokens}
    with httpx2.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, timeout=_PATIENCE) as answer:
        yield answer


def test_sigterm_lets_streams_finish(start_gateway: StartGateway, tee: Tee) -> None:
    """After SIGTERM readiness turns first while requests are still served, then a running stream ends with [DONE]."""
    arguments = ["--drain-delay", "100000", "--drain-seconds", "60"]
    gateway = start_gateway(DEFAULT_CONFIG.read_text(), arguments=arguments, DYNAMO_API_BASE=tee.url)
    with _streaming(gateway, 600) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        os.kill(gateway.process.pid, signal.SIGTERM)
        assert eventually(lambda: gateway.get("/health/ready").status_code == 503)
        assert gateway.get("/health/ready").json()["error"]["code"] == "draining"
        assert gateway.get("/health/live").status_code == 200
        assert gateway.post("/v1/route", chat("hi")).status_code == 200
        os.kill(gateway.process.pid, signal.SIGTERM)  # instead of waiting for the delay
        assert eventually(lambda: not gateway.is_live())  # it listens no more
        assert b"[DONE]" not in tee.connections[0].sent  # and the stream has not ended yet
        assert "data: [DONE]" in list(lines)
    assert eventually(lambda: gateway.process.exit_code is not None)


def test_what_outlives_the_drain_is_cut(start_gateway: StartGateway, tee: Tee) -> None:
    """Past the bound a stream ends without [DONE], a whole answer is a 503, the upstreams are freed, all is logged."""
    gateway = start_gateway(DEFAULT_CONFIG.read_text(), arguments=["--drain-seconds", "1"], DYNAMO_API_BASE=tee.url)
    whole_body = chat("hi", model="llama-3.1-8b-instruct") | {"max_tokens": 20_000}
    with ThreadPoolExecutor(1) as pool, _streaming(gateway, 20_000) as answer:
        whole = pool.submit(gateway.post, "/v1/chat/completions", whole_body)
        assert eventually(lambda: len(tee.connections) == 2 and b"\r\n\r\n" in tee.connections[1].received)
        os.kill(gateway.process.pid, signal.SIGTERM)
        text = b""
        with pytest.raises(httpx2.RemoteProtocolError):
            for chunk in answer.iter_raw():
                text += chunk
        assert whole.result(_PATIENCE).status_code == 503
        assert whole.result().json()["error"]["code"] == "shutting_down"
    assert b"data: " in text and b"[DONE]" not in text
    assert eventually(lambda: all(each.closed_by == "client" for each in tee.connections))
    assert eventually(lambda: gateway.process.exit_code is not None)
    ended = [(line["status"], line["outcome"]) for line in gateway.log_lines() if line["event"] == "request"]
    assert sorted(ended) == [(200, "broken"), (503, "complete")]
    assert not any("exception" in line for line in gateway.log_lines())


def test_the_delay_ends_and_ctrl_c_skips_it(start_gateway: StartGateway) -> None:
    """SIGTERM ends the gateway after its delay, SIGINT at once."""
    for number, delay in ((signal.SIGTERM, "1"), (signal.SIGINT, "100000")):
        gateway = start_gateway(DEFAULT_CONFIG.read_text(), ready=False, arguments=["--drain-delay", delay])
        os.kill(gateway.process.pid, number)
        assert eventually(lambda gateway=gateway: gateway.process.exit_code is not None)  # type: ignore[misc]
