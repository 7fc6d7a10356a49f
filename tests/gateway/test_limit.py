import asyncio
import json
import socket
from typing import Any

import pytest

from gateway import limit
from gateway.errors import TooManyRequests
from gateway.limit import Load, _CountedBody
from scripts.local.dynamo import DemoDynamo
from tests.conftest import DEFAULT_CONFIG, StartGateway
from tests.gateway.client import chat, eventually


def test_requests_past_the_bound(start_gateway: StartGateway, dynamo: DemoDynamo) -> None:
    """With as many streams as may be, the next request gets 429 and Retry-After until one ends."""
    gateway = start_gateway("gateway: {max_requests: 2}\n" + DEFAULT_CONFIG.read_text())
    host, port = gateway.url.removeprefix("http://").split(":")
    body = json.dumps(chat("Tell a long story", model="llama-3.1-8b-instruct", stream=True, max_tokens=20_000)).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += b"content-length: %d\r\n\r\n" % len(body)
    streams = []
    try:
        for _ in range(2):
            stream = socket.create_connection((host, int(port)))
            streams.append(stream)
            stream.sendall(head + body)
            assert stream.recv(64).startswith(b"HTTP/1.1 200")
        refused = gateway.post("/v1/chat/completions", chat("hello"))
        assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "gateway_overloaded")
        assert gateway.get("/health/live").status_code == 200
        metrics = gateway.get("/metrics").text
        assert "llm_router_requests_in_hand 2.0" in metrics and "llm_router_max_requests 2.0" in metrics
    finally:
        for stream in streams:
            stream.close()
    assert eventually(lambda: "llm_router_requests_in_hand 0.0" in gateway.get("/metrics").text)
    assert gateway.post("/v1/chat/completions", chat("hello")).status_code == 200
    assert "llm_router_body_bytes_in_hand 0.0" in gateway.get("/metrics").text


def test_bytes_past_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies count together, and the one that makes them too many is refused."""
    monkeypatch.setattr(limit, "MAX_BODY_BYTES_IN_HAND", 10)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"123456", "more_body": True}

    load = Load()
    first, second = _CountedBody(load, receive), _CountedBody(load, receive)
    asyncio.run(first.receive())
    with pytest.raises(TooManyRequests):
        asyncio.run(second.receive())
    assert load.body_bytes == first.bytes + second.bytes == 12
