"""A load of chat requests on whatever speaks OpenAI's HTTP, and what it saw."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import aiohttp

from scripts.local.process import StartError

_ANSWER_SECONDS = 120.0
_EVENT = b"data: "


@dataclass
class Seen:
    """The answers of a load: milliseconds to the first byte and to the last, and chunks (SSE events) per second."""

    seconds: float = 0.0
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    chunks: int = 0
    paces: list[float] = field(default_factory=list)
    """Of each stream between its first read and its last."""

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.whole) / self.seconds


def body(prompt: str, max_tokens: int, *, model: str = "", stream: bool = False) -> bytes:
    """A chat request; without a model it is for a gateway to choose."""
    messages = [{"role": "user", "content": prompt}]
    return json.dumps({"model": model, "messages": messages, "max_tokens": max_tokens, "stream": stream}).encode()


def lasting(bodies: Iterable[bytes], seconds: float) -> Iterator[bytes]:
    """Bodies, until so much time has passed since the first."""
    deadline = 0.0
    for each in bodies:
        deadline = deadline or time.monotonic() + seconds
        if time.monotonic() > deadline:
            return
        yield each


def load(
    url: str, bodies: Iterator[bytes], concurrency: int, reasons: frozenset[str] = frozenset(), path: str = ""
) -> Seen:
    """Post all bodies, `concurrency` at a time, each client on a connection that it keeps.

    Raises StartError: an answer is no 200 or, where `reasons` are given, has another `x-router-reason`.
    """
    return asyncio.run(_load(url + (path or "/v1/chat/completions"), bodies, concurrency, reasons))


async def _load(url: str, bodies: Iterator[bytes], concurrency: int, reasons: frozenset[str]) -> Seen:
    seen = Seen()
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def clients_turns() -> None:
            for each in bodies:  # shared: each takes the next one
                await _ask(session, url, each, reasons, seen)

        start = time.perf_counter()
        async with asyncio.TaskGroup() as clients:
            for _ in range(concurrency):
                clients.create_task(clients_turns())
        seen.seconds = time.perf_counter() - start
    return seen


async def _ask(session: aiohttp.ClientSession, url: str, data: bytes, reasons: frozenset[str], seen: Seen) -> None:
    start = time.perf_counter()
    first = last = 0.0
    raw = bytearray()
    async with session.post(url, data=data, headers={"content-type": "application/json"}) as answer:
        async for read in answer.content.iter_any():
            last = time.perf_counter()
            first = first or last
            raw += read
    reason = answer.headers.get("x-router-reason", "")
    if answer.status != 200 or (reasons and reason not in reasons):
        raise StartError(f"{url} answered {answer.status} {reason} under load: {bytes(raw[:300])!r}")
    seen.first.append((first - start) * 1000)
    seen.whole.append((time.perf_counter() - start) * 1000)
    if chunks := raw.count(_EVENT):
        seen.chunks += chunks
        seen.paces.append(chunks / (last - first) if last > first else 0.0)
