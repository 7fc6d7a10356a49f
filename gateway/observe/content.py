"""What a chat said, for a trace that an operator wants it in: by GenAI's convention, and bounded."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.types import Message, Receive, Send

MAX_CHARACTERS = 65536
"""Of the texts of the messages, and as many of the answers."""
MAX_BYTES = 1024 * 1024
"""Of a request, of an answer that is no stream, and of a line of a stream: longer ones are not read."""

_Json = dict[str, Any]
_PER_PART = 64  # characters that a part counts besides its text
_MOST_CHOICES = 64


class Content:
    """Sees one request's messages as they pass, and changes none."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._request = bytearray()
        self._answer: _Whole | _Stream = _Whole()
        self._cut = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            _keep(self._request, message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._answer = _Stream() if _is_stream(message["headers"]) else _Whole()
        elif message["type"] == "http.response.body":
            self._answer.feed(message.get("body", b""))
        await self._send(message)

    def attributes(self) -> dict[str, str | bool]:
        """`gen_ai.input.messages` and `gen_ai.output.messages` as JSON, where there are any; whether they are whole."""
        room = _Room()
        messages = _field(_parse(self._request), "messages")
        sent = [_input(each, room) for each in reversed(_list(messages)) if isinstance(each, dict) and room.left]
        answered = self._answer.messages()
        cut = room.cut or self._answer.room.cut or max(len(self._request), self._answer.bytes_kept) > MAX_BYTES
        attributes: dict[str, str | bool] = {"llm_router.content_cut": cut}
        if sent:
            attributes["gen_ai.input.messages"] = _written(sent[::-1])
        if answered:
            attributes["gen_ai.output.messages"] = _written(answered)
        return attributes


class _Room:
    """How much text may still be kept."""

    def __init__(self) -> None:
        self.left = MAX_CHARACTERS
        self.cut = False

    def take(self, text: Any) -> str:
        """As much of it as there is room for."""
        text = text if isinstance(text, str) else "" if text is None else json.dumps(text)
        kept: str = text[: self.left]
        self.cut = self.cut or len(kept) < len(text)
        self.left -= len(kept)
        return kept

    def part(self) -> None:
        if self.left <= _PER_PART:
            self.cut = True
        self.left = max(self.left - _PER_PART, 0)


class _Whole:
    """An answer that is one JSON object."""

    def __init__(self) -> None:
        self.room = _Room()
        self._body = bytearray()

    @property
    def bytes_kept(self) -> int:
        return len(self._body)

    def feed(self, data: bytes) -> None:
        _keep(self._body, data)

    def messages(self) -> list[_Json]:
        choices = [each for each in _list(_field(_parse(self._body), "choices")) if isinstance(each, dict)]
        return [_output(each.get("message"), each.get("finish_reason"), self.room) for each in choices[:_MOST_CHOICES]]


class _Stream:
    """An answer in server-sent events, whose deltas are put together; chunks may end anywhere."""

    def __init__(self) -> None:
        self.room = _Room()
        self.bytes_kept = 0
        self._line = bytearray()
        self._choices: dict[int, _Json] = {}

    def feed(self, data: bytes) -> None:
        *lines, rest = data.split(b"\n")
        for line in lines:
            _keep(self._line, line)
            self._read(bytes(self._line))
            self._line.clear()
        _keep(self._line, rest)
        self.bytes_kept = max(self.bytes_kept, len(self._line))

    def messages(self) -> list[_Json]:
        return [
            _output({**choice, "content": "".join(choice["content"])}, choice["finish_reason"], _Room())
            for _, choice in sorted(self._choices.items())
        ]

    def _read(self, line: bytes) -> None:
        if not line.startswith(b"data:"):
            return
        for choice in _list(_field(_parse(line[5:]), "choices")):
            if isinstance(choice, dict) and isinstance(index := choice.get("index", 0), int):
                self._add(index, choice)

    def _add(self, index: int, choice: _Json) -> None:
        if index not in self._choices and len(self._choices) >= _MOST_CHOICES:
            self.room.cut = True
            return
        whole = self._choices.setdefault(index, {"content": [], "tool_calls": [], "finish_reason": None})
        delta = choice.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        if delta.get("role"):
            whole["role"] = delta["role"]
        if text := self.room.take(delta.get("content")):
            whole["content"].append(text)
        for call in _list(delta.get("tool_calls")):
            self._add_call(whole["tool_calls"], call)
        whole["finish_reason"] = choice.get("finish_reason") or whole["finish_reason"]

    def _add_call(self, calls: list[_Json], call: Any) -> None:
        function = _field(call, "function")
        name, arguments = _field(function, "name"), self.room.take(_field(function, "arguments"))
        if call_id := _field(call, "id"):  # its first piece
            self.room.part()
            if self.room.left:
                calls.append(
                    {"id": self.room.take(call_id), "function": {"name": self.room.take(name), "arguments": ""}}
                )
        if calls:
            calls[-1]["function"]["arguments"] += arguments


def _input(message: _Json, room: _Room) -> _Json:
    """A message as the convention has it."""
    role = message.get("role")
    if role == "tool":
        room.part()
        response = {"type": "tool_call_response", "id": room.take(message.get("tool_call_id"))}
        return {"role": "tool", "parts": [{**response, "response": room.take(message.get("content"))}]}
    return {"role": room.take(role), "parts": _parts(message, room)}


def _output(message: Any, finish_reason: Any, room: _Room) -> _Json:
    message = message if isinstance(message, dict) else {}
    parts = _parts(message, room)
    return {
        "role": room.take(message.get("role") or "assistant"),
        "parts": parts,
        "finish_reason": room.take(finish_reason),
    }


def _parts(message: Mapping[str, Any], room: _Room) -> list[_Json]:
    """Texts and tool calls; of what else there is, the kind alone."""
    content = message.get("content")
    pieces = content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
    parts: list[_Json] = []
    for piece in pieces:
        room.part()
        if not room.left:
            break
        if _field(piece, "type") == "text":
            parts.append({"type": "text", "content": room.take(piece.get("text"))})
        else:
            parts.append({"type": room.take(_field(piece, "type"))})
    for call in _list(message.get("tool_calls")):
        room.part()
        if not room.left:
            break
        function = _field(call, "function")
        named = {"type": "tool_call", "id": room.take(_field(call, "id")), "name": room.take(_field(function, "name"))}
        parts.append({**named, "arguments": room.take(_field(function, "arguments"))})
    return parts


def _is_stream(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)


def _keep(kept: bytearray, data: bytes) -> None:
    """One byte more than MAX_BYTES at most, which tells that there were more."""
    kept += data[: MAX_BYTES + 1 - len(kept)]


def _parse(data: bytes | bytearray) -> Any:
    """JSON, or None: what is no JSON, or too long, or compressed."""
    if len(data) > MAX_BYTES:
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _written(messages: list[_Json]) -> str:
    """As JSON. A lone surrogate, which JSON allows, becomes a question mark: it cannot be sent."""
    return json.dumps(messages, ensure_ascii=False).encode(errors="replace").decode()


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
