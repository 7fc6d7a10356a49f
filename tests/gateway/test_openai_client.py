import openai
import pytest

from tests.gateway.client import Gateway

_HELLO: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Write a poem about rain"}]
_ROUTER = {"nim-llm-router": {"policy": "task_router"}}


@pytest.fixture
def client(gateway: Gateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0)


def test_sync(client: openai.OpenAI) -> None:
    """A plain call returns a typed completion by the chosen model."""
    with client:
        answer = client.chat.completions.create(model="auto", messages=_HELLO, max_tokens=4, extra_body=_ROUTER)
    assert answer.choices[0].message.content
    assert answer.model in ("mixtral-8x22b-instruct-v0.1", "llama-3.1-70b-instruct")
    assert answer.usage is not None and answer.usage.completion_tokens == 4


def test_sync_stream(client: openai.OpenAI) -> None:
    """A stream yields typed chunks up to the one with a finish reason."""
    with client:
        chunks = list(client.chat.completions.create(model="", messages=_HELLO, max_tokens=5, stream=True))
    assert len([chunk for chunk in chunks if chunk.choices[0].delta.content]) == 5
    assert chunks[-1].choices[0].finish_reason == "length"


def test_headers_are_there(client: openai.OpenAI) -> None:
    """The raw response carries the label and the model."""
    with client:
        raw = client.chat.completions.with_raw_response.create(model="auto", messages=_HELLO, max_tokens=1)
    assert raw.headers["X-Chosen-Classifier"]
    assert raw.headers["x-routellm-routed-model"] == raw.parse().model


@pytest.mark.anyio
async def test_async(gateway: Gateway) -> None:
    """The asynchronous client works, whole and as a stream."""
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0) as client:
        answer = await client.chat.completions.create(model="auto", messages=_HELLO, max_tokens=3, extra_body=_ROUTER)
        assert answer.choices[0].message.content
        stream = await client.chat.completions.create(model="auto", messages=_HELLO, max_tokens=3, stream=True)
        assert len([chunk async for chunk in stream if chunk.choices[0].delta.content]) == 3


def test_completions_and_models(client: openai.OpenAI) -> None:
    """The other routes work through the client as well."""
    with client:
        assert client.completions.create(model="auto", prompt="Once upon", max_tokens=2).choices[0].text
        assert "auto" in [model.id for model in client.models.list()]


def test_typed_errors(client: openai.OpenAI) -> None:
    """Our errors raise the client's own exceptions, with our message, code and param."""
    with client:
        with pytest.raises(openai.BadRequestError, match="must not be empty") as bad:
            client.chat.completions.create(model="auto", messages=[])
        with pytest.raises(openai.NotFoundError, match="no policy 'nope'") as missing:
            client.chat.completions.create(
                model="auto", messages=_HELLO, extra_body={"nim-llm-router": {"policy": "nope"}}
            )
    assert bad.value.param == "messages" and bad.value.type == "invalid_request_error"
    assert missing.value.code == "policy_not_found"
