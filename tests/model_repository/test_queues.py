import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx2

from gateway.decision import TritonClient
from gateway.errors import DecisionFailed
from scripts.local.triton import Triton

_ROOT = Path(__file__).parents[2]
_PATIENCE = 60.0
_MORE_THAN_THE_QUEUE = 3 * 1024


def test_every_batching_model_bounds_its_queue() -> None:
    """Each model that batches has a queue policy: none of them piles requests up."""
    for config in (_ROOT / "model_repository").glob("*/config.pbtxt"):
        text = config.read_text()
        if "dynamic_batching" in text:
            assert "max_queue_size: 256" in text, config


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


def test_an_overloaded_network_sheds(triton: Triton) -> None:
    """Of far more requests than the network can answer, those past the queue's bound are refused at once and others
    given up at their deadline; none stays behind to be worked off for nobody, and the next one is answered."""
    prompts = [f"{number} " + "some words to read " * 200 for number in range(_MORE_THAN_THE_QUEUE)]
    ends = asyncio.run(_ask_all(triton.grpc_url, prompts, 5.0))
    assert sum(ends.values()) == len(prompts)
    assert ends["triton_unavailable"] > 0 and ends["decision_timeout"] > 0
    assert set(ends) <= {"decided", "triton_unavailable", "decision_timeout"}
    _eventually(lambda: asyncio.run(_ask_all(triton.grpc_url, ["hello"], 60.0)) == {"decided": 1})
    _eventually(lambda: _pending(triton) == 0)
