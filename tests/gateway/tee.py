"""A TCP relay that writes down what passes: how a test knows the bytes that Dynamo itself sent."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_LIST = b"GET /v1/models "


@dataclass
class Connection:
    """One relayed connection. `closed_by` tells who hung up first: the client or the server."""

    received: bytearray = field(default_factory=bytearray)
    sent: bytearray = field(default_factory=bytearray)
    closed_by: str | None = None


class Tee:
    """Relays what connects to its own port to another, byte by byte, a thread for each direction."""

    def __init__(self, host: str, port: int, own_port: int = 0) -> None:
        self._connections: list[Connection] = []
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", own_port))
        self.port = int(self._listener.getsockname()[1])
        self._sockets: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self._spawn(self._accept)

    @property
    def connections(self) -> list[Connection]:
        """Those that asked for anything but the list of models, which the gateway asks for by itself."""
        return [each for each in self._connections if each.received and not each.received.startswith(_LIST)]

    @property
    def every(self) -> list[Connection]:
        """Those, too, that began with the list of models, and may have gone on with anything."""
        return list(self._connections)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Cut everything off and wait for the threads."""
        for each in list(self._sockets):
            _shut(each)
        for thread in list(self._threads):
            thread.join(10)
        for each in self._sockets:
            each.close()

    def _spawn(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            self._sockets.append(client)
            server = socket.create_connection(self._target)
            self._sockets.append(server)
            connection = Connection()
            self._connections.append(connection)
            self._spawn(self._pump, client, server, connection, connection.received, "client")
            self._spawn(self._pump, server, client, connection, connection.sent, "server")

    def _pump(
        self, source: socket.socket, sink: socket.socket, connection: Connection, kept: bytearray, name: str
    ) -> None:
        try:
            while data := source.recv(65536):
                kept += data
                sink.sendall(data)
        except OSError:
            pass
        connection.closed_by = connection.closed_by or name
        _shut(source)
        _shut(sink)


def _shut(each: socket.socket) -> None:
    try:
        each.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # already


@contextmanager
def running_tee(host: str, port: int, own_port: int = 0) -> Iterator[Tee]:
    """A Tee, on a free port unless told which."""
    tee = Tee(host, port, own_port)
    try:
        yield tee
    finally:
        tee.close()


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
