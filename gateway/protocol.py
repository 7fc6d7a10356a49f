"""HTTP/1.1 as the gateway reads it: uvicorn's protocol on llhttp, which here takes one request for one request."""

import asyncio

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 20.0  # a request's head is one packet or two
MAX_HEAD_BYTES = 65536
_PER_HEADER = 4  # ": " and the end of its line
_VERSIONS = ("1.0", "1.1")
_FAULT = "Invalid HTTP request received."


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with bounds on a request's head and without doubtful readings of it.

    - A head has HEAD_SECONDS and MAX_HEAD_BYTES. uvicorn's own bound on idle connections begins with an answer and ends
      with the next byte; this one is for the time from the connection, or from the first byte after an answer, to the
      end of the next head.
    - A request that offers an upgrade, as Java's client does with its first one, is read as if it did not. uvicorn
      would take its body for the next request.
    - Trailers are dropped. uvicorn would append them to the headers of the request, which is being answered.
    - A fault in what follows a request ends the connection after that request's answer. uvicorn would write into it.
    """

    _deadline: asyncio.TimerHandle | None = None
    _in_head = False
    _head_bytes = 0  # of the target and the headers that are complete
    _unfinished_bytes = 0  # since the head began, and not in the packet in which it did
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
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self._count(len(name) + len(value) + _PER_HEADER)
            super().on_header(name, value.strip(b" \t"))  # llhttp leaves those behind it

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self.parser.get_http_version() not in _VERSIONS:
            raise ValueError("another version of HTTP")
        # Neither a URL, nor a path with a fragment, nor what CONNECT takes: uvicorn would look for a path in each.
        if not self.url.startswith(b"/") or b"#" in self.url or self.parser.get_method() == b"CONNECT":
            raise ValueError("a target that is no path")
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _feed(self, data: bytes) -> None:
        """Raises HttpParserError."""
        self._unfinished_bytes = self._unfinished_bytes + len(data) if self._in_head else 0
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            (end_of_head,) = upgrade.args
            head = self._head_without_upgrade()
            self.parser = httptools.HttpRequestParser(self)
            self._feed(head + data[end_of_head:])
        if self._in_head and self._unfinished_bytes > MAX_HEAD_BYTES:
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
        """What came last is no HTTP. Nothing more is read, and what was asked before is answered."""
        self._faulty = True
        self.logger.warning(_FAULT)
        newest = self.cycle
        if newest is None or newest.response_complete:
            self.send_400_response(_FAULT)
        elif not newest.more_body:
            newest.keep_alive = False
        elif newest.response_started or self.pipeline:
            self.transport.close()
        else:
            self.send_400_response(_FAULT)

    def _start_waiting(self) -> None:
        self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
