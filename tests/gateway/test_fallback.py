import os
import signal
import time
from pathlib import Path

import pytest

from gateway.patience import MISSES
from scripts.local.dynamo import DemoDynamo
from scripts.local.process import free_port, free_ports
from scripts.local.triton import Triton
from tests.conftest import DEFAULT_CONFIG, WITHOUT_CACHE, StartGateway
from tests.gateway.client import Gateway, chat
from tests.gateway.tee import running_tee
from tests.processes import stubs_of

_PATIENCE = 60.0  # that a state is reached is what is tested, not how soon


def _reason(gateway: Gateway) -> str:
    """The reason of a routed request, which must succeed whatever happens to Triton."""
    answer = gateway.post("/v1/chat/completions", chat("Write a Python function to sort a list"))
    assert answer.status_code == 200, answer.text
    if answer.headers["x-router-reason"] != "decided":
        assert answer.json()["model"] == "llama-3.1-8b-instruct"  # the default file's llm for Unknown
        assert "X-Chosen-Classifier" not in answer.headers
    return answer.headers["x-router-reason"]


def _reach(gateway: Gateway, reason: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    seen = set()
    while (now := _reason(gateway)) != reason:
        seen.add(now)
        assert time.monotonic() < deadline, f"never {reason!r}, only {seen}"
        time.sleep(0.2)


@pytest.mark.rare
def test_requests_are_answered_whatever_happens_to_triton(
    start_gateway: StartGateway, dynamo: DemoDynamo, tmp_path: Path
) -> None:
    """Stopped, continued, without its stub, killed and started again: every request gets a 200 and says why."""
    triton = Triton(free_ports(3), tmp_path / "triton")
    triton.start()
    try:
        triton.wait()
        gateway = start_gateway(WITHOUT_CACHE + DEFAULT_CONFIG.read_text(), TRITON_GRPC_URL=triton.grpc_url)
        assert triton.process is not None
        _reach(gateway, "decided")

        os.kill(triton.process.pid, signal.SIGSTOP)
        assert [_reason(gateway) for _ in range(MISSES)] == ["decision_timeout"] * MISSES
        assert _reason(gateway) == "triton_paused"
        _reach(gateway, "decision_timeout")  # one request finds out whether it still stalls
        os.kill(triton.process.pid, signal.SIGCONT)
        _reach(gateway, "decided")

        for stub in stubs_of(triton.process.pid, "prompt_classifier"):
            os.kill(stub, signal.SIGKILL)
        _reach(gateway, "decision_failed")

        os.kill(triton.process.pid, signal.SIGKILL)
        _reach(gateway, "triton_unavailable")
        triton.stop()
        triton.start()
        triton.wait()
        _reach(gateway, "decided")
    finally:
        if triton.process is not None and triton.process.exit_code is None:
            os.kill(triton.process.pid, signal.SIGCONT)
        triton.stop()
    metrics = gateway.get("/metrics").text
    for reason in ("decision_timeout", "triton_paused", "decision_failed", "triton_unavailable"):
        assert f'policy="task_router",reason="{reason}"' in metrics


def test_not_ready_until_the_first_decision(start_gateway: StartGateway) -> None:
    """A gateway whose Triton was never there lives and routes by fallback, but is not ready, and says why."""
    gateway = start_gateway(DEFAULT_CONFIG.read_text(), ready=False, TRITON_GRPC_URL=f"127.0.0.1:{free_port()}")
    answer = gateway.get("/health/ready")
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "triton_unavailable"
    assert gateway.get("/health/live").status_code == 200
    assert _reason(gateway) == "triton_unavailable"


def test_not_ready_until_an_upstream_answers(start_gateway: StartGateway, dynamo: DemoDynamo) -> None:
    """A gateway that starts before Dynamo decides, but is ready only when Dynamo answers, and stays so without it."""
    port = free_port()
    gateway = start_gateway(DEFAULT_CONFIG.read_text(), DYNAMO_API_BASE=f"http://127.0.0.1:{port}")
    answer = gateway.get("/health/ready")
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "upstream_unavailable"
    with running_tee("127.0.0.1", dynamo.port, port):
        deadline = time.monotonic() + _PATIENCE
        while not gateway.is_ready():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert _reason(gateway) in ("decided", "cached")
    assert gateway.is_ready()


def test_a_model_that_triton_does_not_serve(start_gateway: StartGateway) -> None:
    """A policy on a model that is not loaded falls back, too."""
    text = DEFAULT_CONFIG.read_text().replace("task_router_ensemble", "no_such_ensemble")
    gateway = start_gateway(text, ready=False)
    assert gateway.post("/v1/route", chat("hello")).json()["reason"] in ("triton_unavailable", "decision_failed")
