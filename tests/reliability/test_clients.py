"""Clients that leave, that wait, that read slowly: many of them."""

import asyncio
import json
import random
import resource
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.local.dynamo import DemoDynamo
from scripts.local.process import free_ports
from tests.conftest import DEFAULT_CONFIG, MODELS, StartGateway
from tests.gateway.client import Gateway, chat
from tests.gateway.tee import bodies
from tests.reliability import report
from tests.reliability.conftest import Figures
from tests.reliability.load import PATIENCE, Load, judge_stream, percentile, unique
from tests.reliability.observe import finished_by, memory_kb, metric, open_files
from tests.reliability.slow_upstream import slow_upstream

_LEAVING, _AT_ONCE = 500, 50
_POINTS = ("within the headers", "within the body", "before the first byte", "within a stream", "before a whole answer")
_PROMPT = "Write a very long story"
_IDLE = 1000
_SLOW = 200
_SLOW_TOKENS = 32
_AT_A_TIME = 64  # bytes
_SECONDS = 5.0  # to the next bytes of a stream that runs
_FOREVER = 20_000  # tokens: minutes of the mocker's time


def _config(llm: str) -> str:
    """Code goes to Dynamo, all else to `llm`."""
    return (
        "policies:\n  - name: task_router\n    timeout_ms: 30000\n"
        "    url: http://x:8000/v2/models/task_router_ensemble/infer\n    llms:\n"
        f"      - {llm}\n"
        f"      - {{name: Code Generation, api_base: '${{DYNAMO_API_BASE}}', model: {MODELS[0]}}}\n"
    )


def _request(**fields: object) -> bytes:
    body = json.dumps(chat(_PROMPT, **fields)).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    return head + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


async def _connect(gateway: Gateway, read_buffer: int | None = None) -> socket.socket:
    host, port = gateway.url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setblocking(False)
    if read_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, read_buffer)
    await asyncio.get_running_loop().sock_connect(connection, (host, int(port)))
    return connection


async def _leave(gateway: Gateway, point: str, dice: random.Random) -> str:
    """Begin a request, and go at `point`, politely or by a reset. Returns where that really was.

    Of many requests that are cancelled early a mocker sometimes stops working: then there is no stream to leave.
    """
    loop = asyncio.get_running_loop()
    raw = _request(stream=point != "before a whole answer", max_tokens=_FOREVER)
    head = raw.index(b"\r\n\r\n") + 4
    cut = {"within the headers": dice.randrange(1, head), "within the body": dice.randrange(head, len(raw))}
    with await _connect(gateway) as connection:
        await loop.sock_sendall(connection, raw[: cut.get(point, len(raw))])
        if point == "within a stream":
            try:
                for _ in range(dice.randrange(1, 10)):
                    assert await asyncio.wait_for(loop.sock_recv(connection, 1000), _SECONDS)
            except TimeoutError:
                point = "before the first byte"
        else:
            await asyncio.sleep(dice.uniform(0, 0.3))
        if dice.random() < 0.5:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return point


async def _leave_many(gateway: Gateway) -> Counter[str]:
    dice = random.Random(7)
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(point: str) -> str:
        async with gate:
            return await _leave(gateway, point, dice)

    return Counter(await asyncio.gather(*(one(dice.choice(_POINTS)) for _ in range(_LEAVING))))


def _running(dynamo: DemoDynamo) -> float:
    return metric(dynamo.url, "dynamo_frontend_active_requests") + metric(
        dynamo.url, "dynamo_frontend_inflight_requests"
    )


@pytest.fixture
def own_dynamo(tmp_path: Path) -> Iterator[DemoDynamo]:
    """One for clients that leave, with one model."""
    dynamo = DemoDynamo(free_ports(1), ("left",), tmp_path / "dynamo")
    dynamo.start()
    try:
        dynamo.wait()
        yield dynamo
    finally:
        dynamo.stop()


@pytest.mark.rare
def test_clients_that_leave(start_gateway: StartGateway, own_dynamo: DemoDynamo, figures: Figures) -> None:
    """500 clients disconnect at random points, half of them by a reset, beside others that stay: those are answered,
    no request is left running at Dynamo or in the gateway, and no connection stays open."""
    gateway = start_gateway(_config(f"{{name: Unknown, api_base: '{own_dynamo.url}', model: left}}"))
    before, began = open_files(gateway.process.pid), metric(own_dynamo.url, "dynamo_frontend_requests_total")
    with Load(gateway.url, clients=2) as load:
        left = asyncio.run(asyncio.wait_for(_leave_many(gateway), 2 * PATIENCE))
        load.reach("decided", count=5)
    load.wait(lambda: _running(own_dynamo) == 0)
    load.wait(lambda: metric(gateway.url, "llm_router_requests_in_hand") == 0)
    load.wait(lambda: open_files(gateway.process.pid) <= before + 5)  # kept connections end within seconds
    gone = metric(gateway.url, "llm_router_requests_total", path="/v1/chat/completions", outcome="client_gone")
    assert {(status, end) for status, _, end in load.counts()} == {(200, "answered")}
    assert finished_by(gateway) == load.sent + gone
    assert gone == _LEAVING - left["within the headers"]  # those were none yet
    figures |= {
        "requests": report.requests(load.counts()),
        "left": ", ".join(f"{left[point]} {point}" for point in _POINTS),
        "requests that reached Dynamo": int(metric(own_dynamo.url, "dynamo_frontend_requests_total") - began),
        "left running at Dynamo": int(_running(own_dynamo)),
        "left in the gateway": int(metric(gateway.url, "llm_router_requests_in_hand")),
        "the gateway's open files before and after": f"{before}, {open_files(gateway.process.pid)}",
    }


