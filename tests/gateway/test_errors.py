import json
import socket
import time
from typing import Any

import anyio
import httpx2
import pytest
from starlette.types import Receive, Scope, Send

from gateway import errors
from gateway.chat import MAX_BODY_BYTES
from gateway.errors import DecisionFailed, GatewayError
from gateway.observe.record import Record, RecordRequests
from scripts.local.dynamo import DemoDynamo
from scripts.local.triton import Triton
from tests.conftest import StartGateway
from tests.gateway.client import Gateway, chat
from tests.gateway.tee import Tee, running_tee

_HELLO = [{"role": "user", "content": "hello"}]


def test_every_error_of_ours_has_a_status_or_a_reason() -> None:
    """Each class drawn in the module's tree tells the client a status, or becomes a fallback's reason."""
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    for each in classes:
        if issubclass(each, GatewayError) and each is not GatewayError:
            assert 400 <= each("x").response().status_code < 600
        elif issubclass(each, DecisionFailed):
            assert each.reason
    assert all(each.__name__ in (errors.__doc__ or "") for each in classes)


@pytest.fixture(scope="module")
def tee(dynamo: DemoDynamo) -> Any:
    with running_tee("127.0.0.1", dynamo.port) as tee:
        yield tee


@pytest.fixture(scope="module")
def watched(tee: Tee, triton: Triton, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A gateway whose upstream connections are counted."""
    from tests.conftest import DEFAULT_CONFIG, running_gateway

    folder = tmp_path_factory.mktemp("watched")
    with running_gateway(DEFAULT_CONFIG, folder, DYNAMO_API_BASE=tee.url, TRITON_GRPC_URL=triton.grpc_url) as gateway:
        yield gateway


def _decisions(triton: Triton) -> int:
    statistics = httpx2.get(f"{triton.http_url}/v2/models/prompt_classifier/stats").json()
    return int(statistics["model_stats"][0]["inference_count"])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/completions", "/v1/completions", "/v1/route"])
@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"nonsense", 400),
        (b"[]", 400),
        (b'"hello"', 400),
        (b"{}", 400),
        (b'{"messages": "hello"}', 400),
        (b'{"messages": []}', 400),
        (b'{"messages": [5]}', 400),
        (b'{"messages": [{"role": "user", "content": 5}]}', 400),
        (b'{"prompt": 5}', 400),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', 400),
        (b'{"messages": ' + b"[" * 100_000, 400),
        (b'{"a": ' * 100_000, 400),
        (b'{"model": 5, "messages": []}', 400),
        (b'{"\\ud800": 1, "\\ud800": 2}', 400),
        (b'{"model": "' + b"x" * 513 + b'"}', 400),
        (b'{"model": "", "model": "", "messages": []}', 400),
        (b'{"nim-llm-router": 5, "messages": []}', 400),
        (b'{"nim-llm-router": {"policy": "nope"}, "messages": []}', 404),
        (b'{"nim-llm-router": {"policy": ["task_router"]}, "messages": []}', 400),
        (b'{"nim-llm-router": {"routing_strategy": "nope"}, "messages": []}', 400),
        (b'{"nim-llm-router": {"routing_strategy": "manual", "model": "nope"}, "messages": []}', 404),
    ],
)
def test_bad_requests_go_no_further(
    watched: Gateway, tee: Tee, triton: Triton, path: str, raw: bytes, status: int
) -> None:
    """A request that is wrong gets OpenAI's error shape, and neither Triton nor Dynamo hears of it."""
    before = _decisions(triton), len(tee.connections)
    answer = watched.post(path, raw=raw)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error" and error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (_decisions(triton), len(tee.connections)) == before


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([{"role": "user", "content": [{"type": "text", "text": "hello"}]}], "decided"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "empty_prompt"),
        ([{"role": "user", "content": []}], "empty_prompt"),
        ([{"role": "user", "content": " \n"}], "empty_prompt"),
        ([{"role": "system", "content": "be brief"}], "empty_prompt"),
        ([*_HELLO, {"role": "assistant", "content": None}, {"role": "tool", "content": "42"}], "decided"),
        ([{"role": "user", "content": "x" * 1_000_000}], "decided"),
        ([{"role": "user", "content": "lone \ud800 surrogate"}], "decided"),
        ([{"role": "user", "content": "nul \x00 \x00"}], "decided"),
        ([{"role": "user", "content": "\u202e\ufeff\U0010ffff"}], "decided"),
    ],
    ids=["parts", "image", "no parts", "blank", "system", "tool last", "1 MB", "surrogate", "nul", "odd"],
)
def test_odd_prompts_are_routed(gateway: Gateway, messages: list[Any], reason: str) -> None:
    """Odd but valid prompts get a decision, or the fallback when there is no text."""
    answer = gateway.post("/v1/route", {"messages": messages})
    assert answer.status_code == 200, answer.text
    assert answer.json()["reason"] == reason
    assert answer.json()["model"]


