"""A request's JSON body: read once, and rewritten in place.

Only the bytes of `model` change and those of `nim-llm-router` go; everything else stays as the client wrote it,
number formats, key order and unknown fields included.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from gateway.errors import BadRequest

ROUTER_FIELD = "nim-llm-router"

MAX_MEMBERS = 1_000
"""Top-level fields of a body: OpenAI's requests have a few dozen, and each costs a step of Python."""

MAX_COMMAS = 1_000_000
"""Of a body: more parts than a request has, and parsing them holds everybody up."""

_SPACE = re.compile(r"[ \t\n\r]*")


def refuse_constant(name: str) -> NoReturn:
    """For json's `parse_constant`: NaN and the infinities, which Python reads, are not JSON."""
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=refuse_constant)


@dataclass(frozen=True, slots=True)
class _Span:
    """Where a member stands in the text: its key's start, its value's start and its end."""

    start: int
    value: int
    end: int


@dataclass(frozen=True, slots=True)
class Body:
    """A JSON object, parsed, with the place of each top-level member in its text."""

    fields: dict[str, Any]
    _text: str
    _spans: dict[str, _Span]

    def without_fields(self) -> "Body":
        """Enough to rewrite it: parsed, a body can take twenty times the memory that its text does."""
        return Body({}, self._text, self._spans)

    def rewritten(self, model: str) -> bytes:
        """The body for the upstream: `model` set, `nim-llm-router` gone, nothing else touched."""
        edits = []
        spans = list(self._spans.items())
        for index, (key, span) in enumerate(spans):
            if key == "model":
                edits.append((span.value, span.end, json.dumps(model)))
            elif key == ROUTER_FIELD:
                if index + 1 < len(spans):  # with the comma after it
                    edits.append((span.start, spans[index + 1][1].start, ""))
                else:  # with the comma before it, if there is one
                    edits.append((spans[index - 1][1].end if index else span.start, span.end, ""))
        text = self._text
        for start, end, replacement in reversed(edits):
            text = text[:start] + replacement + text[end:]
        if "model" not in self._spans:
            opening = text.index("{") + 1
            comma = "" if text[_space(text, opening)] == "}" else ", "
            text = f'{text[:opening]}"model": {json.dumps(model)}{comma}{text[opening:]}'
        return text.encode()


def parse_body(raw: bytes) -> Body:
    """Parse a request's body.

    Raises BadRequest when it is empty, no UTF-8, no JSON, no object, names a top-level field twice or has
    more than MAX_MEMBERS of them, or MAX_COMMAS in all.
    """
    if not raw:
        raise BadRequest("the request has no body; a JSON object is expected")
    if raw.count(b",") > MAX_COMMAS:
        raise BadRequest(f"the body has more than {MAX_COMMAS} commas")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not valid UTF-8 (byte {error.start})") from None
    try:
        return _parse_object(text)
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except ValueError as error:  # JSONDecodeError is one, and so is a number of too many digits
        raise BadRequest(f"the body is not valid JSON: {error}") from None


def _parse_object(text: str) -> Body:
    start = _space(text, 0)
    if text[start : start + 1] != "{":
        _decoder.decode(text)  # broken JSON is the better complaint, when it is broken
        raise BadRequest("the body must be a JSON object")
    fields: dict[str, Any] = {}
    spans: dict[str, _Span] = {}
    position = _space(text, start + 1)
    if text[position : position + 1] != "}":
        while True:
            key, value_start = _key(text, position)
            if key in fields:
                raise BadRequest(f"the field {key[:64]!r} stands twice in the body", param=key[:64])
            if len(fields) == MAX_MEMBERS:
                raise BadRequest(f"the body has more than {MAX_MEMBERS} fields")
            fields[key], end = _decoder.raw_decode(text, value_start)
            spans[key] = _Span(position, value_start, end)
            position = _space(text, end)
            if text[position : position + 1] != ",":
                break
            position = _space(text, position + 1)
        if text[position : position + 1] != "}":
            raise json.JSONDecodeError("Expecting ',' or '}'", text, position)
    position = _space(text, position + 1)
    if position != len(text):
        raise json.JSONDecodeError("Extra data", text, position)
    return Body(fields, text, spans)


def _key(text: str, position: int) -> tuple[str, int]:
    """The member name at `position` and where its value starts."""
    if text[position : position + 1] != '"':
        raise json.JSONDecodeError("Expecting a property name in double quotes", text, position)
    key, position = _decoder.raw_decode(text, position)
    position = _space(text, position)
    if text[position : position + 1] != ":":
        raise json.JSONDecodeError("Expecting ':'", text, position)
    return key, _space(text, position + 1)


def _space(text: str, position: int) -> int:
    """The first position from `position` on that holds no white space."""
    match = _SPACE.match(text, position)
    assert match is not None  # the pattern matches nothing, too
    return match.end()
