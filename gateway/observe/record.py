"""One frozen record of what happened to a request, given to everyone who watches."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.chat import Routed
from gateway.errors import ShuttingDown, error_response
from gateway.observe.cost import Spent, spent
from gateway.observe.usage import Usage, UsageReader

_log = logging.getLogger(__name__)
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


@dataclass(frozen=True, slots=True)
class Record:
    """A finished request. It holds no content: no prompt, no completion, no key."""

    request_id: str
    method: str
    path: str
    """The route's path; empty for a request that matched none."""
    status: int | None
    """None when the client left before an answer began."""
    outcome: Literal["complete", "client_gone", "broken"]
    """`broken`: the answer began and could not be finished."""
    seconds: float
    head_seconds: float | None
    """From arrival to the head of the answer; of a stream it may come before its first byte."""
    first_byte_seconds: float | None
    bytes_out: int
    routed: Routed | None
    client: str | None
    """The name of the key that let it in; None without one."""
    usage: Usage | None
    """Of an upstream's answer, as the upstream says; None when it does not."""
    spent: Spent | None
    """What that cost, where the configuration says what the model costs."""
    trace_id: str | None = None
    """Of its trace, in hex; None when there are no traces."""


Observer = Callable[[Record], None]


class RecordRequests:
    """ASGI middleware: gives each request an id, and its record to the observers when it is over."""

    def __init__(self, app: ASGIApp, observers: Sequence[Observer]) -> None:
        self.app = app
        self.observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        watched = _Watched(scope, receive, send)
        scope.setdefault("state", {})["request_id"] = watched.request_id
        try:
            await self.app(scope, watched.receive, watched.send)
        except Exception as bug:  # here and not further out, so that its answer has an id and its record a status
            _log.error("unexpected error", exc_info=bug, extra={"fields": {"request_id": watched.request_id}})
            if not watched.started:
                await error_response(500, "internal error", "internal_error")(scope, receive, watched.send)
        except asyncio.CancelledError:  # by the server, whose time is over; this task ends here, and needs no traceback
            if not watched.started:
                await ShuttingDown("the gateway is ending").response()(scope, receive, watched.send)
        finally:
            record = watched.record()
            for observer in self.observers:
                observer(record)


class _Watched:
    """A request's two channels, with what passes through them counted."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.request_id = _request_id(scope)
        self._scope = scope
        self._receive = receive
        self._send = send
        self._start = time.perf_counter()
        self._head: float | None = None
        self._first_byte: float | None = None
        self._status: int | None = None
        self._bytes_out = 0
        self._complete = False
        self._gone = False
        self._usage: UsageReader | None = None

    @property
    def started(self) -> bool:
        """Whether an answer has begun."""
        return self._status is not None

    async def receive(self) -> Message:
        message = await self._receive()
        # After the last byte, servers report a disconnect too.
        self._gone = self._gone or (message["type"] == "http.disconnect" and not self._complete)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [header for header in message["headers"] if header[0] != b"x-request-id"]
            message["headers"] = [*kept, (b"x-request-id", self.request_id.encode())]
            self._status = message["status"]
            self._head = time.perf_counter()
            self._usage = self._usage_reader(kept)
        elif message["type"] == "http.response.body":
            if self._first_byte is None:
                self._first_byte = time.perf_counter()
            body = message.get("body", b"")
            self._bytes_out += len(body)
            self._complete = not message.get("more_body", False)
            if self._usage is not None:
                self._usage.feed(body)
        await self._send(message)

    def record(self) -> Record:
        scope = self._scope
        route = scope.get("route")
        routed: Routed | None = scope["state"].get("routed")
        usage = self._usage.usage() if self._usage is not None else None
        return Record(
            request_id=self.request_id,
            method=scope["method"],
            path=route.path if route is not None else "",
            status=None if self._gone and not self._bytes_out else self._status,
            outcome="client_gone" if self._gone else "complete" if self._complete else "broken",
            seconds=time.perf_counter() - self._start,
            head_seconds=None if self._head is None else self._head - self._start,
            first_byte_seconds=None if self._first_byte is None else self._first_byte - self._start,
            bytes_out=self._bytes_out,
            routed=routed,
            client=scope["state"].get("client"),
            usage=usage,
            spent=spent(routed, usage) if routed is not None and usage is not None else None,
            trace_id=scope["state"].get("trace_id"),
        )

    def _usage_reader(self, headers: Sequence[tuple[bytes, bytes]]) -> UsageReader | None:
        """For what an upstream answers well, in plain bytes."""
        routed: Routed | None = self._scope["state"].get("routed")
        if self._status != 200 or routed is None or routed.upstream_seconds is None:
            return None
        named = dict(headers)
        if named.get(b"content-encoding", b"identity") != b"identity":
            return None
        return UsageReader(named.get(b"content-type", b"").lower().startswith(b"text/event-stream"))


def _request_id(scope: Scope) -> str:
    """The client's own id when it can stand in a header and a log line, else a new one."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
