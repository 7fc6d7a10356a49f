import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import AuthenticationError, OpenAI

from gateway.auth import Keys, load_keys
from gateway.config import ConfigError
from scripts.local.dynamo import DemoDynamo
from scripts.local.triton import Triton
from tests.conftest import running_gateway
from tests.gateway.client import Gateway, chat, eventually
from tests.gateway.tee import Tee, running_tee

_ALICE, _OLD, _NEW = "sk-alice-0123456789", "old-0123456789abcdef", "new-0123456789abcdef"
_OPERATORS = "sk-the-operators-own"


def _keys(variable: str | None = None, file: Path | None = None) -> Keys | None:
    environ = {} if variable is None else {"GATEWAY_API_KEYS": variable}
    return load_keys(environ if file is None else environ | {"GATEWAY_API_KEYS_FILE": str(file)})


def test_keys_come_from_the_environment_and_a_file(tmp_path: Path) -> None:
    """Both are read, names are given or counted, comments and blank lines are none, and only these keys are known."""
    file = tmp_path / "keys"
    file.write_text(f"# the team's\n\nalice:{_ALICE}\r\n  {_OLD}  \n")
    keys = _keys(f"bob:{_NEW},\n0123456789abcdef\n", file)
    assert keys is not None
    named = {key: keys.name_of(key) for key in (_NEW, "0123456789abcdef", _ALICE, _OLD)}
    assert list(named.values()) == ["bob", "key-2", "alice", "key-4"]
    assert [keys.name_of(key) for key in ("", "alice", _ALICE[:-1], _ALICE + "x", _ALICE.upper(), "é")] == [None] * 6
    assert _ALICE not in repr(keys)


def test_no_keys_let_everybody_in() -> None:
    """Without either variable, or with empty ones, there are no keys."""
    assert _keys() is None and _keys("") is None


def test_every_fault_is_listed_and_none_quotes_a_key(tmp_path: Path) -> None:
    """All faults of both sources come at once, each with its place, and nothing of what was given."""
    file = tmp_path / "sk-not-a-file-name"
    file.write_bytes(f"a:{_ALICE}\n# x\na:{_OLD}\nb:{_ALICE}\nno name:{_NEW}\nc:\nd:short\ne:caf\xe9{_NEW}\n".encode())
    with pytest.raises(ConfigError) as raised:
        _keys(f"{_NEW}\x07,:{_OLD}x", file)
    lines = [f"the file in GATEWAY_API_KEYS_FILE: line {number}: " for number in (3, 4, 5, 6, 7, 8)]
    places = ["GATEWAY_API_KEYS: entry 1: ", "GATEWAY_API_KEYS: entry 2: ", *lines]
    assert all(map(str.startswith, raised.value.faults, places)) and len(raised.value.faults) == len(places)
    for secret in (_ALICE, _OLD, _NEW, "short", file.name):
        assert secret not in str(raised.value)


@pytest.mark.parametrize("content", [None, b"", b"# nothing yet\n\n", b"\xff\xfe"], ids=["none", "empty", "#", "bytes"])
def test_a_file_without_keys_does_not_open_the_gateway(tmp_path: Path, content: bytes | None) -> None:
    """A file that is named and holds no key, or cannot be read, is a fault: never a gateway without keys."""
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError):
        _keys(file=file)
    with pytest.raises(ConfigError):
        _keys(" , ")


@pytest.fixture(scope="module")
def tee(dynamo: DemoDynamo) -> Iterator[Tee]:
    with running_tee("127.0.0.1", dynamo.port) as tee:
        yield tee


