import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.body import MAX_COMMAS, MAX_MEMBERS, ROUTER_FIELD, parse_body
from gateway.errors import BadRequest

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_KEYS = st.sampled_from(["model", ROUTER_FIELD, "messages", "stream", "a", "é", '"']) | st.text(max_size=5)


@given(
    st.dictionaries(_KEYS, _JSON, max_size=6),
    st.text(max_size=10),
    st.booleans(),
    st.sampled_from([None, 1]),
)
def test_rewriting_changes_model_and_router_field_alone(
    fields: dict[str, Any], model: str, ascii_only: bool, indent: int | None
) -> None:
    """Whatever the body, the upstream reads the same object with `model` set and `nim-llm-router` gone."""
    raw = json.dumps(fields, ensure_ascii=ascii_only, indent=indent).encode(errors="surrogatepass")
    try:
        raw.decode()
    except UnicodeDecodeError:
        return  # a lone surrogate outside an escape is no UTF-8
    body = parse_body(raw)
    assert body.fields == fields
    expected = {key: value for key, value in fields.items() if key != ROUTER_FIELD} | {"model": model}
    assert json.loads(body.rewritten(model)) == expected


@pytest.mark.parametrize(
    ("raw", "rewritten"),
    [
        (b'{"model":"x","a":1.0}', b'{"model":"m","a":1.0}'),
        (b'{ "a" : 1e400 ,\n "nim-llm-router": {} , "model" : "" }', b'{ "a" : 1e400 ,\n "model" : "m" }'),
        (b'{"model":"", "a":1, "nim-llm-router":{"policy":"p"}}', b'{"model":"m", "a":1}'),
        (b'{"nim-llm-router":{}}', b'{"model": "m"}'),
        (b"{}", b'{"model": "m"}'),
        (b'\t{ "a":"\\ud800\\u0041" }\n', b'\t{"model": "m",  "a":"\\ud800\\u0041" }\n'),
    ],
)
def test_untouched_bytes_stay(raw: bytes, rewritten: bytes) -> None:
    """Number formats, escapes, white space and order of everything else are the client's own."""
    assert parse_body(raw).rewritten("m") == rewritten


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"", "no body"),
        (b"nope", "not valid JSON"),
        (b'{"a":1', "not valid JSON"),
        (b'{"a":1,}', "not valid JSON"),
        (b'{"a" 1}', "not valid JSON"),
        (b"{a:1}", "not valid JSON"),
        (b'{"a":1}x', "not valid JSON"),
        (b'{"a":NaN}', "NaN is not JSON"),
        (b'{"a":' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"a":"\x00"}', "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"[1]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' + b"[" * 100_000, "nested too deeply"),
        (b'{"a":"\xff"}', "not valid UTF-8"),
        (b'{"model":"x","model":"y"}', "'model' stands twice"),
        (json.dumps({str(number): 0 for number in range(MAX_MEMBERS + 1)}).encode(), "more than 1000 fields"),
    ],
)
def test_bad_bodies_are_named(raw: bytes, complaint: str) -> None:
    """Every broken body is a BadRequest that says what is wrong."""
    with pytest.raises(BadRequest, match=complaint):
        parse_body(raw)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    """Arbitrary bytes either parse or are a BadRequest."""
    try:
        assert isinstance(parse_body(raw).fields, dict)
    except BadRequest as error:
        assert error.message


def test_more_commas_than_a_request_has() -> None:
    """A body of millions of small parts is refused before it is parsed: it would hold everybody up."""
    with pytest.raises(BadRequest, match="commas"):
        parse_body(b'{"messages": [' + b"{}," * MAX_COMMAS + b"{}, {}]}")


def test_what_goes_upstream_needs_no_fields() -> None:
    """A body without its parsed fields is rewritten as with them."""
    body = parse_body(b'{"messages": [], "nim-llm-router": {}, "model": ""}')
    assert body.without_fields().rewritten("m") == body.rewritten("m") and not body.without_fields().fields
