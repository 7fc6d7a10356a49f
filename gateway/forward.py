"""Bytes through: the request to the upstream, its answer to the client, neither read nor changed."""

import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
import yarl
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.body import Body
from gateway.config import Settings
from gateway.errors import UpstreamTimeout, UpstreamUnavailable
from gateway.policy import Target
from gateway.reasons import Reason
from gateway.targets import UNABLE, Eligibility, rest_seconds
from gateway.tls import upstream_context

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_FORWARDED = HOP_BY_HOP | {"host", "content-length", "expect"}
_KEY_HEADERS = frozenset({"authorization", "x-api-key"})
_NOT_RETURNED = frozenset(name.encode() for name in HOP_BY_HOP | {"date"})  # the HTTP server writes its own
_KEEP_ALIVE_SECONDS = 4.0  # less than common servers' 5, so that a connection is seldom used as it closes
_CHUNK_BYTES = 65536
# What a kept connection raises when the upstream closed it in the moment that it was used. Nothing has been answered
# then, and the request is sent once more on a connection of its own.
_CLOSED_WHILE_IDLE = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)


_UNSENDABLE = re.compile(rb"[\x00\n\x0b\x0c\r]")
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux


@dataclass(slots=True)
class _Attempt:
    """What became of a request."""

    connected: bool = False
    """Whether a connection was opened for it; it may also use one that an earlier request had left open."""


_attempt: ContextVar[_Attempt | None] = ContextVar("_attempt", default=None)


def _open_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """aiohttp's way to a new connection. Its tracing would tell of reused ones, too, at ten times the price."""
    if (attempt := _attempt.get()) is not None:
        attempt.connected = True
    family, kind, protocol, *_ = address
    return socket.socket(family, kind, protocol)


def open_session(ca_file: Path | None = None, watching: Sequence[aiohttp.TraceConfig] = ()) -> aiohttp.ClientSession:
    """The client for all upstreams, which trusts the authorities in `ca_file`, too, and tells those who watch.

    It adds nothing of its own: no cookies, no decompression, no headers.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0,
            keepalive_timeout=_KEEP_ALIVE_SECONDS,
            ssl=upstream_context(ca_file),
            socket_factory=_open_socket,
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        read_bufsize=_CHUNK_BYTES,
        max_line_size=65536,
        max_field_size=65536,
        trace_configs=list(watching),
    )


def request_headers(
    headers: Headers, target: Target, request_id: str, client: str | None = None
) -> list[tuple[str, str]]:
    """The client's headers, hop-by-hop ones aside; the target's key, where it has one, in place of the client's.

    A client's key that was for this gateway, which is so when it let a `client` in, never goes on.
    """
    dropped = _NOT_FORWARDED | _connection_options(headers.getlist("connection")) | {"x-request-id"}
    if target.api_key or client is not None:
        dropped |= _KEY_HEADERS
    kept = [(name, _as_sent(value)) for name, value in headers.items() if name not in dropped]
    kept.append(("x-request-id", request_id))
    if target.api_key:
        kept.append(("authorization", f"Bearer {target.api_key}"))
    return kept


def _as_sent(value: str) -> str:
    """A header value that aiohttp, which writes UTF-8, sends as the bytes that came, as far as they are UTF-8."""
    return value if value.isascii() else value.encode("latin-1").decode(errors="replace")


def _connection_options(values: Iterable[str]) -> set[str]:
    """Header names that `Connection` declares to be meant for one hop."""
    return {option.strip().lower() for value in values for option in value.split(",")}


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A client's request as it goes to whichever target answers it."""

    path: str
    """With the query, if there is one."""
    body: Body
    headers: Headers
    request_id: str
    client: str | None = None
    """The name of the key that let the client in; None without one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An upstream's answer, who gave it, and why another target than the first did."""

    response: "UpstreamResponse"
    target: Target
    reason: Reason | None


async def forward_to_first_able(
    session: aiohttp.ClientSession,
    targets: Sequence[Target],
    outgoing: Outgoing,
    settings: Settings,
    eligibility: Eligibility,
) -> Answer:
    """The answer of the first target that is able to give one, or else the last answer that there was.

    Nothing of an answer has gone to the client when the next target is asked. Raises what `forward` does when no
    target gave any answer.
    """
    reason: Reason | None = None
    last: Answer | None = None
    failure: UpstreamUnavailable | None = None
    try:
        for target in targets:
            try:
                response = await forward(session, target, outgoing, settings)
            except UpstreamTimeout:
                eligibility.rest(target)
                raise  # it may be at work: another target would do the work twice
            except UpstreamUnavailable as error:
                eligibility.rest(target)
                failure, reason = error, "target_unavailable"
                continue
            if last is not None:
                last.response.upstream.close()
            last = Answer(response, target, reason)
            if response.status_code not in UNABLE:
                (eligibility.failed if response.status_code >= 500 else eligibility.answered)(target)
                return last
            if _of_the_target(response.status_code, target, outgoing):
                eligibility.rest(target, rest_seconds(response.headers.get("retry-after")))
            reason = UNABLE[response.status_code]
    except BaseException:  # the client has left, or the next target is silent
        if last is not None:
            last.response.upstream.close()
        raise
    if last is None:
        assert failure is not None  # there is a target, and it gave an answer or failed
        raise failure
    return last


