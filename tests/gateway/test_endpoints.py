import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from scripts.local.dynamo import DemoDynamo
from scripts.local.triton import Triton
from tests.conftest import DEFAULT_CONFIG, running_gateway
from tests.gateway.client import Gateway, chat
from tests.gateway.tee import Tee, running_tee

_PYTHON = "Write a Python function to sort a list"
_CODE_MODEL = "llama-3.3-nemotron-super-49b-v1"
_IMAGE = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture(scope="module")
def tee(dynamo: DemoDynamo) -> Iterator[Tee]:
    with running_tee("127.0.0.1", dynamo.port) as tee:
        yield tee


@pytest.fixture(scope="module")
def watched(tee: Tee, triton: Triton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose requests to Dynamo are written down."""
    folder = tmp_path_factory.mktemp("endpoints")
    config = folder / "config.yaml"
    config.write_text(DEFAULT_CONFIG.read_text().replace("    llms:", "    timeout_ms: 30000\n    llms:"))
    with running_gateway(config, folder, DYNAMO_API_BASE=tee.url, TRITON_GRPC_URL=triton.grpc_url) as gateway:
        yield gateway


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key="any", max_retries=0) as client:
        yield client


def test_responses(client: openai.OpenAI) -> None:
    """A response is routed by its input, a string or items, and Dynamo answers it as a typed response."""
    raw = client.responses.with_raw_response.create(model="auto", input=_PYTHON, max_output_tokens=16)
    assert raw.headers["X-Chosen-Classifier"] == "Code Generation"
    assert raw.parse().output_text and raw.parse().model == _CODE_MODEL
    answer = client.responses.create(
        model="auto",
        input=[{"role": "user", "content": [{"type": "input_text", "text": _PYTHON}]}],
        max_output_tokens=16,
    )
    assert answer.output_text and answer.model == _CODE_MODEL


def test_responses_stream(client: openai.OpenAI) -> None:
    """A response's stream of named events arrives whole."""
    stream = client.responses.create(model="auto", input=_PYTHON, max_output_tokens=16, stream=True)
    kinds = [event.type for event in stream]
    assert kinds[0] == "response.created" and kinds.count("response.output_text.delta") == 16
    assert kinds[-1] == "response.incomplete"  # it was cut at 16 tokens


def test_messages(claude: anthropic.Anthropic) -> None:
    """Anthropic's client gets a message of the model that its prompt chose, a tool's result in between or not."""
    turns: list[anthropic.types.MessageParam] = [
        {"role": "user", "content": _PYTHON},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "run", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "Tell me a joke"}]},
    ]
    for messages in (turns[:1], turns):
        raw = claude.messages.with_raw_response.create(model="auto", messages=messages, max_tokens=3)
        assert raw.headers["X-Chosen-Classifier"] == "Code Generation"
        message = raw.parse()
        assert message.model == _CODE_MODEL and message.usage.output_tokens == 3


def test_messages_stream(claude: anthropic.Anthropic) -> None:
    """Anthropic's stream of named events arrives whole."""
    with claude.messages.stream(model="auto", messages=[{"role": "user", "content": _PYTHON}], max_tokens=5) as stream:
        assert len(list(stream.text_stream)) == 5
        assert stream.get_final_message().stop_reason == "max_tokens"


def test_tools_and_formats(client: openai.OpenAI) -> None:
    """Tools, a response format and an image go through the typed client, whole and streamed."""
    fields: dict[str, Any] = {
        "model": "auto",
        "max_tokens": 3,
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": _PYTHON}, {"type": "image_url", "image_url": {"url": _IMAGE}}],
            }
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
        "tool_choice": "auto",
        "response_format": {"type": "json_object"},
    }
    assert client.chat.completions.create(**fields).model == _CODE_MODEL
    chunks = list(client.chat.completions.create(**fields, stream=True))
    assert {chunk.model for chunk in chunks} == {_CODE_MODEL}


def test_embeddings_pass_to_the_named_model(client: openai.OpenAI, gateway: Gateway, dynamo: DemoDynamo) -> None:
    """An embeddings request goes to the model it names: the mockers embed nothing, and Dynamo's own answer says so."""
    body = {"model": "llama-3.1-8b-instruct", "input": "hi"}
    direct = httpx2.post(f"{dynamo.url}/v1/embeddings", json=body)
    answer = gateway.post("/v1/embeddings", body)
    assert (answer.status_code, answer.content) == (direct.status_code, direct.content) and answer.status_code == 404
    assert answer.headers["x-router-reason"] == "passthrough"
    assert answer.headers["x-routellm-routed-model"] == "llama-3.1-8b-instruct"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="llama-3.1-8b-instruct", input="hi")


@pytest.mark.parametrize("fields", [{}, {"model": ""}, {"model": "auto"}, {"model": "task_router"}])
def test_embeddings_are_never_routed(watched: Gateway, tee: Tee, fields: dict[str, str]) -> None:
    """Embeddings that leave the choice to the router are a 400 that says why, and go nowhere."""
    before = len(tee.connections)
    answer = watched.post("/v1/embeddings", {"input": "hi", **fields})
    assert answer.status_code == 400 and "never routed" in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == "model"
    assert len(tee.connections) == before


@pytest.mark.parametrize(
    "body",
    [
        chat(_PYTHON),
        {"prompt": _PYTHON},
        {"input": _PYTHON},
        {"input": [{"role": "user", "content": _PYTHON}], "prompt": {"id": "pmpt_1"}},
        {"system": "be brief", "max_tokens": 3, "messages": [{"role": "user", "content": _PYTHON}]},
    ],
    ids=["chat", "completion", "response", "response with a prompt", "message"],
)
def test_route_takes_every_body(gateway: Gateway, body: dict[str, Any]) -> None:
    """`/v1/route` explains the decision about a body of each endpoint."""
    answer = gateway.post("/v1/route", body)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["label"], answer.json()["model"]) == ("Code Generation", _CODE_MODEL)


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_a_body_without_its_field(gateway: Gateway, path: str) -> None:
    """A request to be routed that lacks what is judged is a 400 naming it."""
    answer = gateway.post(path, {"prompt": "hi"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == {"/v1/responses": "input", "/v1/messages": "messages"}[path]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}),
        ("/v1/completions", {"prompt": ["hi", "there"]}),
        ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}),
        ("/v1/embeddings", {"input": ["hi", "there"]}),
    ],
)
def test_bodies_pass_byte_for_byte(watched: Gateway, tee: Tee, path: str, fields: dict[str, Any]) -> None:
    """What Dynamo receives is what the client wrote, tools, image parts, formats and fields of tomorrow included."""
    rest = (
        json.dumps(fields)[1:-1]
        + f', "tools": [ {{"x": 1.10}} ], "response_format": {{}}, "é": "\\u00e9 {_IMAGE}", "n": 1E2, "later": null }}'
    )
    raw = ('{ "model" : "no-such-model", ' + rest).encode()
    known = {id(each): len(each.received) for each in tee.connections}
    answer = watched.post(path, raw=raw, headers={"x-api-key": "key-1", "anthropic-version": "2023-06-01"})
    assert answer.status_code in (400, 404), answer.text  # Dynamo's word on the model, or on the fields
    assert answer.headers["x-router-reason"] == "passthrough"
    received = b"".join(bytes(each.received[known.get(id(each), 0) :]) for each in tee.connections)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(f"POST {path} HTTP/1.1\r\n".encode())
    assert b"x-api-key: key-1\r\n" in head + b"\r\n" and b"anthropic-version: 2023-06-01" in head
    assert body == raw
