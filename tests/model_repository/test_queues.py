import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from gateway.decision import TritonClient
from gateway.errors import DecisionFailed
from scripts.local.triton import Triton

_ROOT = Path(__file__).parents[2]
_PATIENCE = 60.0
_MORE_THAN_IN_TIME = 256


def test_no_queue_has_a_policy() -> None:
    """With one, of size or of time, Triton's scheduler looks for an idle instance only when a request arrives, and with
    none arriving leaves those that wait for half a second (core's src/scheduler_utils.cc and rate_limiter.cc)."""
    configs = list((_ROOT / "model_repository").glob("*/config.pbtxt"))
    assert any("dynamic_batching" in config.read_text() for config in configs)
    assert [config for config in configs if "queue_policy" in config.read_text()] == []


def _pending(triton: Triton) -> int:
    """Requests that wait in the network's queue."""
    metrics = httpx2.get(f"http://127.0.0.1:{triton.port + 2}/metrics").text
    (line,) = [
        line for line in metrics.splitlines() if line.startswith("nv_inference_pending") and "prompt_classifier" in line
    ]
    return int(float(line.split()[-1]))


def _eventually(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


async def _ask_all(target: str, prompts: list[str], seconds: float) -> Counter[str]:
    """How as many requests at once end, each given up after `seconds`."""
    client = TritonClient(target)

    async def ask(prompt: str) -> str:
        try:
            await client.decide("task_router_ensemble", prompt, seconds)
        except DecisionFailed as failure:
            return failure.reason
        return "decided"

    try:
        return Counter(await asyncio.gather(*map(ask, prompts)))
    finally:
        await client.close()


@pytest.mark.rare
def test_an_overloaded_network_recovers(triton: Triton) -> None:
    """Of more requests than the network can answer in time, each is decided or given up at its deadline; what they left
    in the queue is worked off, and the next one is answered."""
    prompts = [f"{number} " + "some words to read " * 200 for number in range(_MORE_THAN_IN_TIME)]
    ends = asyncio.run(_ask_all(triton.grpc_url, prompts, 0.5))
    assert sum(ends.values()) == len(prompts)
    assert ends["decision_timeout"] > 0
    assert set(ends) <= {"decided", "decision_timeout"}
    _eventually(lambda: asyncio.run(_ask_all(triton.grpc_url, ["hello"], 60.0)) == {"decided": 1})
    _eventually(lambda: _pending(triton) == 0)
