"""How many tokens an answer took, as the upstream says: read from the bytes that pass, which stay as they are."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_EVENT_BYTES = 1024 * 1024
"""Of a stream; what a longer event says of tokens is not seen."""
MAX_BODY_BYTES = 256 * 1024
"""Of an answer in one piece: a longer one would be parsed for milliseconds."""
_MOST_TOKENS = 2**53  # from here on a sum of floats, as metrics are, is none
# OpenAI's older names, and those of its responses and of Anthropic's messages. Anthropic's input_tokens are without
# what a cache had or took.
_KINDS = {
    "prompt_tokens": "input",
    "input_tokens": "input",
    "cache_creation_input_tokens": "cached",
    "cache_read_input_tokens": "remembered",
    "completion_tokens": "output",
    "output_tokens": "output",
}
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
# The ends of lines are \n, \r\n and \r; within a JSON string they are written otherwise.
_END_OF_EVENT = re.compile(rb"(?:\r\n|\r(?!\n)|\n){2}")
_COMMON_ENDS = (b"\n\n", b"\r\n\r\n")
_LINES = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a prompt, and of its answer."""

    input_tokens: int
    output_tokens: int


class UsageReader:
    """Takes an answer in pieces, cut anywhere. It holds one event of a stream, or a whole answer, up to its bound."""

    def __init__(self, is_stream: bool) -> None:
        self._is_stream = is_stream
        self._held = bytearray()
        self._too_long = False
        # Most upstreams say it once. Anthropic's streams tell some in the first event, some in the last but one, and
        # vLLM can be asked to count on in every one.
        self._first: bytes | None = None
        self._last: bytes | None = None

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""
        if self._is_stream:
            self._feed_stream(chunk)
        elif not self._too_long:
            self._held += chunk
            if len(self._held) > MAX_BODY_BYTES:
                self._too_long = True
                self._held.clear()

    def usage(self) -> Usage | None:
        """What was said until now; None when nothing was that can be understood."""
        if not self._is_stream:
            return _usage_in([bytes(self._held)])
        self._keep(bytes(self._held))  # of a server that ends without an empty line
        return _usage_in([_data_of(event) for event in (self._first, self._last) if event is not None])

    def _feed_stream(self, chunk: bytes) -> None:
        held = self._held
        if not held and chunk.endswith(_COMMON_ENDS):  # whole events, as nearly all chunks are
            self._keep(chunk)
            return
        seen = max(len(held) - 3, 0)  # an end may have begun there that is whole now
        held += chunk
        end = 0
        for match in _END_OF_EVENT.finditer(held, seen):
            end = match.end()
        if end:
            self._keep(bytes(held[:end]))
            del held[:end]
        if len(held) > MAX_EVENT_BYTES:
            held.clear()  # what is still to come of it is the end of a line, and no event

    def _keep(self, events: bytes) -> None:
        if _USAGE.search(events) is None:
            return
        for event in _END_OF_EVENT.split(events):
            if _USAGE.search(event):
                self._first = self._first or event
                self._last = event


def _data_of(event: bytes) -> bytes:
    """An event's data, its lines put together (HTML Standard, Server-sent events)."""
    lines = (line.partition(b":") for line in _LINES.split(event))
    return b"\n".join(value.removeprefix(b" ") for name, _, value in lines if name == b"data")


def _usage_in(documents: list[bytes]) -> Usage | None:
    """What later documents say counts."""
    tokens: dict[str, int] = {}
    for document in documents:
        try:
            parsed = json.loads(document)
        except (ValueError, RecursionError):
            continue
        for usage in _usages(parsed):
            tokens |= _tokens(usage)
    if "input" not in tokens:
        return None
    prompt = sum(tokens.get(kind, 0) for kind in ("input", "cached", "remembered"))
    return Usage(prompt, tokens.get("output", 0))  # an embedding has no answer


def _usages(answer: Any) -> Iterator[Mapping[str, Any]]:
    """Where OpenAI's chats, completions and embeddings, its responses' streams, and Anthropic's streams have it."""
    if isinstance(answer, dict):
        for holder in (answer, answer.get("message"), answer.get("response")):
            if isinstance(holder, dict) and isinstance(holder.get("usage"), dict):
                yield holder["usage"]


def _tokens(usage: Mapping[str, Any]) -> dict[str, int]:
    found = {kind: usage[name] for name, kind in _KINDS.items() if name in usage}
    return {kind: n for kind, n in found.items() if type(n) is int and 0 <= n < _MOST_TOKENS}