@contextmanager
def _file_limit(soft: int) -> Iterator[None]:
    old, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (old, hard))


def test_idle_streams(start_gateway: StartGateway, figures: Figures) -> None:
    """1,000 streams wait after their first event, more than the soft limit of open files lets: the next request is
    answered, and all streams end as they should."""
    with slow_upstream("slow") as upstream, _file_limit(8192):
        with _file_limit(512):
            gateway = start_gateway(_config(f"{{name: Unknown, api_base: '{upstream.url}', model: slow}}"))
        with Load(gateway.url, clients=4, each=10) as load:  # what it needs once
            load.finish()
        before = memory_kb(gateway.process.pid)

        def waiting(number: int) -> dict[str, object]:
            return unique(number) | {"model": "slow", "stream": True}

        with Load(gateway.url, waiting, clients=_IDLE, each=1) as streams:
            streams.wait(lambda: streams.flowing == _IDLE)
            after, files = memory_kb(gateway.process.pid), open_files(gateway.process.pid)
            began = time.monotonic()
            assert gateway.post("/v1/chat/completions", unique(0)).status_code == 200
            answered = time.monotonic()
            upstream.release.set()
            streams.finish()
    assert streams.counts() == {(200, "passthrough", "answered"): _IDLE}
    assert files > 2 * _IDLE
    figures |= {
        "requests": report.requests(streams.counts()),
        "memory of the gateway without and with them": f"{before / 1024:.0f} MiB, {after / 1024:.0f} MiB",
        "for each stream": f"{(after - before) / _IDLE:.0f} KiB",
        "the 1,001st request's answer took": f"{(answered - began) * 1000:.0f} ms",
    }


async def _read_slowly(gateway: Gateway) -> bytes:
    loop = asyncio.get_running_loop()
    answer = bytearray()
    with await _connect(gateway, read_buffer=2048) as connection:
        await loop.sock_sendall(connection, _request(stream=True, max_tokens=_SLOW_TOKENS))
        while data := await loop.sock_recv(connection, _AT_A_TIME):
            answer += data
            await asyncio.sleep(0.02)
    return bytes(answer)


async def _read_slowly_by_many(gateway: Gateway) -> list[bytes]:
    return await asyncio.gather(*(_read_slowly(gateway) for _ in range(_SLOW)))


@pytest.mark.rare
def test_slow_clients(start_gateway: StartGateway, figures: Figures) -> None:
    """200 clients read their streams 64 bytes at a time, 50 times a second, beside others: all get their whole
    answers, and the others theirs meanwhile."""
    gateway = start_gateway(DEFAULT_CONFIG.read_text())
    assert gateway.post("/v1/route", chat(_PROMPT)).json()["reason"] == "decided"  # and remembered, for all 200
    with Load(gateway.url) as load:
        load.reach("decided", count=40)
        began = time.monotonic()
        answers = asyncio.run(asyncio.wait_for(_read_slowly_by_many(gateway), 2 * PATIENCE))
        ended = time.monotonic()
    for answer in answers:
        (body,) = bodies(answer)
        model = answer.split(b"x-routellm-routed-model: ")[1].split(b"\r\n")[0].decode()
        assert judge_stream(body, model) == "answered" and body.count(b'"content"') == _SLOW_TOKENS
    assert {(status, end) for status, _, end in load.counts()} == {(200, "answered")}
    load.wait(lambda: finished_by(gateway) == load.sent + _SLOW)
    alone = [each.seconds for each in load.outcomes if each.ended < began]
    beside = [each.seconds for each in load.outcomes if each.began >= began and each.ended < ended]
    assert beside
    figures |= {
        "requests": report.requests(load.counts()),
        "slow clients with their whole answer": len(answers),
        "that took them": f"{ended - began:.0f} s",
        "median of the others' answers alone, and beside them": (
            f"{percentile(alone, 0.5) * 1000:.0f} ms, {percentile(beside, 0.5) * 1000:.0f} ms"
        ),
    }
