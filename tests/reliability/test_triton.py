"""Triton dies or stalls under load."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from scripts.local.process import fetch, free_ports
from scripts.local.triton import Triton
from tests.conftest import DEFAULT_CONFIG, ROOT, StartGateway
from tests.gateway.client import Gateway
from tests.processes import stubs_of
from tests.reliability import report
from tests.reliability.conftest import Figures
from tests.reliability.load import Load, Outcome
from tests.reliability.observe import account

_PROBE = (ROOT / "deploy" / "triton" / "healthcheck", "5")
_UNDECIDED = {"decision_failed", "decision_timeout", "triton_paused"}
_PROBE_SECONDS, _PROBE_FAILURES = 1.0, 3  # as a liveness probe with periodSeconds: 1 and failureThreshold: 3


@pytest.fixture(scope="module")
def own_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """One that may be killed."""
    triton = Triton(free_ports(3), tmp_path_factory.mktemp("own") / "triton")
    triton.start()
    try:
        triton.wait()
        yield triton
    finally:
        triton.stop()


@pytest.fixture
def own_gateway(own_triton: Triton, start_gateway: StartGateway) -> Gateway:
    """The default configuration on it."""
    return start_gateway(DEFAULT_CONFIG.read_text(), TRITON_GRPC_URL=own_triton.grpc_url)


def _pid(triton: Triton) -> int:
    assert triton.process is not None
    return triton.process.pid


def test_two_tritons_take_turns(start_gateway: StartGateway, own_triton: Triton, triton: Triton) -> None:
    """A name with two addresses is two Tritons that share the decisions; when one is killed the other makes all."""
    both = f"ipv4:{own_triton.grpc_url},{triton.grpc_url}"
    gateway = start_gateway(DEFAULT_CONFIG.read_text(), TRITON_GRPC_URL=both)
    before = [_inferences(each) for each in (own_triton, triton)]
    with Load(gateway.url) as load:
        load.reach("decided", count=40)
        shares = [_inferences(each) - count for each, count in zip((own_triton, triton), before, strict=True)]
        killed = time.monotonic()
        os.kill(_pid(own_triton), signal.SIGKILL)
        load.reach("decided", since=killed, count=40)
    account(load, gateway)
    assert min(shares) > 0.3 * sum(shares), shares
    own_triton.stop()
    own_triton.start()
    own_triton.wait()


def _inferences(triton: Triton) -> int:
    statistics = json.loads(fetch(f"{triton.http_url}/v2/models/prompt_classifier/stats", 10) or b"")
    return int(statistics["model_stats"][0]["inference_count"])


def test_triton_killed(own_gateway: Gateway, own_triton: Triton, figures: Figures) -> None:
    """Triton is killed and started again: fallbacks answer meanwhile, and no client sees an error."""
    with Load(own_gateway.url) as load:
        load.reach("decided", count=20)
        killed = time.monotonic()
        os.kill(_pid(own_triton), signal.SIGKILL)
        first = load.reach("triton_unavailable", since=killed, count=20)
        own_triton.stop()
        own_triton.start()
        own_triton.wait()
        back = time.monotonic()
        decided = load.reach("decided", since=back)
        load.reach("decided", count=20)
    account(load, own_gateway)
    figures |= {
        "requests": report.requests(load.counts()),
        "from the kill to the first fallback's answer": _seconds(killed, first),
        "from the new Triton's first answer to the next decision": _seconds(back, decided),
    }


@pytest.mark.rare
def test_stub_killed(own_gateway: Gateway, own_triton: Triton, figures: Figures) -> None:
    """The classifier's Python process is killed, and Triton started again after three failed probes a second apart:
    fallbacks answer meanwhile, and no client sees an error."""
    with Load(own_gateway.url) as load:
        load.reach("decided", count=20)
        killed = time.monotonic()
        for stub in stubs_of(_pid(own_triton), "prompt_classifier"):
            os.kill(stub, signal.SIGKILL)
        # Some inferences fail at once; one that was running may make Triton hang, and the gateway pause.
        load.wait(lambda: len([each for each in load.since(killed) if each.reason in _UNDECIDED]) >= 20)
        _await_probe_failures(own_triton)
        noticed = time.monotonic()
        own_triton.stop()
        ended = time.monotonic()
        own_triton.start()
        own_triton.wait()
        decided = load.reach("decided", since=noticed)
        load.reach("decided", count=20)
    account(load, own_gateway)
    figures |= {
        "requests": report.requests(load.counts()),
        "from the dead process to the last failed probe": f"{noticed - killed:.1f} s",
        "Triton took to end": f"{ended - noticed:.1f} s",
        "from the dead process to the next real decision": _seconds(killed, decided),
    }


def test_triton_stopped(own_gateway: Gateway, own_triton: Triton, figures: Figures) -> None:
    """Triton hangs (SIGSTOP) and goes on (SIGCONT): a few requests wait for the deadline of a second, the others are
    answered by fallback at once, and no client sees an error."""
    with Load(own_gateway.url) as load:
        load.reach("decided", count=20)
        stopped = time.monotonic()
        os.kill(_pid(own_triton), signal.SIGSTOP)
        try:
            load.reach("triton_paused", since=stopped, count=100)
        finally:
            continued = time.monotonic()
            os.kill(_pid(own_triton), signal.SIGCONT)
        decided = load.reach("decided", since=continued)
        load.reach("decided", count=20)
    account(load, own_gateway)
    meanwhile = [each for each in load.since(stopped) if each.began < continued]
    waited = [each for each in meanwhile if each.reason == "decision_timeout"]
    figures |= {
        "requests": report.requests(load.counts()),
        "how long it hung": f"{continued - stopped:.1f} s",
        "requests meanwhile": len(meanwhile),
        "of them waited for the deadline": len(waited),
        "from its going on to the next decision": _seconds(continued, decided),
    }


def _await_probe_failures(triton: Triton) -> None:
    """Probe as a kubelet does, until it would restart the container."""
    failures = 0
    environ = os.environ | {"TRITON_HTTP_URL": triton.http_url}
    while failures < _PROBE_FAILURES:
        time.sleep(_PROBE_SECONDS)
        probe = subprocess.run(_PROBE, env=environ, capture_output=True, timeout=60)
        failures = failures + 1 if probe.returncode else 0


def _seconds(since: float, outcome: Outcome) -> str:
    return f"{outcome.ended - since:.1f} s"
