"""Token counts out of answers: the same whole and streamed, and wherever a stream is cut."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.observe.usage import MAX_BODY_BYTES, MAX_EVENT_BYTES, Usage, UsageReader
from tests.conftest import DEFAULT_CONFIG, StartGateway
from tests.gateway.client import Gateway, eventually
from tests.gateway.scripted import scripted_upstream

_PROMPT = "Write a Python function to sort a list"
_STREAM = {"stream": True, "stream_options": {"include_usage": True}}
_ANTHROPIC = (
    b'event: message_start\ndata: {"message":{"usage":{"input_tokens":11,"output_tokens":1}}}\n\n'
    b'event: content_block_delta\ndata: {"delta":{"text":"\\"usage\\": {"}}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":7}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)


def read(is_stream: bool, *chunks: bytes) -> Usage | None:
    reader = UsageReader(is_stream)
    for chunk in chunks:
        reader.feed(chunk)
    return reader.usage()


def cut(raw: bytes, places: Sequence[int]) -> list[bytes]:
    """`raw` in pieces that end at `places`."""
    ends = [0, *sorted(place % (len(raw) + 1) for place in places), len(raw)]
    return [raw[start:end] for start, end in zip(ends, ends[1:], strict=False)]


@cache
def _answers(gateway_url: str, path: str, request: str) -> tuple[bytes, bytes]:
    """Dynamo's answers to the same request: whole, and as a stream."""
    fields = json.loads(request)
    options = {"stream": True} if path in ("/v1/responses", "/v1/messages") else _STREAM
    whole = httpx2.post(gateway_url + path, json=fields, timeout=60)
    streamed = httpx2.post(gateway_url + path, json=fields | options, timeout=60)
    assert whole.status_code == streamed.status_code == 200, whole.text + streamed.text
    return whole.content, streamed.content


_REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": _PROMPT}], "max_tokens": 9}),
    ("/v1/completions", {"prompt": _PROMPT, "max_tokens": 5}),
    ("/v1/responses", {"input": _PROMPT, "max_output_tokens": 6}),
    ("/v1/messages", {"messages": [{"role": "user", "content": _PROMPT}], "max_tokens": 7}),
]


@pytest.mark.parametrize(("path", "fields"), _REQUESTS, ids=[path for path, _ in _REQUESTS])
def test_streams_count_as_whole_answers_do(gateway: Gateway, path: str, fields: dict[str, Any]) -> None:
    """Dynamo's stream has the tokens of its whole answer to the same request, however it is cut."""
    whole, streamed = _answers(gateway.url, path, json.dumps({"model": "auto", **fields}))
    expected = read(False, whole)
    tokens = next(value for name, value in fields.items() if name.startswith("max_"))
    assert expected is not None and expected.input_tokens > 5 and expected.output_tokens == tokens

    @given(st.lists(st.integers(0, len(streamed)), max_size=40), st.sampled_from([b"\n", b"\r\n", b"\r"]))
    def stream(places: list[int], line_end: bytes) -> None:
        assert read(True, *cut(streamed.replace(b"\n", line_end), places)) == expected

    @given(st.lists(st.integers(0, len(whole)), max_size=10))
    def body(places: list[int]) -> None:
        assert read(False, *cut(whole, places)) == expected

    stream()
    body()
    assert read(True, *(bytes([byte]) for byte in streamed)) == expected


def test_a_gateway_counts_what_comes_in_any_pieces(gateway: Gateway, start_gateway: StartGateway) -> None:
    """Dynamo's stream, sent on in chunks that are cut anywhere, arrives byte for byte, and its tokens are those of the
    whole answer."""
    path, fields = _REQUESTS[0]
    whole, streamed = _answers(gateway.url, path, json.dumps({"model": "auto", **fields}))
    expected = read(False, whole)
    assert expected is not None
    with scripted_upstream(status=404, headers={"content-type": "text/event-stream"}) as upstream:
        cutting = start_gateway(DEFAULT_CONFIG.read_text(), DYNAMO_API_BASE=upstream.url)

        @settings(max_examples=25, deadline=None)
        @given(st.lists(st.integers(0, len(streamed)), max_size=12))
        def sent_on(places: list[int]) -> None:
            upstream.pieces = cut(streamed, places)
            answer = cutting.post(path, {"model": "any", **fields, "stream": True})
            assert answer.content == streamed
            request_id = answer.headers["x-request-id"]
            assert eventually(lambda: bool(cutting.request_lines(request_id)))
            (line,) = cutting.request_lines(request_id)
            assert (line["input_tokens"], line["output_tokens"]) == (expected.input_tokens, expected.output_tokens)

        sent_on()


