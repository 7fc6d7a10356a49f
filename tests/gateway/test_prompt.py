from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.prompt import (
    MAX_CHARACTERS,
    MAX_PARTS,
    Rule,
    bounded,
    estimated_tokens,
    text_of_input,
    text_of_messages,
    text_of_prompt,
)

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
_IMAGE_LAST = [
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:…"}}]},
    {"role": "user", "content": "first"},
    {"role": "assistant", "content": "answer"},
    {"role": "user", "content": "last"},
    {"role": "user", "content": " "},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:…"}}]},
]
_ANTHROPIC = [
    {"role": "user", "content": [{"type": "text", "text": "first"}]},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {"text": "no"}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "no"}]},
    {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": "no"}]}]},
]
_ANTHROPIC_ANSWERED = [
    *_ANTHROPIC,
    {"role": "user", "content": [{"type": "tool_result", "content": "no"}, {"type": "text", "text": "last"}]},
]
_ITEMS = [
    {"role": "developer", "content": "be brief"},
    {"type": "message", "role": "user", "content": "first"},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "no"}]},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "no"}]},
    {
        "role": "user",
        "content": [{"type": "input_image", "image_url": "data:…"}, {"type": "input_text", "text": "last"}],
    },
    {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "1", "output": "42"},
    {"type": "item_reference", "id": "msg_1"},
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
        (_TOOL_LAST, "conversation", "first\n\nlast"),
        (_CHAT[:3], "last_user", "first"),
        (_IMAGE_LAST, "last_user", "last"),
        (_IMAGE_LAST, "first_user", "first"),
        (_IMAGE_LAST, "conversation", "first\n\nlast"),
        (_ANTHROPIC, "last_user", "first"),
        (_ANTHROPIC, "conversation", "first"),
        (_ANTHROPIC_ANSWERED, "last_user", "last"),
        (_ANTHROPIC_ANSWERED, "first_user", "first"),
        (_ANTHROPIC[2:], "last_user", ""),
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
    ("value", "rule", "text"),
    [
        ("one turn", "last_user", "one turn"),
        ("one turn", "conversation", "one turn"),
        (_ITEMS, "last_user", "last"),
        (_ITEMS, "first_user", "first"),
        (_ITEMS, "conversation", "first\n\nlast"),
        (_ITEMS[5:], "last_user", ""),
        ([], "last_user", ""),
    ],
)
def test_the_users_items_decide(value: Any, rule: Rule, text: str) -> None:
    """Of a response's input a string is the user's; of items, the messages of theirs alone."""
    assert text_of_input(value, rule) == text


@pytest.mark.parametrize(
    ("value", "param"),
    [
        (None, "input"),
        (5, "input"),
        ({}, "input"),
        (["hello"], "input[0]"),
        ([{"role": "user", "content": 5}], "input[0].content"),
    ],
)
def test_wrong_input_is_named(value: Any, param: str) -> None:
    """A wrong shape of a response's input is a BadRequest that points at its place."""
    with pytest.raises(BadRequest) as error:
        text_of_input(value, "last_user")
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


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({}, 0),
        ({"messages": [{"role": "user", "content": "12345678"}]}, 2),
        ({"messages": [{"role": "user", "content": "123456789"}]}, 3),
        ({"messages": [{"role": "system", "content": "1234"}, {"role": "tool", "content": "1234"}]}, 2),
        ({"messages": [{"content": [{"type": "text", "text": "1234"}, *_PARTS[1:2]]}]}, 1),
        ({"messages": [{"content": [{"type": "tool_result", "content": [{"type": "text", "text": "1234"}]}]}]}, 1),
        ({"messages": [{"tool_calls": [{"function": {"name": "f", "arguments": "1234"}}]}]}, 1),
        ({"messages": [{"content": [{"type": "image", "source": {"data": "A" * 1000}}]}]}, 0),
        ({"messages": [{"content": "é€"}]}, 2),
        ({"messages": [{"content": "\ud800"}]}, 1),
        ({"prompt": "1234"}, 1),
        ({"prompt": ["1234", "1234"]}, 2),
        ({"prompt": [[1, 2], [3]]}, 3),
        ({"input": "1234", "instructions": "1234"}, 2),
        ({"input": [{"type": "function_call_output", "output": "1234"}]}, 1),
        ({"system": [{"type": "text", "text": "1234"}], "messages": []}, 1),
        ({"prompt": "1234", "max_tokens": 10}, 11),
        ({"max_tokens": 10, "max_completion_tokens": 20}, 20),
        ({"max_output_tokens": 10}, 10),
        ({"max_tokens": True}, 0),
        ({"max_tokens": -1, "max_output_tokens": "5"}, 0),
        ({"user": "1234", "metadata": {"text": "1234"}}, 0),
    ],
)
def test_estimated_tokens(fields: dict[str, Any], tokens: int) -> None:
    """A quarter of the text's bytes, rounded up, token ids one by one, and what may be answered; no data."""
    assert estimated_tokens(fields) == tokens


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud800"),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["role", "content", "text", "type"]) | st.text(), inner)
    ),
    max_leaves=20,
)
_FIELDS = st.dictionaries(st.sampled_from(["messages", "prompt", "input", "system", "max_tokens"]), _JSON)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
@given(_FIELDS, st.sampled_from(["last_user", "first_user", "conversation"]))
def test_any_json_has_a_text_or_is_a_bad_request(fields: dict[str, Any], rule: Rule) -> None:
    """No JSON makes the readers raise anything but BadRequest, or the estimate anything at all."""
    assert estimated_tokens(fields) >= 0
    for read in (text_of_messages, text_of_input, text_of_prompt):
        for value in fields.values():
            try:
                assert isinstance(read(value, rule), str)
            except BadRequest as error:
                assert error.param


def test_deep_nesting_is_counted() -> None:
    """Nesting beyond Python's stack is no obstacle."""
    deep: Any = "1234"
    for _ in range(MAX_PARTS // 2):
        deep = [deep]
    assert estimated_tokens({"input": deep}) == 1


@pytest.mark.parametrize("content", [[{}] * 500_000, [1] * 500_000, [[]] * 500_000, [{"a": 1}] * 500_000])
def test_an_estimate_looks_at_a_bounded_part(content: list[object]) -> None:
    """However many parts a request has, only so many are looked at."""
    assert estimated_tokens({"messages": [{"role": "user", "content": content}]}) <= MAX_PARTS
