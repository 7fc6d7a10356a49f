"""A running gateway as tests see it."""

import json
import ssl
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2

from scripts.local.process import Process


def chat(prompt: Any, **fields: Any) -> dict[str, Any]:
    """A chat request's body; fields with dashes go in as `**{"nim-llm-router": …}`."""
    return {"messages": [{"role": "user", "content": prompt}], "max_tokens": 4, **fields}


def eventually(happened: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether it happens at all: patience for a busy machine, not a figure to judge by."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@dataclass
class Gateway:
    """Its address, and the process that serves there."""

    url: str
    process: Process
    verify: ssl.SSLContext | bool = True

    def is_ready(self) -> bool:
        return self._answers("/health/ready")

    def decides(self) -> bool:
        """Whether it is ready, or lacks only an upstream."""
        try:
            answer = self.get("/health/ready")
        except httpx2.HTTPError:
            return False
        return answer.status_code == 200 or answer.json()["error"]["code"] == "upstream_unavailable"

    def is_live(self) -> bool:
        return self._answers("/health/live")

    def post(
        self, path: str, body: Any = None, *, raw: bytes | None = None, headers: dict[str, str] | None = None
    ) -> httpx2.Response:
        """POST `body` as JSON, or `raw` as it is."""
        content = json.dumps(body).encode() if raw is None else raw
        headers = {"content-type": "application/json"} | (headers or {})
        return httpx2.post(self.url + path, content=content, headers=headers, timeout=60, verify=self.verify)

    def get(self, path: str, headers: dict[str, str] | None = None) -> httpx2.Response:
        return httpx2.get(self.url + path, headers=headers, timeout=60, verify=self.verify)

    def log_lines(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        return [json.loads(line) for line in self.process.log.read_text().splitlines() if line.startswith("{")]

    def request_lines(self, request_id: str) -> list[dict[str, Any]]:
        """The log lines of one request."""
        return [line for line in self.log_lines() if line.get("request_id") == request_id]

    def _answers(self, path: str) -> bool:
        try:
            context = self.verify if isinstance(self.verify, ssl.SSLContext) else None
            with urllib.request.urlopen(self.url + path, timeout=30, context=context) as response:
                return bool(response.status == 200)
        except OSError:
            return False
