"""A bounded load of chat requests on a gateway, and what became of each of them."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp

PATIENCE = 60.0  # for what must happen; how soon it does is recorded, and not judged
MOST_REQUESTS = 100_000

End = Literal["answered", "error", "broken", "wrong"]
"""`answered`: a whole JSON answer, or a stream up to `[DONE]`. `error`: one that says so, as a status and JSON or as an
event of the stream. `broken`: the client's read failed. `wrong`: any other; a client would take it for an answer."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request's end. Times are monotonic."""

    began: float
    ended: float
    status: int | None
    """None when no answer began."""
    reason: str
    """`x-router-reason`, else the code or the type of the gateway's own error."""
    end: End
    model: str
    body: bytes = field(default=b"", repr=False)
    """Of an error."""

    @property
    def seconds(self) -> float:
        return self.ended - self.began


def unique(number: int) -> dict[str, Any]:
    """A chat that no cache knows, every other one as a stream."""
    prompt = f"Write a Python function that sorts a list of {number} numbers"
    return {"messages": [{"role": "user", "content": prompt}], "max_tokens": 4, "stream": number % 2 == 0}


class Load:
    """`clients` clients that ask one request after the other, with a pause between, from a thread of their own.

    `body` makes a request out of its number. With `each`, a client ends after so many, and otherwise on leaving the
    `with` block; every request that was sent is waited for.
    """

    def __init__(
        self,
        url: str,
        body: Callable[[int], Any] = unique,
        *,
        clients: int = 4,
        pause: float = 0.1,
        each: int = MOST_REQUESTS,
    ) -> None:
        self.sent = 0
        self.flowing = 0
        """Answers that have begun, and not ended."""
        self.outcomes: list[Outcome] = []
        self._url = f"{url}/v1/chat/completions"
        self._body = body
        self._clients = clients
        self._pause = pause
        self._each = each
        self._ending = threading.Event()
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        self._done = self._pool.submit(asyncio.run, self._drive())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        try:
            self._done.result(2 * PATIENCE)
        finally:
            self._pool.shutdown(wait=False)

    def finish(self) -> None:
        """Wait until each client has sent its share."""
        self._done.result(2 * PATIENCE)

    def wait(self, happened: Callable[[], bool]) -> None:
        """Until it has happened."""
        deadline = time.monotonic() + PATIENCE
        while not happened():
            assert time.monotonic() < deadline, f"not within {PATIENCE} s; until now: {self.counts()}"
            if self._done.done():
                self._done.result()  # a fault of the load itself
            time.sleep(0.02)

    def reach(self, reason: str, status: int = 200, *, since: float | None = None, count: int = 1) -> Outcome:
        """The first request sent after `since`, or now, that ended so; waits until there are `count` of them."""
        since = time.monotonic() if since is None else since

        def found() -> list[Outcome]:
            return [each for each in self.since(since) if (each.status, each.reason) == (status, reason)]

        self.wait(lambda: len(found()) >= count)
        return found()[0]

    def since(self, moment: float) -> list[Outcome]:
        """Of the requests that were sent after it."""
        return [each for each in list(self.outcomes) if each.began >= moment]

    def counts(self) -> Counter[tuple[int | None, str, End]]:
        """How many ended how."""
        return Counter((each.status, each.reason, each.end) for each in list(self.outcomes))

    async def _drive(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)  # a connection for each client
        timeout = aiohttp.ClientTimeout(total=2 * PATIENCE)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            async with asyncio.TaskGroup() as clients:
                for _ in range(self._clients):
                    clients.create_task(self._client(session))

    async def _client(self, session: aiohttp.ClientSession) -> None:
        for _ in range(self._each):
            if self._ending.is_set() or self.sent == MOST_REQUESTS:
                return
            number = self.sent
            self.sent += 1
            self.outcomes.append(await self._ask(session, self._body(number)))
            await asyncio.sleep(self._pause)

    async def _ask(self, session: aiohttp.ClientSession, body: Any) -> Outcome:
        began = time.monotonic()
        status, reason, model, raw = None, "", "", bytearray()
        flows = False
        try:
            async with session.post(self._url, json=body) as answer:
                status = answer.status
                reason = answer.headers.get("x-router-reason", "")
                model = answer.headers.get("x-routellm-routed-model", "")
                streamed = answer.content_type == "text/event-stream"
                async for chunk in answer.content.iter_any():
                    self.flowing += not flows
                    flows = True
                    raw += chunk
            end = judge_stream(raw, model) if streamed else judge(status, raw, model)
        except (aiohttp.ClientError, TimeoutError):
            end = "broken"
        self.flowing -= flows
        return Outcome(began, time.monotonic(), status, reason or _code(raw), end, model, _error_body(end, raw))


def judge(status: int, raw: bytes | bytearray, model: str) -> End:
    """How an answer that is no stream ended: whole, from the model that the headers name, or as an error."""
    if status == 404 and not raw:
        return "error"  # Dynamo's, while it has no model: its routes come with the first one
    try:
        answer = json.loads(raw)
    except ValueError:
        return "wrong"
    if status >= 400:
        return "error" if isinstance(answer.get("error", answer).get("message"), str) else "wrong"
    finished = all(choice["finish_reason"] for choice in answer.get("choices", [{"finish_reason": None}]))
    return "answered" if finished and answer["model"] == model else "wrong"


def judge_stream(raw: bytes | bytearray, model: str) -> End:
    """How a stream ended: one answer of the model that the headers name, whole and to its `[DONE]`, or as an error."""
    events = [event for event in bytes(raw).split(b"\n\n") if event]
    if any(event.startswith(b"event: error") or b'data: {"error"' in event for event in events):
        return "error"
    if not events or events[-1] != b"data: [DONE]":
        return "wrong"
    try:
        chunks = [json.loads(event.removeprefix(b"data: ")) for event in events[:-1] if not event.startswith(b":")]
    except ValueError:
        return "wrong"
    one_answer = {(chunk["id"], chunk["model"]) for chunk in chunks} == {(chunks[0]["id"], model)} if chunks else False
    finished = [bool(choice["finish_reason"]) for chunk in chunks for choice in chunk["choices"]]
    return "answered" if one_answer and finished.count(True) == 1 and finished[-1] else "wrong"


def _code(raw: bytes | bytearray) -> str:
    try:
        error = json.loads(raw)["error"]
        return str(error["code"] or error["type"])
    except (ValueError, KeyError, TypeError):
        return ""


def _error_body(end: End, raw: bytes | bytearray) -> bytes:
    return b"" if end == "answered" else bytes(raw[:10_000])


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which `share` of them are."""
    ordered: Sequence[float] = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
