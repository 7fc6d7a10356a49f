"""RouteLLM policies, from the client's request to the model that answers, on real parts."""

from collections.abc import Iterator

import openai
import pytest

from scripts.fetching.manifest import MODELS
from scripts.local.dynamo import DemoDynamo
from scripts.local.triton import Triton
from tests.conftest import StartGateway, running_gateway
from tests.gateway.client import Gateway, chat

_STRONG, _WEAK = "llama-3.3-nemotron-super-49b-v1", "llama-3.1-8b-instruct"
_PROMPT = "Explain quantum entanglement in detail with mathematical formulations"


def _config(extra: str = "threshold: 0.5") -> str:
    return (
        "policies:\n"
        "  - name: pair\n    type: routellm\n    timeout_ms: 30000\n"
        f"    {extra}\n"
        f"    strong: {{api_base: '${{DYNAMO_API_BASE}}', model: {_STRONG}}}\n"
        f"    weak: {{api_base: '${{DYNAMO_API_BASE}}', model: {_WEAK}}}\n"
    )


@pytest.fixture(scope="module")
def routellm_gateway(triton: Triton, dynamo: DemoDynamo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("routellm")
    config = folder / "config.yaml"
    config.write_text(_config())
    with running_gateway(config, folder, DYNAMO_API_BASE=dynamo.url, TRITON_GRPC_URL=triton.grpc_url) as started:
        yield started


def _win_rate(gateway: Gateway, prompt: str = _PROMPT) -> float:
    answer = gateway.post("/v1/route", chat(prompt)).json()
    assert answer["reason"] == "decided" and answer["scores"] is None
    assert answer["tokens_read"] > 0 and answer["checkpoint"].count(":") == 2
    rate: float = answer["win_rate"]
    return rate


def test_the_threshold_decides(routellm_gateway: Gateway) -> None:
    """A prompt whose win rate reaches the threshold goes to the strong model, one below to the weak one."""
    gateway = routellm_gateway
    rate = _win_rate(gateway)
    assert 0 < rate < 1
    for threshold, model, label in ((rate - 1e-4, _STRONG, "strong"), (rate + 1e-4, _WEAK, "weak")):
        for fields in (
            {"model": f"router-mf-{threshold:.6f}"},
            {"model": "", "nim-llm-router": {"policy": "pair", "threshold": threshold}},
        ):
            answer = gateway.post("/v1/chat/completions", chat(_PROMPT, **fields))
            assert answer.status_code == 200 and answer.json()["model"] == model
            assert answer.headers["x-routellm-routed-model"] == model
            assert answer.headers["X-Chosen-Classifier"] == label
            assert answer.headers["x-router-policy"] == "pair"
    metrics = gateway.get("/metrics").text
    for label, model in (("strong", _STRONG), ("weak", _WEAK)):
        assert f'llm_router_routellm_total{{model="{model}",policy="pair",routed="{label}",router="mf"}}' in metrics, (
            metrics
        )


def test_the_published_client_usage(routellm_gateway: Gateway) -> None:
    """RouteLLM's own example works unchanged through the openai client, streamed or whole."""
    gateway = routellm_gateway
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="no_api_key", max_retries=0)
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Hello!"}]
    with client:
        answer = client.chat.completions.create(model="router-mf-0.11593", messages=messages, max_tokens=4)
        assert answer.model in (_STRONG, _WEAK) and answer.choices[0].message.content
        chunks = list(
            client.chat.completions.create(model="router-mf-0.11593", messages=messages, max_tokens=4, stream=True)
        )
        assert chunks[-1].choices[0].finish_reason == "length"
        assert "pair" in [model.id for model in client.models.list()]


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("router-mf", 400, None),
        ("router-mf-2", 400, None),
        ("router-mf-nan", 400, None),
        ("router-nope-0.5", 404, "model_not_found"),
        ("router-bert-0.5", 404, "model_not_found"),
        ("router-sw_ranking-0.5", 404, "model_not_found"),
    ],
)
def test_broken_names_and_missing_routers(routellm_gateway: Gateway, model: str, status: int, code: str | None) -> None:
    """Broken names are errors in OpenAI's shape; a router without weights is told with the command that fetches it."""
    answer = routellm_gateway.post("/v1/chat/completions", chat("hi", model=model))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (status, "model", code)
    assert error["type"] == "invalid_request_error"
    if code == "model_not_found" and "nope" not in model:
        router = model.split("-")[1]
        fetched = MODELS[f"routellm_{router}"]  # what scripts/fetch_models knows
        assert f"scripts/fetch_models {fetched.name} " in error["message"]
        assert f"{fetched.variable} " in error["message"]


def test_a_router_that_is_not_served_means_the_fallback(start_gateway: StartGateway) -> None:
    """Where the policy itself names a router without weights, its fallback answers: clients see no 5xx."""
    gateway = start_gateway(_config("threshold: 0.5\n    router: bert"), ready=False)
    answer = gateway.post("/v1/chat/completions", chat(_PROMPT, model="auto"))
    assert (answer.status_code, answer.json()["model"]) == (200, _STRONG)
    assert answer.headers["x-router-reason"] == "triton_unavailable"


def test_a_held_share_moves_the_threshold(start_gateway: StartGateway) -> None:
    """Requests that go to the strong model raise the threshold, decisions alone and requests with their own do not."""
    gateway = start_gateway(_config("threshold: 0.0\n    target_strong_share: 0.2"))
    before = gateway.post("/v1/route", chat(_PROMPT)).json()
    assert (before["threshold"], before["strong_share"]) == (0.0, None)
    for _ in range(5):
        assert gateway.post("/v1/chat/completions", chat(_PROMPT, model="auto")).json()["model"] == _STRONG
    gateway.post("/v1/chat/completions", chat(_PROMPT, model="router-mf-1"))
    after = gateway.post("/v1/route", chat(_PROMPT)).json()
    assert after["threshold"] == pytest.approx(5 * 0.8 * 0.005) and after["strong_share"] == 1.0
    metrics = gateway.get("/metrics").text
    assert 'llm_router_routellm_strong_share{policy="pair"} 1.0' in metrics
    assert 'llm_router_routellm_threshold{policy="pair"}' in metrics


def test_keys_of_a_pair_are_redacted(start_gateway: StartGateway) -> None:
    """/config shows where strong and weak are served, never a key or a note."""
    text = _config().replace(f"model: {_WEAK}", f"model: {_WEAK}, api_key: sk-SECRET, note: PRIVATE")
    shown = start_gateway(text).get("/config")
    assert shown.json()["policies"][0]["weak"]["api_key"] == "[REDACTED]"
    assert shown.json()["policies"][0]["strong"]["model"] == _STRONG
    assert "SECRET" not in shown.text and "PRIVATE" not in shown.text
