"""An upstream that answers what a test wants: Dynamo cannot be made to fail on demand."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Scripted:
    """Where it is, how it answers, and the bodies of the POST requests that it got."""

    url: str
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"error": {"message": "busy"}}'
    pieces: list[bytes] | None = None
    """A POST's answer as chunks, sent one after the other in place of `body`."""
    wait_seconds: float = 0.001
    """Before each of them."""
    breaks_off: threading.Event | None = None
    """Once this is set, the connection is closed after `pieces`, in the middle of another chunk."""
    models: list[str] | None = None
    """What it lists; None: it lists nothing, but answers as to a POST."""
    received: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    """Of the same requests."""


def accept_post(server: socket.socket) -> socket.socket:
    """The first connection that carries a POST, whose head is read; the gateway also asks for a list of models."""
    while True:
        connection, _ = server.accept()
        if connection.recv(65536).startswith(b"POST"):
            return connection
        connection.close()


@contextmanager
def scripted_upstream(**answer: Any) -> Iterator[Scripted]:
    """A server on a free port that answers as its Scripted says at that moment."""
    script = Scripted("", **answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            if script.models is None:
                self._answer(script.status, script.headers, script.body)
            else:
                listed = {"object": "list", "data": [{"id": model} for model in script.models]}
                self._answer(200, {}, json.dumps(listed).encode())

        def do_POST(self) -> None:
            script.authorizations.append(self.headers.get("authorization", ""))
            script.received.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            if script.pieces is None:
                self._answer(script.status, script.headers, script.body)
            else:
                self._answer_in(script.pieces, script.headers)

        def _answer_in(self, pieces: list[bytes], headers: dict[str, str]) -> None:
            self.send_response(200)
            for name, value in {**headers, "transfer-encoding": "chunked"}.items():
                self.send_header(name, value)
            self.end_headers()
            for piece in filter(None, pieces):  # an empty chunk would be the end
                time.sleep(script.wait_seconds)  # else the kernel puts them together
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            if script.breaks_off is None:
                self.wfile.write(b"0\r\n\r\n")
                return
            script.breaks_off.wait(60)
            self.wfile.write(b"4\r\nda")
            self.close_connection = True

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {"content-type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        script.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield script
        finally:
            server.shutdown()
            thread.join()
