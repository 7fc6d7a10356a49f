"""A real OpenAI-compatible embeddings endpoint on loopback, whose answers a test may spoil."""

from __future__ import annotations

import base64
import json
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIMENSIONS = 1536


@dataclass(frozen=True)
class Answer:
    """`body` is sent as it is when it is bytes, as JSON otherwise; status 0: the connection is closed instead."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


def vectors(texts: Sequence[str], dimensions: int = DIMENSIONS) -> NDArray[np.float32]:
    """Embeddings [N, dimensions] of length 1, as OpenAI's are; any deterministic ones do."""
    rows = [np.random.default_rng(zlib.crc32(text.encode())).normal(size=dimensions) for text in texts]
    found = np.array(rows, dtype=np.float32).reshape(-1, dimensions)
    lengths: NDArray[np.float32] = np.linalg.norm(found, axis=1, keepdims=True)
    return found / lengths


def embeddings(texts: Sequence[str], dimensions: int = DIMENSIONS, as_base64: bool = True) -> dict[str, Any]:
    """An answer in OpenAI's shape."""
    rows = vectors(texts, dimensions)
    shown = [base64.b64encode(row.tobytes()).decode() if as_base64 else row.tolist() for row in rows]
    data = [{"object": "embedding", "index": number, "embedding": each} for number, each in enumerate(shown)]
    return {"object": "list", "model": "test", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}}


class Endpoint:
    """`requests` are the bodies it got, and `headers` what came with them. `script` is answered first, one request
    each; an entry may be a function of the request's body. After that it answers as it should."""

    def __init__(self, port: int, dimensions: int) -> None:
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self.dimensions = dimensions
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.script: list[Answer | Callable[[dict[str, Any]], Answer]] = []

    def environ(self, **more: str) -> dict[str, str]:
        return {"OPENAI_BASE_URL": self.base_url, "OPENAI_API_KEY": "sk-a-secret"} | more

    def answer(self, request: dict[str, Any], headers: Mapping[str, str]) -> Answer:
        self.requests.append(request)
        self.headers.append(headers)
        if self.script:
            step = self.script.pop(0)
            return step if isinstance(step, Answer) else step(request)
        return Answer(body=embeddings(request["input"], self.dimensions, request.get("encoding_format") == "base64"))


@contextmanager
def running_endpoint(dimensions: int = DIMENSIONS) -> Iterator[Endpoint]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/embeddings":
                answer = Answer(404, {"error": {"code": "unknown_url"}})
            else:
                answer = endpoint.answer(request, dict(self.headers))
            if not answer.status:
                self.close_connection = True
                return
            body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint = Endpoint(server.server_port, dimensions)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
