from typing import Any

import pytest

from gateway.errors import BadRequest
from gateway.prompt import MAX_CHARACTERS, Rule, bounded, text_of_messages, text_of_prompt

_CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "first"},
    {"role": "assistant", "content": "answer"},
    {"role": "user", "content": "last"},
]
_TOOL_LAST = [
    *_CHAT,
    {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
    {"role": "tool", "tool_call_id": "1", "content": "42"},
]
_PARTS = [
    {"type": "text", "text": "what is"},
    {"type": "image_url", "image_url": {"url": "data:…"}},
    {"type": "text", "text": "this?"},
]


@pytest.mark.parametrize(
    ("messages", "rule", "text"),
    [
        (_CHAT, "last_user", "last"),
        (_CHAT, "first_user", "first"),
        (_CHAT, "conversation", "first\n\nlast"),
        (_TOOL_LAST, "last_user", "last"),
        (_TOOL_LAST, "first_user", "first"),
        ([{"role": "user", "content": _PARTS}], "last_user", "what is\nthis?"),
        ([{"role": "user", "content": _PARTS[1:2]}], "last_user", ""),
        ([{"role": "user", "content": [None, 1, {"text": 2}]}], "last_user", ""),
        ([{"role": "user", "content": None}], "last_user", ""),
        ([{"role": "user"}], "last_user", ""),
        ([{"role": "system", "content": "be brief"}], "last_user", ""),
        ([{"content": "no role"}], "conversation", ""),
    ],
)
def test_the_users_words_decide(messages: Any, rule: Rule, text: str) -> None:
    """Each rule picks the user's text, whoever spoke last."""
    assert text_of_messages(messages, rule) == text


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (None, "messages"),
        ("hello", "messages"),
        ({}, "messages"),
        ([], "messages"),
        (["hello"], "messages[0]"),
        ([{"role": "user", "content": "a"}, None], "messages[1]"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": {"text": "a"}}], "messages[0].content"),
    ],
)
def test_wrong_messages_are_named(messages: Any, param: str) -> None:
    """A wrong shape is a BadRequest that points at its place."""
    with pytest.raises(BadRequest) as error:
        text_of_messages(messages, "last_user")
    assert error.value.param == param


@pytest.mark.parametrize(
    ("prompt", "text"), [("one", "one"), (["one", "two"], "one\n\ntwo"), ([1, 2], ""), ([[1], [2]], ""), ([], "")]
)
def test_completion_prompts(prompt: Any, text: str) -> None:
    """Strings are text; token ids are not."""
    assert text_of_prompt(prompt, "last_user") == text


@pytest.mark.parametrize("prompt", [None, 5, {"a": "b"}])
def test_wrong_completion_prompts(prompt: Any) -> None:
    """Neither string nor list is a BadRequest."""
    with pytest.raises(BadRequest, match="'prompt' must be"):
        text_of_prompt(prompt, "last_user")


def test_long_text_keeps_head_and_tail() -> None:
    """A text within the bound stays as it is; a longer one keeps both its ends."""
    assert bounded("x" * MAX_CHARACTERS) == "x" * MAX_CHARACTERS
    cut = bounded("head" + "x" * 1_000_000 + "tail")
    assert cut.startswith("head") and cut.endswith("tail")
    assert len(cut) == MAX_CHARACTERS + 1
