"""Which models `scripts/launch_routellm` serves on which GPUs, and the commands that this takes. Pure."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePath
from typing import Any, get_args

from gateway.config import Router
from scripts.local.dynamo import Command, DemoDynamo, Dynamo, frontend_command, worker_command
from scripts.local.triton import ROOT

_ROUTERS: tuple[str, ...] = get_args(Router)
_GPU = re.compile(r"[0-9]+|(GPU|MIG)-[\w/-]+")  # what CUDA_VISIBLE_DEVICES takes: an index or a UUID
DEFAULTS = {
    "STRONG_MODEL": "/data/models/gpt-oss-120b",
    "WEAK_MODEL": "/data/models/gpt-oss-20b",
    "STRONG_GPUS": "1,2,3,4",
    "WEAK_GPUS": "5",
    "ROUTER_GPUS": "",
    "THRESHOLD": "0.3",
    "ROUTER_TYPE": "mf",
    "CHECKPOINT_PATH": "",
    "DYNAMO_PYTHON": sys.executable,
}


class LayoutError(Exception):
    """`faults` has one line for each environment variable that is wrong."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True)
class Layout:
    """What the environment variables of the same names ask for; a model has as many GPUs as tensor-parallel ranks."""

    strong_model: str
    weak_model: str
    strong_gpus: tuple[str, ...]
    weak_gpus: tuple[str, ...]
    router_gpus: tuple[str, ...]
    threshold: float
    router_type: str
    checkpoint_path: str
    dynamo_python: str


def read_layout(environ: Mapping[str, str]) -> Layout:
    """As a shell's ${VAR:-default} reads them. Raises LayoutError, with the faults that can be found in one go."""
    checks: dict[str, Callable[[str], Any]] = {
        "STRONG_MODEL": _model,
        "WEAK_MODEL": _model,
        "STRONG_GPUS": _gpus,
        "WEAK_GPUS": _gpus,
        "ROUTER_GPUS": lambda value: _gpus(value) if value else (),
        "THRESHOLD": _threshold,
        "ROUTER_TYPE": _router,
        "CHECKPOINT_PATH": str,
        "DYNAMO_PYTHON": str,
    }
    values, faults = {}, []
    for name, check in checks.items():
        try:
            values[name.lower()] = check(environ.get(name) or DEFAULTS[name])
        except ValueError as error:
            faults.append(f"{name}: {error}")
    if not faults:
        layout = Layout(**values)
        faults = list(_contradictions(layout, environ.get("STRONG_TP")))
    if faults:
        raise LayoutError(faults)
    return layout


def _contradictions(layout: Layout, strong_tp: str | None) -> Iterator[str]:
    if layout.strong_model == layout.weak_model:
        yield f"WEAK_MODEL: is {layout.weak_model}, as STRONG_MODEL; expected two models"
    count = len(layout.strong_gpus)
    if strong_tp and strong_tp != str(count):
        yield f"STRONG_TP: expected {count}, the number of STRONG_GPUS, and got {strong_tp!r}"
    owners = {"STRONG_GPUS": layout.strong_gpus, "WEAK_GPUS": layout.weak_gpus, "ROUTER_GPUS": layout.router_gpus}
    for (first, ours), (second, theirs) in combinations(owners.items(), 2):
        for gpu in theirs:
            if gpu in ours:
                yield f"{second}: {gpu} is also in {first}; a model fills its GPU's memory"


def vllm_dynamo(layout: Layout, port: int, folder: Path) -> Dynamo:
    """Dynamo with a vLLM worker for each model; a model is served under its name or path as it was given."""

    def worker(role: str, model: str, gpus: tuple[str, ...]) -> Command:
        words = ["--model", model, "--tensor-parallel-size", str(len(gpus))]
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}
        name = f"{role}-worker"
        return worker_command(name, "dynamo.vllm", role, words, folder, visible, layout.dynamo_python)

    workers = {
        layout.strong_model: worker("strong", layout.strong_model, layout.strong_gpus),
        layout.weak_model: worker("weak", layout.weak_model, layout.weak_gpus),
    }
    return Dynamo(port, frontend_command(port, folder, {}, layout.dynamo_python), workers, folder)


def mocker_dynamo(layout: Layout, port: int, folder: Path) -> DemoDynamo:
    """Dynamo with mockers under the models' names. Mockers can't be called by a path: its last part is the name.

    Raises LayoutError: both names are the same.
    """
    strong, weak = (PurePath(each).name if is_path(each) else each for each in (layout.strong_model, layout.weak_model))
    if strong == weak:
        raise LayoutError([f"WEAK_MODEL: {layout.weak_model} has the last part of STRONG_MODEL, the mockers' name"])
    return DemoDynamo(port, (strong, weak), folder)


def router_command(layout: Layout, dynamo: Dynamo, port: int, triton_port: int, state: Path) -> Command:
    """The router in front of `dynamo`."""
    strong, weak = dynamo.models
    words = [str(ROOT / "scripts" / "serve"), "--backend-url", dynamo.url, "--http-port", str(port)]
    words += ["--triton-port", str(triton_port), "--strong-model", strong, "--weak-model", weak]
    words += ["--router-type", layout.router_type, "--threshold", str(layout.threshold)]
    words += ["--checkpoint-path", layout.checkpoint_path] if layout.checkpoint_path else []
    # Its Triton would use every GPU it sees, and the models' have no memory to spare.
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(layout.router_gpus)}
    return Command("router", (*words, "--state", str(state)), visible)


def is_path(model: str) -> bool:
    """Whether a model is a folder of this machine, and no name of the Hugging Face hub."""
    return model.startswith(("/", ".", "~"))


def _model(value: str) -> str:
    if value != value.strip() or value.startswith("-"):
        raise ValueError(f"expected a folder or a hub name, and got {value!r}")
    return value


def _gpus(value: str) -> tuple[str, ...]:
    gpus = tuple(gpu.strip() for gpu in value.split(","))
    if not all(_GPU.fullmatch(gpu) for gpu in gpus):
        raise ValueError(f"expected GPU numbers with commas between, as 1,2,3,4, and got {value!r}")
    if len(set(gpus)) < len(gpus):
        raise ValueError(f"names a GPU twice: {value}")
    return gpus


def _threshold(value: str) -> float:
    try:
        threshold = float(value)
    except ValueError:
        threshold = float("nan")
    if not 0 <= threshold <= 1:
        raise ValueError(f"expected a number from 0 to 1, and got {value!r}")
    return threshold


def _router(value: str) -> str:
    if value not in _ROUTERS:
        raise ValueError(f"expected one of {', '.join(_ROUTERS)}, and got {value!r}")
    return value
