"""Debian's Prometheus, with the project's own configuration and rules, beside the real gateway, Triton and Dynamo."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.traffic import seen, take_snapshot
from scripts.local.dynamo import DemoDynamo
from scripts.local.process import Process, ask, free_port, wait_until
from scripts.local.triton import Triton
from tests.conftest import DEFAULT_CONFIG, MODELS, StartGateway, running_gateway
from tests.deploy.observed import (
    DASHBOARDS,
    PROMETHEUS,
    RULES,
    Empty,
    empty_queries,
    known_metrics,
    metrics_in,
    panels,
    with_variables,
)
from tests.gateway.client import Gateway, chat, eventually

pytestmark = pytest.mark.rare  # Prometheus has to look twice

_KEY = "a-key-of-the-tests-0123456789"
_CHAT = "/v1/chat/completions"
_LARGE, _SMALL = MODELS[1], MODELS[3]
_WRONG = "sum(rate(llm_router_nothing_total[1m]))"


@dataclass(frozen=True)
class Prometheus:
    """A running one."""

    url: str

    def get(self, path: str, **parameters: str) -> Any:
        status, answer = ask(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}", 30)
        assert status == 200, (parameters, answer)
        return json.loads(answer)["data"]

    def query(self, expr: str) -> list[float]:
        """The values now."""
        return [
            float(value) for _, value in (each["value"] for each in self.get("/api/v1/query", query=expr)["result"])
        ]

    def scrapes(self) -> float:
        """How often each target that is up was looked at; 0 while one is down."""
        up = self.query("min by (job) (up)")
        if len(up) < 4 or not all(up):
            return 0.0
        (scrapes,) = self.query("min(sum_over_time(up[1h]))")
        return scrapes


@pytest.fixture(scope="module", params=[(), ("--workers", "2")], ids=["one", "workers"])
def observed(
    request: pytest.FixtureRequest, triton: Triton, dynamo: DemoDynamo, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Prometheus, Gateway]]:
    """A gateway that has had requests of all kinds, and the Prometheus that watched them."""
    folder = tmp_path_factory.mktemp("observed")
    rows = [seen("Code Generation", 0.9, 10, "en"), seen("Chatbot", 0.4, 100, "de")]
    (folder / "snapshot.json").write_text(take_snapshot(rows, None).model_dump_json())
    (folder / "config.yaml").write_text(_config(folder / "snapshot.json"))
    environ = {"DYNAMO_API_BASE": dynamo.url, "TRITON_GRPC_URL": triton.grpc_url, "GATEWAY_API_KEYS": f"team:{_KEY}"}
    with (
        running_gateway(folder / "config.yaml", folder, True, request.param, None, **environ) as gateway,
        _running_prometheus(folder, gateway, triton, dynamo) as prometheus,
    ):
        # A rate takes a look between two rounds, and one after them.
        for number in range(2):
            _send_all_kinds(gateway, number)
            _look(prometheus)
        yield prometheus, gateway


@contextmanager
def _running_prometheus(folder: Path, gateway: Gateway, triton: Triton, dynamo: DemoDynamo) -> Iterator[Prometheus]:
    """On loopback, with its data in `folder`."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is missing: Debian's package of that name has it, and .ci/run installs it")
    port = free_port()
    configuration = _prometheus_configuration(folder, gateway, triton, dynamo)
    command = [program, f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    prometheus = Prometheus(f"http://127.0.0.1:{port}")
    process = Process("prometheus", command, {}, folder / "prometheus.log")
    try:
        wait_until(lambda: ask(f"{prometheus.url}/-/ready", 5)[0] == 200, process, 60)
        yield prometheus
    finally:
        process.stop()


def _config(snapshot: Path) -> str:
    """Policies for every kind of decision and fallback."""
    llm = "{name: %s, api_base: '%s', model: %s, cost: {input: %s, output: 2}%s}"
    dynamo, nowhere = "${DYNAMO_API_BASE}", f"http://127.0.0.1:{free_port()}"
    small = llm % ("Unknown", dynamo, _SMALL, 0.1, "")
    large = llm % ("Code Generation", dynamo, _LARGE, 1, "")
    gone = llm % ("Code Generation", nowhere, "gone", 1, ", fallbacks: [Unknown]")
    dead = llm % ("Chatbot", nowhere, "dead", 1, "")

    def policy(name: str, llms: tuple[str, ...], model: str = "task_router_ensemble", extra: str = "") -> str:
        url = f"http://x:8000/v2/models/{model}/infer"
        return f"- {{name: {name}, url: '{url}', timeout_ms: 30000, {extra} llms: [{', '.join(llms)}]}}\n"

    return (
        "policies:\n"
        + policy("tasks", (small, large), extra=f"snapshot: {snapshot},")
        + policy("unsure", (small, large), extra="min_confidence: 1,")
        + policy("gone", (small, gone, dead))
        + policy("undecided", (small, large), model="no_such_ensemble")
        + f"""\
- name: pair
  type: routellm
  timeout_ms: 30000
  threshold: 0.5
  target_strong_share: 0.5
  strong: {{api_base: '{dynamo}', model: {_LARGE}, cost: {{input: 1, output: 2}}}}
  weak: {{api_base: '{dynamo}', model: {_SMALL}, cost: {{input: 0.1, output: 0.2}}}}
"""
    )


def _prometheus_configuration(folder: Path, gateway: Gateway, triton: Triton, dynamo: DemoDynamo) -> Path:
    """The project's own, with targets and paths of this machine, looking every second."""
    (folder / "key").write_text(_KEY)
    text = PROMETHEUS.read_text()
    for ours, here in {
        "gateway:8084": gateway.url.removeprefix("http://"),
        "triton:8002": f"127.0.0.1:{triton.port + 2}",
        "host.docker.internal:8000": dynamo.url.removeprefix("http://"),
        "/etc/prometheus/rules/*.yaml": str(RULES),
        "/run/secrets/gateway-key": str(folder / "key"),
        "15s": "1s",
    }.items():
        assert ours in text
        text = text.replace(ours, here)
    # As compose.observe.yaml has it where the gateway has no keys: an empty file in place of one.
    text += f"""
  - job_name: without-key
    authorization: {{credentials_file: /dev/null}}
    static_configs: [{{targets: ["{dynamo.url.removeprefix("http://")}"]}}]
"""
    file = folder / "prometheus.yml"
    file.write_text(text)
    return file


def _send_all_kinds(gateway: Gateway, number: int) -> None:
    """Each kind of request once, with prompts that were not there before."""

    def post(status: int, reason: str | None, prompt: str, **fields: Any) -> None:
        answer = send(prompt, **fields)
        assert (answer.status_code, answer.headers.get("x-router-reason")) == (status, reason), answer.text

    def send(prompt: str, **fields: Any) -> httpx2.Response:
        body = chat(f"{prompt} (number {number})", **fields)
        return gateway.post(_CHAT, body, headers={"authorization": f"Bearer {_KEY}"})

    code = "Write a Python function that reverses a list."
    usage = {"stream_options": {"include_usage": True}}
    post(200, "decided", code, model="tasks")
    # Each worker remembers for itself.
    assert eventually(lambda: send(code, model="tasks").headers["x-router-reason"] == "cached")
    post(200, "decided", f"{code} Use a loop.", model="tasks", stream=True, **usage)
    post(200, "decided", f"{code} Use recursion.", model="tasks", stream=True)
    post(200, "decided", f"{code} " * 2000, model="tasks")
    post(200, "no_llm_for_label", "Summarise the plot of Hamlet in two sentences.", model="tasks")
    post(200, "low_confidence", code, model="unsure")
    post(200, "target_unavailable", code, model="gone")
    for prompt in ("What is 2 + 2?", "Explain quantum entanglement in detail with mathematical formulations"):
        post(200, "decided", prompt, model="pair")
    post(200, "manual", code, **{"nim-llm-router": {"routing_strategy": "manual", "model": "Unknown"}})
    post(200, "passthrough", code, model=_SMALL)
    post(404, None, code, **{"nim-llm-router": {"policy": "no such policy"}})
    manual = {"policy": "gone", "routing_strategy": "manual", "model": "Chatbot"}
    for _ in range(3):  # of these so many that alerts stir, wherever a look falls between the requests
        post(502, None, code, **{"nim-llm-router": manual})
        post(200, "triton_unavailable", code, model="undecided")


def _look(prometheus: Prometheus) -> None:
    """Until Prometheus has looked at everything after what has happened."""
    before = prometheus.scrapes()
    assert eventually(lambda: prometheus.scrapes() >= before + 2)


def test_every_panel_has_data(observed: tuple[Prometheus, Gateway]) -> None:
    """Every query of both dashboards returns numbers, with no namespace there to choose."""
    prometheus, _ = observed
    assert [empty for dashboard in DASHBOARDS for empty in empty_queries(dashboard, prometheus.query)] == []


def test_only_what_is_not_configured_is_empty(
    start_gateway: StartGateway, triton: Triton, dynamo: DemoDynamo, tmp_path: Path
) -> None:
    """With the default configuration, and requests that all went well: what never happened is 0."""
    gateway = start_gateway(DEFAULT_CONFIG.read_text())
    with _running_prometheus(tmp_path, gateway, triton, dynamo) as prometheus:
        for number in range(2):
            for prompt in ("Write a Python function to sort a list", "Write a Python function to sort a list"):
                gateway.post(_CHAT, chat(f"{prompt} {number}"))
            _look(prometheus)
        empty = {
            panel["title"]
            for dashboard in DASHBOARDS
            for panel in panels(dashboard)
            for target in panel["targets"]
            if not prometheus.query(with_variables(target["expr"]))
        }
    snapshots = {"Distance of a day's traffic from its snapshot", "Confidence, beside its snapshot"}
    routellm = {"Strong share", "Threshold of the win rate"}
    costs = {"Saved", "Spent and saved in the time shown", "Spent an hour", "Saved an hour"}
    assert empty == snapshots | routellm | costs | {"With the strongest model, an hour"}


def test_a_wrong_panel_is_found(observed: tuple[Prometheus, Gateway]) -> None:
    """One whose metric does not exist, or whose label is never there."""
    prometheus, _ = observed
    for expr in (_WRONG, 'sum by (model) (rate(llm_router_routed_total{policy="nobody"}[1m]))', "0 / vector(0)"):
        panel = {"type": "timeseries", "title": "Wrong", "targets": [{"expr": expr}]}
        dashboard = {"uid": "wrong", "panels": [*DASHBOARDS[1]["panels"], panel]}
        assert list(empty_queries(dashboard, prometheus.query)) == [Empty("wrong", "Wrong", expr)]


def test_rules_are_evaluated(observed: tuple[Prometheus, Gateway]) -> None:
    """All are healthy; those for what happens here are about to fire, those for what does not are not."""
    prometheus, _ = observed
    happening = {"LlmRouterErrors", "LlmRouterFallbacks", "LlmRouterTargetNotEligible"}

    def rules() -> list[dict[str, Any]]:
        (group,) = prometheus.get("/api/v1/rules")["groups"]
        found: list[dict[str, Any]] = group["rules"]
        return found

    def stirring() -> set[str]:
        return {rule["name"] for rule in rules() if rule["state"] != "inactive"}

    assert eventually(lambda: happening <= stirring(), 30), rules()
    assert {rule["health"] for rule in rules()} == {"ok"}, rules()
    assert len(rules()) == RULES.read_text().count("- alert:")
    assert not stirring() & {"LlmRouterGatewayDown", "LlmRouterConfigurationRefused", "LlmRouterNearlyFull"}


def test_promtool_takes_the_metrics(observed: tuple[Prometheus, Gateway]) -> None:
    """What /metrics shows after all of that has names, types and texts as Prometheus wants them; and whatever the
    dashboards and rules ask for is in it, or in Triton's."""
    prometheus, gateway = observed
    text = gateway.get("/metrics", {"authorization": f"Bearer {_KEY}"}).text
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    served = set(prometheus.get("/api/v1/label/__name__/values"))
    asked = set().union(*(metrics_in(text) for text in (*map(json.dumps, DASHBOARDS), RULES.read_text())))
    assert {name for name in asked if not {name, f"{name}_bucket"} & served} == set()
    ours = {name for name in known_metrics() if not name.startswith("nv_")}
    assert {name for name in ours if not {name, f"{name}_bucket"} & served} == set()
