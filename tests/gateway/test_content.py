"""What a trace may hold of a chat, when it is asked for: by GenAI's convention, whole or cut, and never more."""

import json
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from gateway.observe.content import MAX_BYTES, MAX_CHARACTERS, Content


def _seen(body: bytes, answer: list[bytes], content_type: bytes = b"application/json") -> dict[str, Any]:
    """The attributes of a request and its answer, in these pieces; what passes is as it was."""
    passed: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        passed.append(message)

    async def exchange() -> None:
        await content.receive()
        await content.send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", content_type)]})
        for piece in answer:
            await content.send({"type": "http.response.body", "body": piece, "more_body": True})

    content = Content(receive, send)
    anyio.run(exchange)
    assert [message["body"] for message in passed[1:]] == answer
    return content.attributes()


def _request(*messages: Any) -> bytes:
    return json.dumps({"messages": messages}).encode()


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def test_messages_of_all_kinds() -> None:
    """Texts, tool calls and their answers; of images and the like the kind alone."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    told = _seen(
        _request(
            {"role": "user", "content": [{"type": "text", "text": "look"}, image]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
        ),
        [
            json.dumps(
                {"choices": [{"message": {"role": "assistant", "content": "é"}, "finish_reason": "stop"}]}
            ).encode()
        ],
    )
    assert json.loads(told["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "look"}, {"type": "image_url"}]},
        {"role": "assistant", "parts": [{"type": "tool_call", "id": "c1", "name": "f", "arguments": '{"a": 1}'}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "2"}]},
    ]
    assert json.loads(told["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "é"}], "finish_reason": "stop"}
    ]
    assert told["llm_router.content_cut"] is False


def _chunk(delta: Any, finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


PIECES = [
    _chunk({"role": "assistant", "content": ""}),
    _chunk({"content": "né"}),
    _chunk({"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": ""}}]}),
    _chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a": 1}'}}]}),
    _chunk({"content": "e"}, "stop"),
    {"choices": [], "usage": {"prompt_tokens": 1}},
]
STREAM = b": comment\n\n" + b"".join(b"data: %b\r\n\r\n" % json.dumps(each).encode() for each in PIECES)
STREAM += b"data: [DONE]\n\n"


@given(st.lists(st.integers(0, len(STREAM)), max_size=8).map(sorted))
def test_a_stream_is_put_together(cuts: list[int]) -> None:
    """Wherever its chunks end."""
    pieces = [STREAM[start:end] for start, end in zip([0, *cuts], [*cuts, len(STREAM)], strict=True)]
    told = _seen(_request({"role": "user", "content": "x"}), pieces, b"text/event-stream; charset=utf-8")
    assert json.loads(told["gen_ai.output.messages"]) == [
        {
            "role": "assistant",
            "parts": [
                {"type": "text", "content": "née"},
                {"type": "tool_call", "id": "c1", "name": "f", "arguments": '{"a": 1}'},
            ],
            "finish_reason": "stop",
        }
    ]


def test_what_is_too_long_is_cut() -> None:
    """The last messages are kept, of the answer the beginning, and it is said."""
    long = "y" * MAX_CHARACTERS
    body = _request({"role": "user", "content": "first"}, {"role": "user", "content": long + "z"})
    told = _seen(body, [json.dumps({"choices": [{"message": {"content": long + "z"}}]}).encode()])
    (kept,) = json.loads(told["gen_ai.input.messages"])
    assert 0 < len(kept["parts"][0]["content"]) <= MAX_CHARACTERS
    assert "z" not in told["gen_ai.output.messages"]
    assert told["llm_router.content_cut"] is True
    for name in ("gen_ai.input.messages", "gen_ai.output.messages"):
        assert len(told[name]) < MAX_CHARACTERS + 1000


_EMPTY: list[Any] = [{}] * 50_000


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param(_EMPTY, id="nothing"),
        pytest.param([{"role": "user"}] * 25_000, id="roles"),
        pytest.param([{"role": "tool", "tool_call_id": "c", "content": "w"}] * 9_000, id="tools"),
        pytest.param([{"tool_calls": [{}]}] * 20_000, id="messages with a call"),
        pytest.param([{"tool_calls": _EMPTY}], id="calls"),
        pytest.param([{"content": _EMPTY}], id="parts"),
    ],
)
def test_what_says_little_takes_room(messages: list[Any]) -> None:
    """Of many messages, choices, calls or parts as many are told as the bound has room for, and that some are not."""
    told = _seen(_request(*messages), [json.dumps({"choices": [{"message": each} for each in messages]}).encode()])
    for name in ("gen_ai.input.messages", "gen_ai.output.messages"):
        assert 2 < len(told[name]) <= MAX_CHARACTERS
    assert told["llm_router.content_cut"] is True


def test_the_room_is_used_up_to_the_last_message() -> None:
    """What is said to be whole is whole: a message that takes exactly what is left, and one more."""
    exactly = {"content": "y" * (MAX_CHARACTERS - 2 * 64)}
    assert _seen(_request(exactly), [])["llm_router.content_cut"] is False
    told = _seen(_request({}, exactly), [])
    assert len(json.loads(told["gen_ai.input.messages"])) == 1 and told["llm_router.content_cut"] is True
    answers = [json.dumps({"choices": [{}] * count}).encode() for count in (64, 65)]
    assert [_seen(b"{}", [answer])["llm_router.content_cut"] for answer in answers] == [False, True]


def test_a_stream_is_bounded() -> None:
    """So many choices, so much text, and no line longer than MAX_BYTES."""
    pieces = [json.dumps({"choices": [{"index": n, "delta": {"content": "v" * 1000}}]}) for n in range(200)]
    stream = b"".join(b"data: %b\n\n" % piece.encode() for piece in pieces)
    told = _seen(b"{}", [stream], b"text/event-stream")
    assert len(told["gen_ai.output.messages"]) < 2 * MAX_CHARACTERS and told["llm_router.content_cut"] is True
    for end in (b"", b"\n"):
        told = _seen(b"{}", [b"data: " + b"u" * (2 * MAX_BYTES) + end], b"text/event-stream")
        assert told == {"llm_router.content_cut": True}


def test_a_stream_of_anything_but_text_is_bounded() -> None:
    """Long roles, reasons and names, and empty tool calls without end; the reason to finish outlives a long text."""
    long = "r" * MAX_CHARACTERS
    named = [{"index": n, "delta": {"role": long}, "finish_reason": long} for n in range(64)]
    calls = [_chunk({"tool_calls": [{"id": "c", "function": {}}] * 10})] * 1000
    for chunks in ([{"choices": [each]} for each in named], calls):
        stream = b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in chunks)
        told = _seen(b"{}", [stream], b"text/event-stream")
        assert len(told["gen_ai.output.messages"]) <= MAX_CHARACTERS and told["llm_router.content_cut"] is True
    chunks = [_chunk({"role": "assistant", "content": long}), _chunk({"role": "assistant"}, "stop")]
    stream = b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in chunks)
    told = _seen(b"{}", [stream], b"text/event-stream")
    (answer,) = json.loads(told["gen_ai.output.messages"])
    assert (answer["role"], answer["finish_reason"]) == ("assistant", "stop")
    assert 0 < len(answer["parts"][0]["content"]) < MAX_CHARACTERS and told["llm_router.content_cut"] is True


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"[]",
        b"null",
        b'{"messages": 5}',
        b'{"messages": [5, null]}',
        b"\xff",
        b"[" * 100_000,
        b"w" * (2 * MAX_BYTES),
    ],
)
def test_junk_says_nothing(junk: bytes) -> None:
    """Neither a request nor an answer that is none breaks anything."""
    for content_type in (b"application/json", b"text/event-stream"):
        told = _seen(junk, [junk, b"data: " + junk + b"\n\n"], content_type)
        assert told.keys() == {"llm_router.content_cut"}


def test_odd_values_in_their_places() -> None:
    """Whatever JSON has where texts should be; lone surrogates stay sendable."""
    odd = [5, None, {"a": "\ud800"}, ["x"], "\ud800"]
    messages = [{"role": role, "content": content, "tool_calls": content} for role in odd for content in odd]
    told = _seen(_request(*messages), [json.dumps({"choices": [{"message": each} for each in odd]}).encode()])
    for name in ("gen_ai.input.messages", "gen_ai.output.messages"):
        told[name].encode()
        assert json.loads(told[name])
    pieces = [_chunk({"content": each, "role": each, "tool_calls": each}) for each in odd]
    pieces += [_chunk({"tool_calls": [{"id": each, "function": {"name": each, "arguments": each}}]}) for each in odd]
    stream = b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in pieces)
    _seen(b"{}", [stream], b"text/event-stream")["gen_ai.output.messages"].encode()
