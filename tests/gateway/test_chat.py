import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from scripts.local.dynamo import DemoDynamo
from tests.conftest import DEFAULT_CONFIG, StartGateway
from tests.gateway.client import Gateway, chat
from tests.gateway.scripted import accept_post
from tests.gateway.tee import bodies, running_tee

_PYTHON = "Write a Python function to sort a list"
_TASK = {"nim-llm-router": {"policy": "task_router"}}
_COMPLEXITY = {"nim-llm-router": {"policy": "complexity_router"}}


def test_the_guides_request_is_routed(gateway: Gateway) -> None:
    """The guide's first request goes to the model that its table names for code, and Dynamo answers it."""
    answer = gateway.post("/v1/chat/completions", chat(_PYTHON, model="", **_TASK))
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Chosen-Classifier"] == "Code Generation"
    assert answer.headers["x-routellm-routed-model"] == "llama-3.3-nemotron-super-49b-v1"
    assert answer.headers["x-router-policy"] == "task_router"
    assert answer.headers["x-router-reason"] == "decided"
    assert float(answer.headers["x-router-decision-ms"]) > 0
    assert answer.json()["model"] == "llama-3.3-nemotron-super-49b-v1"
    assert answer.json()["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("fields", [{"model": ""}, {"model": "auto"}, {}, {"model": "task_router"}])
def test_ways_to_leave_the_choice_to_the_router(gateway: Gateway, fields: dict[str, Any]) -> None:
    """An empty, missing or `auto` model, and a policy's name, all mean that the router chooses."""
    answer = gateway.post("/v1/chat/completions", chat(_PYTHON, **fields))
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-router-policy"] == "task_router"


def test_complexity_policy(gateway: Gateway) -> None:
    """The other policy decides by its own labels."""
    answer = gateway.post("/v1/chat/completions", chat("Explain quantum entanglement", model="", **_COMPLEXITY))
    route = gateway.post("/v1/route", chat("Explain quantum entanglement", model="", **_COMPLEXITY)).json()
    assert answer.headers["x-router-policy"] == "complexity_router"
    assert answer.headers["X-Chosen-Classifier"] == route["label"]
    assert answer.json()["model"] == answer.headers["x-routellm-routed-model"] == route["model"]


def test_manual_routing(gateway: Gateway) -> None:
    """`manual` takes the llm that the request names, and asks Triton nothing."""
    field = {"policy": "task_router", "routing_strategy": "manual", "model": "Chatbot"}
    answer = gateway.post("/v1/chat/completions", chat(_PYTHON, **{"nim-llm-router": field}))
    assert answer.json()["model"] == "mixtral-8x22b-instruct-v0.1"
    assert answer.headers["x-router-reason"] == "manual"
    assert "x-router-decision-ms" not in answer.headers


def test_passthrough(gateway: Gateway) -> None:
    """Another model's name goes upstream as it is, and so does the upstream's answer that it does not know it."""
    answer = gateway.post("/v1/chat/completions", chat(_PYTHON, model="llama-3.1-8b-instruct"))
    assert answer.status_code == 200 and answer.json()["model"] == "llama-3.1-8b-instruct"
    assert answer.headers["x-router-reason"] == "passthrough"
    unknown = gateway.post("/v1/chat/completions", chat(_PYTHON, model="no-such-model"))
    assert unknown.status_code == 404
    assert unknown.json()["message"] == "Model not found"  # Dynamo's own words and shape


@pytest.mark.parametrize("path", ["/v1/completions", "/completions"])
def test_completions(gateway: Gateway, path: str) -> None:
    """A `prompt` is routed as a completion, at its own path and at the blueprint's alias."""
    answer = gateway.post(path, {"prompt": _PYTHON, "max_tokens": 3, **_TASK})
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Chosen-Classifier"] == "Code Generation"
    assert answer.json()["object"] == "text_completion"


def test_alias_with_messages(gateway: Gateway) -> None:
    """The blueprint's `/completions` takes chats too."""
    answer = gateway.post("/completions", chat(_PYTHON, **_TASK))
    assert answer.status_code == 200 and answer.json()["object"] == "chat.completion"


def test_stream_equals_dynamos_bytes(start_gateway: StartGateway, dynamo: DemoDynamo) -> None:
    """A stream arrives chunk by chunk and is, byte for byte, what Dynamo sent; so is a whole answer."""
    with running_tee("127.0.0.1", dynamo.port) as tee:
        gateway = start_gateway(DEFAULT_CONFIG.read_text(), DYNAMO_API_BASE=tee.url)
        pieces = []
        body = chat("hello there", model="", stream=True) | {"max_tokens": 40}
        with httpx2.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, timeout=60) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            pieces = list(answer.iter_raw())
        assert b"".join(pieces).endswith(b"data: [DONE]\n\n")
        # Dynamo's frontend leaves Nagle's algorithm on, so that several chunks may arrive in one read: never all.
        assert len(pieces) > 1
        whole = gateway.post("/v1/chat/completions", chat("hello there", model=""))
        sent = b"".join(bytes(connection.sent) for connection in tee.connections)
        assert [b"".join(pieces), whole.content] == bodies(sent)


