"""What requests leave in the metrics and in the log: tokens, cost, and the blueprint's names beside ours."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.chat import Routed
from gateway.config import Cost, load_config
from gateway.observe.cost import Spent, cost_of_strongest, price, spent
from gateway.observe.usage import Usage
from gateway.policy import Selection, targets_of
from gateway.reasons import Reason
from scripts.local.process import free_port
from tests.conftest import ROOT, WITHOUT_CACHE, StartGateway
from tests.gateway.client import Gateway, chat, eventually
from tests.gateway.scripted import scripted_upstream
from tests.gateway.test_workers import workers_of
from tests.processes import stopped
from tests.reliability.observe import metric

_CHAT = "/v1/chat/completions"
_PYTHON = "Write a Python function to sort a list"
LARGE = "llama-3.1-70b-instruct"
SMALL = "llama-3.1-8b-instruct"
_TASK = "http://localhost:8000/v2/models/task_router_ensemble/infer"
_DYNAMO = "${DYNAMO_API_BASE}"
DEAR = "cost: {input: 1, output: 10}"
CHEAP = "cost: {input: 0.1, output: 0.2}"


def llm(name: str, model: str, keys: str, api_base: str = _DYNAMO) -> str:
    return f"{{name: {name}, api_base: '{api_base}', model: {model}, {keys}}}"


_CODE, _OTHER = llm("Code Generation", LARGE, DEAR), llm("Other", SMALL, CHEAP)


def _gone() -> str:
    return llm("Code Generation", "gone", "fallbacks: [Other]", f"http://127.0.0.1:{free_port()}")


def policy(name: str, *llms: str) -> str:
    return f"  - {{name: {name}, url: '{_TASK}', timeout_ms: 30000, llms: [{', '.join(llms)}]}}\n"


def _metric(gateway: Gateway, name: str, **labels: str) -> float:
    """0.0 for a series that is not there yet."""
    try:
        return metric(gateway.url, name, **labels)
    except AssertionError:
        return 0.0


def _ask(gateway: Gateway, status: int = 200, path: str = _CHAT, **fields: Any) -> dict[str, Any]:
    """Post a chat, and the log's line of it."""
    router = fields.pop("router", None)
    answer = gateway.post(path, chat(_PYTHON, **fields) | ({"nim-llm-router": router} if router else {}))
    assert answer.status_code == status, answer.text
    request_id = answer.headers["x-request-id"]
    assert eventually(lambda: bool(gateway.request_lines(request_id)))
    (line,) = gateway.request_lines(request_id)
    return line


def test_tokens_and_cost(start_gateway: StartGateway) -> None:
    """Every answer's tokens count once, streamed or not, with what they cost and would have at the strongest model."""
    gateway = start_gateway(
        WITHOUT_CACHE
        + "policies:\n"
        + policy("code", _CODE, _OTHER)
        + policy("code_to_small", _CODE.replace("Code Generation", "Other"), _OTHER.replace("Other", "Code Generation"))
        + policy("falls_back", _gone(), _OTHER)
    )
    whole = _ask(gateway, model="code")
    prompt = whole["input_tokens"]
    assert prompt > 5 and whole["output_tokens"] == 4
    assert whole["cost"] == whole["cost_at_strongest"] == pytest.approx((prompt * 1 + 4 * 10) / 1e6)
    streamed = _ask(gateway, model="code", stream=True, stream_options={"include_usage": True})
    assert (streamed["input_tokens"], streamed["output_tokens"]) == (prompt, 4)
    silent = _ask(gateway, model="code", stream=True)
    assert silent["input_tokens"] is silent["output_tokens"] is silent["cost"] is None
    small = _ask(gateway, model="code_to_small")
    assert small["cost"] == pytest.approx((prompt * 0.1 + 4 * 0.2) / 1e6)
    assert small["cost_at_strongest"] == whole["cost"]
    chosen = _ask(gateway, router={"policy": "code", "routing_strategy": "manual", "model": "Other"})
    assert chosen["cost"] == chosen["cost_at_strongest"] == small["cost"]
    passed = _ask(gateway, model=SMALL)
    assert passed["reason"] == "passthrough" and passed["policy"] is None
    assert passed["input_tokens"] == prompt and passed["cost"] == passed["cost_at_strongest"] == small["cost"]
    fallen = _ask(gateway, model="falls_back")
    assert fallen["reason"] == "target_unavailable" and fallen["cost"] == fallen["cost_at_strongest"] == small["cost"]
    assert _ask(gateway, path="/v1/route", model="code")["input_tokens"] is None

    def counted(name: str, **labels: str) -> float:
        return metric(gateway.url, f"llm_router_{name}", **labels)

    assert counted("tokens_total", policy="code", model=LARGE, type="input") == 2 * prompt
    assert counted("tokens_total", policy="code", model=LARGE, type="output") == 2 * 4
    assert counted("tokens_total", policy="", model=SMALL, type="output") == 4
    assert counted("usage_missing_total", policy="code", model=LARGE) == counted("usage_missing_total") == 1
    assert counted("cost_total", policy="code", model=LARGE) == pytest.approx(2 * whole["cost"])
    assert counted("cost_total", policy="code_to_small") == pytest.approx(small["cost"])
    assert counted("cost_at_strongest_total", policy="code_to_small") == pytest.approx(whole["cost"])
    assert (
        counted("fallbacks_total", policy="falls_back", reason="target_unavailable") == counted("fallbacks_total") == 1
    )
    assert counted("classifier_tokens_total", policy="code", part="read") == 4 * whole["tokens_read"]
    assert counted("classifier_tokens_total", policy="code", part="cut") == 0
    assert counted("upstream_seconds_count", model=LARGE) == 3


