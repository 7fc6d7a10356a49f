"""How much is taken in hand at once: requests, and the bytes of their bodies."""

import math
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import TooManyRequests

MAX_BODY_BYTES_IN_HAND = 512 * 1024 * 1024
"""Of all requests together. Most bodies are a few kilobytes: this is for clients that all send images at once."""


@dataclass(slots=True)
class Load:
    """What is in hand now. Several workers share the bounds: each takes its part."""

    requests: int = 0
    body_bytes: int = 0
    workers: int = 1

    def max_requests(self, of_all: int) -> int:
        """This worker's part of the requests that all workers together may have in hand."""
        return math.ceil(of_all / self.workers)

    @property
    def max_body_bytes(self) -> int:
        return MAX_BODY_BYTES_IN_HAND // self.workers


class LimitLoad:
    """ASGI middleware: 429 for a request past the configuration's `max_requests`, or when its body is one too many.

    What upstreams are not asked for (health, metrics) is not counted: an operator sees into a gateway that is full.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"] != "POST" and scope["path"] != "/v1/models"):
            await self.app(scope, receive, send)
            return
        load: Load = scope["state"]["router"].load
        if load.requests >= load.max_requests(scope["state"]["router"].config.settings.max_requests):
            refusal = TooManyRequests("the gateway has as many requests in hand as it takes")
            await refusal.response()(scope, receive, send)
            return
        load.requests += 1
        body = _CountedBody(load, receive)
        try:
            await self.app(scope, body.receive, send)
        finally:
            load.requests -= 1
            load.body_bytes -= body.bytes


class _CountedBody:
    """A request's body as it is received; what it takes counts until the request is over."""

    def __init__(self, load: Load, receive: Receive) -> None:
        self.bytes = 0
        self._load = load
        self._receive = receive

    async def receive(self) -> Message:
        """Raises TooManyRequests when all bodies in hand are more than fits."""
        message = await self._receive()
        if size := len(message.get("body", b"")):
            self.bytes += size
            self._load.body_bytes += size
            if self._load.body_bytes > self._load.max_body_bytes:
                raise TooManyRequests("the gateway has as many bytes of requests in hand as it takes")
        return message
