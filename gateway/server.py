"""How the HTTP server runs: where it listens, how long it waits, how it ends."""

import gc
import logging
import resource
import signal
import socket
import ssl
import time
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from gateway.health import Drain
from gateway.protocol import Protocol

UNREAD_SECONDS = 120.0  # for a client that takes nothing at all; a slow one only has to go on
_KEEP_ALIVE_SECONDS = 75  # longer than common load balancers keep a connection, so that they close it first
_log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """uvicorn, with an end in steps.

    SIGTERM: not ready any more, but serving on, for `drain_delay` seconds, until load balancers have seen it. Then it
    accepts nothing new, and after `drain_seconds` what still runs is cut. SIGINT, or a second signal, skips the delay.
    """

    def __init__(
        self,
        app: ASGIApp,
        drain: Drain,
        *,
        drain_delay: int = 0,
        drain_seconds: int = 30,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,  # its messages go the way of ours
                access_log=False,
                server_header=False,
                proxy_headers=False,  # nothing here asks who the client is, or how it came
                loop="uvloop",
                http=Protocol,
                ws="none",
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=drain_seconds,
                ssl_context_factory=(lambda config, default: tls) if tls else None,
            )
        )
        self._drain = drain
        self._drain_delay = drain_delay
        self._end_at: float | None = None

    def serve_on(self, sockets: list[socket.socket]) -> bool:
        """Serve until told to end; False when it could not start."""
        with suppress(KeyboardInterrupt):  # uvicorn raises the signal that ended it once more
            self.run(sockets)
        return self.started

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        first, self._drain.begun = not self._drain.begun, True
        if first and sig == signal.SIGTERM and self._drain_delay:
            self._end_at = time.monotonic() + self._drain_delay
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        if self._end_at is not None and time.monotonic() >= self._end_at:
            self._end_at = None
            self.handle_exit(signal.SIGTERM, None)
        return await super().on_tick(counter)


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets on every address of `host`. Raises OSError when one of them cannot be had.

    A connection whose client takes none of what is sent for UNREAD_SECONDS is cut by the kernel, wherever the bytes
    wait: their sender is told as of a client that left.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((each[0], each[4]) for each in found):
            sockets.append(socket.create_server(address, family=family, backlog=2048))
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; accepted sockets inherit it
                sockets[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNREAD_SECONDS * 1000))
    except OSError:
        close(sockets)
        raise
    return sockets


def say_where(sockets: Iterable[socket.socket]) -> None:
    """Log what is listened on."""
    for each in sockets:
        _log.info("listening on %s port %d", *each.getsockname()[:2])


def raise_file_limit() -> None:
    """As many open files as the system lets: a running stream holds two sockets, and the usual soft limit is 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # where no limit is set, some systems still take none
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def collect_less() -> None:
    """Spare the garbage collector what stays for good, and let it look less often: requests leave hardly any cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def close(sockets: Iterable[socket.socket]) -> None:
    for each in sockets:
        each.close()
