import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from scripts.local.dynamo import DemoDynamo
from scripts.local.triton import Triton
from tests.conftest import DEFAULT_CONFIG, StartGateway
from tests.gateway.client import Gateway, chat
from tests.gateway.scripted import accept_post
from tests.gateway.tee import Tee, running_tee

_PATIENCE = 60.0  # an event that never comes is the failure; how soon it comes is not judged
_TOKENS = 20_000  # minutes of the mocker's time


@pytest.fixture
def tee(dynamo: DemoDynamo) -> Iterator[Tee]:
    with running_tee("127.0.0.1", dynamo.port) as tee:
        yield tee


def _eventually(happened: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _send(gateway: Gateway, stream: bool) -> socket.socket:
    """A connection on which a long answer has been asked for."""
    body = json.dumps(chat("Write a very long story", model="", stream=stream) | {"max_tokens": _TOKENS}).encode()
    host, port = gateway.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-request-id: gone\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    )
    return connection


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_leaves_cancels_the_upstream(start_gateway: StartGateway, tee: Tee, stream: bool) -> None:
    """When the client goes, before the answer or within it, the gateway hangs up on Dynamo long before its end."""
    gateway = start_gateway(DEFAULT_CONFIG.read_text(), DYNAMO_API_BASE=tee.url)
    with _send(gateway, stream) as connection:
        assert _eventually(lambda: any(b"\r\n\r\n" in each.received for each in tee.connections))
        if stream:
            assert connection.recv(16).startswith(b"HTTP/1.1 200")
            assert _eventually(lambda: tee.connections[-1].sent.count(b"data: ") > 3)
    (upstream,) = tee.connections
    assert _eventually(lambda: upstream.closed_by is not None)
    assert upstream.closed_by == "client"
    assert b"[DONE]" not in upstream.sent and b'"usage":{' not in upstream.sent
    assert _eventually(lambda: bool(gateway.request_lines("gone")))
    assert gateway.request_lines("gone")[0]["outcome"] == "client_gone"


def test_a_client_that_leaves_ends_the_decision(start_gateway: StartGateway, triton: Triton, tee: Tee) -> None:
    """A client that goes while Triton is asked ends the asking, long before the deadline; Dynamo hears nothing."""
    deadline_ms = 60_000
    text = DEFAULT_CONFIG.read_text().replace("    llms:", f"    timeout_ms: {deadline_ms}\n    llms:")
    gateway = start_gateway(text, DYNAMO_API_BASE=tee.url)
    assert triton.process is not None
    os.kill(triton.process.pid, signal.SIGSTOP)
    try:
        with _send(gateway, stream=True):
            time.sleep(0.5)  # on its way to Triton, which does not answer
        assert _eventually(lambda: bool(gateway.request_lines("gone")))
    finally:
        os.kill(triton.process.pid, signal.SIGCONT)
    (line,) = gateway.request_lines("gone")
    assert line["outcome"] == "client_gone" and line["status"] is None
    assert line["duration_ms"] < deadline_ms
    assert not tee.connections
    assert not any(each["level"] == "error" for each in gateway.log_lines())


def test_a_client_that_never_reads_makes_nobody_buffer(start_gateway: StartGateway) -> None:
    """While a client does not read, the upstream can't send more than what fits the sockets' buffers on the way."""
    sent = 0
    stalled = threading.Event()

    def flood(server: socket.socket) -> None:  # no mocker is fast enough to fill the buffers
        nonlocal sent
        with accept_post(server) as connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % 10**9)
            connection.settimeout(5)
            try:
                while sent < 10**9:
                    sent += connection.send(b"x" * 65536)
            except TimeoutError:
                stalled.set()

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        base = f"http://127.0.0.1:{server.getsockname()[1]}"
        gateway = start_gateway(DEFAULT_CONFIG.read_text(), DYNAMO_API_BASE=base)
        flooding = pool.submit(flood, server)
        with _send(gateway, stream=True):
            assert stalled.wait(_PATIENCE)
            assert gateway.post("/v1/route", chat("hello")).status_code == 200  # others are served meanwhile
        flooding.result(_PATIENCE)
    assert sent < 50_000_000