def _of_the_target(status: int, target: Target, outgoing: Outgoing) -> bool:
    """Whether an answer tells of the target for all clients.

    A 404 may be the path's: whether the model is there, the server's list says. A 429 may be for the client's own key.
    """
    if status == 429 and not target.api_key:
        return _KEY_HEADERS.isdisjoint(outgoing.headers.keys())
    return status != 404


async def forward(
    session: aiohttp.ClientSession, target: Target, outgoing: Outgoing, settings: Settings
) -> "UpstreamResponse":
    """Send the request and wait for the head of the answer.

    A request that meets the end of a kept connection is sent a second time. Raises UpstreamUnavailable when the
    upstream cannot be reached, breaks off first or answers what HTTP does not allow, UpstreamTimeout when it is silent
    for too long.
    """
    attempt = _Attempt()
    _attempt.set(attempt)
    send = partial(
        session.post,
        data=outgoing.body.rewritten(target.model),
        headers=request_headers(outgoing.headers, target, outgoing.request_id, outgoing.client),
        allow_redirects=False,
        trace_request_ctx=target,  # for those who watch
        timeout=aiohttp.ClientTimeout(
            total=settings.answer_seconds,
            connect=settings.connect_seconds,  # with the name's resolution
            sock_connect=settings.connect_seconds,
            sock_read=settings.silence_seconds,
        ),
    )
    try:
        url = yarl.URL(target.api_base + outgoing.path, encoded=True)
        try:
            answer = await send(url)
        except _CLOSED_WHILE_IDLE as error:
            if isinstance(error, aiohttp.ClientConnectorError) or attempt.connected:
                raise  # it was never open, or opened for this request, which may be what broke it
            answer = await send(url)
    except aiohttp.ConnectionTimeoutError as error:
        raise UpstreamUnavailable("the model's server cannot be reached (connecting took too long)") from error
    except (aiohttp.ServerTimeoutError, TimeoutError) as error:
        raise UpstreamTimeout("the model's server did not answer in time") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        # A ValueError is an address or a header that cannot be sent.
        raise UpstreamUnavailable(f"the model's server cannot be reached ({type(error).__name__})") from error
    if not 200 <= answer.status <= 599 or _UNSENDABLE.search(b"".join(value for _, value in answer.raw_headers)):
        answer.close()
        raise UpstreamUnavailable("the model's server answered with a status or a header that cannot be passed on")
    return UpstreamResponse(answer)


class UpstreamResponse(Response):
    """The upstream's answer: status, headers and body as they come.

    It owns the upstream's connection and closes it whatever happens, so that the upstream stops working for a client
    that is gone. When the upstream breaks off, the answer ends without its last chunk, which clients see as broken.
    """

    def __init__(self, upstream: aiohttp.ClientResponse) -> None:
        self.upstream = upstream
        self.status_code = upstream.status
        self.background = None
        dropped = _NOT_RETURNED
        if options := upstream.headers.getall("connection", None):
            dropped |= {option.encode(errors="surrogateescape") for option in _connection_options(options)}
        headers = [(name.lower(), value) for name, value in upstream.raw_headers]
        self.raw_headers = [header for header in headers if header[0] not in dropped]

    def set_headers(self, headers: Mapping[str, str]) -> None:
        """Add these, in ASCII, in place of the upstream's of the same names."""
        own = {name.lower().encode(): value.encode() for name, value in headers.items()}
        self.raw_headers = [*(header for header in self.raw_headers if header[0] not in own), *own.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._pass_on(send)
        finally:
            self.upstream.close()  # back to the pool if it was read to its end, cut otherwise

    async def _pass_on(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        content = self.upstream.content
        more = True
        try:
            while more:
                self._acknowledge()
                chunk = await content.readany()
                more = not content.at_eof()
                await send({"type": "http.response.body", "body": chunk, "more_body": more})
        except (aiohttp.ClientError, OSError, TimeoutError):
            return  # no final message: the server cuts the connection

    def _acknowledge(self) -> None:
        """Tell the upstream's kernel at once what has come.

        Some servers, Dynamo's frontend among them, send with Nagle's algorithm: the next small chunk waits until the
        one before is acknowledged, which Linux puts off by up to 40 ms. It forgets this wish as soon as it has obeyed.
        """
        connection = self.upstream.connection
        if connection is not None and connection.transport is not None and _QUICKACK is not None:
            wire = connection.transport.get_extra_info("socket")
            wire.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
