"""A TCP relay that writes down what the server sends: how a test knows the bytes that Dynamo itself sent."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Connection:
    """One relayed connection. `closed_by` tells who hung up first: the client or the server."""

    received: bytearray = field(default_factory=bytearray)
    sent: bytearray = field(default_factory=bytearray)
    closed_by: str | None = None


class Tee:
    """Relays `port` to `target` byte by byte."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.port = 0
        self.connections: list[Connection] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection()
        self.connections.append(connection)
        upstream_reader, upstream_writer = await asyncio.open_connection(*self.target)

        async def pump(
            source: asyncio.StreamReader, sink: asyncio.StreamWriter, kept: bytearray, name: str
        ) -> None:
            try:
                while data := await source.read(65536):
                    kept += data
                    sink.write(data)
                    await sink.drain()
            except OSError:
                pass
            connection.closed_by = connection.closed_by or name
            sink.close()

        await asyncio.gather(
            pump(reader, upstream_writer, connection.received, "client"),
            pump(upstream_reader, writer, connection.sent, "server"),
        )


@contextmanager
def running_tee(host: str, port: int) -> Iterator[Tee]:
    """A Tee on a free port, in a thread of its own."""
    tee = Tee(host, port)
    loop = asyncio.new_event_loop()
    started = threading.Event()

    async def serve() -> None:
        server = await asyncio.start_server(tee.relay, "127.0.0.1", 0)
        tee.port = server.sockets[0].getsockname()[1]
        started.set()

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(serve(), loop).result(10)
    started.wait(10)
    try:
        yield tee
    finally:

        async def stop() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def bodies(raw: bytes) -> list[bytes]:
    """The bodies of the chunked HTTP/1.1 answers in `raw`, one after the other."""
    found = []
    while raw:
        _, _, raw = raw.partition(b"\r\n\r\n")
        body = b""
        while True:
            size, _, raw = raw.partition(b"\r\n")
            length = int(size, 16)
            body, raw = body + raw[:length], raw[length + 2 :]
            if length == 0:
                break
        found.append(body)
    return found
