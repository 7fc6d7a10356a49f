"""Which text of a request is classified. Pure: no I/O, no configuration."""

from collections.abc import Sequence
from typing import Any, Literal

from gateway.errors import BadRequest

Rule = Literal["last_user", "first_user", "conversation"]

MAX_CHARACTERS = 65_536
"""More than any classifier here reads (512 tokens); tokenising a megabyte would hold everybody's decisions up."""


def text_of_messages(messages: Any, rule: Rule) -> str:
    """The user's part of a conversation.

    `last_user` and `first_user` take one message with the role user; `conversation` takes all of theirs. What the
    assistant, a tool or the system said never decides. The text may be empty. Raises BadRequest for a wrong shape.
    """
    if not isinstance(messages, list):
        raise BadRequest("'messages' must be a list", param="messages")
    if not messages:
        raise BadRequest("'messages' must not be empty", param="messages")
    texts = []
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise BadRequest(f"'messages[{index}]' must be an object", param=f"messages[{index}]")
        if message.get("role") == "user":
            texts.append(_text_of_content(message.get("content"), f"messages[{index}].content"))
    if not texts:
        return ""
    match rule:
        case "last_user":
            return texts[-1]
        case "first_user":
            return texts[0]
        case "conversation":
            return "\n\n".join(texts)


def text_of_prompt(prompt: Any, rule: Rule) -> str:
    """The text of a completion's `prompt`, a string or a list of strings; it is one turn, whatever the rule.

    Token ids carry no text. Raises BadRequest for anything else.
    """
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list):
        return "\n\n".join(item for item in prompt if isinstance(item, str))
    raise BadRequest("'prompt' must be a string or a list", param="prompt")


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


def estimated_tokens(fields: Any) -> int:
    """Replaced."""
    return 0
