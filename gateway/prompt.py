"""Which text of a request is classified. Pure: no I/O, no configuration."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from gateway.errors import BadRequest

Rule = Literal["last_user", "first_user", "conversation"]

MAX_CHARACTERS = 65_536
"""More than any classifier here reads (512 tokens); tokenising a megabyte would hold everybody's decisions up."""

_BYTES_PER_TOKEN = 4
_TEXT_FIELDS = ("messages", "prompt", "input", "system", "instructions")
_TEXT_KEYS = ("content", "text", "output", "tool_calls", "function", "arguments")
"""Where messages, their parts and their tools' calls and results hold text; all else may be data."""
_ANSWER_FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


def text_of_messages(messages: Any, rule: Rule) -> str:
    """The user's part of a conversation, OpenAI's or Anthropic's.

    `last_user` and `first_user` take one message with the role user, of those that have text: an image alone or a
    tool's result that Anthropic files under the user says nothing. `conversation` takes all of theirs. What the
    assistant, a tool or the system said never decides. The text may be empty. Raises BadRequest for a wrong shape.
    """
    if not isinstance(messages, list):
        raise BadRequest("'messages' must be a list", param="messages")
    if not messages:
        raise BadRequest("'messages' must not be empty", param="messages")
    return _pick(_user_texts(messages, "messages"), rule)


def text_of_input(value: Any, rule: Rule) -> str:
    """The user's part of a response's `input`: a string, or a list of items, messages among them.

    Calls, their outputs, reasoning and references are no user's. The text may be empty. Raises BadRequest for a wrong
    shape.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise BadRequest("'input' must be a string or a list", param="input")
    return _pick(_user_texts(value, "input"), rule)


def text_of_prompt(prompt: Any, rule: Rule) -> str:
    """The text of a completion's `prompt`, a string or a list of strings; it is one turn, whatever the rule.

    Token ids carry no text. Raises BadRequest for anything else.
    """
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list):
        return "\n\n".join(item for item in prompt if isinstance(item, str))
    raise BadRequest("'prompt' must be a string or a list", param="prompt")


def _user_texts(items: Sequence[Any], param: str) -> list[str]:
    """What the user said, message by message; those without text are left out."""
    texts = []
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise BadRequest(f"'{param}[{index}]' must be an object", param=f"{param}[{index}]")
        if item.get("role") == "user":
            texts.append(_text_of_content(item.get("content"), f"{param}[{index}].content"))
    return [text for text in texts if text.strip()]


def _pick(texts: Sequence[str], rule: Rule) -> str:
    if not texts:
        return ""
    match rule:
        case "last_user":
            return texts[-1]
        case "first_user":
            return texts[0]
        case "conversation":
            return "\n\n".join(texts)


def _text_of_content(content: Any, param: str) -> str:
    match content:
        case None:
            return ""
        case str():
            return content
        case list():
            return "\n".join(_texts_of_parts(content))
    raise BadRequest(f"'{param}' must be a string or a list of parts", param=param)


def _texts_of_parts(parts: Sequence[Any]) -> list[str]:
    """The text parts; images, audio and files are left to the model."""
    return [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]


def bounded(text: str) -> str:
    """`text`, or its head and tail when it is longer than MAX_CHARACTERS: instructions stand first or last."""
    if len(text) <= MAX_CHARACTERS:
        return text
    half = MAX_CHARACTERS // 2
    return f"{text[:half]}\n{text[-half:]}"


MAX_PARTS = 100_000
"""Of a request, those that are looked at to estimate its tokens."""


def estimated_tokens(fields: Mapping[str, Any]) -> int:
    """Roughly the tokens that a request asks the model to hold: what it is given, and the most it may answer.

    Four bytes of text are about a token; a token id is one. Images, audio and files are not counted, nor what lies
    beyond the first MAX_PARTS parts: no conversation has so many, and counting holds everybody up. Never raises,
    whatever the JSON.
    """
    size = 0
    parts = 0
    left = [fields.get(name) for name in _TEXT_FIELDS]
    while left and parts < MAX_PARTS:  # not recursive: JSON may be nested deeper than Python's stack
        parts += 1
        match left.pop():
            case str() as text:
                size += len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
            case bool():
                pass
            case int():
                size += _BYTES_PER_TOKEN
            case list() as items:
                left += items[:MAX_PARTS]
            case dict() as item:
                left += [item[key] for key in _TEXT_KEYS if key in item]
    return math.ceil(size / _BYTES_PER_TOKEN) + max(_positive(fields.get(name)) for name in _ANSWER_FIELDS)


def _positive(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