@pytest.fixture(scope="module")
def guarded(tee: Tee, triton: Triton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with client keys, one llm of its own key, and upstream connections written down."""
    folder = tmp_path_factory.mktemp("guarded")
    keys = folder / "keys"
    keys.write_text(f"team-old:{_OLD}\nteam:{_NEW}\n")
    config = folder / "config.yaml"
    config.write_text(
        f"""
policies:
  - name: keyed
    url: http://x:8000/v2/models/task_router_ensemble/infer
    timeout_ms: 30000
    llms:
      - {{name: Unknown, api_base: '{tee.url}', api_key: {_OPERATORS}, model: llama-3.1-8b-instruct}}
"""
    )
    environ: dict[str, Any] = {"DYNAMO_API_BASE": tee.url, "TRITON_GRPC_URL": triton.grpc_url}
    environ |= {"GATEWAY_API_KEYS": f"alice:{_ALICE}", "GATEWAY_API_KEYS_FILE": str(keys)}
    with running_gateway(config, folder, **environ) as gateway:
        yield gateway


def _received(tee: Tee) -> bytes:
    return b"".join(bytes(connection.received) for connection in tee.connections)


def test_each_key_lets_in_under_its_name(guarded: Gateway) -> None:
    """Keys in rotation work side by side, in OpenAI's and Anthropic's headers; the log and the metrics say whose."""
    shown = [
        ("alice", {"authorization": f"Bearer {_ALICE}"}),
        ("team-old", {"authorization": f"bEARER  {_OLD}"}),
        ("team", {"x-api-key": _NEW}),
        ("team", {"authorization": "Bearer something-else-entirely", "x-api-key": _NEW}),
    ]
    for index, (name, headers) in enumerate(shown):
        answer = guarded.post("/v1/route", chat("hi"), headers=headers | {"x-request-id": f"name-{index}"})
        assert answer.status_code == 200, answer.text
        assert eventually(lambda index=index: bool(guarded.request_lines(f"name-{index}")))  # type: ignore[misc]
        assert [line["client"] for line in guarded.request_lines(f"name-{index}")] == [name]
    metrics = guarded.get("/metrics", {"x-api-key": _NEW}).text
    assert 'llm_router_client_requests_total{client="alice"} ' in metrics
    assert 'llm_router_client_requests_total{client="team-old"} 1.0' in metrics


def test_the_openai_client_with_and_without_a_key(guarded: Gateway) -> None:
    """The real client works with a key, and understands the refusal without one."""
    prompt = chat("hello")["messages"]
    with OpenAI(base_url=f"{guarded.url}/v1", api_key=_ALICE) as client:
        assert client.chat.completions.create(model="auto", messages=prompt, max_tokens=4).choices
        assert any(model.id == "llama-3.1-8b-instruct" for model in client.models.list())
    with OpenAI(base_url=f"{guarded.url}/v1", api_key="wrong") as client, pytest.raises(AuthenticationError) as raised:
        client.chat.completions.create(model="auto", messages=prompt)
    assert raised.value.code == "invalid_api_key"


def test_keys_do_not_go_further(guarded: Gateway, tee: Tee) -> None:
    """A client's key reaches no upstream: not with an llm's own key, not in a passthrough, not for the models' list."""
    before = len(_received(tee))
    for headers in ({"authorization": f"Bearer {_ALICE}"}, {"x-api-key": _ALICE}):
        for model in ("auto", "mixtral-8x22b-instruct-v0.1"):
            answer = guarded.post("/v1/chat/completions", chat("hi", model=model), headers=headers | {"x-kept": "1"})
            assert answer.status_code == 200, answer.text
        assert guarded.get("/v1/models", headers).status_code == 200
    sent = _received(tee)[before:].lower()
    assert sent.count(b"post /v1/chat/completions") == sent.count(b"x-kept: 1") == 4
    assert _ALICE.encode() not in sent and b"x-api-key" not in sent
    own = f"authorization: bearer {_OPERATORS}".encode()
    assert sent.count(b"authorization: ") == sent.count(own) == 4  # two routed, two lists


def test_guessing_keys_tells_nothing(guarded: Gateway, tee: Tee) -> None:
    """Every wrong key, and none at all, gets the same 401 everywhere; neither log nor upstream sees the guess."""
    before = len(_received(tee))
    guesses = [_ALICE[:length] for length in range(1, len(_ALICE))] + [
        _ALICE + "x",
        _ALICE.upper(),
        "alice",
        "x" * 9000,
    ]
    headers = [{"authorization": f"Bearer {guess}"} for guess in guesses] + [{"x-api-key": guess} for guess in guesses]
    headers += [
        {},
        {"authorization": _ALICE},
        {"authorization": f"Basic {_ALICE}"},
        {"authorization": f"Bearer{_ALICE}"},
    ]
    answers = set()
    with httpx2.Client(base_url=guarded.url, timeout=60) as client:
        for each in headers:
            answer = client.post("/v1/chat/completions", headers=each, json=chat("a secret prompt"))
            answers.add((answer.status_code, answer.text, answer.headers["www-authenticate"]))
            assert answer.headers["x-request-id"]
        for path in (
            "/config",
            "/metrics",
            "/v1/models",
            "/nothing",
            "/health/",
            "/health%0A",
            f"{guarded.url}//health",
        ):
            answer = client.get(path, headers={"x-api-key": "wrong"})
            answers.add((answer.status_code, answer.text, answer.headers["www-authenticate"]))
        assert [client.get(path).status_code for path in ("/health", "/health/live", "/health/ready")] == [200] * 3
    ((status, text, challenge),) = answers
    assert (status, challenge) == (401, "Bearer") and '"code":"invalid_api_key"' in text
    assert len(_received(tee)) == before
    assert "x" * 9000 not in guarded.process.log.read_text()


def test_the_refusal_does_not_wait_for_the_body(guarded: Gateway) -> None:
    """Without a key the 401 comes although the announced body never does."""
    host, port = guarded.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_keys_show_nowhere(guarded: Gateway) -> None:
    """No key stands in the configuration, the metrics or the log."""
    shown = [guarded.get(path, {"x-api-key": _NEW}).text for path in ("/config", "/metrics")]
    for secret in (_ALICE, _OLD, _NEW, _OPERATORS):
        assert all(secret not in text for text in (*shown, guarded.process.log.read_text()))
