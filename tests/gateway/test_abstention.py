"""Policies that abstain, and traffic beside its snapshot, on real parts."""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from gateway.observe.traffic import TrafficMetrics
from gateway.traffic import seen, take_snapshot
from tests.conftest import MODELS, StartGateway
from tests.gateway.client import Gateway, chat, eventually

_SMALL, _LARGE, _OTHER = MODELS[3], MODELS[1], MODELS[2]
_PYTHON = "Write a Python function that reverses a list."


def _policy(name: str, extra: str, model: str = "task_router_ensemble") -> str:
    llm = "{name: %s, api_base: '${DYNAMO_API_BASE}', model: %s}"
    llms = ", ".join((llm % ("Unknown", _SMALL), llm % ("Code Generation", _LARGE)))
    url = f"http://x:8000/v2/models/{model}/infer"
    return f"- {{name: {name}, url: '{url}', timeout_ms: 30000, {extra} llms: [{llms}]}}\n"


def _pair(snapshot: Path) -> str:
    """A RouteLLM policy."""
    return f"""\
- name: pair
  type: routellm
  timeout_ms: 30000
  threshold: 0
  snapshot: {snapshot}
  strong: {{api_base: '${{DYNAMO_API_BASE}}', model: {_LARGE}}}
  weak: {{api_base: '${{DYNAMO_API_BASE}}', model: {_SMALL}}}
"""


def test_a_policy_that_is_not_sure_abstains(start_gateway: StartGateway) -> None:
    """Below its confidence `on_abstain` answers, or the fallback, from memory as well; client, log and metrics know."""
    gateway = start_gateway(
        "policies:\n"
        + _policy("sure", "min_confidence: 0.01,")
        + _policy("unsure", "min_confidence: 1,")
        + _policy("llm", "min_confidence: 1, on_abstain: Code Generation,")
        + _policy("other", f"min_confidence: 1, on_abstain: {_OTHER},", "scored_ensemble")
        + _policy("one_hot", "min_confidence: 1,", "renamed_ensemble")
    )
    explained = gateway.post("/v1/route", chat(_PYTHON, model="sure")).json()
    assert (explained["reason"], explained["model"]) == ("decided", _LARGE)
    assert explained["confidence"] == max(explained["scores"].values()) > 0.01
    assert gateway.post("/v1/route", chat(_PYTHON, model="one_hot")).json()["confidence"] == 1
    for policy, model in {"unsure": _SMALL, "llm": _LARGE, "other": _OTHER}.items():
        for _ in ("asked", "remembered"):
            answer = gateway.post("/v1/chat/completions", chat(_PYTHON, model=policy))
            assert answer.json()["model"] == model
            assert answer.headers["x-router-reason"] == "low_confidence"
            assert answer.headers["X-Chosen-Classifier"] == "Code Generation"
    (line,) = gateway.request_lines(answer.headers["x-request-id"])
    assert line["reason"] == "low_confidence" and 0 < line["confidence"] < 1 and line["decision_ms"] is None
    counted = 'llm_router_routed_total{label="Code Generation",model="%s",policy="other",reason="low_confidence"} 2.0'
    metrics = gateway.get("/metrics").text
    assert counted % _OTHER in metrics
    assert f'llm_router_target_eligible{{model="{_OTHER}"' in metrics


def _snapshot(file: Path, labels: tuple[str, ...], confidence: float | None = 0.95) -> None:
    """A snapshot of English prompts of up to 16 tokens with these labels."""
    taken = take_snapshot([seen(label, confidence, 9, "en") for label in labels], None)
    file.write_text(taken.model_dump_json())


def _series(gateway: Gateway, name: str) -> dict[tuple[str, str], dict[str, float]]:
    """The values of a metric by policy and what it is of."""
    pattern = re.compile(rf'^{name}{{of="(.*)",policy="(.*)",value="(.*)"}} (.*)$', re.MULTILINE)
    found: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for feature, policy, value, number in pattern.findall(gateway.get("/metrics").text):
        found[policy, feature][value] = float(number)
    return found


def _counts(gateway: Gateway, policy: str, feature: str) -> dict[str, float]:
    """What was counted at all."""
    counts = _series(gateway, "llm_router_traffic_total")[policy, feature]
    return {value: count for value, count in counts.items() if count}


def _distance(counts: Mapping[str, float], snapshot: Mapping[str, float]) -> float:
    """Total variation distance, as the chart's alert has it: 1 - sum(min(served share, snapshot share))."""
    total = sum(counts.values())
    return 1 - sum(min(count / total, snapshot.get(value, 0.0)) for value, count in counts.items())


