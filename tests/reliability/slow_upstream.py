"""An upstream whose streams wait after their first event for as long as a test wants; a mocker runs 256 at most."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENT = b'data: {"id": "1", "model": "%s", "choices": [{"finish_reason": %s}]}\n\n'


@dataclass
class SlowUpstream:
    """Where it is, and whether its streams may end."""

    model: str
    url: str = ""
    release: threading.Event = field(default_factory=threading.Event)


@contextmanager
def slow_upstream(model: str) -> Iterator[SlowUpstream]:
    """A server on a free port, in a thread of its own. On leaving, its streams may end."""
    upstream = SlowUpstream(model)
    started = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(asyncio.run, _serve(upstream, started))
        assert started.wait(10)
        try:
            yield upstream
        finally:
            upstream.release.set()
            serving.result(60)


async def _serve(upstream: SlowUpstream, started: threading.Event) -> None:
    released = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST"):
            writer.write(_HEAD + _chunk(_event(upstream.model, b"null")))
            await writer.drain()
            await released.wait()
            writer.write(_chunk(_event(upstream.model, b'"stop"')) + _chunk(b"data: [DONE]\n\n") + _chunk(b""))
        else:  # its models, which it does not list
            writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=2048)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    started.set()
    async with server:
        while not upstream.release.is_set():
            await asyncio.sleep(0.05)
        released.set()
        if running := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(running, timeout=30)


def _event(model: str, reason: bytes) -> bytes:
    return _EVENT % (model.encode(), reason)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