def test_cut_prompts(gateway: Gateway) -> None:
    """What the classifier did not read of a prompt is counted."""
    before = {part: _metric(gateway, "llm_router_classifier_tokens_total", part=part) for part in ("read", "cut")}
    prompts = _metric(gateway, "llm_router_prompts_cut_total", policy="task_router")
    answer = gateway.post("/v1/route", chat("word " * 5000)).json()
    assert answer["tokens_read"] < answer["tokens_in_prompt"]

    def risen(part: str) -> float:
        return _metric(gateway, "llm_router_classifier_tokens_total", part=part) - before[part]

    assert eventually(lambda: risen("read") == answer["tokens_read"])
    assert risen("cut") == answer["tokens_in_prompt"] - answer["tokens_read"]
    assert _metric(gateway, "llm_router_prompts_cut_total", policy="task_router") == prompts + 1


def test_the_blueprints_names(start_gateway: StartGateway) -> None:
    """Its metrics count what they do there, an llm by its name in the policy."""
    gateway = start_gateway(WITHOUT_CACHE + "policies:\n" + policy("code", _CODE, _OTHER) + policy("broken", _gone()))
    line = _ask(gateway, model="code")
    _ask(gateway, router={"policy": "code", "routing_strategy": "manual", "model": "Other"})
    _ask(gateway, path="/completions", model=SMALL)
    _ask(gateway, 404, model="no-such-model")
    _ask(gateway, 404, router={"policy": "nobody"})
    _ask(gateway, 502, model="broken")
    _ask(gateway, path="/v1/route", model="code")
    tokens = {"prompt": line["input_tokens"], "completion": 4, "total": line["input_tokens"] + 4}
    expected: dict[str, dict[tuple[str, ...], float]] = {
        "num_requests": {(): 6},
        "requests_per_policy": {("policy", "code"): 2, ("policy", "broken"): 1},
        "requests_per_model": {("model", "Code Generation"): 2, ("model", "Other"): 2},
        "request_success_total": {(): 3},
        "request_failure_total": {("error_type", "4xx"): 2, ("error_type", "5xx"): 1},
        "routing_policy_usage": {("routing_policy", "triton"): 2, ("routing_policy", "manual"): 1},
        "llm_token_usage": {
            ("llm", "Code Generation", "llm_name", "Code Generation", "category", category): n
            for category, n in tokens.items()
        },
        "request_latency_seconds_count": {(): 6},
        "model_selection_time_seconds_count": {(): 2},
        "llm_response_time_seconds_count": {("llm", "Code Generation"): 1, ("llm", "Other"): 2},
        "proxy_overhead_latency_seconds_count": {(): 4},
    }
    for name, series in expected.items():
        for labels, value in series.items():
            named = dict(zip(labels[::2], labels[1::2], strict=True))
            assert metric(gateway.url, name, **named) == value, (name, named)


def test_the_wait_for_a_streams_first_token_is_no_overhead(start_gateway: StartGateway) -> None:
    """A stream's head may come long before its first token; what the router adds ends with the head."""
    with scripted_upstream(headers={"content-type": "text/event-stream"}, pieces=[b": x\n\n"], wait_seconds=1) as slow:
        gateway = start_gateway("policies:\n" + policy("code", _CODE, _OTHER), DYNAMO_API_BASE=slow.url)
        line = _ask(gateway, model="code", stream=True)
    assert line["first_byte_ms"] > 1000
    assert metric(gateway.url, "proxy_overhead_latency_seconds_sum") < 1
    assert metric(gateway.url, "request_latency_seconds_sum") < metric(gateway.url, "llm_router_first_byte_seconds_sum")