@pytest.mark.rare
def test_a_megabyte_is_answered_and_said_to_be_cut(gateway: Gateway) -> None:
    """A prompt past the bound is judged by head and tail, goes upstream whole, and the cut is reported."""
    text = "Summarise this. " + "A sentence about nothing much. " * 33_000
    assert len(text) > 1_000_000
    assert gateway.post("/v1/route", chat(text)).json()["prompt_cut"] is True
    assert gateway.post("/v1/route", chat("short")).json()["prompt_cut"] is False
    answer = gateway.post("/v1/chat/completions", chat(text))
    assert answer.status_code in (200, 400), answer.text  # Dynamo decides whether its model can hold it
    assert answer.headers["x-router-reason"] == "decided"


def test_bodies_past_the_bound(gateway: Gateway) -> None:
    """One byte over the bound is a 413, announced or in chunks, and the next request works."""
    raw = b'{"messages":[{"role":"user","content":"' + b"x" * MAX_BODY_BYTES + b'"}]}'
    assert gateway.post("/v1/route", raw=raw).status_code == 413
    chunks = (raw[index : index + 1_000_000] for index in range(0, len(raw), 1_000_000))
    answer = httpx2.post(f"{gateway.url}/v1/route", content=chunks, timeout=60)
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "body_too_large"
    assert gateway.post("/v1/route", chat("hello")).status_code == 200


@pytest.mark.parametrize("name", ["a\r\nx-evil: 1", "é", "x" * 512, "\u2028", "\x00", "\ud800"])
def test_model_names_cannot_break_out_of_headers(gateway: Gateway, name: str) -> None:
    """A client's model name in our headers stays one harmless value."""
    answer = gateway.post("/v1/chat/completions", chat("hi", model=name))
    assert answer.status_code < 500, answer.text
    assert "x-evil" not in answer.headers
    assert answer.headers["x-routellm-routed-model"].isascii()
    assert gateway.post("/v1/route", chat("hi", model=name)).json()["model"] == name


def test_unknown_model_without_default_upstream(start_gateway: StartGateway, dynamo: DemoDynamo) -> None:
    """Without DYNAMO_API_BASE a model that no llm serves is a 404 of the gateway's own."""
    llm = f"{{name: Unknown, api_base: '{dynamo.url}', model: llama-3.1-8b-instruct}}"
    url = "http://x:8000/v2/models/task_router_ensemble/infer"
    gateway = start_gateway(f"policies: [{{name: p, url: '{url}', llms: [{llm}]}}]", DYNAMO_API_BASE="")
    answer = gateway.post("/v1/chat/completions", chat("hi", model="gpt-x"))
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"
    assert json.loads(answer.content)["error"]["param"] == "model"


def test_a_body_is_never_read_as_a_second_request(gateway: Gateway) -> None:
    """An Upgrade that the gateway does not know leaves the declared body a body: one request, one answer."""
    host, port = gateway.url.removeprefix("http://").split(":")
    body = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(
            b"POST /v1/route HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: h2c\r\n"
            b"content-length: %d\r\n\r\n" % len(body)
        )
        time.sleep(0.2)  # a segment of its own
        connection.sendall(body)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    assert answer.count(b"HTTP/1.1 ") == 1 and answer.startswith(b"HTTP/1.1 400")
    assert b"not valid JSON" in answer


def test_a_bug_is_a_500_with_an_id() -> None:
    """An exception that nobody foresaw is answered in OpenAI's shape, recorded with its status, and tells nothing."""
    records: list[Record] = []

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError("secret")

    app = RecordRequests(broken, [records.append])
    transport = httpx2.ASGITransport(app=app)

    async def ask() -> httpx2.Response:
        async with httpx2.AsyncClient(transport=transport) as client:
            return await client.get("http://gateway/")

    answer = anyio.run(ask)
    assert answer.status_code == 500 and answer.json()["error"]["type"] == "internal_error"
    assert "secret" not in answer.text and answer.headers["x-request-id"] == records[0].request_id
    assert (records[0].status, records[0].outcome) == (500, "complete")
