"""HTTP/1.1 as the gateway reads it: uvicorn's protocol on llhttp, which here takes one request at a time."""

import asyncio

import httptools
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD_SECONDS = 20.0  # a request's head is one packet or two
MAX_HEAD_BYTES = 65536
_PER_HEADER = 4  # ": " and the end of its line
_VERSIONS = ("1.0", "1.1")
_FAULT = "Invalid HTTP request received."


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with bounds on what is read and without what two servers could read differently.

    - A head has HEAD_SECONDS and MAX_HEAD_BYTES. uvicorn's own bound on idle connections begins with an answer and ends
      with the next byte; this one is for the time from the connection, or from the first byte after an answer, to the
      end of the next head. What is no head and no body (trailers, extensions of chunks) has as many bytes.
    - One request is read at a time. What follows it before its answer has ended, be it a request or none, ends the
      connection behind that answer. HTTP lets a server do so, and clients that pipeline ask again.
      uvicorn would take in as many as come, and write the answer to a faulty one into the answer before.
    - A request that offers an upgrade, as Java's client does with its first one, is read as if it did not. uvicorn
      would take its body for the next request.
    - Trailers are dropped. uvicorn would append them to the headers of the request, which is being answered.
    - An answer to HTTP/1.0 has no chunks, and no 100 before it.
    """

    _deadline: asyncio.TimerHandle | None = None
    _in_head = False
    _head_bytes = 0  # of the target and the headers that are complete
    _unread_bytes = 0  # in packets since the last one that held a body's bytes, or a request's begin or end
    _faulty = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_waiting()

    def data_received(self, data: bytes) -> None:
        if self._faulty:
            return
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._deadline is None:
            self._start_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        if self.cycle is not None and not _all_sent(self.cycle):
            raise ValueError("a request before the answer to the last one")
        super().on_message_begin()
        self._in_head, self._head_bytes, self._unread_bytes = True, 0, 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self._count(len(name) + len(value) + _PER_HEADER)
            super().on_header(name, value.strip(b" \t"))  # llhttp leaves those behind it

    def on_headers_complete(self) -> None:
        self._in_head = False
        version = self.parser.get_http_version()
        if version not in _VERSIONS:
            raise ValueError("another version of HTTP")
        # Neither a URL, nor a path with a fragment, nor what CONNECT takes: uvicorn would look for a path in each.
        if not self.url.startswith(b"/") or b"#" in self.url or self.parser.get_method() == b"CONNECT":
            raise ValueError("a target that is no path")
        if version == "1.0":
            self.expect_100_continue = False
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread_bytes = 0
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        if not self.parser.should_keep_alive():  # a trailer can say so, too
            self._end_after_answer()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        super()._start_asgi_task(cycle, app if cycle.scope["http_version"] != "1.0" else _without_chunks(cycle, app))  # type: ignore[arg-type]

    def _feed(self, data: bytes) -> None:
        """Raises HttpParserError."""
        self._unread_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            (end_of_head,) = upgrade.args
            head = self._head_without_upgrade()
            self.parser = httptools.HttpRequestParser(self)
            self._feed(head + data[end_of_head:])  # no deeper: a second offer comes before the first is answered
        if self._unread_bytes > MAX_HEAD_BYTES:
            raise httptools.HttpParserError("a header that is too long")

    def _head_without_upgrade(self) -> bytes:
        line = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        kept = [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([line, *kept, b"", b""])

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError("a head that is too long")

    def _refuse(self) -> None:
        """What came last is not taken. Nothing more is read, and what was asked before is answered."""
        self._faulty = True
        request = self.cycle
        if request is None or request.response_complete or (request.more_body and not request.response_started):
            self.logger.warning(_FAULT)
            self.send_400_response(_FAULT)
        elif request.more_body:
            self.transport.close()
        else:
            self._end_after_answer()

    def _end_after_answer(self) -> None:
        if self.cycle.response_complete:
            self.transport.close()
        else:
            self.cycle.keep_alive = False

    def _start_waiting(self) -> None:
        self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _all_sent(cycle: RequestResponseCycle) -> bool:
    """Whether the client may take the answer for complete: so it can before the message that ends it, by its length."""
    has_length = cycle.response_started and cycle.chunked_encoding is False
    return cycle.response_complete or (has_length and cycle.expected_content_length == 0)


def _without_chunks(cycle: RequestResponseCycle, app: ASGIApp) -> ASGIApp:
    """`app`, whose answers without a length end with the connection."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        without_length = False

        async def send_plain(message: Message) -> None:
            nonlocal without_length
            if message["type"] == "http.response.start":
                without_length = all(name.lower() != b"content-length" for name, _ in message["headers"])
                if without_length:
                    cycle.chunked_encoding = False
            elif without_length:
                cycle.expected_content_length = len(message.get("body", b""))  # uvicorn compares the two
            await send(message)

        await app(scope, receive, send_plain)

    return answer