def test_counters_begin_at_0(start_gateway: StartGateway) -> None:
    """What a policy may count is there before it happens: a rate does not see a first value. What only asks how a
    request would be routed is no request for an answer."""
    pair = "  - {name: pair, type: routellm, threshold: 0.1, strong: {api_base: '${DYNAMO_API_BASE}', model: free}, "
    pair += f"weak: {{api_base: '${{DYNAMO_API_BASE}}', model: {SMALL}, {CHEAP}}}}}\n"
    gateway = start_gateway(WITHOUT_CACHE + "policies:\n" + policy("code", _CODE, _OTHER) + pair)
    assert _ask(gateway, path="/v1/route", model="code")["reason"] == "decided"
    families = text_string_to_metric_families(gateway.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples]

    def series(name: str) -> list[tuple[str, ...]]:
        found = [sample for sample in samples if sample.name == name]
        assert all(sample.value == 0 for sample in found)
        return sorted(tuple(sample.labels.values()) for sample in found)

    models = [(LARGE, "code"), (SMALL, "code"), ("free", "pair"), (SMALL, "pair")]
    assert series("llm_router_usage_missing_total") == sorted(models)
    assert series("llm_router_cost_total") == sorted(each for each in models if "free" not in each)
    assert series("llm_router_cost_at_strongest_total") == [(LARGE, "code"), (SMALL, "code")]
    assert len(series("llm_router_tokens_total")) == 2 * len(models)
    assert ("pair", "decision_timeout") in series("llm_router_fallbacks_total")
    assert ("pair", "decided") not in series("llm_router_fallbacks_total")
    assert series("requests_per_model") == [("Code Generation",), ("Other",), ("strong",), ("weak",)]
    assert series("llm_router_routed_total") == []


def test_right_with_several_workers(start_gateway: StartGateway) -> None:
    """What each of two workers counted is in the sum, and stays there when one of them is no more."""
    gateway = start_gateway("policies:\n" + policy("code", _CODE, _OTHER), arguments=["--workers", "2"])
    assert eventually(lambda: len(workers_of(gateway)) == 2)
    first, second = workers_of(gateway)
    costs = []
    for idle in (first, second):
        with stopped(idle):
            costs.append(_ask(gateway, model="code")["cost"])
    assert metric(gateway.url, "llm_router_cost_total") == pytest.approx(sum(costs))
    assert metric(gateway.url, "num_requests") == 2
    os.kill(first, signal.SIGKILL)
    assert eventually(lambda: len(workers_of(gateway)) == 3)
    assert metric(gateway.url, "num_requests") == 2
    assert metric(gateway.url, "llm_token_usage", category="completion") == 8


def test_price() -> None:
    """A cost is of a million tokens."""
    assert price(Cost(input=3, output=15), Usage(1_000_000, 2_000_000)) == 33
    assert price(Cost(input=0, output=0), Usage(5, 5)) == 0


def test_the_strongest_model(tmp_path: Path) -> None:
    """Of a classification policy the dearest to answer, of a RouteLLM policy the one that it names; or none."""
    text = "policies:\n" + policy("code", _CODE, _OTHER) + policy("free", _gone())
    text += "  - {name: pair, type: routellm, threshold: 0.1, strong: {api_base: 'http://x', model: a, %s}, "
    text += "weak: {api_base: 'http://x', model: b, cost: {input: 9, output: 9}}}\n"
    file = tmp_path / "config.yaml"
    environ = {"DYNAMO_API_BASE": "http://x"}
    file.write_text(text % "cost: {input: 1, output: 2}")
    policies = load_config(file, environ).policies
    assert cost_of_strongest(policies["code"]) == Cost(input=1, output=10)
    assert cost_of_strongest(policies["free"]) is None
    assert cost_of_strongest(policies["pair"]) == Cost(input=1, output=2)
    file.write_text(text.replace("model: a, %s", "model: a"))
    pair = load_config(file, environ).policies["pair"]
    assert cost_of_strongest(pair) is None
    reasons: tuple[Reason, ...] = ("decided", "manual")
    for reason in reasons:  # in one series, of which a saving would otherwise be told
        target = next(target for target in targets_of(pair) if target.cost is not None)
        routed = Routed(Selection((target,), reason), pair)
        assert spent(routed, Usage(1_000_000, 0)) == Spent(9, None)


def test_no_step_imports_what_observes() -> None:
    """Those who watch can be left out: only the application, and what starts it, knows of them."""
    importing = {file.name for file in (ROOT / "gateway").glob("*.py") if "gateway.observe" in file.read_text()}
    assert importing == {"app.py", "cli.py", "workers.py"}
