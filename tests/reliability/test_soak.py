"""Twenty minutes of steady load."""

import statistics
import time
from typing import Any

import pytest

from tests.conftest import DEFAULT_CONFIG, StartGateway
from tests.reliability import report
from tests.reliability.conftest import Figures
from tests.reliability.load import Load, unique
from tests.reliability.observe import account, memory_kb, open_files

_SECONDS = 20 * 60
_SAMPLE_SECONDS = 1.0
_MOST_GROWTH = 0.1


def _mixed(number: int) -> Any:
    """New prompts, streamed and whole; one prompt that comes again; and each kind of error, one request in sixteen."""
    match number % 16:
        case 3:
            return unique(number) | {"messages": "none"}  # 400, the gateway's
        case 7:
            return unique(number) | {"model": "no-such-model"}  # 404, Dynamo's
        case 11:
            return unique(number) | {"nim-llm-router": {"policy": "no-such-policy"}}  # 404, the gateway's
        case 14 | 15:
            return unique(0) | {"stream": number % 2 == 0}
        case _:
            return unique(number)


@pytest.mark.slow
def test_soak(start_gateway: StartGateway, figures: Figures) -> None:
    """Twenty minutes of steady load, streams, whole answers and errors: the gateway's memory levels off (the last
    five minutes' median is within 10 % of the second five minutes')."""
    gateway = start_gateway(DEFAULT_CONFIG.read_text())
    memory = []
    files = open_files(gateway.process.pid)
    with Load(gateway.url, _mixed, clients=4, pause=0.2) as load:
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end:
            time.sleep(_SAMPLE_SECONDS)
            memory.append(memory_kb(gateway.process.pid))
    account(load, gateway, {200, 400, 404})
    load.wait(lambda: open_files(gateway.process.pid) <= files + 5)
    quarter = len(memory) // 4
    medians = [statistics.median(memory[each * quarter : (each + 1) * quarter]) for each in range(4)]
    assert medians[3] <= medians[1] * (1 + _MOST_GROWTH), medians
    figures |= {
        "requests": report.requests(load.counts()),
        "requests per second": f"{load.sent / _SECONDS:.0f}",
        "memory at the start": f"{memory[0] / 1024:.1f} MiB",
        "its median in each quarter": ", ".join(f"{each / 1024:.1f}" for each in medians) + " MiB",
    }
