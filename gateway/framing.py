"""Requests that two servers in a row could read differently are refused, before anything else is read of them."""

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import error_response

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class RefuseAmbiguous:
    """ASGI middleware: a 400 for a body of two lengths (request smuggling) or in an encoding that is not read, for more
    or less than one host, and for control characters in a header.

    HTTP lets a server prefer `Transfer-Encoding` to `Content-Length`; a proxy before it that did the opposite would
    take the rest of one request for the next. Control characters no HTTP client would send on to an upstream.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault = _fault(scope["headers"], scope["http_version"]) if scope["type"] == "http" else None
        if fault is None:
            await self.app(scope, receive, send)
            return
        response = error_response(400, fault, "invalid_request_error")
        response.headers["connection"] = "close"
        await response(scope, receive, send)


def _fault(headers: list[tuple[bytes, bytes]], http_version: str) -> str | None:
    names = [name for name, _ in headers]
    hosts = names.count(b"host")
    if hosts > 1 or (not hosts and http_version != "1.0"):
        return f"the request has {hosts} Host headers"
    if b"transfer-encoding" in names:
        if b"content-length" in names:
            return "the request has both Transfer-Encoding and Content-Length"
        if http_version == "1.0":
            return "HTTP/1.0 knows no Transfer-Encoding"
        if [value.lower() for name, value in headers if name == b"transfer-encoding"] != [b"chunked"]:
            return "the only Transfer-Encoding that is read is chunked"
    if _CONTROL.search(b"".join(value for _, value in headers)) is None:
        return None
    name = next(name for name, value in headers if _CONTROL.search(value))
    return f"the header {name[:64].decode('latin-1')!r} holds control characters"
