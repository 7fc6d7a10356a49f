import os
import re
import signal
import threading

import httpx2
import pytest

from gateway import cli
from tests.conftest import DEFAULT_CONFIG, StartGateway
from tests.gateway.client import Gateway, chat, eventually
from tests.processes import stopped

_PATIENCE = 60.0  # an event that never comes is the failure; how soon it comes is not judged
_SERVED = 'llm_router_requests_total{outcome="complete",path="/v1/route",status="200"}'


@pytest.fixture
def gateway(start_gateway: StartGateway) -> Gateway:
    """Two workers."""
    gateway = start_gateway(DEFAULT_CONFIG.read_text(), arguments=["--workers", "2", "--drain-seconds", "60"])
    assert eventually(lambda: len(workers_of(gateway)) == 2)
    return gateway


def workers_of(gateway: Gateway) -> list[int]:
    """The process ids of all workers that have begun to serve, in their order."""
    events = [line["event"] for line in gateway.log_lines()]
    ready = sum(event == "Application startup complete." for event in events)
    return [int(found[1]) for event in events if (found := re.fullmatch(r"Started server process \[(\d+)]", event))][
        :ready
    ]


def _route_by_each(gateway: Gateway, workers: list[int], count: int) -> None:
    """Has each of two workers decide `count` times."""
    for idle in workers:
        with stopped(idle):
            for _ in range(count):
                assert gateway.post("/v1/route", chat("hi")).status_code == 200


def _served(gateway: Gateway) -> float:
    """What any worker says of all."""
    lines = gateway.get("/metrics").text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(_SERVED)), 0.0)


def _kept(gateway: Gateway, workers: list[int]) -> list[int]:
    """How many decisions each of two workers says that all have made lately."""
    kept = []
    for idle in workers:
        with stopped(idle):
            kept.append(gateway.get("/decisions").json()["kept"])
    return kept


def test_all_workers_serve_and_are_summed(gateway: Gateway) -> None:
    """Each worker answers by itself; either one's `/metrics` has the sum of both, and bounds of all are those told;
    either one's `/decisions` has those of both."""
    workers = workers_of(gateway)
    _route_by_each(gateway, workers, 10)
    for idle in workers:
        with stopped(idle):
            assert _served(gateway) == 20
            text = gateway.get("/metrics").text
    assert eventually(lambda: _kept(gateway, workers) == [20, 20])
    assert "\nllm_router_max_requests 2048.0\n" in text
    assert "\nllm_router_decision_cache_capacity 20000.0\n" in text  # each has one
    assert "\nllm_router_config_in_force 1.0\n" in text


def test_a_worker_that_dies_is_replaced(gateway: Gateway) -> None:
    """A killed worker is replaced by one that serves, and nothing that it counted is lost, nor counted twice; its
    latest decisions are shown no more."""
    first, second = workers_of(gateway)
    _route_by_each(gateway, [first, second], 5)
    os.kill(first, signal.SIGKILL)
    assert eventually(lambda: len(workers_of(gateway)) == 3)
    _, _, third = workers_of(gateway)
    _route_by_each(gateway, [second, third], 5)
    assert _served(gateway) == 20
    assert eventually(lambda: _kept(gateway, [second, third]) == [15, 15])
    (died,) = (line for line in gateway.log_lines() if line["event"] == "a worker died")
    assert died["exit_code"] == -signal.SIGKILL


def _read(gateway: Gateway, begun: threading.Event, lines: list[str]) -> None:
    body = chat("hi", model="llama-3.1-8b-instruct", stream=True) | {"max_tokens": 600}
    with httpx2.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, timeout=_PATIENCE) as answer:
        for line in answer.iter_lines():
            lines.append(line)
            begun.set()


def test_sigterm_drains_all(gateway: Gateway) -> None:
    """After SIGTERM to the first process running streams of both workers end with [DONE], and it with code 0."""
    streams: list[list[str]] = []
    threads = []
    for idle in workers_of(gateway):
        with stopped(idle):
            begun = threading.Event()
            streams.append([])
            threads.append(threading.Thread(target=_read, args=(gateway, begun, streams[-1])))
            threads[-1].start()
            assert begun.wait(_PATIENCE)
    os.kill(gateway.process.pid, signal.SIGTERM)
    assert eventually(lambda: not gateway.is_live())  # they listen no more
    for thread in threads:
        thread.join(_PATIENCE)
    assert all("data: [DONE]" in lines for lines in streams)
    assert eventually(lambda: gateway.process.exit_code is not None)
    assert gateway.process.exit_code == 0
    served = [line for line in gateway.log_lines() if line.get("path") == "/v1/chat/completions"]
    assert [line["outcome"] for line in served] == ["complete", "complete"]


def test_workers_end_with_the_first_process(gateway: Gateway) -> None:
    """When the first process is killed, so that it can tell nobody, nothing is left to listen."""
    os.kill(gateway.process.pid, signal.SIGKILL)
    assert eventually(lambda: not gateway.is_live())
    assert eventually(lambda: not any(os.path.exists(f"/proc/{pid}/fd/0") for pid in workers_of(gateway)))


@pytest.mark.parametrize("count", ["0", "-1", "17", "two"])
def test_numbers_of_workers(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A number of workers that is none is refused in one line."""
    with pytest.raises(SystemExit):
        cli.main(["serve", "--config", str(DEFAULT_CONFIG), "--workers", count])
    assert "expected a number between 1 and 16" in capsys.readouterr().err
