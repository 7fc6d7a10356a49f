"""Dynamo's frontend or one of its workers dies under load."""

import os
import re
import signal
import time
from collections.abc import Iterator

import pytest

from scripts.local.dynamo import DemoDynamo
from scripts.local.process import Process, free_ports
from tests.conftest import MODELS, StartGateway
from tests.gateway.tee import running_tee
from tests.reliability import report
from tests.reliability.conftest import Figures
from tests.reliability.load import Load, Outcome, unique
from tests.reliability.observe import account

_FIRST, _SECOND = MODELS[:2]
_STREAMS = 20


@pytest.fixture(scope="module")
def own_dynamo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoDynamo]:
    """One whose processes may be killed, with two models."""
    dynamo = DemoDynamo(free_ports(1), (_FIRST, _SECOND), tmp_path_factory.mktemp("own") / "dynamo")
    dynamo.start()
    try:
        dynamo.wait()
        yield dynamo
    finally:
        dynamo.stop()


def _config(api_base: str) -> str:
    """Chats go to the second model, all else to the first one, with the second as its fallback."""
    return (
        "policies:\n  - name: task_router\n    timeout_ms: 30000\n"
        "    url: http://x:8000/v2/models/task_router_ensemble/infer\n    llms:\n"
        f"      - {{name: Unknown, api_base: '{api_base}', model: {_FIRST}, fallbacks: [Chatbot]}}\n"
        f"      - {{name: Code Generation, api_base: '{api_base}', model: {_FIRST}, fallbacks: [Chatbot]}}\n"
        f"      - {{name: Chatbot, api_base: '{api_base}', model: {_SECOND}}}\n"
    )


def _kill(dynamo: DemoDynamo, index: int) -> None:
    os.kill(dynamo.processes[index].pid, signal.SIGKILL)
    dynamo.processes[index].stop()


def _start_again(dynamo: DemoDynamo, index: int) -> None:
    command, old = dynamo.commands[index], dynamo.processes[index]
    dynamo.processes[index] = Process(command.name, command.words, os.environ | command.environ, old.log)


def _long_stream(number: int) -> dict[str, object]:
    return unique(number) | {"stream": True, "max_tokens": 20_000}


def test_frontend_killed(start_gateway: StartGateway, own_dynamo: DemoDynamo, figures: Figures) -> None:
    """Dynamo's frontend is killed in the middle of 20 streams and started again: each stream breaks off as its client
    sees, new requests get a 502, and then answers again."""
    gateway = start_gateway(_config(own_dynamo.url), DYNAMO_API_BASE=own_dynamo.url)
    with Load(gateway.url, _long_stream, clients=_STREAMS, each=1) as streams:
        streams.wait(lambda: streams.flowing == _STREAMS)
        _kill(own_dynamo, 0)
        streams.finish()
    assert streams.counts().keys() == {(200, "decided", "broken")}
    with Load(gateway.url) as load:
        refused = load.reach("upstream_unavailable", 502, count=20)
        assert b'"type":"upstream_error"' in refused.body
        _start_again(own_dynamo, 0)
        own_dynamo.wait()
        back = time.monotonic()
        answered = load.reach("decided", since=back)
        load.reach("decided", count=20)
    streams.outcomes += load.outcomes
    streams.sent += load.sent
    account(streams, gateway, {200, 502, *_from_dynamo(load)})
    figures |= {
        "requests": report.requests(streams.counts()),
        "from the new frontend's first answer to the next one through the gateway": f"{answered.ended - back:.1f} s",
    }


def _from_dynamo(load: Load) -> set[int]:
    """Statuses of errors that are not the gateway's own: they have Dynamo's shape."""
    return {
        each.status for each in load.outcomes if each.status and each.end == "error" and b'"error":' not in each.body
    }


@pytest.mark.rare
def test_worker_killed(start_gateway: StartGateway, own_dynamo: DemoDynamo, figures: Figures) -> None:
    """One model's worker is killed, whose llm has a fallback on another, and started again: requests move on to the
    fallback, and what Dynamo itself says passes untouched."""
    with running_tee("127.0.0.1", own_dynamo.port) as tee:
        gateway = start_gateway(_config(tee.url), DYNAMO_API_BASE=tee.url)
        with Load(gateway.url, clients=8) as load:
            load.reach("decided", count=20)
            killed = time.monotonic()
            _kill(own_dynamo, 1)
            moved = load.reach("target_unavailable", since=killed, count=40)
            _start_again(own_dynamo, 1)
            own_dynamo.wait()
            back = time.monotonic()
            decided = load.reach("decided", since=back, count=20)
        said = b"".join(bytes(each.sent) for each in tee.connections)
    own = {int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", said)}
    account(load, gateway, own)
    # Of a stream, its last event: HTTP's framing stands between them.
    errors = [each.body.rstrip().rpartition(b"\n\n")[2] for each in load.outcomes if each.end == "error"]
    assert not [error for error in errors if error not in said]
    assert {each.model for each in load.outcomes if each.reason == "target_unavailable"} == {_SECOND}
    figures |= {
        "requests": report.requests(load.counts()),
        "statuses that Dynamo itself answered with": ", ".join(map(str, sorted(own))),
        "what it said": " / ".join(sorted({_message(each) for each in load.outcomes if each.end == "error"})),
        "from the kill to the fallback's first answer": f"{moved.ended - killed:.1f} s",
        "from the new worker's first answer to the next one through the gateway": f"{decided.ended - back:.1f} s",
    }


def _message(outcome: Outcome) -> str:
    return f"{outcome.status} {outcome.body.decode()[:300]}"
