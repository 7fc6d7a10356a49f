"""The Tritons that are measured: the project's own, and the blueprint's behaviour."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from scripts.local.process import fetch, free_ports, wait_until
from scripts.local.triton import ENSEMBLES, ROOT, Triton

BLUEPRINT = ROOT / "scripts" / "benchmarking" / "blueprint"
_BLUEPRINT_ENSEMBLES = ("task_router_ensemble", "complexity_router_ensemble")
_START_SECONDS = 300.0
_PING_SECONDS = 60.0


def ours(folder: Path, checkpoint: Path | None) -> Triton:
    """The repository as it is served; `checkpoint`: None for the embedded one."""
    return Triton(free_ports(3), folder, environ=_environ(checkpoint))


def blueprint(folder: Path, checkpoint: Path | None) -> Triton:
    """The blueprint's behaviour with the same weights.

    Its two instances have as many threads as there are cores, each: asleep when idle, or one starves the other.
    """
    environ = _environ(checkpoint) | {"OMP_WAIT_POLICY": "PASSIVE"}
    return Triton(free_ports(3), folder, BLUEPRINT, _BLUEPRINT_ENSEMBLES, environ)


@contextmanager
def running(tritons: Sequence[Triton]) -> Iterator[None]:
    """Started and answering. Raises StartError."""
    with ExitStack() as stack:
        for triton in tritons:
            stack.callback(triton.stop)
            triton.start()
        for triton in tritons:
            assert triton.process is not None
            for model in ENSEMBLES[1:]:
                wait_until(lambda at=triton, name=model: _answers(at, name), triton.process, _START_SECONDS)  # type: ignore[misc]
        yield


def pid(triton: Triton) -> int:
    """Of the server, which leads the group that its models' processes are in."""
    assert triton.process is not None
    return triton.process.pid


def _answers(triton: Triton, model: str) -> bool:
    body = {"inputs": [{"name": "INPUT", "datatype": "BYTES", "shape": [1, 1], "data": [["ping"]]}]}
    url = f"{triton.http_url}/v2/models/{model}/infer"
    return fetch(url, _PING_SECONDS, json.dumps(body).encode()) is not None


def _environ(checkpoint: Path | None) -> dict[str, str]:
    environ = {name: value for name, value in os.environ.items() if name != "CLASSIFIER_CHECKPOINT"}
    return environ | ({"CLASSIFIER_CHECKPOINT": str(checkpoint)} if checkpoint else {})
