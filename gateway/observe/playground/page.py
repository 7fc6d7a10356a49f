"""The playground's routes. Its files hold nothing secret, so that a browser may open them without a client key."""

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from gateway.state import State

_FILES = {
    "/": ("index.html", "text/html"),
    "/playground.css": ("style.css", "text/css"),
    "/playground.js": ("script.js", "text/javascript"),
}
_CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src data:",  # the icon
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "content-security-policy": _CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # kept, and asked for again by its ETag
}


class _PageRoute(Route):
    """A route that is not there while the configuration has the playground off."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(scope) if _is_on(scope) else (Match.NONE, {})


def routes() -> list[Route]:
    """The page and what it loads."""
    return [_PageRoute(path, _File(*file).answer, methods=["GET"]) for path, file in _FILES.items()]


def is_open(scope: Scope) -> bool:
    """Whether a request is for one of the page's files: a browser that goes to an address can show no key."""
    return scope["path"] in _FILES and _is_on(scope)


def _is_on(scope: Scope) -> bool:
    state: State = scope["state"]["router"]
    return state.config.settings.playground


class _File:
    """The handler of one file, which is read once."""

    def __init__(self, name: str, media_type: str) -> None:
        self._content = (Path(__file__).parent / name).read_bytes()
        etag = hashlib.sha256(self._content).hexdigest()[:32]
        self._headers = _HEADERS | {"content-type": f"{media_type}; charset=utf-8", "etag": f'"{etag}"'}

    async def answer(self, request: Request) -> Response:
        if request.headers.get("if-none-match") == self._headers["etag"]:
            return Response(status_code=304, headers=self._headers)
        return Response(self._content, headers=self._headers)