@given(st.lists(st.integers(0, 1000), max_size=40), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_what_events_tell_adds_up(places: list[int], line_end: bytes) -> None:
    """Anthropic's first event has the prompt's tokens, one of its last the answer's: what comes later counts."""
    assert read(True, *cut(_ANTHROPIC.replace(b"\n", line_end), places)) == Usage(11, 7)


@given(st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1), st.text(), st.lists(st.integers(0, 5000), max_size=20))
def test_whatever_the_answer_says(prompt: int, completion: int, text: str, places: list[int]) -> None:
    """Neither an answer's text nor another key of it is taken for its usage."""
    event = {"delta": {"content": text + '"usage": {"prompt_tokens": 1}'}, "note": {"usage": {"prompt_tokens": 2}}}
    last = {"usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": 0}, "choices": []}
    raw = b"".join(
        b": comment\nid: 1\ndata:%b\n\n" % json.dumps(each, ensure_ascii=False).encode("utf-8", "surrogatepass")
        for each in (event, last, {"usage": None})
    )
    assert read(True, *cut(raw + b"data: [DONE]\n\n", places)) == Usage(prompt, completion)


@pytest.mark.parametrize(
    "usage",
    [
        "null",
        "[]",
        "{}",
        '{"prompt_tokens": "3", "completion_tokens": 4}',
        '{"prompt_tokens": -3, "completion_tokens": 4}',
        '{"prompt_tokens": true, "completion_tokens": 4}',
        '{"prompt_tokens": 3.5, "completion_tokens": 4}',
        '{"prompt_tokens": 9007199254740992, "completion_tokens": 4}',
        '{"prompt_tokens": 1' + "0" * 5000 + "}",
        '{"prompt_tokens": 3',
        '{"a":' * 100_000,
    ],
)
def test_nonsense_counts_as_nothing(usage: str) -> None:
    """What is no number of tokens is none, and does no harm."""
    raw = b'{"usage": ' + usage.encode() + b"}"
    assert read(False, raw) is None
    assert read(True, b"data: ", raw, b"\n\n") is None


def test_what_a_cache_had_is_input() -> None:
    """Anthropic leaves it out of input_tokens, OpenAI does not leave it out of prompt_tokens."""
    anthropic = b'{"usage": {"input_tokens": 3, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 100, '
    assert read(False, anthropic + b'"output_tokens": 9}}') == Usage(123, 9)
    openai = (
        b'{"usage": {"prompt_tokens": 123, "prompt_tokens_details": {"cached_tokens": 100}, "completion_tokens": 9}}'
    )
    assert read(False, openai) == Usage(123, 9)


def test_embeddings_have_no_answer() -> None:
    """Of an embedding only the prompt counts."""
    assert read(False, b'{"data": [], "usage": {"prompt_tokens": 4, "total_tokens": 4}}') == Usage(4, 0)


def test_last_event_without_an_empty_line() -> None:
    """A server may end right behind its last event."""
    assert read(True, b'data: {"usage":{"prompt_tokens":1,"completion_tokens":2}}') == Usage(1, 2)


def test_bounds() -> None:
    """What is too long is not held, and what comes after it counts again."""
    reader = UsageReader(is_stream=True)
    reader.feed(b"data: ")
    for _ in range(3 * MAX_EVENT_BYTES // 65536):
        reader.feed(b"x" * 65536)
        assert len(reader._held) <= MAX_EVENT_BYTES
    reader.feed(b'","usage":{"prompt_tokens":8,"completion_tokens":8}}\n\n')
    assert reader.usage() is None
    reader.feed(b'data: {"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n')
    assert reader.usage() == Usage(1, 2)

    reader = UsageReader(is_stream=False)
    for _ in range(2 * MAX_BODY_BYTES // 65536):
        reader.feed(b" " * 65536)
        assert len(reader._held) <= MAX_BODY_BYTES
    reader.feed(b'{"usage":{"prompt_tokens":1,"completion_tokens":2}}')
    assert reader.usage() is None


def test_an_answer_that_counts_in_every_event() -> None:
    """vLLM can be asked to count on in every event: the last one counts."""
    events = [b'data: {"usage":{"prompt_tokens":9,"completion_tokens":%d}}\n\n' % n for n in range(5)]
    assert read(True, *events) == read(True, b"".join(events)) == Usage(9, 4)