def test_request_reaches_dynamo_as_the_client_wrote_it(start_gateway: StartGateway, dynamo: DemoDynamo) -> None:
    """Only `model` changes and `nim-llm-router` goes; spacing, number forms and headers of the client's stay."""
    chat_bytes = b'"messages": [{"role":"user","content":"hi \\u00e9"}],\n '
    rest_bytes = b'"temperature":1.0,"max_tokens" : 2}'
    raw = b"{" + chat_bytes + b'"nim-llm-router": {}, ' + rest_bytes
    with running_tee("127.0.0.1", dynamo.port) as tee:
        gateway = start_gateway(DEFAULT_CONFIG.read_text(), DYNAMO_API_BASE=tee.url)
        headers = {
            "X-Dynamo-Session-ID": "s-1",
            "Authorization": "Bearer client-key",
            "Connection": "keep-alive, x-hop",
            "X-Hop": "1",
            "X-Request-ID": "my-id",
            "User-Agent": "test/1",
            "Accept-Encoding": "identity",
        }
        answer = gateway.post("/v1/chat/completions?a=b%20c", raw=raw, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-request-id"] == "my-id"
        head, _, body = bytes(tee.connections[-1].received).rpartition(b"\r\n\r\n")
    model = answer.headers["x-routellm-routed-model"].encode()
    assert body == b'{"model": "' + model + b'", ' + chat_bytes + rest_bytes
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /v1/chat/completions?a=b%20c HTTP/1.1"
    sent = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    assert sent.pop("host") == f"127.0.0.1:{tee.port}"
    assert sent == {
        "x-dynamo-session-id": "s-1",
        "authorization": "Bearer client-key",
        "user-agent": "test/1",
        "accept": "*/*",
        "content-type": "application/json",
        "accept-encoding": "identity",
        "x-request-id": "my-id",
        "content-length": str(len(body)),
    }


def test_an_llms_key_replaces_the_clients(start_gateway: StartGateway, dynamo: DemoDynamo) -> None:
    """Where the configuration has a key, that one goes upstream; it appears in no log, no header and no /config."""
    with running_tee("127.0.0.1", dynamo.port) as tee:
        gateway = start_gateway(DEFAULT_CONFIG.read_text(), DYNAMO_API_BASE=tee.url, DYNAMO_API_KEY="operators-key")
        answer = gateway.post("/v1/chat/completions", chat("hi"), headers={"Authorization": "Bearer client-key"})
        assert answer.status_code == 200, answer.text
        assert b"Bearer operators-key" in tee.connections[-1].received
        assert b"client-key" not in tee.connections[-1].received
        shown = gateway.get("/config").text + gateway.process.log.read_text() + str(answer.headers)
    assert "[REDACTED]" in shown and "operators-key" not in shown and "client-key" not in shown


def test_upstream_errors_pass_untouched(gateway: Gateway, dynamo: DemoDynamo) -> None:
    """What Dynamo answers to a field it refuses reaches the client with status and body."""
    body = chat("hi", model="llama-3.1-8b-instruct", no_such_field=1)
    direct = httpx2.post(f"{dynamo.url}/v1/chat/completions", json=body)
    routed = gateway.post("/v1/chat/completions", body)
    assert (routed.status_code, routed.content) == (direct.status_code, direct.content)
    assert routed.status_code == 400


def test_dead_upstream_is_a_502(start_gateway: StartGateway) -> None:
    """An upstream that refuses connections is a 502 in OpenAI's shape; the gateway lives on."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        gateway = start_gateway(DEFAULT_CONFIG.read_text(), DYNAMO_API_BASE=base)
        answer = gateway.post("/v1/chat/completions", chat("hi"))
        models = gateway.get("/v1/models")
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_unavailable"
    assert [model["id"] for model in models.json()["data"]] == ["auto", "task_router", "complexity_router"]


def test_an_upstream_that_breaks_off_is_seen_as_broken(start_gateway: StartGateway) -> None:
    """A stream that ends half-way ends for the client without `[DONE]` and as an error, not as a finished answer."""
    event = b"data: {}\n\n"
    arrived = threading.Event()

    def break_off(server: socket.socket) -> None:  # Dynamo cannot be made to do so on demand
        with accept_post(server) as connection:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            connection.sendall(head + b"%x\r\n%b\r\n" % (len(event), event))
            arrived.wait(60)

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        base = f"http://127.0.0.1:{server.getsockname()[1]}"
        gateway = start_gateway(DEFAULT_CONFIG.read_text(), DYNAMO_API_BASE=base)
        upstream = pool.submit(break_off, server)
        pieces = []
        with (
            pytest.raises(httpx2.RemoteProtocolError),
            httpx2.stream("POST", f"{gateway.url}/v1/chat/completions", json=chat("hi", stream=True)) as answer,
        ):
            for piece in answer.iter_raw():
                pieces.append(piece)
                arrived.set()
        upstream.result(10)
    assert answer.status_code == 200
    assert b"".join(pieces) == event
    (line,) = gateway.request_lines(answer.headers["x-request-id"])
    assert line["outcome"] == "broken"


def test_models(gateway: Gateway, dynamo: DemoDynamo) -> None:
    """The list holds Dynamo's models, `auto`, and every policy."""
    listed = [model["id"] for model in gateway.get("/v1/models").json()["data"]]
    assert set(listed) == {"auto", "task_router", "complexity_router", *dynamo.models}
    assert len(listed) == len(set(listed))


def test_route_decides_and_forwards_nothing(start_gateway: StartGateway, dynamo: DemoDynamo) -> None:
    """`/v1/route` explains the decision that the same body would get, and the upstream hears nothing."""
    with running_tee("127.0.0.1", dynamo.port) as tee:
        gateway = start_gateway(DEFAULT_CONFIG.read_text(), DYNAMO_API_BASE=tee.url)
        explained = gateway.post("/v1/route", chat(_PYTHON, **_TASK)).json()
        assert not tee.connections
    assert explained["policy"] == "task_router" and explained["reason"] == "decided"
    assert explained["label"] == "Code Generation"
    assert explained["model"] == "llama-3.3-nemotron-super-49b-v1"
    assert sum(explained["scores"].values()) == pytest.approx(1, abs=1e-3)
    assert explained["tokens_read"] == explained["tokens_in_prompt"] > 5
    assert explained["checkpoint"].count(":") == 2


def test_models_that_are_not_ours_are_asked_for_classes(start_gateway: StartGateway) -> None:
    """A policy on another Triton model works by its OUTPUT and label file, by name and by position."""
    names = ["Code Generation", "Unknown"]
    llm = "{name: %s, api_base: '${DYNAMO_API_BASE}', model: %s}"
    url = "http://x:8000/v2/models/renamed_ensemble/infer"
    by_name = ", ".join(
        llm % (name, f"llama-3.1-{size}-instruct") for name, size in zip(names, ("70b", "8b"), strict=True)
    )
    by_position = ", ".join(llm % (f"llm{index}", "m4" if index == 4 else "other") for index in range(12))
    gateway = start_gateway(
        f"policies:\n- {{name: named, url: '{url}', timeout_ms: 30000, llms: [{by_name}]}}\n"
        f"- {{name: placed, url: '{url}', timeout_ms: 30000, llms: [{by_position}]}}\n"
    )
    named = gateway.post("/v1/route", chat(_PYTHON, model="named")).json()
    assert (named["label"], named["model"], named["reason"]) == ("Code Generation", "llama-3.1-70b-instruct", "decided")
    placed = gateway.post("/v1/route", chat(_PYTHON, model="placed")).json()
    assert (placed["label"], placed["model"], placed["reason"]) == ("Code Generation", "m4", "decided")
    assert placed["scores"]["Code Generation"] == 1.0 and len(placed["scores"]) == 12


def test_log_and_metrics_tell_the_decision_and_no_content(gateway: Gateway) -> None:
    """One JSON line and the counters for each request; prompts and keys are in neither."""
    secret = "zebra-crossing-42"
    answer = gateway.post(
        "/v1/chat/completions", chat(f"Write a poem about {secret}"), headers={"Authorization": f"Bearer {secret}"}
    )
    (line,) = gateway.request_lines(answer.headers["x-request-id"])
    assert line["status"] == 200 and line["outcome"] == "complete"
    assert line["label"] == answer.headers["X-Chosen-Classifier"]
    assert line["model"] == answer.headers["x-routellm-routed-model"]
    assert line["bytes_out"] == len(answer.content)
    assert line["decision_ms"] > 0 and line["duration_ms"] >= line["first_byte_ms"] > 0
    metrics = gateway.get("/metrics").text
    assert f'label="{line["label"]}",model="{line["model"]}",policy="task_router",reason="decided"' in metrics
    gateway.post("/v1/chat/completions", chat("hi", model=secret))
    assert secret not in gateway.get("/metrics").text
    everything = gateway.process.log.read_text().replace(f'"model": "{secret}"', "")
    assert secret not in everything


def test_health_config_and_unknown_paths(gateway: Gateway) -> None:
    """The health routes answer, /config shows what is in force, and errors have OpenAI's shape everywhere."""
    for path in ("/health", "/health/live", "/health/ready"):
        assert gateway.get(path).json() == {"status": "OK"}
    assert gateway.get("/config").json()["default_policy"] == "task_router"
    assert gateway.get("/nope").status_code == 404 and "error" in gateway.get("/nope").json()
    wrong_method = gateway.get("/v1/chat/completions")
    assert (
        wrong_method.status_code == 405 and wrong_method.headers["allow"] == "POST" and "error" in wrong_method.json()
    )


def test_request_ids(gateway: Gateway) -> None:
    """A usable id is echoed, one that could do harm is replaced, and a missing one is made."""
    assert httpx2.get(f"{gateway.url}/health", headers={"x-request-id": "abc"}).headers["x-request-id"] == "abc"
    made = [
        httpx2.get(f"{gateway.url}/health", headers=headers).headers["x-request-id"]
        for headers in ({}, {"x-request-id": "a b"}, {"x-request-id": "x" * 200})
    ]
    assert all(len(each) == 32 for each in made) and len(set(made)) == 3


def test_readme_curl(gateway: Gateway) -> None:
    """The body of the README's first request is what the guide sends, and is routed."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    body = json.loads(readme.split("-d '")[1].split("'")[0])
    assert body["nim-llm-router"] == {"policy": "task_router"}
    assert gateway.post("/v1/chat/completions", body).headers["X-Chosen-Classifier"] == "Code Generation"


def test_the_last_of_a_long_chat_decides_like_a_first_message(gateway: Gateway) -> None:
    """After forty turns about other things a request gets the label that it gets alone."""
    turns = ("What is the capital of Peru?", "Tell me a joke.", "Translate 'good night' into French.", "Thanks!")
    messages = [
        message
        for number in range(40)
        for message in (
            {"role": "user", "content": turns[number % len(turns)]},
            {"role": "assistant", "content": "Here is what I think of that. " * 20},
        )
    ]
    messages.append({"role": "user", "content": _PYTHON})
    long = gateway.post("/v1/route", {"messages": messages, **_TASK}).json()
    alone = gateway.post("/v1/route", chat(_PYTHON, **_TASK)).json()
    assert (long["label"], long["scores"]) == (alone["label"], pytest.approx(alone["scores"], abs=2e-3))
