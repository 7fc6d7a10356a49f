import time

import httpx2
import pytest

from gateway.cache import DecisionCache
from gateway.decision import Decision
from scripts.local.dynamo import DemoDynamo
from scripts.local.triton import Triton
from tests.conftest import DEFAULT_CONFIG, StartGateway
from tests.gateway.client import Gateway, chat

_PATIENCE = 30.0


def _decision(checkpoint: str | None = "a:1:x") -> Decision:
    return Decision("Chatbot", ("Chatbot",), (1.0,), checkpoint=checkpoint)


def _cache(entries: int = 3, seconds: float = 600) -> DecisionCache:
    return DecisionCache(entries, seconds)


def test_a_prompt_is_known_by_client_policy_model_and_text() -> None:
    """The same text of another client, policy or model is another prompt; a part's end does not move."""
    cache = _cache()
    known = cache.hash_of("c", "p", "t", "x")
    assert known == cache.hash_of("c", "p", "t", "x")
    others = [("d", "p", "t", "x"), ("c", "q", "t", "x"), ("c", "p", "u", "x"), ("c", "p", "t", "y")]
    others += [("c", "pt", "", "x"), ("c", "p", "tx", ""), ("", "cp", "t", "x")]
    assert len({cache.hash_of(*other) for other in others} | {known}) == len(others) + 1
    assert cache.hash_of("c", "p", "t", "lone \ud800") != cache.hash_of("c", "p", "t", "lone ?")
    assert _cache().hash_of("c", "p", "t", "x") != known  # nobody else can tell what was asked


def test_it_is_bounded_and_forgets() -> None:
    """It keeps as many as it may, the latest ones, each for its time."""
    cache = _cache(entries=3)
    for name in "abcd":
        cache.put(name.encode(), "t", _decision())
    assert len(cache) == 3 and cache.get(b"a") is None and cache.get(b"d") == _decision()
    assert (cache.hits, cache.misses) == (1, 1)
    brief = _cache(seconds=0.01)
    brief.put(b"a", "t", _decision())
    deadline = time.monotonic() + _PATIENCE
    while brief.get(b"a") is not None:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_another_checkpoint_empties_it() -> None:
    """All is forgotten when a model answers with another checkpoint; a second model is none."""
    cache = _cache()
    cache.put(b"a", "t", _decision())
    cache.put(b"b", "u", _decision("b:1:y"))
    assert cache.get(b"a") is not None
    cache.put(b"c", "t", _decision("a:2:z"))
    assert cache.get(b"a") is None and cache.get(b"b") is None and cache.get(b"c") is not None


def test_off() -> None:
    """With no entries nothing is remembered, and nothing counted."""
    cache = _cache(entries=0)
    cache.put(b"a", "t", _decision())
    assert cache.get(b"a") is None and len(cache) == cache.misses == 0


def _asked(triton: Triton) -> int:
    statistics = httpx2.get(f"{triton.http_url}/v2/models/router_ensemble/stats").json()
    return int(statistics["model_stats"][0]["inference_count"])


def _reason(gateway: Gateway, **fields: object) -> tuple[str, str]:
    answer = gateway.post("/v1/chat/completions", chat("Write a haiku about an autumn evening.", **fields))
    assert answer.status_code == 200 and float(answer.headers["x-router-decision-ms"]) >= 0
    return answer.headers["x-router-reason"], answer.headers["X-Chosen-Classifier"]


def test_triton_is_asked_once(start_gateway: StartGateway, triton: Triton, dynamo: DemoDynamo) -> None:
    """The same prompt again is answered without Triton, by policy; the metrics tell hits and misses."""
    text = DEFAULT_CONFIG.read_text().replace("    llms:", "    timeout_ms: 30000\n    llms:")
    gateway = start_gateway(text)
    before = _asked(triton)
    first, second = _reason(gateway), _reason(gateway)
    assert (first[0], second[0]) == ("decided", "cached") and first[1] == second[1]
    assert _reason(gateway, model="complexity_router")[0] == "decided"
    assert _asked(triton) == before + 2
    explained = gateway.post("/v1/route", chat("Write a haiku about an autumn evening.")).json()
    assert explained["reason"] == "cached" and explained["scores"][explained["label"]] > 0
    metrics = gateway.get("/metrics").text
    assert 'llm_router_decision_cache_total{result="hit"} 2.0' in metrics
    assert 'llm_router_decision_cache_total{result="miss"} 2.0' in metrics
    assert "llm_router_decision_cache_entries 2.0" in metrics


@pytest.mark.parametrize("rule", ["last_user", "first_user"])
def test_a_conversation_is_judged_by_its_text(start_gateway: StartGateway, rule: str) -> None:
    """A tool's answers do not change the text that decides, so that an agent's loop asks Triton once."""
    gateway = start_gateway(DEFAULT_CONFIG.read_text().replace("    llms:", f"    input: {rule}\n    llms:"))
    turn: list[dict[str, object]] = [{"role": "user", "content": "What is the weather in Paris?"}]
    assert gateway.post("/v1/route", {"messages": turn}).json()["reason"] == "decided"
    turn += [{"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "content": "12 degrees"}]
    assert gateway.post("/v1/route", {"messages": turn}).json()["reason"] == "cached"
