"""What a chat said, for a trace that an operator wants it in: by GenAI's convention, and bounded."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from starlette.types import Message, Receive, Send

MAX_CHARACTERS = 65536
"""Of the messages, and as many of the answers: of their texts, and _PER_PART for what holds each."""
MAX_BYTES = 1024 * 1024
"""Of a request, of an answer that is no stream, and of a line of a stream: longer ones are not read."""

_Json = dict[str, Any]
_PER_PART = 64  # characters that a message or a part of one counts besides its texts: about what its JSON takes
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
        sent = _while_there_is_room(_input, reversed(_list(messages)), room)
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

    def part(self) -> bool:
        """Whether there is room for one more message or part, which is taken."""
        fits = self.left > _PER_PART
        self.cut = self.cut or not fits
        self.left = self.left - _PER_PART if fits else 0
        return fits


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
        choices = _list(_field(_parse(self._body), "choices"))
        self.room.cut = self.room.cut or len(choices) > _MOST_CHOICES
        return _while_there_is_room(_output, choices[:_MOST_CHOICES], self.room)


class _Stream:
    """An answer in server-sent events, whose deltas are put together; chunks may end anywhere."""

    def __init__(self) -> None:
        self.room = _Room()
        self._words = _Room()  # for roles and reasons to finish: a long text leaves the last of them room
        self.bytes_kept = 0
        self._line = bytearray()
        self._choices: dict[int, _Json] = {}

    def feed(self, data: bytes) -> None:
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._keep(line)
            self._read(bytes(self._line))
            self._line.clear()
        self._keep(rest)

    def messages(self) -> list[_Json]:
        """What was put together, with room of its own: so much was kept, and what holds it counts here."""
        room = _Room()
        choices = [choice for _, choice in sorted(self._choices.items())]
        wholes = [{**each, "message": {**each, "content": "".join(each["content"])}} for each in choices]
        messages = _while_there_is_room(_output, wholes, room)
        self.room.cut = self.room.cut or self._words.cut or room.cut
        return messages

    def _keep(self, data: bytes) -> None:
        _keep(self._line, data)
        self.bytes_kept = max(self.bytes_kept, len(self._line))

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
        new = {"role": "", "content": [], "tool_calls": [], "finish_reason": ""}
        whole = self._choices.setdefault(index, new)
        delta = choice.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        whole["role"] = whole["role"] or self._words.take(delta.get("role"))  # some servers repeat it
        if text := self.room.take(delta.get("content")):
            whole["content"].append(text)
        for call in _list(delta.get("tool_calls")):
            self._add_call(whole["tool_calls"], call)
        whole["finish_reason"] = whole["finish_reason"] or self._words.take(choice.get("finish_reason"))

    def _add_call(self, calls: list[_Json], call: Any) -> None:
        function = _field(call, "function")
        name, arguments = _field(function, "name"), self.room.take(_field(function, "arguments"))
        if (call_id := _field(call, "id")) and self.room.part():  # its first piece
            calls.append({"id": self.room.take(call_id), "function": {"name": self.room.take(name), "arguments": ""}})
        if calls:
            calls[-1]["function"]["arguments"] += arguments


def _while_there_is_room(written: Callable[[_Json, _Room], _Json], those: Iterable[Any], room: _Room) -> list[_Json]:
    """These as messages, in their order; even one that says nothing takes its room."""
    messages: list[_Json] = []
    for each in those:
        if not isinstance(each, dict):
            continue
        if not room.part():
            break
        messages.append(written(each, room))
    return messages


def _input(message: _Json, room: _Room) -> _Json:
    """A message as the convention has it."""
    role = room.take(message.get("role"))
    if role != "tool":
        return {"role": role, "parts": _parts(message, room)}
    if not room.part():
        return {"role": role, "parts": []}
    response = {"type": "tool_call_response", "id": room.take(message.get("tool_call_id"))}
    return {"role": role, "parts": [{**response, "response": room.take(message.get("content"))}]}


def _output(choice: _Json, room: _Room) -> _Json:
    """A choice of an answer as the convention has it."""
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    return {
        "role": room.take(message.get("role") or "assistant"),
        "finish_reason": room.take(choice.get("finish_reason")),
        "parts": _parts(message, room),
    }


def _parts(message: Mapping[str, Any], room: _Room) -> list[_Json]:
    """Texts and tool calls; of what else there is, the kind alone."""
    content = message.get("content")
    pieces = content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
    parts: list[_Json] = []
    for piece in pieces:
        if not room.part():
            break
        if _field(piece, "type") == "text":
            parts.append({"type": "text", "content": room.take(piece.get("text"))})
        else:
            parts.append({"type": room.take(_field(piece, "type"))})
    for call in _list(message.get("tool_calls")):
        if not room.part():
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
