"""The configuration changes under load."""

import os
import signal
from pathlib import Path

from tests.conftest import MODELS, StartGateway
from tests.gateway.client import Gateway, chat
from tests.reliability import report
from tests.reliability.conftest import Figures
from tests.reliability.load import Load
from tests.reliability.observe import account, metric

_SWAPS = 100
_MODELS = MODELS[:2]


def _config(model: str) -> str:
    return (
        "policies:\n  - name: task_router\n    timeout_ms: 30000\n"
        "    url: http://x:8000/v2/models/task_router_ensemble/infer\n"
        f"    llms: [{{name: Code Generation, api_base: '${{DYNAMO_API_BASE}}', model: {model}}}]\n"
    )


class _Volume:
    """A mounted ConfigMap: config.yaml -> ..data/config.yaml, ..data -> a folder, which changes by a rename."""

    def __init__(self, file: Path) -> None:
        self._folder = file.parent
        for number, model in enumerate(_MODELS):
            (self._folder / f"..{number}").mkdir()
            (self._folder / f"..{number}" / "config.yaml").write_text(_config(model))
        self.swap(0)
        file.unlink()
        file.symlink_to("..data/config.yaml")

    def swap(self, number: int) -> None:
        (self._folder / "..new").symlink_to(f"..{number}")
        (self._folder / "..new").rename(self._folder / "..data")


def _adopted(gateway: Gateway) -> float:
    return metric(gateway.url, "llm_router_config_reloads_total", result="adopted")


def test_config_swapped(start_gateway: StartGateway, tmp_path: Path, figures: Figures) -> None:
    """The configuration is swapped 100 times, as Kubernetes does, each time for another model: every request is
    answered by one of the two, and the last configuration stays in force."""
    gateway = start_gateway(_config(_MODELS[0]))
    (file,) = tmp_path.glob("gateway*/config.yaml")
    volume = _Volume(file)
    with Load(gateway.url, clients=8, pause=0.05) as load:
        for number in range(1, _SWAPS):
            before = _adopted(gateway)
            volume.swap(number % 2)
            os.kill(gateway.process.pid, signal.SIGHUP)  # else it is a second before it looks again
            load.wait(lambda before=before: _adopted(gateway) > before)  # type: ignore[misc]
        volume.swap(_SWAPS % 2)  # the last one it finds by itself
        last = _MODELS[_SWAPS % 2]
        load.wait(lambda: gateway.post("/v1/route", chat("hello")).json()["model"] == last)
        load.wait(lambda: load.outcomes[-1].model == last)
    account(load, gateway)
    assert {each.model for each in load.outcomes} == set(_MODELS)
    assert metric(gateway.url, "llm_router_config_in_force") == 1
    figures |= {"requests": report.requests(load.counts()), "configurations adopted": int(_adopted(gateway))}