def test_traffic_beside_its_snapshot(start_gateway: StartGateway, tmp_path: Path) -> None:
    """Label, confidence, length and language of each decision are counted beside the snapshot's shares, remembered
    decisions and the unsure ones too, those of a request's own threshold and of other policies not."""
    _snapshot(tmp_path / "task.json", ("Code Generation",))
    _snapshot(tmp_path / "pair.json", ("strong", "weak"), None)
    text = (
        "policies:\n"
        + _policy("watched", f"snapshot: {tmp_path / 'task.json'}, min_confidence: 1,")
        + _policy("other", "")
        + _pair(tmp_path / "pair.json")
    )
    gateway = start_gateway(text)
    prompts = [_PYTHON, _PYTHON, "Write a poem about the sea.", "Schreibe mir bitte ein Gedicht über das Meer."]
    for policy in ("watched", "other", "pair"):
        for prompt in prompts:
            assert gateway.post("/v1/route", chat(prompt, model=policy)).status_code == 200
    gateway.post("/v1/route", chat(_PYTHON, model="router-mf-0.9"))
    gateway.post("/v1/route", chat(" ", model="watched"))
    labels = _counts(gateway, "watched", "label")
    assert labels["Code Generation"] == 2 and sum(labels.values()) == 4
    assert labels.keys() <= {"Code Generation", "Unknown", "other"}
    assert _counts(gateway, "watched", "language") == {"en": 3, "de": 1}
    assert _counts(gateway, "watched", "length") == {"1-16": 3, "17-32": 1}
    assert sum(_counts(gateway, "watched", "confidence").values()) == 4
    assert _counts(gateway, "pair", "label") == {"strong": 4}
    assert _counts(gateway, "pair", "confidence") == {}
    assert {policy for policy, _ in _series(gateway, "llm_router_traffic_total")} == {"watched", "pair"}
    shares = _series(gateway, "llm_router_traffic_snapshot")
    assert shares["pair", "label"] == {"strong": 0.5, "weak": 0.5}
    assert _distance(labels, shares["watched", "label"]) == 0.5
    assert _distance(_counts(gateway, "watched", "language"), shares["watched", "language"]) == 0.25
    assert _distance(_counts(gateway, "watched", "length"), shares["watched", "length"]) == 0.25
    assert _distance(_counts(gateway, "pair", "label"), shares["pair", "label"]) == 0.5


def test_a_snapshot_that_changes(start_gateway: StartGateway, tmp_path: Path) -> None:
    """Another snapshot is adopted as a configuration is, a wrong one refused, and one that is gone leaves no series."""
    snapshot = tmp_path / "pair.json"
    _snapshot(snapshot, ("strong", "weak"), None)
    gateway = start_gateway("policies:\n" + _pair(snapshot))
    assert _series(gateway, "llm_router_traffic_snapshot")["pair", "label"] == {"strong": 0.5, "weak": 0.5}
    assert _series(gateway, "llm_router_traffic_total")["pair", "label"] == {"strong": 0, "weak": 0}
    _snapshot(snapshot, ("weak",), None)
    assert eventually(lambda: _series(gateway, "llm_router_traffic_snapshot")["pair", "label"] == {"weak": 1})
    snapshot.write_text("{}")
    assert eventually(lambda: "llm_router_config_in_force 0.0" in gateway.get("/metrics").text)
    assert _series(gateway, "llm_router_traffic_snapshot")["pair", "label"] == {"weak": 1}
    (file,) = tmp_path.glob("gateway*/config.yaml")
    file.write_text("policies:\n" + _policy("other", ""))
    assert eventually(lambda: not _series(gateway, "llm_router_traffic_snapshot"))


def test_a_snapshot_that_is_gone_among_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers' files forget no series: the shares of a snapshot that is gone are 0, and prometheus_client warns of
    nothing; without workers they are gone, too."""
    snapshots = {"p": take_snapshot([seen("a", None, None, "en")], None)}
    for shared, left in ((True, {0.0}), (False, set())):
        registry = CollectorRegistry()
        metrics = TrafficMetrics(registry)
        metrics.show(snapshots)
        with monkeypatch.context() as patch:
            if shared:
                patch.setenv("PROMETHEUS_MULTIPROC_DIR", "/nowhere")
            metrics.show({})
        shares = [family for family in registry.collect() if family.name == "llm_router_traffic_snapshot"]
        assert {sample.value for family in shares for sample in family.samples} == left


@pytest.mark.rare
def test_workers_count_traffic_together(start_gateway: StartGateway, tmp_path: Path) -> None:
    """With several workers counts are summed, and shares stand once."""
    _snapshot(tmp_path / "task.json", ("Code Generation", "Unknown"))
    text = "policies:\n" + _policy("watched", f"snapshot: {tmp_path / 'task.json'},")
    gateway = start_gateway(text, arguments=["--workers", "2"])
    for number in range(40):
        gateway.post("/v1/route", chat(f"{_PYTHON} {number}"))
    assert eventually(lambda: sum(_counts(gateway, "watched", "label").values()) == 40)
    shares = _series(gateway, "llm_router_traffic_snapshot")
    assert shares["watched", "label"] == {"Code Generation": 0.5, "Unknown": 0.5}
